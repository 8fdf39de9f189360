r"""Pairs of model and guide that are broken, with the words that the checker must find.

A new case is one row.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn
from zoo import D, F, N, Pair, binary, normal, standard

from pyro_vae.models import VAE
from pyro_vae.nn import mlp, positive

Make = Callable[[Tensor], dist.TorchDistribution]

assert len({N, F, D}) == 3  # what happens to fit by equal sizes has rows of its own


def unit_normal(loc: Tensor) -> dist.TorchDistribution:
    return dist.Normal(loc, 1.0).to_event(1)


class Model(PyroModule):
    r"""A sound model, unless a row breaks it."""

    def __init__(
        self,
        prior: Make = lambda x: standard(x, D),
        likelihood: Make = unit_normal,
        size: int | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.prior, self.likelihood, self.size = prior, likelihood, size
        self.decoder = decoder or mlp(D, F, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", self.size or x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


class Guide(PyroModule):
    r"""A sound guide, unless a row breaks it."""

    def __init__(
        self,
        posterior: Make = normal,
        size: int | None = None,
        name: str = "z",
        latents: int = D,
        features: int = F,
        plate: str = "data",
    ) -> None:
        super().__init__()
        self.posterior, self.size, self.name, self.plate = posterior, size, name, plate
        self.encoder = mlp(features, 2 * latents, (8,))

    def forward(self, x: Tensor) -> None:
        with pyro.plate(self.plate, self.size or x.shape[0], dim=-1):
            pyro.sample(self.name, self.posterior(self.encoder(x)))


def without_event(outputs: Tensor) -> dist.TorchDistribution:
    loc, raw = outputs.chunk(2, dim=-1)
    return dist.Normal(loc, positive(raw))


def bernoulli(outputs: Tensor) -> dist.TorchDistribution:
    return dist.Bernoulli(logits=outputs[..., :D]).to_event(1)


def nothing(x: Tensor) -> None:
    pass


def batch(*shape: int) -> tuple[Tensor]:
    return (torch.randn(shape or (N, F)),)


def square(x: Tensor) -> None:
    r"""Features without ``to_event``, as many as there are data: nothing raises."""
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) + 0 * x, 1.0), obs=x)


def without_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
    pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) + 0 * x, 1.0), obs=x)


def one_event_of_three(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample(
            "x", dist.Normal(z.sum(-1)[:, None, None, None] + 0 * x, 1.0).to_event(1), obs=x
        )


def column(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, 0])


def numbers(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def repeated(x: Tensor) -> None:
    with pyro.plate("data", N, dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", unit_normal(z.sum(-1, keepdim=True).expand(N, F)), obs=x)


def standard_for_all(x: Tensor) -> None:
    with pyro.plate("data", N, dim=-1):
        pyro.sample("z", standard(x, D))


def unsummed_factor(x: Tensor) -> None:
    sound(x)
    with pyro.plate("rows", x.shape[0], dim=-1):
        pyro.factor("penalty", 0 * x.T[:, :1].expand(F, N))


def array(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0].numpy())


def sound(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", standard(x, D))
        pyro.sample("x", unit_normal(z.sum(-1, keepdim=True) + x.new_zeros(F)), obs=x)


def two_latents(x: Tensor) -> None:
    sound(x)
    pyro.sample("weight", dist.Normal(0.0, 1.0))


def draws_data(x: Tensor) -> None:
    amortised(x)
    pyro.sample("x", dist.Normal(0.0, 1.0))


def amortised(x: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(D))
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", unit_normal(loc))


def in_two_plates(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("features", F, dim=-1):
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def in_one_plate(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2):
        pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))


def one_row_for_all(x: Tensor) -> None:
    r"""An event of two dimensions, data of one: they broadcast."""
    pyro.sample("x", dist.Normal(x, 1.0).to_event(2), obs=x[0])


def matrices_in_two_plates(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("features", F, dim=-1):
        pyro.sample("w", dist.Normal(x.new_zeros(4, 3), 1.0))


def with_helper(x: Tensor) -> None:
    amortised(x)
    pyro.sample("helper", dist.Normal(0.0, 1.0))


def one_event(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], D), 1.0).to_event(2))


def grey(outputs: Tensor) -> dist.TorchDistribution:
    return dist.Bernoulli(logits=outputs, validate_args=False).to_event(1)


def misspelt(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", standard(x, D))
        {"scale": 1.0}["scales"]


def rows_only(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0], dim=-1):
        c = pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        z = pyro.sample("z", standard(x, D))
        loc = torch.cat([z, c[:, None]], dim=1).sum(-1, keepdim=True)
        pyro.sample("x", unit_normal(loc.expand(N, F)), obs=x)


def global_class(x: Tensor) -> None:
    pyro.sample("c", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
    sound(x)


# name -> (model, guide and batch, the site, what the message must say)
BROKEN: dict[str, tuple[Callable[[], Pair], str | None, str]] = {
    "misnamed latent": (
        lambda: (Model(), Guide(name="Z"), batch()),
        "z",
        r"got 'Z', which the model lacks: the guide draws 'Z': give the two the same name",
    ),
    "latent that the guide lacks": (
        lambda: (two_latents, amortised, batch()),
        "weight",
        r"a latent of the model, got \['z'\]: add pyro.sample\('weight', …\)",
    ),
    "guide without a latent": (lambda: (sound, nothing, batch()), "z", "got no latent: add"),
    "latent besides": (
        lambda: (sound, with_helper, batch()),
        "helper",
        r"which are \['z'\], got 'helper': rename or remove it, or mark a helper",
    ),
    "guide that draws data": (
        lambda: (sound, draws_data, batch()),
        "x",
        "latents only, got 'x', which the model observes",
    ),
    "model and guide swapped": (
        lambda: (Guide(), Model(), batch()),
        "x",
        r"latents only, got 'x', which it observes: were model and guide swapped\?.*\(the guide",
    ),
    "model twice": (
        lambda: (VAE((F,), D), VAE((F,), D), (binary(N, F),)),
        "x",
        r"which it observes: were model and guide swapped\? the model comes first",
    ),
    "guide twice": (
        lambda: (Guide(), Guide(), batch()),
        None,
        r"model to observe the data, got \['z'\] without obs=: were model and guide swapped\?",
    ),
    "nothing twice": (lambda: (nothing, nothing, batch()), None, "got no site without obs="),
    "prior without to_event": (
        lambda: (Model(prior=lambda x: dist.Normal(x.new_zeros(D), 1.0)), Guide(), batch()),
        "z",
        r"plate 'data' of size 7 at dim -1, got batch_shape \(2,\).*add .to_event\(1\) .*the model",
    ),
    "prior without to_event, as many latents as data": (
        lambda: (Model(prior=lambda x: dist.Normal(x.new_zeros(D), 1.0)), Guide(), batch(D, F)),
        "z",
        r"batch_shape \(2,\) and event_shape \(\) in the model and batch_shape \(2,\) and "
        r"event_shape \(2,\) in the guide: make them .to_event\(1\) in the model, as in",
    ),
    "prior without to_event, plate of a fixed size": (
        lambda: (
            Model(prior=lambda x: dist.Normal(x.new_zeros(D), 1.0), size=100),
            Guide(lambda h: standard(h, D), size=100),
            batch(),
        ),
        "z",
        r"plate 'data' of size 100 at dim -1, got batch_shape \(2,\) .*: add .to_event\(1\)",
    ),
    "prior over matrices without to_event": (
        lambda: (matrices_in_two_plates, nothing, batch()),
        "w",
        r"got batch_shape \(4, 3\) .*: add .to_event\(2\) .* the last 2 dimensions belong",
    ),
    "posterior without to_event": (
        lambda: (Model(), Guide(without_event), batch()),
        "z",
        r"got batch_shape \(7, 2\).*add .to_event\(1\) .*the guide",
    ),
    "posterior without to_event, as many latents as data": (
        lambda: (Model(), Guide(without_event), batch(D, F)),
        "z",
        r"got batch_shape \(2, 2\).*\[-2\] belong to no plate: add .to_event\(1\) .*the guide",
    ),
    "likelihood without to_event": (
        lambda: (Model(likelihood=lambda h: dist.Normal(h, 1.0)), Guide(), batch()),
        "x",
        r"got batch_shape \(7, 5\).*add .to_event\(1\) .*the model",
    ),
    "likelihood without to_event, as many features as data": (
        lambda: (square, Guide(features=N), batch(N, N)),
        "x",
        r"got batch_shape \(7, 7\).*\[-2\] belong to no plate: add .to_event\(1\) .*the model",
    ),
    "likelihood without to_event, autoguide": (
        lambda: (square, AutoNormal(square), batch()),
        "x",
        r"got batch_shape \(7, 5\).*add .to_event\(1\) .*the model",
    ),
    "likelihood without plate": (
        lambda: (without_plate, Guide(), batch()),
        "x",
        r"plates \(none\), got batch_shape \(7, 5\).*\[-2, -1\] belong to no plate: if dimension -2"
        r' counts data, .*plate\("data", 7\).* and add \.to_event\(1\).*; else add \.to_event\(2\)',
    ),
    "one event dimension of three": (
        lambda: (one_event_of_three, amortised, batch(N, 1, 2, 3)),
        "x",
        r"got batch_shape \(7, 1, 2\).*add .to_event\(3\) .* in place of .to_event\(1\)",
    ),
    "factor for each feature": (
        lambda: (unsummed_factor, amortised, batch()),
        "penalty",
        "sum log_factor over the dimensions of one datum",
    ),
    "other number of latents": (
        lambda: (Model(), Guide(latents=3), batch()),
        "z",
        r"event_shape \(2,\) in the model and .* event_shape \(3,\) in .*number of features",
    ),
    "other plates": (
        lambda: (in_two_plates, in_one_plate, batch()),
        "w",
        r"the model's stands in plates 'data' of size 7 at dim -2, 'features' of size 5 at dim -1, "
        r"the guide's in plate 'data' of size 7 at dim -2; write the same plates in both",
    ),
    "data without the column of the likelihood": (
        lambda: (column, amortised, batch()),
        "x",
        r"data of shape \(7, 1\), .*, got \(7,\): give the distribution's parameters and the data",
    ),
    "data with features, likelihood of numbers": (
        lambda: (numbers, amortised, batch()),
        "x",
        r"data of shape \(7,\), .*, got \(7, 5\): give .* by .to_event\(n\)",
    ),
    "one row of data for all": (
        lambda: (one_row_for_all, nothing, batch()),
        "x",
        r"data of shape \(7, 5\), .*, got \(5,\): give the distribution's parameters and the data",
    ),
    "data that are no tensor": (
        lambda: (array, amortised, batch()),
        "x",
        "expected a tensor, got obs=ndarray: use torch.as_tensor",
    ),
    "plate of a fixed size in both programs": (
        lambda: (Model(size=100), Guide(lambda h: standard(h, D), size=100), batch()),
        "x",
        r"data of shape \(100, 5\), .*, got \(7, 5\): plate 'data' has size 100, but the batch has "
        r"7; write pyro.plate\(\"data\", x.shape\[0\]\), or, .*subsample_size",
    ),
    "plate of a fixed size in the guide": (
        lambda: (Model(), Guide(size=100), batch()),
        "z",
        r"batch_shape \(7,\) .*: plate 'data' has size 100, but the batch has 7; .*the guide",
    ),
    "plate of a fixed size in the guide, sites that do not tell": (
        lambda: (Model(), Guide(lambda h: standard(h, D), size=100), batch()),
        "data",
        r"'data' to have one size in both programs, got 7 in the model and 100 in the guide: take",
    ),
    "data plate in one program": (
        lambda: (sound, one_event, batch()),
        "z",
        r"site 'z' inside plate 'data' in both programs, found it there in the model only: .*guide",
    ),
    "data plate under another name": (
        lambda: (Model(), Guide(plate="batch"), batch()),
        "z",
        r"'z' in plate 'data', as in the model, got it in plate 'batch' in the guide: give .*"
        r"pyro.plate\('data', …, dim=-1\) \(the guide",
    ),
    "error of the user's": (
        lambda: (misspelt, amortised, batch()),
        None,
        r"expected the model to run, got KeyError: 'scales' \(the model, .*broken.py:\d+, "
        r'`\{"scale": 1.0\}\["scales"\]',
    ),
    "error in a network": (
        lambda: (Model(), Guide(features=F + 1), batch()),
        None,
        r"guide to run, got RuntimeError: .*mat1 and mat2 .*`pyro.sample\(self.name, self.post",
    ),
    "sites to sum out outside the data plate": (
        lambda: (global_class, amortised, batch()),
        None,
        r"expected enumerated sites inside the data plate 'data', got \['c'\] outside",
    ),
    "networks that take no enumerated values": (
        lambda: (rows_only, amortised, batch()),
        None,
        r"expected the programs to run, .*: where sites are summed out, every value .* from",
    ),
}
