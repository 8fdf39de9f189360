r"""Training: the only loop."""

__all__ = ["Callback", "Event", "fit"]

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyro
import pyro.infer
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.alternation import EncoderSteps
from pyro_vae.capturable import Mode
from pyro_vae.checks import Finding, check, check_rows, require, warn
from pyro_vae.components import build
from pyro_vae.data import Data, load
from pyro_vae.devices import find_device
from pyro_vae.evaluation import discrete_features
from pyro_vae.interrupts import Interrupts
from pyro_vae.objectives import Objective
from pyro_vae.optimizers import OptimizerLike
from pyro_vae.products import Products
from pyro_vae.programs import Program, modules, unchanged
from pyro_vae.recipe import FIXED, Interval, recipe
from pyro_vae.runs import Row, Run, RunFolder, Which, environment, programs_of
from pyro_vae.svi import SVI
from pyro_vae.threads import few_threads
from pyro_vae.training import Trainer

_ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}

Source = Any  # what pyro_vae.data.load takes


@dataclass(frozen=True)
class Event:
    r"""What a callback of :func:`pyro_vae.fit` is told at the end of an epoch.

    Arguments:
        row: The epoch's row of the history: nats per datum by name, the epoch and the step.
        model: The model as trained so far.
        guide: The guide as trained so far.
    """

    row: Mapping[str, float]
    model: Program
    guide: Program


Callback = Callable[[Event], Any]


