"""PASCAL VOC's class masks as semantic segmentation learns from them, with SBD's additional ones where they are there.

(Everingham et al. 2010; Hariharan et al. 2011, whose masks are distributed beside VOC's as SegmentationClassAug.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.label_maps import Entry, LabelMapSet, from_files, numbered
from dinobench.data.layouts import voc
from dinobench.errors import UserError

NAME = "voc-segmentation"
SUMMARY = (
    "VOC2012/JPEGImages/*.jpg with SegmentationClass/*.png, listed in ImageSets/Segmentation/train.txt and val.txt. "
    "Give VOCdevkit or VOC2012. Where SegmentationClassAug is there, its images are learnt from too: those of "
    "trainaug.txt or aug.txt, or without either all that val.txt does not name (train + aug: 10,582). Without "
    "train.txt every second image of val.txt is learnt from and the others are scored. Masks are indexed PNGs, 0 is "
    "background, 255 is void."
)
MASKS, MORE_MASKS = "SegmentationClass", "SegmentationClassAug"
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


#: What there must be where only masks are asked for.
ONLY_MASKS = (MASKS, "ImageSets/Segmentation")


def recognises(path: Path, masks_only: bool = False) -> bool:
    """VOCdevkit, or one year's folder in it; where only masks are asked for, without images."""
    return (voc.root_of(path, ONLY_MASKS) if masks_only else voc.root_of(path)) is not None


def default_name(path: Path) -> str:
    """The year's folder, which VOCdevkit's own name does not tell."""
    return (voc.root_of(path, ONLY_MASKS) or path).resolve().name


def load(path: Path, name: str, progress: fingerprint.Progress | None = None, masks_only: bool = False) -> LabelMapSet:
    """Read the lists and hash what they name. Raises UserError for a missing list, image or mask.

    masks_only: the masks of all of val.txt, nothing to learn from.
    """
    root = voc.root_of(path, ONLY_MASKS) if masks_only else voc.root_of(path)
    if root is None:
        raise UserError(f"{path}: no JPEGImages/ and {MASKS}/ in it")
    sets = root / "ImageSets" / "Segmentation"
    test = voc.read_list(sets / "val.txt")
    if masks_only:
        only = {"train": [], "val": [_entry(image, MASKS) for image in test]}
        return from_files(
            name, f"{NAME} (masks)", path, root, CLASSES, numbered(len(CLASSES)), only,
            background=0, progress=progress, masks_only=True,
        )  # fmt: skip
    notes: list[str] = []
    own = voc.read_list(sets / "train.txt") if (sets / "train.txt").is_file() else ()
    more, listed = _more(root, sets, {*own, *test})
    if own or more:
        how = " + ".join(["train"] * bool(own) + ["aug"] * bool(more))
        if both := sorted({*own, *more} & {*test}):
            raise UserError(
                f"{listed if both[0] in more else sets / 'train.txt'}: names {both[0]}, which val.txt names too; an "
                "image is learnt from or scored, not both"
            )
    else:
        own, test, how = test[1::2], test[::2], "val halved"
        notes.append(
            f"no ImageSets/Segmentation/train.txt: of {len(own) + len(test)} images of val.txt every second is learnt "
            f"from, {len(own)} in all, and the others are scored"
        )
    if not own and not more:
        raise UserError(f"{sets / 'val.txt'}: one image only, and no train.txt; there is nothing to learn from")
    splits = {"train": [_entry(i, MASKS) for i in own], "val": [_entry(i, MASKS) for i in test]}
    splits["train"] += [_entry(i, MORE_MASKS) for i in more]
    return from_files(
        name, f"{NAME} ({how})", path, root, CLASSES, numbered(len(CLASSES)), splits,
        background=0, progress=progress, notes=notes,
    )  # fmt: skip


def _entry(image: str, masks: str) -> Entry:
    return Entry(image, f"JPEGImages/{image}.jpg", f"{masks}/{image}.png")


def _more(root: Path, sets: Path, known: set[str]) -> tuple[Sequence[str], Path]:
    """The images beside train's that SegmentationClassAug has masks for, and what lists them.

    Lists by that name in circulation name train's images again, or not: trainaug.txt is DeepLab's and has all 10,582,
    aug.txt mmsegmentation's and has the rest. Images of val stay in, for the caller to refuse.
    """
    folder = root / MORE_MASKS
    if not folder.is_dir():
        return (), folder
    for listed in (sets / "trainaug.txt", sets / "aug.txt"):
        if listed.is_file():
            own = set(voc.read_list(sets / "train.txt")) if (sets / "train.txt").is_file() else set()
            return [image for image in voc.read_list(listed) if image not in own], listed
    return sorted(file.stem for file in folder.glob("*.png") if file.stem not in known), folder
