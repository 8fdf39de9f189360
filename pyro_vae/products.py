r"""Products of networks in bfloat16; all else stays in float32."""

__all__ = ["Products", "check_products", "multiply_in"]

import platform
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any, Literal, get_args

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae.lines import warn_user

Products = Literal["float32", "bfloat16"]

# multiplications for each datum below which casts take longer than they save: an 80 x 80 map
# gains nothing, 50 x 400 a little, convolutions from 16 channels on a half
_WORTH = 2**14

_LINEAR = torch.nn.functional.linear
_DIMS = {getattr(torch, f"conv{kind}{n}d"): n for kind in ("", "_transpose") for n in (1, 2, 3)}


def check_products(products: Any) -> None:
    r"""Raises for what names no type that networks can multiply in.

    Raises:
        ValueError: If it is neither ``"float32"`` nor ``"bfloat16"``.
    """
    if products not in get_args(Products):
        raise ValueError(f"expected products to be 'float32' or 'bfloat16', got {products!r}")


def multiply_in(program: Callable[..., Any], products: Products) -> Callable[..., Any]:
    r"""The program, such that its networks multiply in another floating type.

    .. math:: W x + b \approx \mathrm{float32}(\mathrm{bf16}(W) \, \mathrm{bf16}(x)) + b

    These are the products of linear maps and convolutions, and those of their gradients. Factors
    are rounded to 8 binary digits, sums are kept in float32 and rounded at their end, and what
    follows, from the bias on, is float32: activations, densities, parameters, gradients. Products
    of few numbers, which would become slower, are those of the program itself; that depends on
    the network and not on the number of data. So are products inside of torch's own functions, as
    attention and recurrent layers are; torch refuses networks that it computes again for their
    gradients (``torch.utils.checkpoint``).

    Arguments:
        program: The model or the guide, in float32.
        products: ``"float32"``, which changes nothing, or ``"bfloat16"``.

    Returns:
        A program with the same sites and parameters, for :class:`pyro_vae.SVI`,
        :func:`pyro_vae.evaluate` and all else that takes one. It raises TypeError when called if
        it computes in float64.

    Raises:
        ValueError: If ``products`` is something else.

    References:
        | A Study of BFLOAT16 for Deep Learning Training (Kalamkar et al., 2019)
        | https://arxiv.org/abs/1905.12322

    Example:
        >>> from torch import nn
        >>> network = nn.Linear(200, 100)
        >>> x = torch.randn(5, 200)
        >>> y = multiply_in(network, "bfloat16")(x)
        >>> y.dtype, torch.equal(y, network(x)), torch.allclose(y, network(x), atol=0.05)
        (torch.float32, False, True)
    """
    check_products(products)
    if products == "float32":
        return program
    found: Callable[..., Any] = _Multiplying()(program)
    return found


class _Multiplying(Messenger):
    r"""A handler, as Pyro's are, so that all that looks through these finds the program."""

    def __init__(self) -> None:
        super().__init__()
        self._rounded: Any = _Rounded()

    def __enter__(self) -> Any:
        found = super().__enter__()  # first, since it refuses to be entered twice
        self._rounded.__enter__()
        return found

    def __exit__(self, *error: Any) -> Any:
        self._rounded.__exit__(*error)
        return super().__exit__(*error)


class _Rounded(TorchFunctionMode):
    r"""Multiplies in bfloat16 where a network multiplies much."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _LINEAR or func in _DIMS:
            return _product(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _product(
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **more: Any,
) -> Tensor:
    types = {given.dtype for given in (input, weight, bias) if given is not None}
    if types == {torch.float64}:
        raise TypeError(
            "expected a program in float32, whose networks can multiply in bfloat16, got one in "
            "float64: take products='float32', which loses nothing, or convert the program and "
            "its data, as model.float() does"
        )
    dims = _DIMS.get(func, 0)
    # not the number of data: else what a network computes would depend on how they are cut
    places = prod(input.shape[input.dim() - dims :])
    if types != {torch.float32} or weight.numel() * places < _WORTH:
        return func(input, weight, bias, *rest, **more)
    if input.device.type == "cpu":
        _warn_if_slow()
    # bfloat16 keeps the gradients' products in bfloat16, too: casts are differentiated as casts
    found = func(input.bfloat16(), weight.bfloat16(), None, *rest, **more).float()
    return found if bias is None else found.add_(bias.view(-1, *(1 for _ in range(dims))))


@cache
def _warn_if_slow() -> None:
    if not _is_fast():
        warn_user(
            "this processor has no instructions for bfloat16 (avx512_bf16 on x86): products in it "
            "are right, but slower than in float32; take products='float32'"
        )


def _is_fast() -> bool:
    # oneDNN takes bfloat16 wherever there is avx512, and is half as fast there as in float32
    known: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return known and (not x86 or bool(torch.cpu._is_avx512_bf16_supported()))
