r"""Epochs and steps of a fit, and what must be kept to go on with them."""

__all__ = ["Trainer"]

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.alternation import Alternation, EncoderSteps, only_guide
from pyro_vae.checks import check, require
from pyro_vae.data import Data, Fields
from pyro_vae.data.dataset import Split
from pyro_vae.evaluation import evaluate
from pyro_vae.interrupts import Interrupts
from pyro_vae.programs import modules
from pyro_vae.progress import TrainingProgress
from pyro_vae.runs import Row, RunFolder, random_state, set_random_state
from pyro_vae.svi import SVI

# what of a trainer is kept as it is; position counts batches of the epoch under way
_PLAIN = ("history", "step", "epoch", "position", "sizes", "best", "ended")

# of how many data mutual information is computed: it takes all pairs of them, and is at most the
# logarithm of their number
_ROWS = 1000


class Trainer:
    r"""Takes the steps of a fit, and keeps what is needed to go on after any of them.

    Arguments:
        svi: What takes a step.
        data: The data, on the device of the programs if they are in memory.
        device: Where batches are wanted.
        inputs: The fields that the programs are called with.
        batch_size: The number of data in a batch.
        seed: Of the order of the data, and of validation.
        workers: The number of threads that read data which are not in memory.
        validation: Whether the bound on the validation split is computed after each epoch.
        patience: The number of epochs that training goes on without a better one, if any.
        encoder_steps: How many steps the guide takes for each one of the model.
        tell: Is given each epoch's row; returns whether training ends.
    """

    def __init__(
        self,
        svi: SVI,
        data: Data,
        device: torch.device,
        *,
        inputs: Sequence[str],
        batch_size: int,
        seed: int,
        workers: int = 0,
        validation: bool = True,
        patience: int | None = None,
        encoder_steps: EncoderSteps = 1,
        tell: Callable[[Row], bool] = lambda row: False,
    ) -> None:
        self.svi, self.data, self.device, self.inputs = svi, data, device, tuple(inputs)
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.validation = validation and bool(data.validation)
        self.patience, self.tell = patience, tell
        self.alternation = Alternation(encoder_steps)
        self.generator = self.seeded()
        if patience is not None and not (patience > 0 and self.validation):
            raise ValueError(
                f"expected patience to be positive, and validation data to be patient with, got "
                f"patience={patience}, {data} and validation={validation}"
            )
        self.steps = math.ceil(len(data.train["x"]) / batch_size)
        self.features = 0  # of a datum, if they are discrete
        self.together = False  # whether the rows of a batch are one datum, without a data plate
        self._log_jacobians = {
            name: float(data.log_jacobians(rows["x"]).mean())
            for name, rows in data.splits.items()
            if rows
        }
        self.schedule: LRScheduler | None = None
        self.by_step = False

        self.history: list[Row] = []
        self.step, self.epoch, self.position = 0, 0, 0  # the last in batches of the epoch
        self.metrics: list[dict[str, Tensor]] = []
        self.sizes: list[int] = []
        self.begin = self.generator.get_state()
        self.best: dict[str, Any] | None = None
        self.ended = False

    def run(self, epochs: int, folder: RunFolder | None, shown: bool) -> Interrupts:
        r"""Trains until there are so many epochs, and saves; returns what interrupted it."""
        progress = TrainingProgress(epochs, self.steps, shown, done=self.step)
        self.svi.capture.announce = progress.say
        with Interrupts() as interrupts, progress:
            for _ in self._moments(epochs, folder, progress):
                if interrupts.caught:
                    break
                if folder is not None and folder.due:
                    self.save(folder)
            if folder is not None:
                self.save(folder)
        return interrupts

    def save(self, folder: RunFolder) -> None:
        r"""Writes a checkpoint."""
        optimizer = self.svi.state_dict()
        weights = optimizer.pop("tensors")
        folder.save(weights, {"optimizer": optimizer, **self.state_dict()})

    def use_best(self) -> bool:
        r"""Gives the programs the weights that were best on the validation split, if any were."""
        if self.best is not None:
            with torch.no_grad():
                for name, tensor in self.svi.tensors().items():
                    if name in self.best["weights"]:  # else it joined later
                        tensor.copy_(self.best["weights"][name])
        return self.best is not None

    def state_dict(self) -> dict[str, Any]:
        r"""All that is needed to go on, but for what SVI's state holds."""
        names = list(self.metrics[0]) if self.metrics else []
        return {
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            **{name: getattr(self, name) for name in _PLAIN},
            "metrics": {name: torch.stack([row[name] for row in self.metrics]) for name in names},
            "generator": self.begin,
            "random": random_state(),
            "alternation": self.alternation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        r"""Takes up what :meth:`state_dict` returned; the weights are not among it."""
        for name in _PLAIN:
            setattr(self, name, state[name])
        columns = {name: column.unbind() for name, column in state["metrics"].items()}
        self.metrics = [
            {name: column[i] for name, column in columns.items()} for i in range(len(self.sizes))
        ]
        self.begin = state["generator"]
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        set_random_state(state["random"])
        self.alternation.load_state_dict(state["alternation"])

    def args(self, batch: Fields) -> tuple[Tensor, ...]:
        r"""What the programs are called with."""
        return tuple(batch[name] for name in self.inputs)

    def seeded(self) -> torch.Generator:
        r"""A generator where the data are, from the seed."""
        return torch.Generator(self.data.train["x"].device).manual_seed(self.seed)

    def _moments(
        self, epochs: int, folder: RunFolder | None, progress: TrainingProgress
    ) -> Iterator[None]:
        r"""Trains; yields where all that is needed to go on is at hand, once a step at least."""
        while self.epoch < epochs and not self.ended and not self._is_stalled():
            yield from self._steps(progress)
            self._end_epoch(folder)
            yield

    def _steps(self, progress: TrainingProgress) -> Iterator[None]:
        for module in self._modules():
            module.train()
        loss = None
        for batch in self._batches():
            args = self.args(batch)
            loss, metrics = self._step(args)
            self.step, self.position = self.step + 1, self.position + 1
            if progress.step(metrics, self._offset("train", [args[0].shape[0]])):
                self.svi.check_finite(loss, args, {})
            self.metrics.append(metrics)
            self.sizes.append(args[0].shape[0])
            if self.schedule is not None and self.by_step:
                self.schedule.step()
            yield
        if loss is not None:
            self.svi.check_finite(loss, args, {})

    def _step(self, args: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Takes a step; what stops a program is explained as before training."""
        try:
            return self._step_of_both(args)
        except (RuntimeError, ValueError) as error:
            if "found invalid values" not in str(error):
                raise
            pair = self.svi.pair
            found = check(pair.model, pair.guide, *args, data_plate=pair.data_plate)
            advice = f"lower the learning rate or clip gradients (step {self.step + 1}); else "
            require(replace(finding, advice=advice + finding.advice) for finding in found)
            raise

    def _step_of_both(self, args: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Takes a step of guide and model, or of the guide alone where that lags behind."""
        pair = self.svi.pair
        both = self.alternation.next()
        with nullcontext() if both else only_guide(pair, pair.plan(args, {})):
            loss, metrics = self.svi.step_with_metrics(*args)
        self.alternation.took(loss)
        return loss, metrics

    def _batches(self) -> Iterator[Fields]:
        self.generator.set_state(self.begin)
        return self.data.batches(
            "train",
            self.batch_size,
            generator=self.generator,
            start=self.position,
            workers=self.workers,
            device=self.device,
        )

    def _end_epoch(self, folder: RunFolder | None) -> None:
        means = self._in_units(_means(self.metrics, self.sizes), "train", self.sizes)
        if "elbo" not in means:  # Pyro's objects do not tell
            means |= self._bound("train")
        row = {"epoch": self.epoch + 1, "step": self.step, **means}
        if self.schedule is not None:
            row["learning_rate"] = float(self.schedule.get_last_lr()[0])
        if self.validation:
            row |= {
                f"validation.{name}": value for name, value in self._bound("validation").items()
            }
        if self.alternation.is_due(self.steps):
            row["mutual_information"] = self._mutual_information()
            self.alternation.compare(row["mutual_information"])
        self.epoch, self.position, self.metrics, self.sizes = self.epoch + 1, 0, [], []
        self.begin = self.generator.get_state()
        self.history.append(row)
        self._keep_best(row)
        self._step_schedule(row)
        if folder is not None:
            folder.log(row)
        self.ended = self.tell(row)

    def _keep_best(self, row: Row) -> None:
        value = row.get("validation.elbo", -math.inf)
        if value > (-math.inf if self.best is None else self.best["value"]):
            weights = {name: t.detach().clone() for name, t in self.svi.tensors().items()}
            self.best = {"value": value, "epoch": self.epoch, "weights": weights}

    def _is_stalled(self) -> bool:
        since = 0 if self.best is None else self.best["epoch"]
        return self.patience is not None and self.epoch - since >= self.patience

    def _step_schedule(self, row: Row) -> None:
        if self.schedule is None or self.by_step:
            return
        with warnings.catch_warnings():
            # an epoch that was resumed at its end has no step in this process
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            if isinstance(self.schedule, ReduceLROnPlateau):
                self.schedule.step(-row.get("validation.elbo", row["elbo"]))
            else:
                self.schedule.step()

    def _bound(self, split: Any) -> Row:
        r"""The bound on a split, with the same noise after each epoch."""
        fields = self.data.epoch(split, self.seeded())
        return self._in_units(self._estimates(fields, "elbo"), split, [len(fields["x"])])

    def _mutual_information(self) -> float:
        r"""That of data and latents, on data that are not trained on, if there are any."""
        split: Split = "validation" if self.data.validation else "train"
        fields = self.data.epoch(split, self.seeded())
        rows = torch.randperm(len(fields["x"]), generator=torch.Generator().manual_seed(self.seed))
        few = {name: field[rows[:_ROWS]] for name, field in fields.items()}
        return self._estimates(few, "mutual_information")["mutual_information"]

    def _estimates(self, fields: Fields, metric: str) -> Row:
        pair = self.svi.pair
        estimates = evaluate(
            pair.model,
            pair.guide,
            fields,
            metrics=(metric,),
            particles=1,
            inputs=self.inputs,
            data_plate=pair.data_plate,
            data_size=self.svi.data_size,
            seed=self.seed,
            capture=False,  # each epoch would compile anew
        )
        return {name: float(value) for name, value in estimates.items()}

    def _in_units(self, row: Row, split: Split, sizes: Sequence[int]) -> Row:
        r"""Densities in the data's own units; bits per dimension, where they are defined."""
        densities = {n: row[n] for n in ("objective", "elbo", "log_likelihood") if n in row}
        offset = self._offset(split, sizes)
        row = {**row, **{n: value + offset for n, value in densities.items()}}
        if self.features and "elbo" in row:
            row["bpd"] = -row["elbo"] / (self.features * math.log(2))
        return row

    def _offset(self, split: Split, sizes: Sequence[int]) -> float:
        r"""What means over batches of so many rows lack, to be densities in the data's units.

        Without a data plate, and where features are missing, it is what they lack on average.
        """
        rows = sum(size * size for size in sizes) / sum(sizes) if self.together else 1
        return rows * self._log_jacobians[split]

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
