r"""Pairs whose plates, networks or tensors stand in the wrong place, with the words to be found.

A new case is one row.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from broken import Guide, Model, amortised, batch, nothing, sound, unit_normal
from pyro.nn import PyroModule
from suspect import Changed
from torch import Tensor, nn
from zoo import D, F, N, Nested, Pair, normal, standard

from pyro_vae.nn import positive


def at_another_dim(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2):
        pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 1, D), 1.0).to_event(1))


def two_of_a_name(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", unit_normal(z.sum(-1, keepdim=True) + 0 * x), obs=x)


def nested_of_a_name(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("data", F, dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0))


def named_as_a_plate(x: Tensor) -> None:
    with pyro.plate("z", x.shape[0], dim=-1):
        pyro.sample("z", standard(x, D))


def sampled_twice(x: Tensor) -> None:
    sound(x)
    for _ in range(2):
        pyro.sample("weight", dist.Normal(0.0, 1.0))


def at_one_dim(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1), pyro.plate("features", F, dim=-1):
        pyro.sample("z", dist.Normal(x, 1.0))


class InsideFeatures(PyroModule):
    r"""The latent of a group inside the plate of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(F, 2 * F)

    def forward(self, x: Tensor) -> None:
        loc, raw = self.encoder(x).chunk(2, dim=-1)
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("features", F, dim=-1):
            pyro.sample("z", dist.Normal(loc, positive(raw)))
            pyro.sample("w", dist.Normal(loc, positive(raw)))


def plates_swapped(x: Tensor) -> None:
    with pyro.plate("features", F, dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(0 * x, 1.0), obs=x)


def data_swapped(x: Tensor) -> None:
    with pyro.plate("features", F, dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)


