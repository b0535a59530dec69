"""Small data sets with boxes in VOC's and COCO's layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

Object = tuple[int, int, int, int, bool, bool]  # xmin, ymin, xmax, ymax counted from 1, truncated, difficult


def annotation(objects: Sequence[Object]) -> str:
    """An image's XML; each object has a part with a box of its own, as people have hands."""
    found = "".join(
        f"<object><name>dog</name><truncated>{t:d}</truncated><difficult>{d:d}</difficult>"
        f"<part><name>hand</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2, t, d in objects
    )
    return f"<annotation><filename>x.jpg</filename>{found}</annotation>"


def make_voc_boxes(root: Path, images: Mapping[str, Sequence[Object]], year: str = "VOC2007") -> Path:
    """VOCdevkit with images of 60 x 40 pixels, all of them in trainval and the first in val."""
    folder = root / "VOCdevkit" / year
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for place, (name, objects) in enumerate(images.items()):
        Image.new("RGB", (60, 40), (40 * place, 90, 120)).save(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(objects))
    lists = folder / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("\n".join(images) + "\n")
    (lists / "val.txt").write_text(f"{next(iter(images))}\n")
    (lists / "dog_trainval.txt").write_text("".join(f"{name}  1\n" for name in images))
    return root / "VOCdevkit"


def make_coco_boxes(root: Path, split: str = "train2014") -> Path:
    """Three images of 60 x 40 pixels: two objects and a crowd, a crowd alone, one object; a list of the last."""
    (root / "annotations").mkdir()
    (root / split).mkdir()
    names = {i: f"COCO_{split}_{i:012}.jpg" for i in (9, 25, 30)}
    for name in names.values():
        Image.new("RGB", (60, 40), "teal").save(root / split / name)
    boxes = [(1, 9, [10.5, 4.5, 20, 10.4], 0), (2, 9, [0, 0, 30, 30], 1), (3, 25, [0, 0, 30, 30], 1)]
    boxes += [(4, 30, [7.0, 8.0, 30.5, 20.5], 0), (5, 9, [1, 2, 3, 4], 0)]
    content = {
        "images": [{"id": i, "file_name": name} for i, name in reversed(names.items())],
        "annotations": [{"id": n, "image_id": i, "bbox": b, "iscrowd": c, "category_id": 1} for n, i, b, c in boxes],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
