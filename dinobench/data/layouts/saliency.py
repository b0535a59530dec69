"""Sets of salient objects, as their archives unpack: a folder of images and one of grey masks of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, decode, open_image
from dinobench.data.layouts.copydays import list_images
from dinobench.data.masks import Masks
from dinobench.errors import BrokenImage, UserError

NAME = "saliency"
#: Folder of images, folder of masks, and what a set with these is called: as the archives of ECSSD, DUTS and DUT-OMRON
#: unpack, then as YangtaoWANG95/TokenCut renames them.
PAIRS = (
    ("images", "ground_truth_mask", "ECSSD"),
    ("DUTS-TE-Image", "DUTS-TE-Mask", "DUTS-TE"),
    ("DUT-OMRON-image", "pixelwiseGT-new-PNG", "DUT-OMRON"),
    ("img", "gt", ""),
)
SUMMARY = (
    "ECSSD (images/, ground_truth_mask/), DUTS-TE (DUTS-TE-Image/, DUTS-TE-Mask/), DUT-OMRON (DUT-OMRON-image/, "
    "pixelwiseGT-new-PNG/) or a folder of one's own (img/, gt/). Give the folder that holds the two. Every image has a "
    "mask of its name, .png as a rule; whatever is not black in it is the object."
)


@dataclass(frozen=True)
class Salient:
    """Images with one mask each; `files` maps their names to the image and the mask below `root`."""

    name: str
    layout: str
    root: Path
    files: dict[str, tuple[str, str]]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def ids(self, kind: str) -> Sequence[str]:
        """All names for "classes"; UserError for "instances", as objects are not told apart."""
        if kind != "classes":
            raise UserError(f"{self.name}: its masks do not tell objects apart; use --set masks=classes")
        return tuple(self.files)

    def load(self, image_id: str) -> Image.Image:
        """The RGB image. Raises BrokenImage when it cannot be read."""
        path = self.root / self.files[image_id][0]
        try:
            return decode(path)
        except BROKEN_IMAGE as error:
            raise BrokenImage(f"{path}: not a readable image ({error}); replace the file") from error

    def masks(self, image_id: str, kind: str) -> Masks:
        """Its mask, if anything is in it. Raises BrokenImage when it cannot be read."""
        path = self.root / self.files[image_id][1]
        try:
            with open_image(path) as image:
                object_ = np.asarray(image.convert("L")) > 0
        except BROKEN_IMAGE as error:
            raise BrokenImage(f"{path}: not a readable mask ({error}); replace the file") from error
        return Masks(object_[None][: int(object_.any())], (1,)[: int(object_.any())])


def recognises(path: Path) -> bool:
    """A folder with one of the pairs in it."""
    return _pair(path) is not None


def default_name(path: Path) -> str:
    """The set's name, where its folders tell it."""
    pair = _pair(path)
    return (pair and pair[2]) or path.resolve().name


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> Salient:
    """List the images and hash them with their masks. Raises UserError for images without a mask, and for none."""
    pair = _pair(path)
    if pair is None:
        raise UserError(f"{path}: no folder of images with one of masks in it")
    left_out: list[str] = []
    images = list_images(path, pair[0], deep=False, left_out=left_out)
    masks = {Path(mask).stem: mask for mask in list_images(path, pair[1], deep=False, left_out=left_out)}
    files: dict[str, tuple[str, str]] = {}
    for image in images:
        stem = Path(image).stem
        if stem in files:
            raise UserError(f"{path}: {files[stem][0]} and {image} have one name; take one of them away")
        if stem not in masks:
            raise UserError(f"{path}: {image} has no mask in {pair[1]}/; add it, or take the image away")
        files[stem] = image, masks[stem]
    if not files:
        raise UserError(f"{path / pair[0]}: holds no images")
    every = [file for both in files.values() for file in both]
    notes = [f"{len(unused):,} masks are left out, of which {pair[0]}/ has no image, such as {unused[0]}"
             for unused in [sorted(set(masks) - set(files))] if unused]  # fmt: skip
    notes += [f"{len(left_out):,} files are left out that are no images, such as {min(left_out)}"] if left_out else []
    digests = fingerprint.hash_files(path, every, path, progress)
    return Salient(name, NAME, path.absolute(), files, fingerprint.of_files(every, digests), tuple(notes))


def _pair(path: Path) -> tuple[str, str, str] | None:
    return next((pair for pair in PAIRS if all((path / folder).is_dir() for folder in pair[:2])), None)
