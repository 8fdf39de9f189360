r"""Training: the only loop."""

__all__ = ["fit"]

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pyro
import pyro.infer
import torch
from torch import Tensor, nn

from pyro_vae.checks import check, check_rows, require
from pyro_vae.data import Data, Fields, batches, load
from pyro_vae.devices import find_device
from pyro_vae.evaluation import discrete_features, evaluate
from pyro_vae.objectives import Objective
from pyro_vae.optimizers import OptimizerLike
from pyro_vae.programs import Program, modules, unchanged
from pyro_vae.progress import TrainingProgress
from pyro_vae.runs import Row, Run, RunFolder
from pyro_vae.svi import SVI

# products of parameters and batch below which a step is too short to be shared by threads:
# they wait for one another; where other work held a core, it took 80 ms instead of 4.4
_SMALL = 2**24

Source = Any  # what pyro_vae.data.load takes


def fit(
    model: Program,
    guide: Program,
    data: Source,
    *,
    inputs: Sequence[str] = ("x",),
    objective: Objective | pyro.infer.ELBO | None = None,
    optimizer: OptimizerLike | None = None,
    epochs: int = 100,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    seed: int = 0,
    validation: bool = True,
    run_dir: str | os.PathLike[str] | None = None,
    data_plate: str | None = None,
    progress: bool = True,
) -> Run:
    r"""Trains a model and its guide.

    .. math:: \max_{\theta, \phi} \; \frac{1}{N} \sum_{n=1}^N \mathcal{L}(x_n; \theta, \phi)

    The programs are checked first (:func:`pyro_vae.check`). The caller's random state is left
    alone.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        data: A :class:`pyro_vae.data.Data`, a name or path that :func:`pyro_vae.data.load`
            knows, or tensors, arrays, fields or a ``Dataset``: of these every row is trained on.
        inputs: The fields of a batch that both programs are called with, in order.
        objective: What is maximised, by default the ELBO.
        optimizer: What :class:`pyro_vae.SVI` takes, by default Adam with a rate of 1e-3.
        epochs: How often each datum is seen.
        batch_size: The number of data in a batch.
        device: ``"auto"`` is CUDA where there is one, else the CPU. Modules are moved there
            whole, and stay.
        seed: Of the noise and of the order of the data.
        validation: Whether the bound on the validation split, if there is one, is computed after
            each epoch.
        run_dir: The folder that metrics and weights are written to, new or empty.
        data_plate: The name of the data plate, where :class:`pyro_vae.SVI` would not find it.
        progress: Whether a bar is shown, with the last bound in nats per datum.

    Returns:
        The run. Its history has, for each epoch, means over the data in nats per datum, and as
        ``bpd`` the negative bound in bits per dimension, where what is observed has a mass
        function; what was computed on the validation split starts with ``validation.``.

    Raises:
        ValueError: If the programs are broken, an argument is out of range, or a loss is not
            finite.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> run = fit(model, guide, torch.eye(4), epochs=100, progress=False)
        >>> run.history[-1]["elbo"] > run.history[0]["elbo"]
        True
    """
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1, got {count!r}")
    place = find_device(device)
    dataset = _loaded(data, inputs).to(place)
    for program in (model, guide):
        for module in modules(program).values():
            module.to(place)
    svi = SVI(
        model,
        guide,
        optimizer or partial(torch.optim.Adam, lr=1e-3),
        objective,
        data_plate=data_plate,
        data_size=len(dataset.train["x"]),
        reduction="mean",
    )
    trainer = _Trainer(svi, dataset, tuple(inputs), batch_size, seed)
    # plain functions make their tensors where they are told to
    with unchanged(), nullcontext() if place.type == "cpu" else place:
        pyro.set_rng_seed(seed)  # autoguides may draw where they begin
        trainer.check()
        pyro.set_rng_seed(seed)  # and the check's own draws do not count
        work = batch_size * sum(parameter.numel() for parameter in svi.pair.parameters.values())
        folder = None if run_dir is None else RunFolder(run_dir)
        with _threads(1 if work < _SMALL else torch.get_num_threads()):
            history = trainer.run(epochs, folder, validation, progress)
    return Run(model, guide, history, None if folder is None else folder.path)


