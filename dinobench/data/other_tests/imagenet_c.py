"""ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261): validation images, corrupted in 15 ways at 5 levels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from dinobench.data import fingerprint
from dinobench.data.image_split import FileSplit
from dinobench.data.other_tests.other_test import OtherTest, by_name, class_folders, file_test, visible
from dinobench.errors import UserError
from dinobench.types import ImageClassification

NAMES = ("imagenet-c", "c")
SUMMARY = (
    "<corruption>/<level>/<wnid>/*.JPEG, or in folders such as noise/ and blur/ as the archives unpack. All 15 "
    "corruptions at levels 1 to 5 are needed, the four extra ones count where they are. The images are crops already "
    "and are not cropped again."
)
#: As the folders are called; the last four are the extra ones.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "speckle_noise", "gaussian_blur", "spatter", "saturate",
)  # fmt: skip
STANDARD = 15
LEVELS = ("1", "2", "3", "4", "5")
#: A test image's corruption, level, and the image that was corrupted.
CELL = re.compile(rf"(?:^|/)({'|'.join(CORRUPTIONS)})/([1-5])/(.+)$")


class CroppedSplit(FileSplit):
    """Images that have been brought to the models' size: see `data.transforms.for_split`."""

    cropped: ClassVar[bool] = True


def load(path: Path, data: ImageClassification, progress: fingerprint.Progress | None = None) -> OtherTest:
    """All levels of all corruptions in a row. Raises UserError where one that mCE needs is missing."""
    found = corruption_folders(path)
    missing = [
        f"{name}/{level}" if name in found else name
        for name in CORRUPTIONS[:STANDARD]
        for level in (LEVELS if name in found else LEVELS[:1])
        if name not in found or not (path / found[name] / level).is_dir()
    ]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"{path}: lacks {', '.join(missing[:5])}{more}; mCE is over 15 corruptions at levels 1 to 5")
    ids: list[str] = []
    names: list[str] = []
    left_out: list[str] = []
    extra = [name for name in CORRUPTIONS[STANDARD:] if name in found]
    for name in (*CORRUPTIONS[:STANDARD], *extra):
        for level in LEVELS if name not in extra else [n for n in LEVELS if (path / found[name] / n).is_dir()]:
            _, own, classes, others = class_folders(path, f"{found[name]}/{level}")
            ids, names, left_out = ids + own, names + classes, left_out + others
    return file_test(
        f"ImageNet-C ({STANDARD + len(extra)} corruptions)", NAMES[0], path, path, ids, by_name(data, names),
        progress=progress, left_out=left_out, report="mCE", split_type=CroppedSplit,
        notes=[f"imagenet-c: top-1 is over all images, those of {', '.join(extra)} among them"] if extra else (),
    )  # fmt: skip


def corruption_folders(path: Path) -> dict[str, str]:
    """Corruption -> its folder below `path`, there or one level deeper."""
    if not path.is_dir():
        raise UserError(f"{path}: a folder of corruptions is needed")
    found: dict[str, str] = {}
    for entry in filter(Path.is_dir, visible(path)):
        inner = [] if entry.name in CORRUPTIONS else [e for e in visible(entry) if e.is_dir()]
        for folder in [entry, *inner]:
            if folder.name in CORRUPTIONS:
                found.setdefault(folder.name, folder.relative_to(path).as_posix())
    return found
