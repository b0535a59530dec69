"""The data set classes of torchvision where their files are, as `torchvision:Flowers102:ROOT`.

ROOT is what the class itself is given (`torchvision.datasets.Flowers102(ROOT)`); nothing is downloaded. Sets that a
layout of this package reads are read by it, so that they are the same set under either name: DTD, Flowers102 and their
like by `transfer`, whose splits are those that backbones are compared on, CIFAR by `cifar`, which loads no pickle. The
others go through torchvision's class: its images, labels, names of classes and splits. Where the class has a val
split beside test, train and val are learnt from and `val` says which the latter are, as CLIP's and DINOv2's evaluations
do (Radford et al. 2021, arXiv 2103.00020, table 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinobench.data.decoding import BROKEN_IMAGE
from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import ArraySplit, FileSplit, array_split, from_arrays
from dinobench.data.layouts import cifar, imagefolder, transfer
from dinobench.data.layouts.imagefolder import require_text
from dinobench.data.layouts.labelled import h5_split, imagenet, listing
from dinobench.data.layouts.labelled.listing import NO_SPLIT, Draw, Listing
from dinobench.errors import UserError, unknown_name
from dinobench.types import ImageClassification

NAME = "torchvision"
SUMMARY = (
    "torchvision:Class:ROOT for the data set classes of torchvision, such as torchvision:Flowers102:/data. "
    "ROOT is what the class is given, where it has put its files; without it the first folder of DINOBENCH_DATA that "
    "has them. Nothing is downloaded. Of CIFAR10, CIFAR100, Caltech101, Caltech256, Country211, DTD, EuroSAT, FER2013, "
    "FGVCAircraft, FashionMNIST, Flowers102, Food101, GTSRB, ImageNet, Imagenette, KMNIST, MNIST, OxfordIIITPet, PCAM, "
    "RenderedSST2, STL10, SUN397, SVHN, StanfordCars and USPS; Caltech256 and EuroSAT have no split and need @split=."
)


class _Class(NamedTuple):
    """How a class is read: its folder below the root, whether its items are files, and what each split is asked for.

    `splits` is empty for sets that a layout reads; "" is the one of a class without splits.
    """

    folder: str
    splits: Mapping[str, Mapping[str, Any]] = {}
    files: bool = False


_TRAIN_TEST = {"train": {"train": True}, "test": {"train": False}}
_BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
_WITH_VAL = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_WITH_VALID = {**_WITH_VAL, "val": {"split": "valid"}}
_WHOLE: dict[str, dict[str, Any]] = {"": {}}
CLASSES = {
    "CIFAR10": _Class("cifar-10-batches-py"), "CIFAR100": _Class("cifar-100-python"),
    "Caltech101": _Class("caltech101"), "DTD": _Class("dtd/dtd"), "FGVCAircraft": _Class("fgvc-aircraft-2013b"),
    "Flowers102": _Class("flowers-102"), "Food101": _Class("food-101"), "OxfordIIITPet": _Class("oxford-iiit-pet"),
    "SUN397": _Class("SUN397"), "StanfordCars": _Class("stanford_cars"), "ImageNet": _Class("train"),
    "Imagenette": _Class("imagenette2"),
    "Caltech256": _Class("caltech256", _WHOLE, files=True), "EuroSAT": _Class("eurosat/2750", _WHOLE, files=True),
    "Country211": _Class("country211", _WITH_VALID, files=True), "GTSRB": _Class("gtsrb", _BY_NAME, files=True),
    "RenderedSST2": _Class("rendered-sst2", _WITH_VAL, files=True),
    "FER2013": _Class("fer2013", _BY_NAME), "FashionMNIST": _Class("FashionMNIST/raw", _TRAIN_TEST),
    "KMNIST": _Class("KMNIST/raw", _TRAIN_TEST), "MNIST": _Class("MNIST/raw", _TRAIN_TEST),
    "PCAM": _Class("pcam", _WITH_VAL), "STL10": _Class("stl10_binary", _BY_NAME),
    "SVHN": _Class("train_32x32.mat", _BY_NAME), "USPS": _Class("usps.bz2", _TRAIN_TEST),
}  # fmt: skip
#: Classes whose names are not those of the class's own list.
_NAMES = {"FER2013": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")}


def recognises(path: Path) -> bool:
    """Never: a folder does not say that it is torchvision's."""
    return False


def check_class(name: str) -> None:
    """Raises UserError for what is none of the classes."""
    if name not in CLASSES:
        raise unknown_name("data set class of torchvision", name, list(CLASSES))


def place_of(name: str) -> str:
    """What the class has put below its root."""
    return CLASSES[name].folder


def is_there(name: str, root: Path) -> bool:
    """Whether a class has put its files below a root."""
    return (root / CLASSES[name].folder).exists()


def load(path: Path, name: str) -> ImageClassification:
    """A folder is never enough; see `load_class`."""
    raise UserError(f"{path}: name the class, as in torchvision:Flowers102:{path}")


