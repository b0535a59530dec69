"""A small folder of COCO's."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from pycocotools import mask as rle


def make_coco(root):
    """Two images, one with two objects and a crowd, the other with a crowd only."""
    (root / "annotations").mkdir()
    (root / "val2017").mkdir()
    Image.new("RGB", (30, 20)).save(root / "val2017" / "000001.jpg")
    Image.new("RGB", (30, 20)).save(root / "val2017" / "000002.jpg")
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[5:9, 5:9] = 1
    packed = rle.encode(mask)
    packed["counts"] = packed["counts"].decode()
    box = [[10, 10, 20, 10, 20, 15, 10, 15]]
    common = {"image_id": 1, "iscrowd": 0, "area": 16, "bbox": [0, 0, 1, 1]}
    annotations = [
        {**common, "id": 7, "category_id": 3, "segmentation": packed},
        {**common, "id": 8, "category_id": 3, "segmentation": box},
        {**common, "id": 9, "category_id": 5, "segmentation": packed, "iscrowd": 1},
        {**common, "id": 10, "category_id": 5, "segmentation": packed, "iscrowd": 1, "image_id": 2},
    ]
    images = [{"id": i, "file_name": f"{i:06}.jpg", "height": 20, "width": 30} for i in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3}, {"id": 5}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root
