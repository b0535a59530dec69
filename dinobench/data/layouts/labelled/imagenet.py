"""ImageNet as its owners and Kaggle hand it out: validation images in one folder, their classes in a file."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import PackedSplit
from dinobench.data.layouts import unlabelled
from dinobench.data.layouts.imagefolder import EXTENSIONS, is_hidden, note_left_out, require_text, scan_split
from dinobench.data.layouts.labelled import listing, truth
from dinobench.data.layouts.labelled.listing import Listing
from dinobench.data.tar_index import members
from dinobench.errors import UserError
from dinobench.types import ImageClassification, TrainingImages

NAME = "imagenet"
SUMMARY = (
    "train/<wnid>/*.JPEG and val/ILSVRC2012_val_00000001.JPEG, … beside ILSVRC2012_devkit_t12/, or Kaggle's tree. "
    "The classes of val are those of the devkit (its folder, its .tar.gz, or the meta.bin that torchvision made of it) "
    "or of Kaggle's LOC_val_solution.csv with ILSVRC/Data/CLS-LOC/. ILSVRC2012_img_train.tar, the tar of tars, and "
    "ILSVRC2012_img_val.tar serve in the place of train/ and val/."
)
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


class _Images(NamedTuple):
    """Names as they are when all is unpacked, so that packed and unpacked data are the same; where packed ones lie."""

    ids: list[str]
    wnids: list[str]
    places: dict[str, fingerprint.Place]
    left_out: list[str]


def recognises(path: Path) -> bool:
    """A folder with validation images in one folder or archive and train's, or with Kaggle's tree in it."""
    return _home(path) is not None


def default_name(path: Path) -> str:
    """The folder's name, and not CLS-LOC, train's and val's folder in Kaggle's tree."""
    found = path.resolve()
    above = ("CLS-LOC", "Data", "ILSVRC")
    return next((f.name for f in (found, *found.parents) if f.name not in above), found.name)


def load(path: Path, name: str, progress: Progress | None = None) -> ImageClassification:
    """Raises UserError where classes are not told, images are missing, or archives are damaged."""
    home = _home(path)
    assert home is not None
    told = truth.find(home)
    if told is None:
        raise UserError(
            f"{home}: val's images lie in one folder, and nothing beside it says their classes; put {truth.DEVKIT}/, "
            f"{truth.BIN} or {truth.KAGGLE} there"
        )
    train, val = _train(home), _val(home, truth.read(told), told)
    ids, wnids = [*train.ids, *val.ids], [*train.wnids, *val.wnids]
    labels, classes = listing.numbered(wnids, None, path)
    whole = PackedSplit("", str(home.absolute()), tuple(ids), labels, "", {**train.places, **val.places})
    cut = len(train.ids)
    note = note_left_out([*train.left_out, *val.left_out])
    parts = {"train": np.arange(cut), "val": np.arange(cut, len(ids))}
    layout = f"{NAME}, classes from {told.name if told.is_file() else truth.TRUTH}"
    return listing.classification(Listing(layout, path, whole, parts, classes, (note,) if note else ()), name, progress)


def load_images(path: Path, name: str, progress: Progress | None = None) -> TrainingImages:
    """The images of train, with their classes."""
    home = _home(path)
    assert home is not None
    if (home / "train").is_dir():
        return unlabelled.load(home, name, progress)
    train = _train(home)
    labels, classes = listing.numbered(train.wnids, None, path)
    whole = PackedSplit("", str(home.absolute()), tuple(train.ids), labels, "", train.places)
    note = note_left_out(train.left_out)
    listed = Listing(NAME, path, whole, {"train": np.arange(len(labels))}, classes, (note,) if note else ())
    return listing.training(listed, name, progress)


def _home(path: Path) -> Path | None:
    """The folder of train and val where they are in this layout."""
    for home in (path, *(path / inner for inner in KAGGLE)):
        train = (home / "train").is_dir() or (home / TRAIN_TAR).is_file()
        if train and (_is_flat(home / "val") or ((home / VAL_TAR).is_file() and not (home / "val").is_dir())):
            return home
    return None


def _is_flat(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(truth.IMAGE.fullmatch(entry.name) for entry in entries)


def _train(home: Path) -> _Images:
    left_out: list[str] = []
    if (home / "train").is_dir():
        ids, wnids = scan_split(home, "train", left_out)
        return _Images(ids, wnids, {}, left_out)
    archive = home / TRAIN_TAR
    found = _Images([], [], {}, left_out)
    classes: set[str] = set()
    for inner, place in sorted(members(archive)):  # as folders are listed
        wnid, ending = posixpath.splitext(posixpath.basename(inner))
        if is_hidden(posixpath.basename(inner)):
            continue
        if ending != ".tar":
            left_out.append(f"train/{inner}")
            continue
        if wnid in classes:
            raise UserError(f"{archive}: holds two archives called {wnid}.tar; download it again")
        classes.add(wnid)
        before = len(found.ids)
        for member, at in sorted(members(archive, inner=place)):
            _add(found, f"train/{wnid}/{posixpath.basename(member)}", wnid, at, archive)
        if len(found.ids) == before:
            raise UserError(f"{archive}: {inner} holds no images; download it again")
    if not found.ids:
        raise UserError(f"{archive}: holds no archives of classes; download it again")
    return found


def _val(home: Path, classes: dict[int, str], told: Path) -> _Images:
    """The validation images by the number in their names, and their classes."""
    found = _Images([], [], {}, [])
    if (home / "val").is_dir():
        with os.scandir(home / "val") as entries:
            names = sorted(entry.name for entry in entries if not is_hidden(entry.name))
        for name in names:
            _add(found, f"val/{name}", "", None, home)
    else:
        for member, at in sorted(members(home / VAL_TAR)):
            if not is_hidden(posixpath.basename(member)):
                _add(found, f"val/{posixpath.basename(member)}", "", at, home / VAL_TAR)
    numbers = []
    for name in found.ids:
        number = truth.IMAGE.fullmatch(name.removeprefix("val/"))
        if not number or int(number[1]) not in classes:
            raise UserError(f"{home / name}: no image that {told} has a class for; take it away")
        numbers.append(int(number[1]))
    if lost := sorted(set(classes) - set(numbers)):
        raise UserError(
            f"{home}: {len(lost):,} of {len(classes):,} validation images are missing, such as "
            f"ILSVRC2012_val_{lost[0]:08d}.JPEG; unpack them again"
        )
    return found._replace(wnids=[classes[number] for number in numbers])


def _add(found: _Images, name: str, wnid: str, at: fingerprint.Place | None, where: Path) -> None:
    if is_hidden(posixpath.basename(name)):
        return
    if not name.lower().endswith(EXTENSIONS):
        found.left_out.append(name)
        return
    if at is not None:
        if name in found.places:
            raise UserError(f"{where}: holds two files called {name}; download it again")
        found.places[name] = at
    require_text(where, [name])
    found.ids.append(name)
    found.wnids.append(wnid)