def load_class(
    spec: str, root: Path, name: str, draw: Draw | None = None, progress: Progress | None = None
) -> ImageClassification:
    """The set of the class that `spec` begins with. Raises UserError where its files are not there or damaged."""
    wanted = spec.partition(":")[0]
    found = CLASSES[wanted]
    if not is_there(wanted, root):
        raise UserError(
            f"{root}: has no {found.folder}, which torchvision's {wanted} reads; give the root it was given"
        )
    if draw is not None and "" not in found.splits:
        raise UserError(f"torchvision:{wanted}: has a split of its own; leave out @{draw}")
    if draw is None and "" in found.splits:
        raise UserError(f"torchvision:{wanted}: has no split; {NO_SPLIT}")
    if not found.splits:
        return _by_layout(wanted, root, name, progress)
    name = name or wanted.lower()
    if wanted == "PCAM":
        return listing.classification(h5_split.listed(root / found.folder), name, progress)
    opened = {split: _opened(wanted, root, arguments) for split, arguments in found.splits.items()}
    if not found.files:
        return _in_memory(wanted, root, name, opened)
    listed = _listed(wanted, root, opened)
    return (
        listing.classification(listed, name, progress)
        if draw is None
        else listing.divided(listed, draw, name, progress)
    )


def _by_layout(wanted: str, root: Path, name: str, progress: Progress | None) -> ImageClassification:
    folder = root / CLASSES[wanted].folder
    if wanted.startswith("CIFAR"):
        return cifar.load(folder, name or cifar.default_name(folder))
    if wanted == "ImageNet":
        layout = imagenet if imagenet.recognises(root) else imagefolder
        return layout.load(root, name or "imagenet", progress)
    if wanted == "Imagenette":
        return imagefolder.load(folder, name or "imagenette", progress)
    if not transfer.recognises(folder):
        raise UserError(f"{folder}: lacks the lists of {wanted}'s images; unpack its archive again")
    return transfer.load(folder, name or transfer.default_name(folder), progress)


def _opened(wanted: str, root: Path, arguments: Mapping[str, Any]) -> Any:
    """The object of torchvision's class. Raises UserError with the reason where it finds no data or damaged ones."""
    from torchvision import datasets

    if "MNIST" in wanted and (root / wanted / "processed").is_dir():
        raise UserError(
            f"{root / wanted / 'processed'}: pickles of an old torchvision are not read; take the folder away"
        )
    try:
        return getattr(datasets, wanted)(str(root), **arguments)
    except Exception as error:  # damaged files make its readers raise nearly anything
        split = next(iter(arguments.values()), "")
        raise UserError(
            f"{root / CLASSES[wanted].folder}: torchvision's {wanted} cannot read it ({_why(error)}; {split}); "
            "download it again"
        ) from error


def _why(error: Exception) -> str:
    """The reason in one line, without torchvision's advice on its own arguments."""
    return " ".join(str(error).split(" You can use")[0].split())[:160] or type(error).__name__


def _listed(wanted: str, root: Path, opened: Mapping[str, Any]) -> Listing:
    """Sets of files, by the paths that the class has listed; they start below the root, and none leads out of it."""
    ids: list[str] = []
    values: list[int] = []
    parts: dict[str, np.ndarray] = {}
    classes: list[str] | None = None
    for split, data in opened.items():
        start = len(ids)
        for file, label in _files(wanted, data):
            if not file.is_relative_to(root) or ".." in file.relative_to(root).parts:
                raise UserError(f"{root}: lists {str(file)!r:.120}, which lies elsewhere; download the set again")
            ids.append(file.relative_to(root).as_posix())
            values.append(int(label))
        parts[split] = np.arange(start, len(ids))
        own = getattr(data, "classes", None) or getattr(data, "categories", None)
        if classes not in (None, own):
            raise UserError(f"{root}: other classes in {split} than before it; unpack the archive again")
        classes = own
    require_text(root, ids)
    if len(set(ids)) < len(ids):
        raise UserError(f"{root}: lists an image of {wanted} twice; download the set again")
    labels, names = listing.numbered(values, classes, root)
    whole = FileSplit("", str(root.absolute()), tuple(ids), labels, "")
    return Listing(f"torchvision {wanted}", root, whole, parts, names, with_val="val" in parts)


def _files(wanted: str, data: Any) -> list[tuple[Path, int]]:
    if wanted == "Caltech256":  # which makes the paths up from the number of files in each folder
        folder = Path(data.root) / "256_ObjectCategories"
        return [(folder / data.categories[y] / f"{y + 1:03d}_{i:04d}.jpg", y)
                for i, y in zip(data.index, data.y, strict=True)]  # fmt: skip
    samples = data._samples if hasattr(data, "_samples") else data.samples
    return [(Path(file), label) for file, label in samples]


def _in_memory(wanted: str, root: Path, name: str, opened: Mapping[str, Any]) -> ImageClassification:
    """Sets that the class holds in memory, as RGB."""
    splits: dict[str, ArraySplit] = {}
    values: dict[str, list[Any]] = {}
    for split, data in opened.items():
        try:
            pairs = [data[i] for i in range(len(data))]
            images = np.stack([np.asarray(image.convert("RGB")) for image, _ in pairs])
        except BROKEN_IMAGE as error:
            raise UserError(
                f"{root / CLASSES[wanted].folder}: damaged images ({_why(error)}); download it again"
            ) from error
        if any(label is None for _, label in pairs):
            raise UserError(f"{root / CLASSES[wanted].folder}: no labels in {split}; get the file that has them")
        values[split] = [int(label) for _, label in pairs]
        ids = tuple(f"{split}/{i:05d}" for i in range(len(images)))
        splits[split] = array_split(split, images, ids, np.array(values[split], np.int64))
    names = _NAMES.get(wanted) or getattr(opened["train"], "classes", None)
    _, classes = listing.numbered([*values["train"], *values["test"]], names, root)
    return from_arrays(name, f"torchvision {wanted} (train, test)", classes, splits["train"], splits["test"])
