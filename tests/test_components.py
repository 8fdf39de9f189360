r"""Parts by name: what is built of a description, and what is said of it."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mine import MINE, imported, written
from torch import Size, nn

from pyro_vae.components import (
    Kind,
    arguments,
    build,
    describe,
    dump_config,
    files_of,
    read_config,
)
from pyro_vae.likelihoods import Bernoulli, Binomial, Normal, NormalLearnedScale
from pyro_vae.models import VAE
from pyro_vae.nn import conv_decoder, mlp
from pyro_vae.objectives import ELBO


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with written():
        yield tmp_path


def test_sites_of_a_constructor() -> None:
    wanted = arguments(VAE, "model")
    kinds = {name: argument.kind for name, argument in wanted.items()}
    assert kinds == {
        **{"event_shape": None, "latents": None},
        **{"likelihood": "likelihood", "decoder": "network"},
    }
    assert [name for name, argument in wanted.items() if argument.required] == ["event_shape"]
    assert arguments(mlp, "network")["activation"].kind == "activation"
    assert not any(argument.required for argument in arguments(mlp, "network").values())
    assert "params" not in arguments(torch.optim.Adam, "optimizer")
    assert "optimizer" not in arguments(torch.optim.lr_scheduler.StepLR, "schedule")


def test_a_model_is_built_and_described_in_full() -> None:
    spec = {
        "class_path": "VAE",
        "init_args": {
            "latents": 2,
            "decoder": {"class_path": "conv_decoder", "init_args": {"channels": [4], "hidden": 6}},
        },
    }
    known = {"event_shape": Size([1, 9, 8]), "likelihood": Normal(0.1), "sites": {"z": 2}}
    torch.manual_seed(0)
    model = build(spec, "model", known=known)
    torch.manual_seed(0)
    expected = VAE((1, 9, 8), 2, Normal(0.1), partial(conv_decoder, channels=[4], hidden=6))

    assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))
    assert model.likelihood is known["likelihood"]
    description = {
        "class_path": "pyro_vae.models.VAE",
        "init_args": {
            "latents": 2,
            "decoder": {
                "class_path": "pyro_vae.nn.conv_decoder",
                "init_args": {"channels": [4], "hidden": 6},
            },
            "event_shape": [1, 9, 8],
            "likelihood": {
                "class_path": "pyro_vae.likelihoods.Normal",
                "init_args": {"scale": 0.1},
            },
        },
    }
    assert describe(model) == description
    assert spec["init_args"]["latents"] == 2  # left alone
    describe(model)["init_args"].clear()
    assert describe(model) == description


def test_what_the_description_gives_wins_over_what_is_known() -> None:
    spec = {"class_path": "VAE", "init_args": {"event_shape": [3], "likelihood": None}}
    model = build(spec, "model", known={"event_shape": (4,), "likelihood": Normal(0.1)})
    assert (tuple(model.event_shape), model.likelihood) == ((3,), Normal(0.1))


TANH = {"class_path": "torch.nn.Tanh", "init_args": {}}
LEAKY = {"class_path": "LeakyReLU", "init_args": {"negative_slope": 0.5}}
ROUND: dict[str, tuple[Any, Kind, Callable[[Any], Any], Any]] = {
    "mlp": (
        {"class_path": "mlp", "init_args": {"hidden": [3], "activation": TANH}},
        *("network", lambda made: repr(made(2, 4)), repr(mlp(2, 4, (3,), nn.Tanh))),
    ),
    "activation with arguments": (
        {"class_path": "mlp", "init_args": {"activation": LEAKY}},
        *("network", lambda made: repr(made(2, 4)[1]), "LeakyReLU(negative_slope=0.5)"),
    ),
    "activation": ("Tanh", "activation", lambda made: made, nn.Tanh),
    "module": (
        {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}},
        *("network", repr, repr(nn.Linear(2, 3))),
    ),
    "optimizer": (
        {"class_path": "Adam", "init_args": {"lr": 0.5, "betas": [0.5, 0.9]}},
        *("optimizer", lambda made: (made.func, made.keywords)),
        (torch.optim.Adam, {"lr": 0.5, "betas": (0.5, 0.9)}),
    ),
    "schedule": (
        {"class_path": "MultiStepLR", "init_args": {"milestones": [3, 4], "gamma": 1}},
        *("schedule", lambda made: (made.func, made.keywords)),
        (torch.optim.lr_scheduler.MultiStepLR, {"milestones": [3, 4], "gamma": 1.0}),
    ),
    "objective": (
        {"class_path": "ELBO", "init_args": {"kl": "sampled", "particles": 5, "beta": 0.5}},
        *("objective", lambda made: (made.kl, made.particles, made.beta().item())),
        ("sampled", 5, 0.5),
    ),
    "likelihood": ("Bernoulli", "likelihood", lambda made: made, Bernoulli()),
    "likelihood with a parameter": (
        {"class_path": "NormalLearnedScale", "init_args": {"init": 0.3}},
        *("likelihood", lambda made: made.scale.item(), pytest.approx(0.3)),
    ),
    "guide": (
        {
            "class_path": "AmortizedNormal",
            "init_args": {"event_shape": [4], "sites": {"z": 2, "y": 1}, "encoder": "mlp"},
        },
        *("guide", lambda made: (made.sites, made.encoder[0].in_features), ({"z": 2, "y": 1}, 4)),
    ),
    "data": (
        {"class_path": "load", "init_args": {"source": "digits", "binarization": "dynamic"}},
        *("data", repr, "Data('digits', 1297/250/250 rows of shape (1, 8, 8), Bernoulli)"),
    ),
    "file": (
        {
            "class_path": "mine.py:Mine",
            "init_args": {
                "event_shape": [4],
                "net": {
                    "class_path": "mine.py:Net",
                    "init_args": {"inputs": 2, "outputs": 3, "depth": 2},
                },
                "colour": {"red": [1, 0.5, None, True]},
            },
        },
        *("model", lambda made: (made.event_shape, made.net.layer.out_features, made.others)),
        ([4], 6, {"colour": {"red": [1, 0.5, None, True]}}),
    ),
    "function": ("mine.py:model", "model", lambda made: made(0), "the program"),
}


@pytest.mark.parametrize("name", ROUND)
def test_a_description_is_written_read_and_built_again(name: str) -> None:
    spec, kind, look, expected = ROUND[name]
    made = build(spec, kind, allow=["mine.py"])
    assert look(made) == expected

    description = describe(made)
    Path("config.yaml").write_text(dump_config({"part": description}))
    read = read_config("config.yaml")["part"]
    assert read == description
    again = build(read, kind, allow=["mine.py"], files=files_of(description))
    assert look(again) == expected
    assert describe(again) == description


DESCRIBED: dict[str, tuple[Any, Any]] = {
    "plain": (
        {"a": (1, 2.5, None, True, "x"), "b": Size([3])},
        {"a": [1, 2.5, None, True, "x"], "b": [3]},
    ),
    "class": (nn.Tanh, {"class_path": "torch.nn.Tanh", "init_args": {}}),
    "maker": (mlp, {"class_path": "pyro_vae.nn.mlp", "init_args": {}}),
    "partial": (
        partial(partial(mlp, hidden=(3,)), activation=nn.Tanh),
        {"class_path": "pyro_vae.nn.mlp", "init_args": {"hidden": [3], "activation": TANH}},
    ),
    "optimizer": (
        partial(torch.optim.AdamW, lr=0.1),
        {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}},
    ),
    "dataclass": (
        Binomial(16),
        {"class_path": "pyro_vae.likelihoods.Binomial", "init_args": {"total_count": 16}},
    ),
    "module likelihood": (
        NormalLearnedScale(0.5),
        {"class_path": "pyro_vae.likelihoods.NormalLearnedScale", "init_args": {"init": 0.5}},
    ),
    "objective": (
        ELBO(particles=5),
        {
            "class_path": "pyro_vae.objectives.ELBO",
            "init_args": {
                **{"kl": "auto", "particles": 5, "beta": 1.0, "free_bits": None},
                **{"groups": "site", "gradient": "pathwise"},
            },
        },
    ),
    "program": (VAE((4,)), {"given": "pyro_vae.models.vae.VAE"}),
    "module": (nn.Linear(2, 3), {"given": "torch.nn.modules.linear.Linear"}),
    "function": (imported, {"given": "mine.imported"}),
    "lambda": (partial(lambda x: x, 3), {"given": f"{__name__}.<lambda>"}),
    "bound by position": (partial(mlp, 3), {"given": "pyro_vae.nn.perceptron.mlp"}),
    "method": (VAE((4,)).forward, {"given": "pyro_vae.models.vae.VAE.forward"}),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_what_was_made_in_python_is_described(name: str) -> None:
    thing, expected = DESCRIBED[name]
    assert describe(thing) == expected


def test_descriptions_go_with_what_they_describe() -> None:
    for width in range(300):  # numbers of dead objects are given again
        spec = {"class_path": "mlp", "init_args": {"hidden": [width]}}
        assert describe(build(spec, "network")) == {
            "class_path": "pyro_vae.nn.mlp",
            "init_args": {"hidden": [width]},
        }
        assert "given" in describe(partial(lambda: None))


def test_a_file_of_a_part_has_its_checksum_too(elsewhere: Path) -> None:
    net = {"class_path": "mine.py:Net", "init_args": {"depth": 2}}
    spec = {"class_path": "VAE", "init_args": {"event_shape": [4], "decoder": net}}
    files = files_of(spec)
    assert list(files) == [f"{elsewhere}/mine.py"]
    Path("mine.py").write_text(MINE + "\n")
    with pytest.raises(ValueError, match="expected the file that was recorded"):
        build(spec, "model", allow=["mine.py"], files=files)
    assert not imported()


ERRORS: dict[str, tuple[Any, Kind, type[Exception], str]] = {
    "misspelt": (
        "VAEE",
        "model",
        ValueError,
        r"one of pyro_vae.models \(.*VAE.*\), got 'VAEE'; did",
    ),
    "case": ("adam", "optimizer", ValueError, "got 'adam'; did you mean Adam"),
    "no name": (3, "model", TypeError, "expected a model as a name or as .*, got 3"),
    "no description": ({"latents": 2}, "model", TypeError, r"as a name or as {class_path: …"),
    "other keys": ({"class_path": "VAE", "x": 2}, "model", TypeError, "expected a model as a name"),
    "path": ({"class_path": 3}, "model", TypeError, "expected the name of a model, got 3"),
    "init_args": (
        {"class_path": "VAE", "init_args": [2]},
        "model",
        TypeError,
        "init_args of VAE by",
    ),
    "number for a name": (
        {"class_path": "Adam", "init_args": {1: 2}},
        "optimizer",
        TypeError,
        "by name",
    ),
    "given": ({"given": "a.B"}, "guide", ValueError, r"guide \(a.B\) was made in Python"),
    "unknown": (
        {"class_path": "VAE", "init_args": {"latnets": 2}},
        *("model", ValueError, "VAE: expected arguments among .*, got 'latnets'; did you mean lat"),
    ),
    "of a function": (
        {"class_path": "mine.py:model", "init_args": {"x": 2}},
        *("model", ValueError, "mine.py:model: expected no arguments, got 'x'"),
    ),
    "lacking": ("VAE", "model", ValueError, "VAE: expected a value of event_shape, got none"),
    "lacking in torch": ("StepLR", "schedule", ValueError, "StepLR: expected a value of step_size"),
    "parameters": (
        {"class_path": "Adam", "init_args": {"params": []}},
        *("optimizer", ValueError, "Adam: expected arguments among lr, .*, got 'params'"),
    ),
    "in Python": (
        {"class_path": "LambdaLR", "init_args": {"lr_lambda": "os.system"}},
        *("schedule", ValueError, "expected lr_lambda to be given in Python"),
    ),
    "nested": (
        {"class_path": "VAE", "init_args": {"event_shape": [4], "decoder": "os.system"}},
        *("model", ValueError, "expected a network that may be imported, got 'os.system'"),
    ),
    "nested given": (
        {"class_path": "VAE", "init_args": {"event_shape": [4], "decoder": {"given": "x.Y"}}},
        *(
            "model",
            ValueError,
            r"run's network \(x.Y\) was made in Python, .* pass it as network= or",
        ),
    ),
    "no network": (
        {"class_path": "VAE", "init_args": {"event_shape": [4], "decoder": 5}},
        *("model", TypeError, "expected a network as a name"),
    ),
    "error of torch's": (
        {"class_path": "torch.nn.Linear", "init_args": {"in_features": -1, "out_features": 2}},
        *(
            "network",
            ValueError,
            r"torch.nn.Linear: expected to build it .* RuntimeError: ",
        ),
    ),
    "facts": (
        {"class_path": "mine.py:Mine", "init_args": {"event_shape": [4], "net": "mine.py:Net"}},
        *("model", ValueError, "Mine: expected a value of inputs, outputs, got none"),
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    spec, kind, error, match = ERRORS[name]
    with pytest.raises(error, match=match):
        build(spec, kind, allow=["mine.py"])


TYPES: list[tuple[str, Kind, str, Any, str]] = [
    ("VAE", "model", "latents", "two", "int"),
    ("VAE", "model", "latents", 2.5, "int"),
    ("VAE", "model", "latents", [2], "int"),
    ("VAE", "model", "latents", None, "int"),
    ("VAE", "model", "event_shape", 4, r"Sequence\[int\]"),
    ("VAE", "model", "event_shape", {"class_path": "os.system"}, r"Sequence\[int\]"),
    ("AmortizedNormal", "guide", "sites", {"z": "two"}, r"Mapping\[str, int\] \| None"),
    ("Adam", "optimizer", "lr", "fast", "float"),
    ("Adam", "optimizer", "betas", [0.9], r"tuple\[float, float\]"),
    ("Adam", "optimizer", "amsgrad", "perhaps", "bool"),
    ("ELBO", "objective", "kl", "exact", "'auto' | 'analytic' | 'sampled'"),
    ("mlp", "network", "hidden", "wide", r"Sequence\[int\]"),
]


@pytest.mark.parametrize("name, kind, argument, value, wanted", TYPES)
def test_arguments_of_a_wrong_type(
    name: str, kind: Kind, argument: str, value: Any, wanted: str
) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected {argument} to be {wanted}"):
        build({"class_path": name, "init_args": {argument: value}}, kind)


@pytest.mark.parametrize(
    "hint", ["dict", "list", "dict[str, Any]", "Any", "list[Any] | None", "int | Any"]
)
def test_a_description_in_plain_data_is_left_alone(hint: str) -> None:
    # jsonargparse would import what a class_path names where anything may stand
    source = f"from typing import Any\nclass Open:\n    def __init__(self, x: {hint}): self.x = x"
    Path("open.py").write_text(source)
    for value in ({"class_path": "minepackaged.Mine"}, [{"class_path": "minepackaged.Mine"}]):
        spec = {"class_path": "open.py:Open", "init_args": {"x": value}}
        assert build(spec, "model", allow=["open.py"]).x == value
    assert not imported()
