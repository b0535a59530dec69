"""PASCAL VOC 2007's classification task (Everingham et al. 2010): images that show several of twenty classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dinobench.data import fingerprint, leaks
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.voc import read_list
from dinobench.data.layouts.voc_boxes import read_objects
from dinobench.errors import UserError
from dinobench.types import ImageClassification

NAME = "voc-classes"
SUMMARY = (
    "VOC2007/JPEGImages/*.jpg with ImageSets/Main/test.txt, and train.txt and val.txt or trainval.txt. Give VOCdevkit "
    "or VOC2007. What an image shows is in ImageSets/Main/<class>_<list>.txt (1 shows the class, -1 does not, 0 "
    "nothing of it but difficult objects), or else in Annotations/*.xml. For `logreg --profile transfer`."
)
#: The lists to learn from: those that C is chosen between, or one without a part to choose on.
APART, TOGETHER, TEST = ("train", "val"), ("trainval",), "test"
#: What a list of one class says of an image.
SHOWN, ABSENT, DIFFICULT = 1, -1, 0


def recognises(path: Path) -> bool:
    """A year's folder with a test list and one to learn from, or what holds it."""
    return _root(path) is not None


def default_name(path: Path) -> str:
    """The year's folder, which VOCdevkit's own name does not tell."""
    return (_root(path) or path).resolve().name


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> ImageClassification:
    """Read the lists and hash the images. Raises UserError for damaged lists and for files that are missing."""
    root = _root(path)
    if root is None:
        raise UserError(f"{path}: no JPEGImages/ with ImageSets/Main/test.txt and train.txt or trainval.txt in it")
    main = root / "ImageSets" / "Main"
    own = APART if all((main / f"{part}.txt").is_file() for part in APART) else TOGETHER
    lists = {part: read_list(main / f"{part}.txt") for part in (*own, TEST)}
    _check_apart(main, lists)
    files = {part: [f"JPEGImages/{image}.jpg" for image in images] for part, images in lists.items()}
    every = [file for part in files.values() for file in part]
    if missing := [file for file in every if not (root / file).is_file()]:
        raise UserError(
            f"{root}: {len(missing):,} of the {len(every):,} images that {main} lists are missing, such as "
            f"{missing[0]}; unpack the archives of trainval and of test into one folder"
        )
    classes = sorted({file.stem.rpartition("_")[0] for file in main.glob(f"*_{TEST}.txt")})
    how = "lists" if classes else "annotations"
    verdicts, classes = _of_lists(main, lists, classes) if classes else _of_annotations(root, lists)
    learnt, asked = np.concatenate([verdicts[part] for part in own]), verdicts[TEST]
    if unseen := [c for c, column in zip(classes, learnt.T, strict=True) if not (column == SHOWN).any()]:
        raise UserError(f"{main}: no image of {' or '.join(own)} shows class {unseen[0]}; complete the lists")
    digests = fingerprint.hash_files(root, every, path, progress)

    def split(title: str, ids: Sequence[str], shown: np.ndarray, own_digests: np.ndarray) -> FileSplit:
        first = (shown == SHOWN).argmax(axis=1).astype(np.int64)
        return FileSplit(title, str(root.absolute()), tuple(ids), first, fingerprint.of_files(ids, own_digests))

    count = len(learnt)
    train = split("+".join(own), every[:count], learnt, digests[:count])
    test = split(TEST, files[TEST], asked, digests[count:])
    told = [(s.fingerprint, v.astype(np.int64)) for s, v in ((train, learnt), (test, asked))]
    return ImageClassification(
        name, f"{NAME} ({how})", tuple(classes), train, test, fingerprint.of_dataset(classes, told),
        leaks.note(test.ids, leaks.leaked(digests[:count], digests[count:])),
        val=np.arange(len(lists[APART[0]]), count) if own == APART else None, verdicts=(learnt, asked),
    )  # fmt: skip


def _root(path: Path) -> Path | None:
    years = sorted(path.glob("VOC20[0-9][0-9]")) if path.is_dir() else []
    for folder in (path, *years, *sorted((path / "VOCdevkit").glob("VOC20[0-9][0-9]"))):
        main = folder / "ImageSets" / "Main"
        known = [part for part in (*APART, *TOGETHER, TEST) if (main / f"{part}.txt").is_file()]
        if (folder / "JPEGImages").is_dir() and TEST in known and ({*APART} <= {*known} or TOGETHER[0] in known):
            return folder
    return None


def _check_apart(main: Path, lists: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for part, images in lists.items():
        for image in images:
            if image in seen:
                raise UserError(
                    f"{main / part}.txt: names {image}, which {seen[image]}.txt names too; an image is in one"
                )
            seen[image] = part


def _of_lists(
    main: Path, lists: Mapping[str, Sequence[str]], classes: list[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Of each list (images, classes) int8 from the lists of one class each."""
    verdicts = {part: np.zeros((len(images), len(classes)), np.int8) for part, images in lists.items()}
    for part, images in lists.items():
        for column, name in enumerate(classes):
            file = main / f"{name}_{part}.txt"
            told = _told(file)
            if lost := next((image for image in images if image not in told), None):
                raise UserError(f"{file}: says nothing of {lost}, which {part}.txt names; copy it again")
            verdicts[part][:, column] = [told[image] for image in images]
    return verdicts, classes


def _told(file: Path) -> dict[str, int]:
    """What a list of one class says, by image."""
    try:
        rows = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: no UTF-8 text ({error.reason}); copy it again") from error
    told: dict[str, int] = {}
    for row in rows:
        if len(row) != 2 or row[1] not in ("1", "-1", "0"):
            raise UserError(f"{file}: the line {' '.join(row)[:80]!r} is no image with 1, -1 or 0; copy it again")
        told[row[0]] = int(row[1])
    return told


def _of_annotations(root: Path, lists: Mapping[str, Sequence[str]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """As `_of_lists`, from the objects of the images: one that is not difficult shows its class."""
    folder = root / "Annotations"
    if not folder.is_dir():
        raise UserError(f"{root}: has neither ImageSets/Main/<class>_{TEST}.txt nor Annotations/; unpack it again")
    objects = {part: [read_objects(folder / f"{image}.xml") for image in images] for part, images in lists.items()}
    classes = sorted({name for part in objects.values() for shown in part for name, _ in shown})
    column = {name: i for i, name in enumerate(classes)}
    verdicts = {part: np.full((len(images), len(classes)), ABSENT, np.int8) for part, images in lists.items()}
    for part, images in objects.items():
        for row, shown in enumerate(images):
            for name, difficult in sorted(shown, key=lambda one: not one[1]):  # those that are not difficult last
                verdicts[part][row, column[name]] = DIFFICULT if difficult else SHOWN
    return verdicts, classes
