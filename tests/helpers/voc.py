"""A small folder of VOC's."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dinobench.data.video import label_png


def make_voc(root):
    folder = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    labels = np.zeros((20, 30), np.uint8)
    labels[2:8, 2:8], labels[10:18, 10:28], labels[8, 8] = 1, 2, 255
    Image.new("RGB", (30, 20)).save(folder / "JPEGImages" / "x.jpg")
    (folder / "SegmentationObject" / "x.png").write_bytes(label_png(labels))
    labels[labels == 2], labels[labels == 1] = 1, 1
    (folder / "SegmentationClass" / "x.png").write_bytes(label_png(np.where(labels == 1, 15, labels)))
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("x\n")
    return root / "VOCdevkit"


#: The classes of `make_voc2007`, and the channel that shows each.
CLASSES = ("bird", "cat", "person")
#: Images of each list.
LISTED = {"train": 30, "val": 20, "test": 40}


def make_voc2007(root, annotations=False, seed=0):
    """VOCdevkit with VOC2007 in it: images whose channels are bright where they show a class -> (it, verdicts).

    Verdicts (images, 3) by list: 1 shown, -1 not, 0 where all that is shown is difficult, and half bright.
    """
    folder, rng = root / "VOCdevkit" / "VOC2007", np.random.default_rng(seed)
    main = folder / "ImageSets" / "Main"
    for part in (main, folder / "JPEGImages", folder / "Annotations"):
        part.mkdir(parents=True)
    told, number = {}, 0
    for part, count in LISTED.items():
        names, verdicts = [], rng.choice([1, -1, -1, 0], size=(count, 3), p=[0.35, 0.3, 0.25, 0.1])
        verdicts[0] = 1, -1, 1
        verdicts[1] = -1, 1, 0
        for row in verdicts:
            number += 1
            names.append(f"{number:06d}")
            level = np.select([row == 1, row == 0], [170, 150], 100) + rng.integers(-60, 61, 3)
            level = level + rng.integers(-20, 21, (12, 16, 3))
            Image.fromarray(level.clip(0, 255).astype(np.uint8)).save(folder / "JPEGImages" / f"{names[-1]}.jpg", "PNG")
            if annotations:
                xml = voc_xml([(c, v == 0) for c, v in zip(CLASSES, row, strict=True) if v >= 0])
                (folder / "Annotations" / f"{names[-1]}.xml").write_text(xml)
        (main / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for column, c in enumerate(CLASSES) if not annotations else ():
            lines = (f"{name} {v:2d}\n" for name, v in zip(names, verdicts[:, column], strict=True))
            (main / f"{c}_{part}.txt").write_text("".join(lines))
        told[part] = verdicts
    return root / "VOCdevkit", told


def voc_xml(objects):
    """An annotation of (class, difficult) objects; those that are shown have a difficult one of their class too."""
    every = [*objects, *((name, True) for name, difficult in objects if not difficult)]
    return (
        "<annotation>"
        + "".join(
            f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
            f"<xmax>9</xmax><ymax>9</ymax></bndbox><part><name>head</name></part></object>"
            for name, difficult in every
        )
        + "</annotation>"
    )
