"""ImageNet-V2 (Recht et al. 2019, arXiv 1902.10811): new images for ImageNet's classes."""

from __future__ import annotations

from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.other_tests.other_test import OtherTest, class_folders, class_numbers, file_test
from dinobench.errors import UserError
from dinobench.types import ImageClassification

NAMES = ("imagenet-v2", "v2")
SUMMARY = (
    "<class number>/*.jpeg, as imagenetv2-matched-frequency unpacks. Numbers 0 to 999 are ImageNet's wnids in order; "
    "of a train set whose classes are no wnids, or are as many as the folders from 0 on, its classes in order."
)


def load(path: Path, data: ImageClassification, progress: fingerprint.Progress | None = None) -> OtherTest:
    """Folders are numbers, not names: as text 10 would come before 2. Raises UserError for one that is none."""
    root, ids, names, left_out = class_folders(path)
    if odd := next((name for name in names if not name.isascii() or not name.isdigit()), None):
        raise UserError(f"{root / odd}: ImageNet-V2's folders are class numbers; give other sets by their own names")
    numbers = [int(name) for name in names]
    index = class_numbers(data)
    if set(numbers) == set(range(len(data.classes))):
        index = dict(enumerate(range(len(data.classes))))
    right = [[index[number]] if number in index else [] for number in numbers]
    return file_test("ImageNet-V2", NAMES[0], path, root, ids, right, progress=progress, left_out=left_out)
