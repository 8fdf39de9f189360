r"""A data set: three splits of named fields, and what is known about them."""

__all__ = ["Binarization", "Data", "Fields", "Split", "batches"]

import hashlib
import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from dataclasses import field as default
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Size, Tensor

from pyro_vae.data.feed import feed
from pyro_vae.data.lazy import Lazy
from pyro_vae.data.mapped import Packed
from pyro_vae.data.standardize import Standardization
from pyro_vae.data.tables import Columns
from pyro_vae.likelihoods import Likelihood, Masked

Fields = dict[str, Tensor]
Split = Literal["train", "validation", "test"]
Binarization = Literal["none", "static", "dynamic"]

SAMPLED = 256  # rows of each field that are hashed


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    r"""Training, validation and test rows, and what is known about them.

    A split is a dictionary of named fields with equal lengths: ``x``, with shape
    :math:`(N, \text{event\_shape})`, where there are labels ``y``, with shape :math:`(N)`, and
    whatever else the source has. A split that a source does not have is an empty dictionary.
    Rows keep the order of their source, which may be sorted (the test rows of ``static-mnist``
    are, by digit): the first rows of a split are no sample of it.

    Arguments:
        name: What the data are called.
        train, validation, test: The splits. Under ``binarization="dynamic"``, ``x`` holds the
            probabilities that :meth:`epoch` draws from.
        natural: The natural likelihood of ``x``, as :meth:`epoch` returns it.
        value_range: The least and the greatest value that ``x`` can take (counts, levels and
            probabilities), or else takes.
        classes: The names of the labels ``y``.
        binarization: ``"none"``, ``"static"`` (drawn once) or ``"dynamic"`` (each epoch).
        standardization: How ``x`` was standardised.
        columns: The columns of the table that ``x`` was read from.
        source: Where the data come from, and how they were read.

    Raises:
        ValueError: If a split has no field ``x``, fields of different lengths, or rows of
            another shape than those of the training split.

    Example:
        >>> from pyro_vae.data import load
        >>> data = load("digits")
        >>> data
        Data('digits', 1297/250/250 rows of shape (1, 8, 8), Binomial)
        >>> [x.shape for x in data.train.values()]
        [torch.Size([1297, 1, 8, 8]), torch.Size([1297])]
    """

    name: str
    train: Fields
    validation: Fields
    test: Fields
    natural: Likelihood
    value_range: tuple[float, float]
    classes: tuple[str, ...] | None = None
    binarization: Binarization = "none"
    standardization: Standardization | None = None
    columns: Columns | None = None
    source: Mapping[str, Any] = default(default_factory=dict)

    def __post_init__(self) -> None:
        check_splits({name: fields for name, fields in self.splits.items() if fields}, self.name)

    def __repr__(self) -> str:
        rows = "/".join(str(len(fields.get("x", ()))) for fields in self.splits.values())
        shape, likelihood = tuple(self.event_shape), type(self.natural).__name__
        return f"{type(self).__name__}({self.name!r}, {rows} rows of shape {shape}, {likelihood})"

    @property
    def splits(self) -> dict[Split, Fields]:
        r"""The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def event_shape(self) -> Size:
        r"""The shape of one datum."""
        return self.train["x"].shape[1:]

    @property
    def likelihood(self) -> Likelihood:
        r"""A new natural likelihood, so that no two models share one with learned parameters."""
        return deepcopy(self.natural)

    def log_jacobians(self, x: Tensor) -> Tensor:
        r"""What is added to each datum's log-density to have it in the user's units, in nats.

        Arguments:
            x: The data, with shape :math:`(N, \text{event\_shape})`.

        Returns:
            A tensor with shape :math:`(N)`, on the CPU.

        Example:
            >>> from pyro_vae.data import load
            >>> data = load(torch.tensor([[0.0], [200.0]]), standardize=True, test=0.0)
            >>> data.log_jacobians(data.train["x"])  # -log(100)
            tensor([-4.6052, -4.6052], dtype=torch.float64)
        """
        if self.standardization is None:
            return torch.zeros(len(x), dtype=torch.float64, device="cpu")
        # only masked data have rows that differ: others need not be read
        rows = x if isinstance(self.natural, Masked) else x[:1]
        return self.standardization.log_jacobians(rows).expand(len(x))

    def restore(self, x: Tensor) -> Tensor:
        r"""Maps ``x``, with shape :math:`(*, \text{event\_shape})`, to the user's units.

        A table's categorical column comes back as one column that holds the index of the level
        (see :class:`Columns`).

        Example:
            >>> from pyro_vae.data import load
            >>> data = load(torch.tensor([[1.5], [-3.0], [6.0]]), standardize=True)
            >>> data.restore(data.train["x"]).sort(dim=0).values.T
            tensor([[-3.0000,  1.5000,  6.0000]])
        """
        x = x if self.standardization is None else self.standardization.undo(x)
        return x if self.columns is None else self.columns.restore(x)

    def to(self, device: torch.device | str) -> "Data":
        r"""The same data with all fields on ``device``, but for those that are not in memory."""
        train, validation, test = (
            {
                name: field if isinstance(field, Lazy) else field.to(device)
                for name, field in fields.items()
            }
            for fields in self.splits.values()
        )
        return replace(self, train=train, validation=validation, test=test)

    def epoch(self, split: Split = "train", generator: Generator | None = None) -> Fields:
        r"""The fields of a split, with a fresh draw of ``x`` under dynamic binarisation.

        .. math:: x_{nf} \sim \text{Bernoulli}(p_{nf})

        Arguments:
            split: The name of the split.
            generator: The source of randomness, on the device of the fields.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"expected a split of {', '.join(self.splits)}, got {split!r}")

        fields = self.splits[split]
        if not fields:
            raise ValueError(
                f"{self.name}: expected a {split} split, got none; load it with {split}=0.1, say"
            )

        if self.binarization == "dynamic":
            check_generator(generator, fields["x"].device)
            return {**fields, "x": bernoulli(fields["x"], generator)}
        return fields

    def batches(
        self,
        split: Split = "train",
        batch_size: int = 64,
        *,
        generator: Generator | None = None,
        shuffle: bool = True,
        start: int = 0,
        workers: int = 0,
        device: torch.device | str | None = None,
    ) -> Iterator[Fields]:
        r"""The batches of an epoch (:meth:`epoch`), from a position in it on.

        All that is random is drawn from the generator when this is called: first what
        :meth:`epoch` draws, then the order of the rows. From the state that the generator had at
        the beginning of an epoch, ``start=k`` gives what an uninterrupted epoch gives from its
        batch :math:`k` on, and leaves the generator in the same state.

        Arguments:
            split: The name of the split.
            batch_size: The number of rows in a batch; the last one may have fewer.
            generator: The source of randomness, on the device of the fields.
            shuffle: Whether rows are put in random order first.
            start: The number of batches that are skipped.
            workers: The number of threads that read rows that are not in memory.
            device: Where batches go, by default where the fields are.

        Raises:
            ValueError: If there is no such split, a number is out of range, or the generator is
                on another device.
        """
        for name, count in (("start", start), ("workers", workers)):
            if count < 0:
                raise ValueError(f"expected {name} to be at least 0, got {count}")
        fields = self.epoch(split, generator)
        index = order(fields, batch_size, shuffle, generator, drop_last=False)[start:]
        return feed(fields, index, workers, None if device is None else torch.device(device))

    @property
    def record(self) -> dict[str, Any]:
        r"""What a run notes of its data, in plain lists, numbers and words.

        Example:
            >>> from pyro_vae.data import load
            >>> record = load("digits", binarization="dynamic").record
            >>> record["likelihood"], record["binarization"], record["value_range"]
            ('Bernoulli', 'dynamic', [0.0, 1.0])
            >>> record["splits"]["test"]["y"]
            {'shape': [250], 'dtype': 'int64'}
        """
        moved = self.standardization
        return {
            "name": self.name,
            **self.source,
            "splits": {
                split: {name: description(field) for name, field in fields.items()}
                for split, fields in self.splits.items()
            },
            "likelihood": type(self.natural).__name__,
            "value_range": list(self.value_range),
            "binarization": self.binarization,
            "standardization": moved and {"loc": moved.loc.tolist(), "scale": moved.scale.tolist()},
            "classes": self.classes and list(self.classes),
        }

    @property
    def fingerprint(self) -> str:
        r"""A hash of all shapes and types, and of up to 256 rows of each field."""
        found = hashlib.sha256()
        for split, fields in self.splits.items():
            for name, field in fields.items():
                found.update(json.dumps([split, name, description(field)]).encode())
                count = min(SAMPLED, field.shape[0])
                rows = torch.linspace(
                    0, field.shape[0] - 1, count, dtype=torch.float64, device="cpu"
                )
                found.update(field[rows.long().to(field.device)].cpu().numpy().tobytes())
        return found.hexdigest()


