r"""The largest singular values of Jacobians, by power iterations."""

__all__ = ["singular_values"]

from collections.abc import Callable

import torch
from torch import Tensor


def singular_values(
    function: Callable[[Tensor], Tensor], points: Tensor, iterations: int = 30
) -> Tensor:
    r"""The largest singular value of the Jacobian of a function of rows, at each of its points.

    .. math::
        v \leftarrow \frac{J^\top J v}{\lVert J^\top J v \rVert} \qquad
        \sigma = \lVert J v \rVert \le \lVert J \rVert_2

    Iterations approach it from below, fast where the second singular value is well below. No
    Jacobian is formed: each iteration takes one product with it, and one with its transpose.

    Arguments:
        function: A function of points, with shape :math:`(N, D)`, to :math:`(N, F)`, whose rows
            do not mix.
        points: The points, with shape :math:`(N, D)`.
        iterations: The number of iterations.

    Returns:
        The values, with shape :math:`(N)`.

    Raises:
        ValueError: If no gradient passes through the function.

    Example:
        >>> W = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
        >>> singular_values(lambda z: z @ W.T, torch.zeros(2, 2))
        tensor([4., 4.])
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        values = function(points)
        if not values.requires_grad:
            raise ValueError(
                "expected means of data that change smoothly with latents, got such as no gradient "
                "passes through, as modes: they have no slope; ask for other metrics"
            )
        # a gradient is linear in what comes from above: its own gradient there is J v
        above = torch.zeros_like(values, requires_grad=True)
        (pulled,) = torch.autograd.grad(values, points, above, create_graph=True)
    direction = _unit(torch.randn_like(points))
    for _ in range(iterations):
        direction = _unit(_pull(values, points, _push(pulled, above, direction)))
    return _push(pulled, above, direction).norm(dim=-1)


def _push(pulled: Tensor, above: Tensor, direction: Tensor) -> Tensor:
    r"""The Jacobian times directions."""
    (found,) = torch.autograd.grad(pulled, above, direction, retain_graph=True)
    return found


def _pull(values: Tensor, points: Tensor, above: Tensor) -> Tensor:
    r"""The transposed Jacobian times directions."""
    (found,) = torch.autograd.grad(values, points, above, retain_graph=True)
    return found


def _unit(directions: Tensor) -> Tensor:
    return torch.nn.functional.normalize(directions, dim=-1, eps=1e-30)