def swapped_alike(x: Tensor) -> None:
    with pyro.plate("features", x.shape[1], dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("w", dist.Normal(x, 1.0))


def not_swapped(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("features", x.shape[1], dim=-1):
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def growing(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        loc = z.sum(-1, keepdim=True) + 0 * x
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(2), obs=x)


def growing_prior(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.MultivariateNormal(x.new_zeros(len(x)), torch.eye(len(x))))
        pyro.sample("x", unit_normal(z.sum(-1, keepdim=True) + 0 * x), obs=x)


def growing_guide(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", unit_normal(x.new_zeros(len(x))))


def built_inside(x: Tensor) -> None:
    encoder = nn.Linear(F, 2 * D)
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", normal(encoder(x)))


def stated_inside(x: Tensor) -> None:
    loc = nn.Parameter(torch.zeros(D))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", unit_normal(loc))


def elsewhere(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        prior = dist.Normal(torch.zeros(D, device="meta"), 1.0, validate_args=False).to_event(1)
        z = pyro.sample("z", prior)
        pyro.sample("x", unit_normal(z.sum(-1, keepdim=True) + 0 * x), obs=x)


def added_elsewhere(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        shift = torch.ones(D, device="meta")
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", unit_normal((z + shift).sum(-1, keepdim=True) + 0 * x), obs=x)


def parameters_elsewhere() -> Pair:
    return Model().to("meta"), Guide().to("meta"), batch()


# name -> (model, guide and batch, the site, what the message must say)
MISPLACED: dict[str, tuple[Callable[[], Pair], str | None, str]] = {
    "data plate at another dim": (
        lambda: (Model(), at_another_dim, batch()),
        "z",
        r"expected plate 'data' at one dim around 'z' in both programs, got dim -1 in the model and"
        r" dim -2 in the guide: write pyro.plate\('data', …, dim=-1\) in both \(the guide",
    ),
    "plates swapped in the guide, as many features as data": (
        lambda: (not_swapped, swapped_alike, batch(N, N)),
        "w",
        r"expected plate '(data|features)' at one dim around 'w' in both programs",
    ),
    "two plates of one name": (
        lambda: (two_of_a_name, amortised, batch()),
        "data",
        r"expected one plate of the name 'data', got two: make it once, as data = pyro.plate\('data"
        r"', …\), and enter it by `with data:` .*\(the model, .*misplaced.py:\d+, `with pyro.plate",
    ),
    "nested plates of one name": (
        lambda: (sound, nested_of_a_name, batch()),
        "data",
        "expected one plate of the name 'data', got two: .*the guide",
    ),
    "site of a plate's name": (
        lambda: (named_as_a_plate, amortised, batch()),
        "z",
        "expected one thing of the name 'z', got a plate and a site: rename one",
    ),
    "site twice": (
        lambda: (sampled_twice, amortised, batch()),
        "weight",
        r"one pyro.sample statement for 'weight', got it twice .*sample\(f\"weight\{i\}\", …\)",
    ),
    "two plates at one dim": (
        lambda: (sound, at_one_dim, batch()),
        "features",
        "each plate around a site at a dim of its own, got 'features' and 'data' both at dim -1: "
        "write dim=-2 at the outer one",
    ),
    "latent of a group inside its elements": (
        lambda: (Nested(), InsideFeatures(), batch()),
        "z",
        r"the model's stands in plate 'data' of size 7 at dim -2, the guide's in plates 'data' of "
        r"size 7 at dim -2, 'features' of size 5 at dim -1; write the same plates in both",
    ),
    "plates inside one another the wrong way": (
        lambda: (plates_swapped, amortised, batch()),
        "x",
        r"fits its plate 'data' of size 7 at dim -1, got batch_shape \(7, 5\) .*'data' and "
        r"'features' stand in each other's place: dimension -1 has the size of 'features'",
    ),
    "plates the wrong way for the data": (
        lambda: (data_swapped, nothing, batch()),
        "x",
        r"data of shape \(5, 7\), .*got \(7, 5\): the plates stand in each other's place: put",
    ),
    "event that holds the batch": (
        lambda: (growing, amortised, batch()),
        "x",
        r"expected an event_shape that is that of one datum, got \(7, 5\) in a batch of 7 and "
        r"\(6, 5\) in one of 6: .* write .to_event\(1\) in place of .to_event\(2\); else every "
        r"datum is counted 7 times \(the model",
    ),
    "latents as many as data": (
        lambda: (growing_prior, growing_guide, batch()),
        "z",
        r"got \(7,\) in a batch of 7 and \(6,\) in one of 6: .*no .to_event in place of "
        r".to_event\(1\); else",
    ),
    "latents as many as data, multivariate": (
        lambda: (growing_prior, growing_prior, batch()),
        "x",
        "guide to draw latents only",
    ),
    "network built inside": (
        lambda: (Model(), built_inside, batch()),
        None,
        r"expected parameters that stay from run to run, got 2 made anew in each, of shapes .*never"
        r" trained: make networks and parameters once, .*`encoder = nn.Linear\(F, 2 \* D\)`",
    ),
    "parameter made inside": (
        lambda: (Model(), stated_inside, batch()),
        None,
        r"got 1 made anew in each, of shapes \(2,\), .*by pyro.param .*`loc = nn.Parameter",
    ),
    "no gradient at all": (
        lambda: (sound, Changed(after=lambda h: h.detach()), batch()),
        None,
        "expected a gradient for every parameter, got none for guide.encoder.0.weight, .*detached",
    ),
    "prior on another device": (
        lambda: (elsewhere, amortised, batch()),
        "z",
        r"expected everything on cpu, as data and parameters are, got loc on meta: make constants "
        r"like the data, as x.new_zeros\(…\), or keep them by register_buffer.*`z = pyro.sample",
    ),
    "constant on another device": (
        lambda: (added_elsewhere, amortised, batch()),
        None,
        r"got a tensor of shape \(2,\) made on meta: .*`shift = torch.ones\(D, device=\"meta\"\)`",
    ),
    "parameters on another device": (
        parameters_elsewhere,
        None,
        r"data and parameters on one device, got data on cpu and parameters on meta: move .*\.to\(",
    ),
}
