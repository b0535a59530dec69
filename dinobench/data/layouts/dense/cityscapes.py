"""Cityscapes' fine annotations (Cordts et al. 2016): 19 classes that are trained on, out of 34 labels."""

from __future__ import annotations

from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.label_maps import IGNORED, Entry, LabelMapSet, from_files, numbered, value_table
from dinobench.errors import UserError

NAME = "cityscapes"
SUMMARY = (
    "leftImg8bit/{train,val}/<city>/*_leftImg8bit.png with gtFine/{train,val}/<city>/*_gtFine_labelTrainIds.png or "
    "*_gtFine_labelIds.png. Label ids are mapped to the 19 classes that are trained on, all others are ignored; where "
    "every image has a map of train ids, these are read."
)
#: Label ids of the 19 classes in the order of their train ids (cityscapesScripts, helpers/labels.py).
CLASSES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
LABELS = 34
IMAGE, TRAIN_IDS, LABEL_IDS = "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
SPLITS = ("train", "val")


def recognises(path: Path, masks_only: bool = False) -> bool:
    """A folder with images and fine annotations of both splits; where only masks are asked for, val's annotations."""
    if masks_only:
        return (path / "gtFine" / "val").is_dir()
    return all((path / kind / part).is_dir() for kind in ("leftImg8bit", "gtFine") for part in SPLITS)


def load(path: Path, name: str, progress: fingerprint.Progress | None = None, masks_only: bool = False) -> LabelMapSet:
    """List the images of all cities and hash them and their maps. Raises UserError for one without a map.

    masks_only: val's annotations, nothing to learn from.
    """
    folder, listed = ("gtFine", LABEL_IDS) if masks_only else ("leftImg8bit", IMAGE)
    stems: dict[str, list[str]] = {"train": []}
    for part in ("val",) if masks_only else SPLITS:
        found = sorted((path / folder / part).glob(f"*/*{listed}"))
        if masks_only and not found:
            listed = TRAIN_IDS
            found = sorted((path / folder / part).glob(f"*/*{listed}"))
        if not found:
            raise UserError(f"{path / folder / part}: no <city>/*{listed}; put those of {part} there")
        stems[part] = [f"{file.parent.name}/{file.name.removesuffix(listed)}" for file in found]
    trained = all((path / "gtFine" / part / f"{stem}{TRAIN_IDS}").is_file() for part in SPLITS for stem in stems[part])
    ending = TRAIN_IDS if trained else LABEL_IDS
    splits = {
        part: [Entry(stem, f"leftImg8bit/{part}/{stem}{IMAGE}", f"gtFine/{part}/{stem}{ending}") for stem in found]
        for part, found in stems.items()
    }
    train_ids = {label: i for i, label in enumerate(CLASSES.values())}
    table = numbered(len(CLASSES)) if trained else value_table(train_ids, (*range(LABELS), IGNORED))
    return from_files(name, NAME, path, path, tuple(CLASSES), table, splits, progress=progress, masks_only=masks_only)