def bernoulli(p: Tensor, generator: Generator | None) -> Tensor:
    r"""Draws zeros and ones, in memory where the probabilities are."""
    if isinstance(p, Lazy):
        return Packed.draw(p, partial(torch.bernoulli, generator=generator))
    return torch.bernoulli(p, generator=generator)


def description(field: Tensor) -> dict[str, Any]:
    r"""The shape and the type of a field."""
    return {"shape": list(field.shape), "dtype": str(field.dtype).removeprefix("torch.")}


def check_splits(splits: Mapping[str, Fields], origin: str) -> None:
    r"""Raises unless there are training rows, and all splits have rows of the same kind."""
    for split, fields in {"train": Fields(), **splits}.items():
        if "x" not in fields:
            got = ", ".join(fields) or "none"
            raise ValueError(f"{origin}: expected a field 'x' in {split}, got {got}")

        lengths = {name: tuple(field.shape[:1]) for name, field in fields.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{origin}: expected fields of one length in {split}, got {lengths}")

        expected, found = (rows["x"].shape[1:] for rows in (splits["train"], fields))
        if found != expected:
            raise ValueError(
                f"{origin}: expected rows of shape {tuple(expected)} in {split}, as in train, got "
                f"{tuple(found)}"
            )


def check_generator(generator: Generator | None, device: torch.device) -> None:
    r"""Raises unless the generator can be used on the device."""
    if generator is not None and generator.device.type != device.type:
        raise ValueError(
            f"expected a generator on the device of the data, {device}, got one on "
            f"{generator.device}; make it with torch.Generator({str(device)!r})"
        )


def batches(
    fields: Mapping[str, Tensor],
    batch_size: int,
    *,
    shuffle: bool = True,
    generator: Generator | None = None,
    drop_last: bool = False,
) -> Iterator[Fields]:
    r"""Cuts fields into batches, on their device.

    Arguments:
        fields: Tensors with equal lengths :math:`N`.
        batch_size: The number of rows in a batch. The last one has fewer where it does not
            divide :math:`N`.
        shuffle: Whether rows are put in random order first.
        generator: The source of randomness, on the device of the fields.
        drop_last: Whether a last batch of fewer rows is left out.

    Raises:
        ValueError: If ``batch_size`` is not positive, there is no batch, or the generator is on
            another device.

    Example:
        >>> [batch["x"] for batch in batches({"x": torch.arange(5)}, 2, shuffle=False)]
        [tensor([0, 1]), tensor([2, 3]), tensor([4])]
    """
    return feed(dict(fields), order(fields, batch_size, shuffle, generator, drop_last), 0, None)


def order(
    fields: Mapping[str, Tensor],
    batch_size: int,
    shuffle: bool,
    generator: Generator | None,
    drop_last: bool,
) -> tuple[Tensor, ...]:
    r"""The numbers of the rows of each batch, on the device of the fields."""
    if batch_size < 1:
        raise ValueError(f"expected a positive batch_size, got {batch_size}")

    first = next(iter(fields.values()), torch.empty(0))
    rows, device = first.shape[0], first.device
    if rows == 0 or (drop_last and rows < batch_size):
        raise ValueError(f"expected at least one batch of {batch_size} rows, got {rows} rows")
    check_generator(generator, device)

    stop = rows - rows % batch_size if drop_last else rows
    if shuffle:
        return torch.randperm(rows, generator=generator, device=device)[:stop].split(batch_size)
    return torch.arange(stop, device=device).split(batch_size)
