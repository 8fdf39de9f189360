r"""The image sets of torchvision that need no account."""

__all__ = ["SETS", "image_set"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.images import SizeError, pixels, stack
from pyro_vae.data.places import cache, places
from pyro_vae.data.raw import Raw
from pyro_vae.likelihoods import Binomial

Options = Mapping[str, Any]

TRAIN_TEST: Mapping[str, Options] = {"train": {"train": True}, "test": {"train": False}}
TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE = {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}}
THREE_VALID = THREE | {"validation": {"split": "valid"}}
WHOLE: Mapping[str, Options] = {"train": {}}


@dataclass(frozen=True)
class ImageSet:
    r"""How torchvision is asked for a set.

    Arguments:
        kind: The class.
        place: The file or folder below the root that is there where the set is.
        splits: What the class is called with for each split.
        options: What it is called with besides.
    """

    kind: str
    place: str
    splits: Mapping[str, Options]
    options: Options = field(default_factory=dict)


SETS = {
    "caltech101": ImageSet("Caltech101", "caltech101", WHOLE),
    "caltech256": ImageSet("Caltech256", "caltech256", WHOLE),
    "celeba": ImageSet("CelebA", "celeba", THREE_VALID, {"target_type": "identity"}),
    "cifar10": ImageSet("CIFAR10", "cifar-10-batches-py", TRAIN_TEST),
    "cifar100": ImageSet("CIFAR100", "cifar-100-python", TRAIN_TEST),
    "clevr": ImageSet("CLEVRClassification", "clevr", THREE),
    "country211": ImageSet("Country211", "country211", THREE_VALID),
    "dtd": ImageSet("DTD", "dtd", THREE),
    **{
        f"emnist-{split}": ImageSet("EMNIST", "EMNIST/raw", TRAIN_TEST, {"split": split})
        for split in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
    },
    "eurosat": ImageSet("EuroSAT", "eurosat", WHOLE),
    "fgvc-aircraft": ImageSet("FGVCAircraft", "fgvc-aircraft-2013b", THREE),
    "flowers102": ImageSet("Flowers102", "flowers-102", THREE),
    "food101": ImageSet("Food101", "food-101", TWO),
    "gtsrb": ImageSet("GTSRB", "gtsrb", TWO),
    "imagenette": ImageSet(
        "Imagenette", "imagenette2", {"train": {"split": "train"}, "test": {"split": "val"}}
    ),
    "inaturalist": ImageSet(
        "INaturalist",
        "2021_train_mini",
        {"train": {"version": "2021_train_mini"}, "test": {"version": "2021_valid"}},
    ),
    "kmnist": ImageSet("KMNIST", "KMNIST/raw", TRAIN_TEST),
    "omniglot": ImageSet(
        "Omniglot", "omniglot-py", {"train": {"background": True}, "test": {"background": False}}
    ),
    "oxford-iiit-pet": ImageSet(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
    ),
    "pcam": ImageSet("PCAM", "pcam", THREE),
    "places365": ImageSet(
        "Places365",
        "categories_places365.txt",
        {"train": {"split": "train-standard"}, "test": {"split": "val"}},
        {"small": True},
    ),
    "qmnist": ImageSet("QMNIST", "QMNIST/raw", TRAIN_TEST),
    "rendered-sst2": ImageSet("RenderedSST2", "rendered-sst2", THREE),
    "semeion": ImageSet("SEMEION", "semeion.data", WHOLE),
    "stl10": ImageSet("STL10", "stl10_binary", TWO),
    "sun397": ImageSet("SUN397", "SUN397", WHOLE),
    "svhn": ImageSet("SVHN", "train_32x32.mat", TWO),
    "usps": ImageSet("USPS", "usps.bz2", TRAIN_TEST),
}


