r"""Products of networks in bfloat16: what is rounded, what is not, who may ask for it."""

import platform
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from captures import traced
from pyro.infer import Predictive, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import SVI, Run, encode, evaluate, fit, multiply_in, sample
from pyro_vae.evaluation.chunks import Largest
from pyro_vae.graph import Graph
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE
from pyro_vae.products import _is_fast, _warn_if_slow

HALF = 2.0**-8  # the greatest relative error of rounding to 8 binary digits
FEATURES, LATENTS = 100, 3
adam = partial(torch.optim.Adam, lr=1e-2)

# a layer and its input, both large enough
LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Linear(200, 100), torch.randn(5, 200)),
    "linear, particles": lambda: (nn.Linear(200, 100), torch.randn(2, 5, 200)),
    "linear, columns": lambda: (nn.Linear(200, 100), torch.randn(200, 5).t()),
    "linear, no bias": lambda: (nn.Linear(200, 100, bias=False), torch.randn(5, 200)),
    "conv1d": lambda: (nn.Conv1d(8, 16, 5, stride=2), torch.randn(3, 8, 64)),
    "conv2d": lambda: (nn.Conv2d(3, 16, 4, 2, 1), torch.randn(3, 3, 16, 16)),
    "conv2d, groups": lambda: (nn.Conv2d(4, 16, 3, groups=2), torch.randn(3, 4, 16, 16)),
    "conv2d, one": lambda: (nn.Conv2d(3, 16, 4, 2, 1), torch.randn(3, 16, 16)),
    "conv2d, same size": lambda: (nn.Conv2d(4, 16, 3, padding="same"), torch.randn(3, 4, 16, 16)),
    "conv2d, dilated": lambda: (nn.Conv2d(4, 16, 3, dilation=2), torch.randn(3, 4, 16, 16)),
    "conv3d": lambda: (nn.Conv3d(2, 8, 3), torch.randn(2, 2, 8, 8, 8)),
    "transposed 1d": lambda: (nn.ConvTranspose1d(16, 8, 5, 2), torch.randn(3, 16, 64)),
    "transposed 2d": lambda: (nn.ConvTranspose2d(16, 3, 4, 2, 1), torch.randn(3, 16, 8, 8)),
    "transposed 2d, all": lambda: (
        nn.ConvTranspose2d(16, 8, 3, 2, 1, 1, groups=2, dilation=2),
        torch.randn(3, 16, 8, 8),
    ),
    "transposed 3d": lambda: (nn.ConvTranspose3d(4, 8, 3), torch.randn(2, 4, 8, 8, 8)),
}


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    r"""Programs in float32, from a seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(before)


def rounded(tensor: Tensor) -> Tensor:
    return tensor.detach().bfloat16().double()


def exact(
    layer: nn.Module, x: Tensor, up: Tensor, take: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    r"""What a layer without its bias, and its gradients, are in float64."""
    twin = deepcopy(layer).double()
    twin.bias = None
    twin.weight = nn.Parameter(take(layer.weight))
    inputs = take(x).requires_grad_()
    out = twin(inputs)
    found = torch.autograd.grad(out, (inputs, twin.weight), take(up))
    return {"out": out.detach(), "input": found[0], "weight": found[1]}


@pytest.mark.parametrize("name", LAYERS)
def test_a_product_and_its_gradients_are_those_of_rounded_factors(name: str) -> None:
    r"""Within the rounding of a result to bfloat16, and of sums in float32."""
    layer, x = LAYERS[name]()
    y = multiply_in(layer, "bfloat16")(x.requires_grad_())
    up = torch.randn_like(y)
    y.backward(up)
    dims = 0 if isinstance(layer, nn.Linear) else layer.weight.dim() - 2
    bias = torch.zeros(y.shape[y.dim() - dims - 1]) if layer.bias is None else layer.bias.detach()
    found = {"out": y.detach() - bias.view(-1, *[1] * dims), "input": x.grad}
    found["weight"] = layer.weight.grad
    wanted = exact(layer, x, up, rounded)
    sizes = exact(layer, x, up, lambda tensor: rounded(tensor).abs())
    for part, value in found.items():
        assert value.dtype == torch.float32
        error = (value.double() - wanted[part]).abs()
        assert (error <= HALF * wanted[part].abs() + 1e-6 * sizes[part]).all(), part
    if layer.bias is not None:
        others = [d for d in range(up.dim()) if d != up.dim() - dims - 1]
        total = up.double().sum(others).float()
        torch.testing.assert_close(layer.bias.grad, total, rtol=1e-5, atol=1e-5)


def test_the_bias_is_added_in_float32() -> None:
    layer = nn.Linear(200, 100)
    found = multiply_in(layer, "bfloat16")(torch.zeros(3, 200))
    assert torch.equal(found, layer.bias.expand(3, -1))


def test_gradients_of_uses_of_one_weight_are_added_in_float32() -> None:
    r"""So many that bfloat16, which has no 257, would lose some."""
    layer, x = nn.Linear(200, 200, bias=False), torch.ones(1, 200)

    def uses() -> Tensor:
        outputs: list[Tensor] = [layer(x) for _ in range(257)]
        return torch.stack(outputs).sum()

    (found,) = torch.autograd.grad(multiply_in(uses, "bfloat16")(), layer.weight)
    assert torch.equal(found, torch.full((200, 200), 257.0))


def test_options_by_name() -> None:
    layer, x = nn.Conv2d(3, 16, 4, stride=2, padding=1), torch.randn(3, 3, 16, 16)

    def program() -> Tensor:
        given: dict[str, Any] = {"weight": layer.weight, "bias": layer.bias}
        return torch.nn.functional.conv2d(x, **given, stride=2, padding=1)

    found = multiply_in(program, "bfloat16")()
    assert torch.equal(found, multiply_in(layer, "bfloat16")(x))


def test_a_program_that_calls_itself_leaves_nothing_behind() -> None:
    layer, x = nn.Linear(200, 100), torch.randn(5, 200)
    wanted = layer(x)
    itself: Callable[..., Any] = multiply_in(lambda: itself(), "bfloat16")
    with pytest.raises(ValueError, match="twice"):
        itself()
    assert torch.equal(layer(x), wanted)


def test_no_data_have_no_gradient() -> None:
    layer = nn.Linear(200, 100)
    found = multiply_in(layer, "bfloat16")(torch.zeros(0, 200))
    assert found.shape == (0, 100)
    assert not torch.autograd.grad(found.sum(), layer.weight)[0].any()


def test_two_types_are_refused_as_without_rounding() -> None:
    layer = nn.Linear(200, 100).double()
    with pytest.raises(RuntimeError, match="same dtype"):
        multiply_in(layer, "bfloat16")(torch.randn(5, 200))


def test_gradients_of_each_datum() -> None:
    r"""Those of functions whose parameters are arguments, as ``torch.func`` takes them."""
    layer, x = nn.Linear(200, 100), torch.randn(5, 200)
    run = multiply_in(partial(torch.func.functional_call, layer), "bfloat16")
    parameters = dict(layer.named_parameters())
    each = torch.func.grad(lambda given, row: run(given, (row,)).square().sum())
    found = torch.func.vmap(each, (None, 0))(parameters, x)
    for name, tensor in found.items():
        rows = torch.stack([each(parameters, row)[name] for row in x])
        torch.testing.assert_close(tensor, rows, rtol=0.02, atol=1e-3)


SMALL: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (nn.Linear(64, 64), torch.randn(5000, 64)),
    "conv2d": lambda: (nn.Conv2d(1, 8, 3), torch.randn(100, 1, 8, 8)),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_products_are_untouched_however_many_data(name: str) -> None:
    layer, x = SMALL[name]()
    assert torch.equal(multiply_in(layer, "bfloat16")(x), layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_large_products_are_rounded_however_few_data(name: str) -> None:
    layer, x = LAYERS[name]()
    one = x if name.endswith("one") else x[:1]
    found = multiply_in(layer, "bfloat16")(one)
    assert not torch.allclose(found, layer(one), rtol=1e-4, atol=1e-4)


def test_float32_is_the_program_itself() -> None:
    layer = nn.Linear(200, 100)
    assert multiply_in(layer, "float32") is layer


def test_products_outside_of_networks_are_untouched() -> None:
    r"""Matrix products of programs and densities; autocast would round both."""
    matrix, x = torch.randn(200, 200), torch.randn(5, 200)
    scale_tril = torch.eye(200) + 0.01 * matrix.tril(-1)
    density = dist.MultivariateNormal(torch.zeros(200), scale_tril=scale_tril)

    def program() -> tuple[Tensor, Tensor]:
        return x @ matrix, density.log_prob(x)

    for found, wanted in zip(multiply_in(program, "bfloat16")(), program(), strict=True):
        assert torch.equal(found, wanted)


def pair() -> tuple[VAE, AmortizedNormal]:
    pyro.set_rng_seed(0)
    return VAE((FEATURES,), LATENTS), AmortizedNormal((FEATURES,), {"z": LATENTS})


def data(n: int = 20) -> Tensor:
    return (torch.rand(n, FEATURES, generator=torch.Generator().manual_seed(1)) < 0.4).float()


class TestSVI:
    r"""Steps."""

    def test_parameters_and_names_are_those_of_the_programs(self) -> None:
        found = []
        for products in ("float32", "bfloat16"):
            svi = SVI(*pair(), adam, capture=False, products=products)
            svi.step(data())
            found.append(svi.tensors())
        assert found[0].keys() == found[1].keys()
        assert all(tensor.dtype == torch.float32 for tensor in found[1].values())
        assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])

    def test_both_programs_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, guide = pair()
        seen = []

        def product(func: Any, input: Tensor, weight: Tensor, *rest: Any) -> Tensor:
            seen.append(weight)
            return func(input, weight, *rest)

        monkeypatch.setattr("pyro_vae.products._product", product)
        SVI(model, guide, adam, capture=False, products="bfloat16").step(data())
        for program in (model, guide):
            weights = [p for p in program.parameters() if p.dim() == 2]
            assert len(weights) == 2
            assert all(any(found is weight for found in seen) for weight in weights)

    @pytest.mark.parametrize("loss", [None, Trace_ELBO], ids=["ours", "Pyro's"])
    def test_the_loss_differs_by_rounding(self, loss: Any) -> None:
        losses = []
        for products in ("float32", "bfloat16"):
            svi = SVI(*pair(), adam, loss and loss(), capture=False, products=products)
            pyro.set_rng_seed(2)
            losses.append(svi.evaluate_loss(data()).item())
        assert losses[0] != losses[1]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)

    def test_captured_steps_are_eager_steps(self) -> None:
        eager, captured = (
            traced(SVI(*pair(), adam, capture=capture, products="bfloat16"))
            for capture in (False, True)
        )
        for seed in range(4):
            losses = []
            for svi in (eager, captured):
                pyro.set_rng_seed(seed)
                losses.append(svi.step(data()).item())
            assert losses[1] == pytest.approx(losses[0], rel=1e-6)
        assert captured.capture.compilations == 1
        for name, tensor in eager.tensors().items():
            torch.testing.assert_close(captured.tensors()[name], tensor, rtol=1e-5, atol=1e-6)

    def test_float64_is_refused(self) -> None:
        model, guide = pair()
        svi = SVI(model.double(), guide.double(), adam, products="bfloat16")
        with pytest.raises(TypeError, match=r"in float32, .* got one in float64: take"):
            svi.step(data().double())


def test_what_the_compiler_makes_is_the_same() -> None:
    r"""A network and its gradients, through Inductor."""
    network = nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 200))
    parameters, x = list(network.parameters()), torch.randn(30, 200)
    run = multiply_in(network, "bfloat16")

    def gradients(_: Any, x: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            loss = run(x).square().mean()
            return [loss.detach(), *torch.autograd.grad(loss, parameters)]

    eager, compiled = gradients(None, x), Graph(gradients, parameters)(x)
    plain = torch.autograd.grad(network(x).square().mean(), parameters)
    for found, wanted in zip(compiled, eager, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert all(not torch.equal(*both) for both in zip(compiled[1:], plain, strict=True))


def half(products: str = "bfloat16") -> tuple[Any, Any]:
    r"""Programs in bfloat16."""
    model, guide = pair()
    return multiply_in(model, products), multiply_in(guide, products)  # type: ignore[arg-type]


class TestEvaluation:
    r"""What takes programs takes those that multiply in bfloat16."""

    def test_evaluate(self) -> None:
        found = [
            evaluate(*half(products), data(), metrics=("elbo", "nll"), particles=8, capture=False)
            for products in ("float32", "bfloat16")
        ]
        for name in ("elbo", "nll"):
            values = [float(estimates[name]) for estimates in found]
            assert values[0] != values[1]
            assert values[1] == pytest.approx(values[0], rel=1e-3)

    def test_rounded_data_count(self) -> None:
        r"""Those of programs that are in bfloat16 themselves."""
        with Largest() as largest:
            torch.ones(7, 11, dtype=torch.bfloat16) + 1
        assert largest.elements == 77

    def test_dropout_is_off(self) -> None:
        model, guide = pair()
        model.decoder.append(nn.Dropout(0.5))
        programs = [multiply_in(program, "bfloat16") for program in (model, guide)]
        on, off = (
            (model.train(training), sample(*programs, n=5, mean=True))[1]
            for training in (True, False)
        )
        assert torch.equal(on, off)

    def test_pyros_predictive(self) -> None:
        model, _ = half()
        found = Predictive(model, num_samples=4)(n=3)
        assert found["x"].shape == (4, 3, FEATURES)
        assert found["x"].dtype == torch.float32

    def test_chunks_are_as_large(self) -> None:
        r"""Rounded weights, of which there are as many for one datum, do not count as data."""
        layer, x = nn.Linear(200, 100), torch.randn(5, 200)
        with torch.no_grad(), Largest() as largest:
            multiply_in(layer, "bfloat16")(x)
        assert largest.elements == 5 * 100

    def test_encode_captured_or_not(self) -> None:
        plain = encode(*pair(), data(), capture=False)["z"]
        eager = encode(*half(), data(), capture=False)["z"]
        captured = encode(*half(), data(), capture=True)["z"]
        assert not torch.allclose(eager, plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(eager, plain, rtol=0.02, atol=0.01)
        torch.testing.assert_close(captured, eager, rtol=1e-4, atol=1e-5)

    def test_sample(self) -> None:
        plain, found = (sample(*both, n=5, mean=True) for both in (pair(), half()))
        assert not torch.allclose(found, plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, plain, rtol=0.02, atol=0.01)


def short(products: Any = "bfloat16", **options: Any) -> Run:
    return fit(
        *pair(), data(50), products=products, batch_size=20, progress=False, device="cpu", **options
    )


class TestFit:
    r"""Runs."""

    def test_a_run_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        whole = short(epochs=3)
        short(epochs=1, run_dir=tmp_path / "run")
        resumed = short(epochs=3, run_dir=tmp_path / "run", resume=True)
        assert resumed.history == whole.history
        assert resumed.history != short("float32", epochs=3).history
        pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
        assert all(torch.equal(*both) for both in pairs)

    def test_a_run_notes_it_and_goes_on_in_no_other(self, tmp_path: Path) -> None:
        short(epochs=1, run_dir=tmp_path / "run")
        assert Run.load(tmp_path / "run", *pair()).config["products"] == "bfloat16"
        with pytest.raises(ValueError, match="the products that the run began with, bfloat16, got"):
            short("float32", epochs=2, run_dir=tmp_path / "run", resume=True)


WRONG: dict[str, Callable[[], Any]] = {
    "multiply_in": lambda: multiply_in(nn.Linear(2, 2), "float16"),  # type: ignore[arg-type]
    "SVI": lambda: SVI(*pair(), adam, products="float16"),  # type: ignore[arg-type]
    "fit": lambda: short("float16"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_types_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="products to be 'float32' or 'bfloat16', got 'float16'"):
        WRONG[name]()


_ONEDNN = (torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
_AVX = (torch.cpu, "_is_avx512_bf16_supported")
PROCESSORS: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "none": ((*_ONEDNN, False), (platform, "machine", "arm64")),
    # there oneDNN takes bfloat16, and converts it
    "x86 of before": ((*_ONEDNN, True), (platform, "machine", "x86_64"), (*_AVX, False)),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_a_processor_without_instructions_is_warned_of_once(
    processor: tuple[tuple[Any, str, Any], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, known in processor:
        monkeypatch.setattr(module, name, lambda known=known: known)
    _warn_if_slow.cache_clear()
    layer, x = LAYERS["linear"]()
    small, few = SMALL["linear"]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        multiply_in(small, "bfloat16")(few)
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        multiply_in(layer, "bfloat16")(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        multiply_in(layer, "bfloat16")(x)


@pytest.mark.parametrize(("machine", "avx"), [("x86_64", True), ("AMD64", True), ("arm64", False)])
def test_a_processor_that_has_them_is_not(
    machine: str, avx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ((*_ONEDNN, True), (platform, "machine", machine), (*_AVX, avx))
    for module, name, known in found:
        monkeypatch.setattr(module, name, lambda known=known: known)
    assert _is_fast()
