r"""Shapes of data: what an event is, and how many of them a batch holds."""

__all__ = ["check_event_shape", "check_sites", "check_width", "flatten_event", "plate_size"]

from collections.abc import Mapping, Sequence

from torch import Size, Tensor


def check_event_shape(event_shape: Sequence[int]) -> Size:
    r"""Returns ``event_shape`` as a :class:`torch.Size`.

    Raises:
        TypeError: If it is not a sequence of integers.
        ValueError: If one of them is not positive.

    Example:
        >>> check_event_shape((1, 8, 8))
        torch.Size([1, 8, 8])
    """
    if isinstance(event_shape, str) or not isinstance(event_shape, Sequence):
        raise TypeError(f"expected event_shape to be a tuple such as (64,), got {event_shape!r}")
    for size in event_shape:
        if not isinstance(size, int):
            raise TypeError(f"expected event_shape to hold integers, got {tuple(event_shape)}")
        if size < 1:
            raise ValueError(f"expected positive sizes in event_shape, got {tuple(event_shape)}")

    return Size(event_shape)


def check_width(outputs: Tensor, width: int, network: str) -> None:
    r"""Checks that the outputs of a network have shape :math:`(*, \text{width})`.

    Arguments:
        outputs: What the network returned.
        width: The number of features that it should have returned.
        network: What the network is, and should return, in words.

    Raises:
        TypeError: If ``outputs`` is not a tensor.
        ValueError: If their last dimension is not of size ``width``.
    """
    if not isinstance(outputs, Tensor):
        raise TypeError(f"expected {network} in one tensor, got {type(outputs).__name__}")
    if outputs.shape[-1:] != (width,):
        raise ValueError(
            f"expected {network}: shape (*, {width}), got shape {tuple(outputs.shape)}; "
            f"give it an output layer of width {width}"
        )


def plate_size(x: Tensor, event_shape: Size) -> int:
    r"""Returns the number :math:`N` of data in ``x``, with shape :math:`(*, N, *)`.

    Particles stand to the left of data, so that :math:`N` is the dimension next to the event.

    Arguments:
        x: The data.
        event_shape: The shape of one datum.

    Raises:
        ValueError: If the shape of ``x`` does not end in :math:`N` and ``event_shape``.

    Example:
        >>> import torch
        >>> plate_size(torch.zeros(3, 1, 8, 8), Size([1, 8, 8]))
        3
    """
    dims = len(event_shape)
    if x.dim() <= dims or x.shape[x.dim() - dims :] != event_shape:
        wanted = ", ".join(["N", *map(str, event_shape)])
        raise ValueError(
            f"expected x with shape ({wanted}{',' * (not dims)}), for N data with event shape "
            f"{tuple(event_shape)}, got shape {tuple(x.shape)}; reshape x, or give the program "
            "the event_shape of your data"
        )

    return x.shape[x.dim() - dims - 1]


def flatten_event(x: Tensor, event_shape: Size) -> Tensor:
    r"""Flattens the event, with shape :math:`(*, \text{event}) \to (*, F)`.

    Example:
        >>> import torch
        >>> flatten_event(torch.zeros(5, 3, 1, 8, 8), Size([1, 8, 8])).shape
        torch.Size([5, 3, 64])
    """
    return x.reshape(*x.shape[: x.dim() - len(event_shape)], event_shape.numel())


def check_sites(sites: Mapping[str, int]) -> dict[str, int]:
    r"""Returns the number of features of each latent site as a dictionary.

    Raises:
        TypeError: If ``sites`` is not a mapping.
        ValueError: If there are none, or if one's number of features is not a positive integer.

    Example:
        >>> check_sites({"z": 16})
        {'z': 16}
    """
    if not isinstance(sites, Mapping):
        raise TypeError(f'expected sites as a mapping such as {{"z": 16}}, got {sites!r}')
    if not sites:
        raise ValueError('expected at least one site, such as {"z": 16}, got none')
    for name, size in sites.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"expected a positive number of features of site {name!r}, got {size}")

    return dict(sites)