def image_set(name: str, root: Path | None, download: bool, size: int | None) -> Raw:
    r"""Reads a set with torchvision, which checks its files.

    Arguments:
        name: A key of ``SETS``.
        root: Where to look, instead of the usual places.
        download: Whether torchvision fetches what is not found.
        size: What the shorter side of images is scaled to, of which the central square is kept.

    Raises:
        FileNotFoundError: If there is no such set, or its download failed.
        ValueError: If its files are damaged, incomplete or others, or images differ in size.
    """
    row = SETS[name]
    looked = places(root)
    place = next((place for place in looked if (place / row.place).exists()), None)
    if place is None and not download:
        raise FileNotFoundError(
            f"{name}: expected {row.place}, not found in {' nor in '.join(map(str, looked))}; set "
            "PYRO_VAE_DATA or give root= (--data.root), or give download=True (--data.download)"
        )
    splits, classes = {}, None
    for split, options in row.splits.items():
        found = in_order(opened(name, row, options, place, root or cache(), download, size))
        splits[split] = fields_of(found, f"{name}: {split}")
        names = getattr(found, "classes", None)
        if split == "train" and names and len(names) > int(splits[split]["y"].max()):
            classes = tuple(n if isinstance(n, str) else ", ".join(n) for n in names)
    facts = {} if size is None else {"size": size}
    return Raw(name, name, splits, Binomial(255), classes, facts=facts)


def opened(
    name: str,
    row: ImageSet,
    options: Options,
    place: Path | None,
    target: Path,
    download: bool,
    size: int | None,
) -> Any:
    r"""torchvision's data set, of files that are there or are fetched."""
    from torchvision import datasets

    kind = raw_only(getattr(datasets, row.kind))
    arguments = {**row.options, **options, "transform": partial(pixels, size=size)}
    if place is not None:
        if not download:  # torchvision checks them too, and fetches those that are others
            check_pickles(kind, place)
        try:
            return kind(place, **arguments)
        except Exception as error:  # each class fails in a way of its own
            if not download:
                raise ValueError(
                    f"{name}: expected the files of torchvision's {row.kind} in {place}, got "
                    f"others, not all, or damaged ones ({error}); fetch them again"
                ) from error
    try:
        target.mkdir(parents=True, exist_ok=True)
        return kind(place or target, download=True, **arguments)
    except Exception as error:
        raise FileNotFoundError(
            f"{name}: the download into {place or target} failed: {error}"
        ) from error


def in_order(dataset: Any) -> Any:
    r"""Puts rows in the order of names where a class has them as the file system lists them."""
    match type(dataset).__name__:
        case "INaturalist":
            dataset.index.sort()
        case "SUN397":
            pairs = sorted(zip(dataset._image_files, dataset._labels, strict=True))
            dataset._image_files, dataset._labels = zip(*pairs, strict=True) if pairs else ((), ())
        case "Omniglot":
            names = dataset._characters
            order = sorted(range(len(names)), key=names.__getitem__)
            dataset._characters = [names[place] for place in order]
            dataset._flat_character_images = [
                (image, label)
                for label, place in enumerate(order)
                for image in sorted(image for image, _ in dataset._character_images[place])
            ]
    return dataset


def raw_only(kind: Any) -> Any:
    r"""The class, without MNIST's way to load pickled tensors that older versions have written."""
    if not hasattr(kind, "_check_legacy_exist"):
        return kind
    return type(kind.__name__, (kind,), {"_check_legacy_exist": lambda self: False})


def check_pickles(kind: Any, place: Path) -> None:
    r"""Raises unless all that would be unpickled is what torchvision's authors have pickled."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if not issubclass(kind, CIFAR10):
        return
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    for file, md5 in files:
        path = place / kind.base_folder / file
        if not path.is_file():
            raise FileNotFoundError(f"{path}: expected a file, got nothing; fetch it again")
        if not check_integrity(path, md5):
            raise ValueError(
                f"{path}: expected a file of md5 {md5}, got another or a damaged one, which is not "
                "unpickled: fetch it again"
            )


def fields_of(dataset: Any, origin: str) -> dict[str, Tensor]:
    r"""All images and labels of a set."""
    images, labels = [], []
    for index in range(len(dataset)):
        try:
            image, label = dataset[index]
        except SizeError as error:
            raise ValueError(f"{origin}: {error}") from error
        except Exception as error:  # decoders fail in many ways
            raise ValueError(
                f"{origin}: expected an image, got a damaged one, number {index} ({error}); fetch "
                "it again"
            ) from error
        images.append(image)
        labels.append(label)
    x = stack(images, [f"image {index}" for index in range(len(images))], origin)
    known = all(label is not None for label in labels)
    return {"x": x, "y": torch.tensor([int(label) for label in labels])} if known else {"x": x}
