r"""What a distribution is made of, beneath its wrappers."""

__all__ = ["factors", "innermost", "is_point", "unwrapped"]

from typing import Any

from pyro.distributions import Delta, Independent


def innermost(fn: Any) -> Any:
    r"""The distribution beneath all that were put around it: independence, masks, transforms.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> innermost(dist.Normal(torch.zeros(3), 1.0).mask(False).to_event(1))
        Normal(loc: torch.Size([3]), scale: torch.Size([3]))
    """
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def unwrapped(fn: Any, *wrappers: Any) -> Any:
    r"""The distribution beneath wrappers of some kinds.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> unwrapped(dist.Normal(torch.zeros(3), 1.0).to_event(1), Independent)
        Normal(loc: torch.Size([3]), scale: torch.Size([3]))
    """
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


def is_point(fn: Any) -> bool:
    r"""Whether all its mass is in one point, of which ``Delta`` notes a density all the same."""
    return isinstance(innermost(fn), Delta)


def factors(fn: Any) -> Any | None:
    r"""The distribution of each feature, of one whose features are independent; else ``None``.

    Returns:
        A distribution over numbers, with the shape of a value as its batch shape.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> factors(dist.Normal(torch.zeros(3), 1.0).to_event(1)).batch_shape
        torch.Size([3])
        >>> factors(dist.MultivariateNormal(torch.zeros(3), torch.eye(3))) is None
        True
    """
    fn = unwrapped(fn, Independent)
    return None if fn.event_shape else fn
