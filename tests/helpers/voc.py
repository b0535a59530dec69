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
