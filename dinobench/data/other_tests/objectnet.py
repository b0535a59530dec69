"""ObjectNet (Barbu et al. 2019): household objects in odd places, of which 113 of 313 are classes of ImageNet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.image_split import FileSplit
from dinobench.data.other_tests.other_test import OtherTest, class_folders, class_numbers, file_test
from dinobench.errors import UserError
from dinobench.types import ImageClassification

NAMES = ("objectnet",)
SUMMARY = (
    "objectnet-1.0/images/<object>/*.png and objectnet-1.0/mappings/, or the folder above. Any of the ImageNet classes "
    "that an object is mapped to is right, objects without one are left out, the red border of one pixel is cut off."
)
#: The mapping files: folder -> object, object -> names of ImageNet classes, class number -> line of the fourth file,
#: which has a class name on each line.
FOLDERS, OBJECTS = "folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json"
NUMBERS, LINES = "pytorch_to_imagenet_2012_id.json", "imagenet_to_label_2012_v2"
#: What stands between the class names of one object.
BETWEEN = "; "
#: Pixels of the red border, which says that an image is not to be trained on.
BORDER = 1


class TrimmedSplit(FileSplit):
    """Images in files, less a border on every side. `fingerprint` is that of what is left."""

    def __post_init__(self) -> None:
        self.fingerprint = hashlib.sha256(f"{self.fingerprint} less {BORDER}".encode()).hexdigest()

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image without its border; raises one of `BROKEN_IMAGE` when it cannot be decoded."""
        image = super().load(index)
        return image.crop((BORDER, BORDER, image.width - BORDER, image.height - BORDER))


def load(path: Path, data: ImageClassification, progress: fingerprint.Progress | None = None) -> OtherTest:
    """Raises UserError where a mapping is missing or does not name the folders."""
    home = next((p for p in (path, path / "objectnet-1.0") if (p / "images").is_dir()), None)
    if home is None:
        raise UserError(f"{path}: no images/ in it; give objectnet-1.0 as it unpacks")
    mappings = next((p for p in (home / "mappings", home) if (p / FOLDERS).is_file()), None)
    if mappings is None:
        raise UserError(f"{home / 'mappings'}: {FOLDERS} is missing; unpack ObjectNet's mappings too")
    answers = mapped(mappings, class_numbers(data))
    root, ids, names, left_out = class_folders(home / "images")
    if unknown := sorted(set(names) - set(answers)):
        raise UserError(f"{mappings / FOLDERS}: does not name the folder {unknown[0]}; unpack ObjectNet again")
    return file_test(
        "ObjectNet", NAMES[0], path, root, ids, [answers[name] for name in names], progress=progress,
        left_out=left_out, why="their objects are none of train's classes", split_type=TrimmedSplit,
    )  # fmt: skip


def mapped(mappings: Path, index: dict[int, int]) -> dict[str, list[int]]:
    """Folder -> the classes that are right for its images; `index` is that of ImageNet's class numbers."""
    line_of = {line.strip(): i for i, line in enumerate(_read(mappings / LINES).splitlines())}
    number_of = {_whole(mappings / NUMBERS, line): _whole(mappings / NUMBERS, number)
                 for number, line in _json(mappings / NUMBERS).items()}  # fmt: skip
    classes: dict[str, list[int]] = {}
    for thing, names in _json(mappings / OBJECTS).items():
        unknown = [name for name in str(names).split(BETWEEN) if line_of.get(name) not in number_of]
        if unknown:
            raise UserError(f"{mappings / OBJECTS}: {unknown[0]!r} is no class of {LINES} and {NUMBERS}")
        numbers = [number_of[line_of[name]] for name in str(names).split(BETWEEN)]
        classes[thing] = [index[number] for number in numbers if number in index]
    return {folder: classes.get(str(thing), []) for folder, thing in _json(mappings / FOLDERS).items()}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: no JSON ({error}); unpack ObjectNet's mappings again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: no mapping from names; unpack ObjectNet's mappings again")
    return content


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: no UTF-8 text ({error.reason}); unpack ObjectNet's mappings again") from error


def _whole(file: Path, value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise UserError(f"{file}: {value!r} is no number; unpack ObjectNet's mappings again") from None
