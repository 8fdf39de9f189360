r"""The check of all rows: data outside a support are found in any of them."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from broken import Guide, Model, amortised, grey, sound
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from zoo import ZOO, D, F, N, Pair, binary, standard

from pyro_vae.checks import check_rows
from pyro_vae.checks import rows as rows_module
from pyro_vae.guides import AmortizedNormal
from pyro_vae.models import VAE


def changed(x: Tensor, row: int, value: float) -> Tensor:
    x = x.clone()
    x[row, 0] = value
    return x


def totals(x: Tensor, n: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Binomial(n, x.new_tensor(0.5)).to_event(1), obs=x)


def classes(x: Tensor, y: Tensor) -> None:
    sound(x)
    with pyro.plate("labels", x.shape[0], dim=-1):
        pyro.sample("y", dist.Categorical(logits=x.new_zeros(3)), obs=y)


def amortised_too(x: Tensor, y: Tensor) -> None:
    amortised(x)


def nothing(*_: Tensor) -> None:
    pass


def one_for_all(x: Tensor) -> None:
    with pyro.plate("data", N, dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample(
            "x", dist.Bernoulli(logits=z.sum(-1, keepdim=True).expand(N, F)).to_event(1), obs=x
        )


def one_for_all_too(x: Tensor) -> None:
    with pyro.plate("data", N, dim=-1):
        pyro.sample("z", standard(x, D))


def in_pairs(x: Tensor) -> None:
    sound(x)
    if x.shape[0] < 2:
        raise ValueError("expected pairs")


def first_feature(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Bernoulli(logits=z.sum(-1)), obs=x[:, 0])


def global_rate(x: Tensor) -> None:
    rate = pyro.sample("z", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Poisson(rate).expand((x.shape[0], F)).to_event(1), obs=x)


def with_batch_norm(x: Tensor) -> Pair:
    model, guide, _ = ZOO["batch_norm_and_dropout"]()
    return model, guide, (x,)


def vae(x: Tensor) -> Pair:
    return VAE((F,), D), AmortizedNormal((F,), {"z": D}), (x,)


R = 40
counts = torch.arange(R * F).reshape(R, F).double()

# name -> (model, guide and all data, the name of the data plate, what the findings must say)
ROWS: dict[str, tuple[Callable[[], Pair], str | None, list[tuple[str, str, str]]]] = {
    "sound": (lambda: vae(binary(R, F)), None, []),
    "last row": (
        lambda: vae(changed(binary(R, F), R - 1, 255)),
        None,
        [
            (
                "x",
                "error",
                r"numbers 0 and 1 \(Bernoulli\), got integers from 0 to 255, first in row 39: like"
                r"lihoods that fit: Binomial\(total_count=255\), .*\(the model, .*vae.py:\d+, `ret",
            )
        ],
    ),
    "row that the guide does not take": (
        lambda: (Model(), Guide(), (changed(torch.randn(R, F), 17, torch.nan),)),
        None,
        [("x", "error", "finite real numbers .* 1 NaN, first in row 17: no likelihood fits")],
    ),
    "support of each row": (lambda: (totals, nothing, (counts, counts)), None, []),
    "support of each row, left": (
        lambda: (totals, nothing, (changed(counts, 7, 36), counts)),
        None,
        [],  # row 1, too, is outside the support of row 0, and stands for all
    ),
    "support of all rows": (
        lambda: (totals, nothing, (counts, torch.full_like(counts, R * F - 2))),
        None,
        [("x", "error", "integers from 0 to 198 .* from 0 to 199, first in row 39")],
    ),
    "second argument": (
        lambda: (classes, amortised_too, (torch.randn(R, F), torch.arange(R) // 10)),
        None,
        [("y", "error", "integers from 0 to 2 .* from 0 to 3, first in row 30")],
    ),
    "two": (
        lambda: (
            classes,
            amortised_too,
            (changed(torch.randn(R, F), 3, torch.inf), torch.arange(R) // 10),
        ),
        None,
        [("x", "error", "1 infinite, first in row 3"), ("y", "error", "first in row 30")],
    ),
    "plate that is not the data's": (
        lambda: (classes, amortised_too, (torch.randn(R, F), torch.arange(R) // 10)),
        "data",
        [],
    ),
    "support that is not enforced": (
        lambda: (Model(likelihood=grey), amortised, (changed(binary(R, F), 5, 0.5),)),
        None,
        [("x", "warning", "first in row 5: these look like grey levels: .* ContinuousBernoulli")],
    ),
    "autoguide": (
        lambda: (global_rate, AutoNormal(global_rate), (changed(binary(R, F), 5, -1),)),
        None,
        [("x", "error", "integers of at least 0 .* from -1 to 1, first in row 5")],
    ),
    "no run on one row": (lambda: with_batch_norm(changed(binary(R, F), 5, 3)), None, []),
    "no end on one row": (
        lambda: (in_pairs, amortised, (changed(torch.randn(R, F), 5, torch.nan),)),
        None,
        [],
    ),
    "plate of a fixed size": (
        lambda: (one_for_all, one_for_all_too, (3 + binary(R, F),)),
        None,
        [],
    ),
    "number": (lambda: (sound, amortised, (torch.tensor(torch.nan),)), None, []),
    "value that is no argument": (
        lambda: (first_feature, amortised, (3 + binary(R, F),)),
        None,
        [],
    ),
    "no rows": (lambda: vae(torch.ones(0, F)), None, []),
}


@pytest.mark.parametrize("chunk", [1, 64, 2**22])
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_all_data(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make, data_plate, expected = ROWS[name]
    model, guide, fields = make()
    monkeypatch.setattr(rows_module, "_CHUNK", chunk)
    before = torch.get_rng_state()

    found = check_rows(model, guide, *fields, data_plate=data_plate)

    assert [(f.site, f.severity) for f in found] == [(s, severity) for s, severity, _ in expected]
    for finding, (_, _, match) in zip(found, expected, strict=True):
        with pytest.raises(ValueError, match=match):
            raise ValueError(finding.said)
    assert torch.equal(before, torch.get_rng_state())


def test_rows_leave_an_autoguide_to_be_set_up_by_a_batch() -> None:
    guide = AutoNormal(global_rate)
    check_rows(global_rate, guide, binary(R, F))

    assert guide.prototype_trace is None