def _loaded(data: Source, inputs: Sequence[str]) -> Data:
    r"""The data; of what is no data set, but mere rows, all are trained on."""
    if isinstance(inputs, str):
        raise TypeError(f"expected inputs to be a sequence of names, got {inputs!r}: ({inputs!r},)")
    named = isinstance(data, str | os.PathLike | Data)
    found = load(data) if named else load(data, validation=0.0, test=0.0)
    if missing := [name for name in inputs if name not in found.train]:
        raise ValueError(
            f"expected inputs to be fields of the data, {list(found.train)}, got {missing}"
        )
    return found


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Trainer:
    r"""What happens in one epoch."""

    def __init__(
        self, svi: SVI, data: Data, inputs: tuple[str, ...], batch_size: int, seed: int
    ) -> None:
        self.svi, self.data, self.inputs, self.batch_size = svi, data, inputs, batch_size
        self.seed, self.step, self.features = seed, 0, 0
        self.generator = self._seeded()
        self.steps = math.ceil(len(data.train["x"]) / batch_size)

    def run(
        self, epochs: int, folder: RunFolder | None, validation: bool, shown: bool
    ) -> list[Row]:
        r"""Takes all epochs, and writes each down."""
        history: list[Row] = []
        try:
            with TrainingProgress(epochs, self.steps, shown) as progress:
                for epoch in range(1, epochs + 1):
                    means = self.train(progress)
                    validated = self.validate() if validation and self.data.validation else {}
                    history.append({"epoch": epoch, "step": self.step, **means, **validated})
                    if folder is not None:
                        folder.log(history[-1])
        finally:  # what was trained until an interruption is kept
            if folder is not None:
                folder.save(self.svi.tensors())
                folder.close()
        return history

    def train(self, progress: TrainingProgress) -> Row:
        r"""Takes the steps of an epoch; returns means over its data."""
        for module in self._modules():
            module.train()
        fields = self.data.epoch("train", self.generator)
        found, sizes = [], []
        for batch in batches(fields, self.batch_size, generator=self.generator):
            args = self._args(batch)
            loss, metrics = self.svi.step_with_metrics(*args)
            self.step += 1
            if progress.step(metrics, self.data.log_jacobian):
                self.svi.check_finite(loss, args, {})
            found.append(metrics)
            sizes.append(batch["x"].shape[0])
        self.svi.check_finite(loss, args, {})
        means = _means(found, sizes)
        if "elbo" not in means:  # Pyro's objects do not tell
            means |= self._bound(fields)
        return self._in_units(means)

    def validate(self) -> Row:
        r"""The bound on the validation split, with the same noise after each epoch."""
        found = self._in_units(self._bound(self.data.epoch("validation", self._seeded())))
        return {f"validation.{name}": value for name, value in found.items()}

    def _bound(self, fields: Fields) -> Row:
        pair = self.svi.pair
        estimates = evaluate(
            pair.model,
            pair.guide,
            fields,
            metrics=("elbo",),
            particles=1,
            inputs=self.inputs,
            data_plate=pair.data_plate,
            data_size=self.svi.data_size,
            seed=self.seed,
        )
        return {name: float(value) for name, value in estimates.items()}

    def check(self) -> None:
        r"""Explains what is wrong with the programs or the data, if anything."""
        pair, plate = self.svi.pair, self.svi.pair.data_plate
        fields = self.data.epoch("train", self._seeded())
        rows = len(fields["x"])
        first = min(self.batch_size, rows)
        for size in {first: None, rows % first or first: None}:  # the last batch may be shorter
            args = tuple(field[:size] for field in self._args(fields))
            found = check(
                pair.model,
                pair.guide,
                *args,
                objective=self.svi.loss,
                data_plate=plate,
                data_size=self.svi.data_size,
            )
            require(found)
        for split in (name for name, found in self.data.splits.items() if found):
            whole = self._args(self.data.epoch(split, self._seeded()))
            require(check_rows(pair.model, pair.guide, *whole, data_plate=plate))
        with torch.no_grad():
            self.features = discrete_features(pair.draw(args, {}))

    def _in_units(self, row: Row) -> Row:
        r"""Densities in the data's own units; bits per dimension, where they are defined."""
        densities = {n: row[n] for n in ("objective", "elbo", "log_likelihood") if n in row}
        row = {**row, **{n: value + self.data.log_jacobian for n, value in densities.items()}}
        if self.features:
            row["bpd"] = -row["elbo"] / (self.features * math.log(2))
        return row

    def _args(self, batch: Fields) -> tuple[Tensor, ...]:
        return tuple(batch[name] for name in self.inputs)

    def _seeded(self) -> torch.Generator:
        return torch.Generator(self.data.train["x"].device).manual_seed(self.seed)

    def _modules(self) -> Iterator[nn.Module]:
        for program in (self.svi.pair.model, self.svi.pair.guide):
            yield from modules(program).values()


def _means(metrics: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> Row:
    r"""Means over the data of an epoch: one transfer from the device for each name."""
    total = sum(sizes)
    return {
        name: math.fsum(
            value * size / total
            for value, size in zip(
                torch.stack([row[name] for row in metrics]).tolist(), sizes, strict=True
            )
        )
        for name in metrics[0]
    }
