r"""Devices by name."""

__all__ = ["find_device"]

import torch


def find_device(device: str | torch.device = "auto") -> torch.device:
    r"""The device of that name; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        ValueError: If there is no such device, or it cannot draw random numbers.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.Generator(found)
        torch.empty(0, device=found)
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"expected a device that is here ('auto', 'cpu', 'cuda', …), got {str(device)!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return found