def fit(
    model: Program,
    guide: Program,
    data: Source,
    *,
    inputs: Sequence[str] = ("x",),
    objective: Objective | pyro.infer.ELBO | None = None,
    optimizer: OptimizerLike | None = None,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    schedule_interval: Interval = "epoch",
    clip_norm: float | None = None,
    epochs: int = 100,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    seed: int = 0,
    validation: bool = True,
    patience: int | None = None,
    encoder_steps: EncoderSteps = 1,
    callbacks: Sequence[Callback] = (),
    workers: int = 0,
    capture: Mode = "auto",
    products: Products = "float32",
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: float = 10.0,
    data_plate: str | None = None,
    progress: bool = True,
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> Run:
    r"""Trains a model and its guide.

    .. math:: \max_{\theta, \phi} \; \frac{1}{N} \sum_{n=1}^N \mathcal{L}(x_n; \theta, \phi)

    The programs are checked first (:func:`pyro_vae.check`). The caller's random state is left
    alone. Where there was validation, the programs end with the weights whose bound was best on
    it, else with the last.

    With a folder, a run survives: killed at any moment and begun again with ``resume=True`` and
    the same arguments, it ends with the same weights and figures, bit for bit, on the CPU of one
    machine with one number of threads. Ctrl-C, SIGTERM and SIGHUP finish the step and save a
    checkpoint, and then do what they do without us; the second one acts at once. State that
    programs, callbacks or schedules keep outside of tensors is not saved.

    Arguments:
        model: The generative program.
        guide: The program that draws its latents.
        data: A :class:`pyro_vae.data.Data`, a name or path that :func:`pyro_vae.data.load`
            knows, or tensors, arrays, fields or a ``Dataset``: of these every row is trained on.
        inputs: The fields of a batch that both programs are called with, in order.
        objective: What is maximised, by default the ELBO.
        optimizer: What :class:`pyro_vae.SVI` takes, by default Adam with a rate of 1e-3.
        schedule: Makes a schedule of learning rates, as
            ``functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99)`` does;
            ``ReduceLROnPlateau`` is told the negative bound, which falls.
        schedule_interval: Whether the schedule goes on after an ``"epoch"`` or a ``"step"``.
        clip_norm: The greatest norm of the gradient of all parameters together.
        epochs: How often each datum is seen.
        batch_size: The number of data in a batch.
        device: ``"auto"`` is CUDA where there is one, else the CPU. Modules are moved there
            whole, and stay.
        seed: Of the noise and of the order of the data.
        validation: Whether the bound on the validation split, if there is one, is computed after
            each epoch.
        patience: The number of epochs without a better bound on the validation split after
            which training ends early.
        encoder_steps: How many steps the guide takes for each one of the model, so that it does
            not lag behind, which leads to posterior collapse; ``"aggressive"``: as many as still
            help, until the mutual information of data and latents stops growing over as many
            steps of the model as an epoch has. Steps of the guide count as steps: training the
            model as much takes more ``epochs``.
        callbacks: Called with an :class:`pyro_vae.loop.Event` after each epoch; one that
            returns True ends training.
        workers: The number of threads that read data which are not in memory.
        capture: Whether steps run as one compiled graph, as for :class:`pyro_vae.SVI`; a run
            that goes on repeats what ``"auto"`` decided, by the number of steps, when it began.
            Batches of other sizes, as the last of an epoch, run eagerly while they are rare.
        products: What networks multiply in, as for :class:`pyro_vae.SVI`, on validation data, too;
            the run's programs are those that were given, which multiply in float32.
        run_dir: The folder that the run is written to: configuration, checkpoints, metrics.
        resume: Whether the run in that folder goes on from its last checkpoint, or from the
            beginning if it has none; with more ``epochs`` a finished one is trained further.
        overwrite: Whether a run in that folder is deleted first.
        checkpoint_every: The time between two checkpoints, in seconds; longer where writing
            them would take more than a twentieth of it.
        data_plate: The name of the data plate, where :class:`pyro_vae.SVI` would not find it.
        progress: Whether a bar is shown, with the last bound in nats per datum.
        notes: Plain data that ``config.yaml`` notes besides, under names of their own.

    Returns:
        The run. Its history has, for each epoch, means over the data in nats per datum, and as
        ``bpd`` the negative bound in bits per dimension, where what is observed has a mass
        function; what was computed on the validation split starts with ``validation.``.

    Raises:
        ValueError: If the programs are broken, an argument is out of range, or a loss is not
            finite; if the folder is occupied, or its run was made with other arguments.
        OSError: If the folder cannot be written to, as when the disk is full; its last
            checkpoint is still there.

    Example:
        >>> from pyro_vae.guides import AmortizedNormal
        >>> from pyro_vae.models import VAE
        >>> model, guide = VAE((4,), latents=2), AmortizedNormal((4,), {"z": 2})
        >>> run = fit(model, guide, torch.eye(4), epochs=100, progress=False)
        >>> run.history[-1]["elbo"] > run.history[0]["elbo"]
        True
    """
    # longer than others because each argument is said once where it belongs, and nothing is decided
    objective = build("ELBO", "objective") if objective is None else objective
    optimizer = build(_ADAM, "optimizer") if optimizer is None else optimizer
    config = recipe(dict(locals()))  # of all arguments
    if run_dir is not None:  # before anything is loaded
        RunFolder.check(Path(run_dir), resume or overwrite)
    place = find_device(device)
    dataset = _loaded(data, inputs).to(place)
    for part in (model, guide, objective):
        _move(part, place)
    svi = SVI(
        model,
        guide,
        optimizer,
        objective,
        data_plate=data_plate,
        data_size=len(dataset.train["x"]),
        reduction="mean",
        clip_norm=clip_norm,
        capture=capture,
        steps=epochs * math.ceil(len(dataset.train["x"]) / batch_size),
        products=products,
    )
    trainer = Trainer(
        svi,
        dataset,
        place,
        inputs=inputs,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        validation=validation,
        patience=patience,
        encoder_steps=encoder_steps,
        tell=partial(_tell, callbacks, model, guide),
    )
    folder = None
    if run_dir is not None:
        folder = RunFolder(run_dir, resume=resume, overwrite=overwrite, every=checkpoint_every)
    config, interrupts = _train(trainer, folder, config, schedule, progress)
    interrupts.obey()
    which: Which = "best" if trainer.use_best() else "last"
    path = None if run_dir is None else Path(run_dir)
    return Run(model, guide, trainer.history, path, config, which)


def _move(part: Any, place: torch.device) -> None:
    r"""Moves the modules of a program, or an objective that is one, to a device."""
    for module in [part] if isinstance(part, nn.Module) else modules(part).values():
        module.to(place)


def _train(
    trainer: Trainer,
    folder: RunFolder | None,
    config: dict[str, Any],
    schedule: Callable[[Optimizer], LRScheduler] | None,
    progress: bool,
) -> tuple[dict[str, Any], Interrupts]:
    r"""Trains to the end or to a signal; returns what repeats the run, and the signals."""
    svi, epochs = trainer.svi, config["epochs"]
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(folder)
        stack.enter_context(unchanged())
        if trainer.device.type != "cpu":  # plain functions make tensors where they are told to
            stack.enter_context(trainer.device)
        known = set(svi.tensors())
        batch = _prepare(trainer, schedule, config["schedule_interval"])
        work = trainer.batch_size * sum(p.numel() for p in svi.pair.parameters.values())
        stack.enter_context(few_threads(work))
        if folder is not None:
            lazy = not set(svi.tensors()) <= known
            config = _begin(folder, trainer, config, batch, lazy)
        interrupts = trainer.run(epochs, folder, progress)
        if folder is not None:
            config = _end(folder, trainer, config)
    return config, interrupts


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


def _prepare(
    trainer: Trainer, schedule: Callable[[Optimizer], LRScheduler] | None, interval: Interval
) -> tuple[Tensor, ...]:
    r"""Checks the programs, makes optimiser and schedule; returns what a batch consists of."""
    pyro.set_rng_seed(trainer.seed)  # autoguides may draw where they begin
    batch = _check(trainer)
    pyro.set_rng_seed(trainer.seed)  # and the check's own draws do not count
    optimizer = trainer.svi.prepare(*batch)
    if schedule is not None:
        made = schedule(optimizer)
        if not isinstance(made, LRScheduler):
            raise TypeError(
                "expected schedule to make a torch.optim.lr_scheduler of an optimiser, as "
                "functools.partial(ExponentialLR, gamma=0.99) does, got one that makes "
                f"{type(made).__name__}"
            )
        if isinstance(made, ReduceLROnPlateau) and interval == "step":
            raise ValueError(
                "expected ReduceLROnPlateau to go on after each epoch, when there is a bound to "
                "look at, got schedule_interval='step'"
            )
        trainer.schedule, trainer.by_step = made, interval == "step"
    return batch


def _check(trainer: Trainer) -> tuple[Tensor, ...]:
    r"""Explains what is wrong with the programs or the data, if anything; returns a batch."""
    pair, data = trainer.svi.pair, trainer.data
    plate = pair.data_plate
    fields = data.epoch("train", trainer.seeded())
    rows = len(fields["x"])
    first = min(trainer.batch_size, rows)
    findings: list[Finding] = []
    for size in {rows % first or first: None, first: None}:  # the last batch may be shorter
        args = tuple(field[:size] for field in trainer.args(fields))
        findings += check(
            pair.model,
            pair.guide,
            *args,
            objective=trainer.svi.loss,
            data_plate=plate,
            data_size=trainer.svi.data_size,
        )
        require(findings)
    for split in (name for name, found in data.splits.items() if found):
        whole = trainer.args(data.epoch(split, trainer.seeded()))
        findings += check_rows(pair.model, pair.guide, *whole, data_plate=plate)
        require(findings)
    warn(findings)
    with torch.no_grad():
        draw = pair.draw(args, {})
    trainer.features, trainer.together = discrete_features(draw), draw.layout.plate is None
    return args


def _begin(
    folder: RunFolder,
    trainer: Trainer,
    config: dict[str, Any],
    batch: tuple[Tensor, ...],
    lazy: bool,
) -> dict[str, Any]:
    r"""Writes what the run is made from; takes up its checkpoint, if it goes on.

    Returns what repeats the run, decisions included.

    Arguments:
        folder: Where the run is written.
        trainer: What trains it.
        config: What repeats it.
        batch: What the programs are called with.
        lazy: Whether they make tensors when they are first called.
    """
    svi, data = trainer.svi, trainer.data
    same = ("objective", "optimizer", "schedule", "inputs", "precision", *FIXED)
    kept = {
        "programs": programs_of(config),
        "setting": {
            **{name: config[name] for name in same},
            "kind of device": trainer.device.type,
            "data": data.fingerprint,
        },
        "epochs": config["epochs"],
        "example": None,
    }
    if lazy:  # one row will do, as often as there were rows
        kept["example"] = {"rows": batch[0].shape[0], "fields": [field[:1] for field in batch]}
    if folder.checkpoint is not None:
        state = folder.checkpoint.state
        _compare(state, kept, folder.path)
        svi.load_state_dict({"tensors": folder.checkpoint.weights, **state["optimizer"]})
        svi.prepare(*batch)
        trainer.load_state_dict(state)
        # a callback's end holds until more epochs are asked for
        trainer.ended = trainer.ended and config["epochs"] <= state["epochs"]
        config = {**config, "epochs": max(config["epochs"], trainer.epoch)}
    config = {**config, "capture": svi.capture.decide(svi.pair.plan(batch, {}), batch, {})}
    folder.begin(config, _note(trainer), kept)
    return config


def _end(folder: RunFolder, trainer: Trainer, config: dict[str, Any]) -> dict[str, Any]:
    r"""Notes what became of the steps: how many graphs were compiled, if they were captured."""
    capture = trainer.svi.capture
    config = {**config, "capture": config["capture"] and capture.reason is None}
    folder.note(config, {**_note(trainer), "compilations": capture.compilations})
    return config


def _note(trainer: Trainer) -> dict[str, Any]:
    r"""What the run was made on."""
    return {**environment(trainer.device, trainer.seed), "data": trainer.data.record}


def _compare(found: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    r"""Raises if a run goes on with other arguments than it began with."""
    had = {**json.loads(found["programs"]), **found["setting"]}
    now = {**json.loads(expected["programs"]), **expected["setting"]}
    for name, value in had.items():
        if _plain(value) != _plain(now.get(name)):
            raise ValueError(
                f"{path}: expected the {name} that the run began with, {value}, got "
                f"{now.get(name)}; give the same, or begin another run"
            )


def _plain(value: Any) -> Any:
    r"""A value as a file would give it back."""
    return json.loads(json.dumps(value))


def _tell(callbacks: Sequence[Callback], model: Program, guide: Program, row: Row) -> bool:
    r"""Calls all callbacks; returns whether one of them ends training."""
    return True in [callback(Event(row, model, guide)) is True for callback in callbacks]
