"""NAVI (Jampani et al. 2023, arXiv 2306.09109): photos of objects in the wild, aligned with scans of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dinobench import lazy
from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, open_image
from dinobench.data.pairs.annotations import numbers, read_json
from dinobench.data.pairs.views import View
from dinobench.errors import BrokenImage, UserError

with lazy.imports():
    from scipy.spatial.transform import Rotation

NAME = "navi"
SUMMARY = (
    "<object>/wild_set/{annotations.json,images/*.jpg,depth/*.png} (NAVI v1). "
    "annotations.json lists filename, image_size [h, w] and camera with q (w, x, y, z), t in millimetres and "
    "focal_length in pixels; depth is 16-bit disparity in parts of 655,350 mm^-1, 0 for none. Photos called "
    "downsampled_* beside the others go first; without, their shorter side is brought to 1,024 here. As in Probe3D, "
    "objects without a multiview_* folder are left out."
)
#: Pixels of the shorter side that Probe3D's data_processing/resize_navi.py brings photos to, and how.
SHORTER, PREFIX = 1024, "downsampled_"
#: What a depth file's 16 bits are divided by, for disparity in mm^-1.
DISPARITY = 65535 * 10.0
#: Bytes of the largest annotations, and the largest number in them.
LARGEST, LIMIT = 10**8, 1e9


@dataclass(frozen=True, eq=False)
class Navi:
    """The wild sets of a folder: views by object and file name, in order."""

    name: str
    layout: str
    root: Path
    views: tuple[View, ...]
    files: tuple[tuple[str, str], ...]
    fingerprint: str
    notes: tuple[str, ...]

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The RGB photo, and depth (H, W) float32 in metres. Raises BrokenImage, UserError where the sizes differ."""
        photo, depth = (self.root / file for file in self.files[index])
        image = _opened(photo, Image.Resampling.BILINEAR).convert("RGB")
        disparity = np.asarray(_opened(depth, Image.Resampling.NEAREST))
        if disparity.ndim != 2 or disparity.dtype.kind not in "iu":
            raise UserError(f"{depth}: not 16-bit disparity in one channel; download the file again")
        if disparity.shape != (image.height, image.width):
            raise UserError(
                f"{depth}: {disparity.shape[1]} x {disparity.shape[0]} pixels, its photo {image.width} x "
                f"{image.height}; give both one size"
            )
        with np.errstate(divide="ignore"):
            metres = np.where(disparity > 0, DISPARITY / disparity.astype(np.float32) / 1000, 0)
        if not metres.any():
            raise BrokenImage(f"{depth}: no depth in it; download the file again")
        return image, metres.astype(np.float32)


def recognises(path: Path) -> bool:
    """A folder of objects with wild sets."""
    return path.is_dir() and any(path.glob("*/wild_set/annotations.json"))


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> Navi:
    """Read and check the annotations, and hash them and the photos. Raises UserError for what is wrong or missing."""
    views: list[View] = []
    files: list[tuple[str, str]] = []
    alone, annotations = [], []
    for annotation in sorted(path.glob("*/wild_set/annotations.json")):
        item = annotation.parts[-3]
        if not any(folder.is_dir() for folder in (path / item).glob("multiview_*")):
            alone.append(item)
            continue
        annotations.append(annotation.relative_to(path).as_posix())
        for stem, entry in sorted(_entries(annotation).items()):
            views.append(_view(f"{item}/{stem}", item, entry, annotation))
            files.append(_files(path, f"{item}/wild_set", stem, annotation))
    if not views:
        raise UserError(f"{path}: no object has both a wild_set and a multiview_* folder, as Probe3D asks for")
    hashed = [*(file for pair in files for file in pair), *annotations]
    digests = fingerprint.hash_files(path, hashed, path, progress)
    notes = [f"{len(alone)} objects without a multiview_* folder are left out, such as {alone[0]}"] if alone else []
    if any(PREFIX not in photo for photo, _ in files):
        notes.append("photos resized on reading; the release's were, and saved as JPEG once more")
    return Navi(name, NAME, path, tuple(views), tuple(files), fingerprint.of_files(hashed, digests), tuple(notes))


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    """Annotations by their photos' names without ending."""
    entries = read_json(file, LARGEST)
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
        photo = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(photo, str) or not photo.isprintable() or {"/", "\\"} & set(photo) or photo[:1] in ("", "."):
            raise UserError(f"{file}: annotation {number} has no filename; download the annotations again")
        if photo.split(".")[0] in found:
            raise UserError(f"{file}: {photo} is annotated twice; keep one annotation")
        found[photo.split(".")[0]] = entry
    return found


def _view(name: str, item: str, entry: dict[str, Any], file: Path) -> View:
    camera = entry.get("camera")
    camera = camera if isinstance(camera, dict) else {}
    turn, shift = numbers(camera.get("q"), 4, LIMIT), numbers(camera.get("t"), 3, LIMIT)
    focal = numbers([camera.get("focal_length")], 1, LIMIT)
    size = numbers(entry.get("image_size"), 2, LIMIT)
    if turn is None or not turn.any() or shift is None:
        raise UserError(f"{file}: {name} has no camera with q (w, x, y, z) and t; download the annotations again")
    if focal is None or focal[0] <= 0 or size is None or size.min() < 1:
        raise UserError(f"{file}: {name} has no focal_length and image_size above 0; download the annotations again")
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(np.roll(turn, -1)).as_matrix()  # scipy has w last
    pose[:3, 3] = shift / 1000
    return View(name, item, pose, float(focal[0]), int(size.min()))


def _files(root: Path, folder: str, stem: str, annotation: Path) -> tuple[str, str]:
    """(photo, depth) below `root`, the smaller ones where both are there. Raises UserError for what is missing."""
    for prefix in (PREFIX, ""):
        both = f"{folder}/images/{prefix}{stem}.jpg", f"{folder}/depth/{prefix}{stem}.png"
        if all(os.path.exists(root / file) for file in both):
            return both
    lacking = next(file for file in both if not os.path.exists(root / file))
    raise UserError(f"{root / lacking}: missing, though {annotation} names it; add it")


def _opened(file: Path, how: Image.Resampling) -> Image.Image:
    """The picture, upright, its shorter side at most `SHORTER` unless it was made smaller before."""
    try:
        with open_image(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except BROKEN_IMAGE as error:
        raise BrokenImage(f"{file}: not a readable image ({error}); replace the file") from error
    if file.name.startswith(PREFIX):
        return image
    factor = SHORTER / min(image.size)
    return image.resize((int(image.width * factor), int(image.height * factor)), how)
