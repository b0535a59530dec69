"""Folders in SPair-71k's and NAVI's layouts, and the reference programs' loops, plain enough to be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F


def make_spair(root: Path, annotations: Path, photos: Path, cropped: bool = False) -> Path:
    """SPair-71k's layout from golden annotations and VOC's photos; `cropped` makes the targets from the sources."""
    (root / "PairAnnotation" / "test").mkdir(parents=True)
    for file in sorted(annotations.glob("*.json")):
        entry = json.loads(file.read_text())
        folder = root / "JPEGImages" / entry["category"]
        folder.mkdir(parents=True, exist_ok=True)
        for name in {entry["src_imname"], entry["trg_imname"]} - {f.name for f in folder.iterdir()}:
            if not cropped or name == entry["src_imname"]:
                (folder / name).write_bytes((photos / name).read_bytes())
        if cropped:
            with Image.open(photos / entry["src_imname"]) as photo:
                width, height = photo.size
                photo.crop((width // 5, height // 10, width, height)).save(folder / entry["trg_imname"])
        (root / "PairAnnotation" / "test" / f"{entry['filename']}.json").write_text(json.dumps(entry))
    return root


def small_spair(root: Path, pairs: int = 3, **changes: Any) -> Path:
    """A folder of SPair-71k's with so many pairs of one class, and `changes` in each of their annotations."""
    rng = np.random.default_rng(0)
    (root / "PairAnnotation" / "test").mkdir(parents=True)
    folder = root / "JPEGImages" / "cat"
    folder.mkdir(parents=True)
    for i in range(pairs + 1):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f"{i}.jpg")
    for i in range(pairs):
        entry = {
            "src_imname": f"{i}.jpg", "trg_imname": f"{i + 1}.jpg", "src_imsize": [48, 40, 3],
            "trg_imsize": [48, 40, 3], "src_kps": [[3, 4], [47, 39]], "trg_kps": [[5, 6], [40, 30]],
            "kps_ids": ["0", "4"], "src_bndbox": [0, 0, 48, 40], "trg_bndbox": [2, 2, 46, 38], "category": "cat",
            "viewpoint_variation": i % 3,
        }  # fmt: skip
        entry = {key: value for key, value in (entry | changes).items() if value is not None}
        (root / "PairAnnotation" / "test" / f"{i}-{i + 1}:cat.json").write_text(json.dumps(entry))
    return root


def dense_points(
    source: torch.Tensor, target: torch.Tensor, points: np.ndarray, size: tuple[int, int], target_size: tuple[int, int]
) -> tuple[np.ndarray, torch.Tensor]:
    """DIFT's loop: maps (D, h, w) upsampled to (H, W), the best pixel x, y (K, 2), and all cosines (K, H, W)."""
    a = F.interpolate(source[None], size=size, mode="bilinear")[0]
    b = F.normalize(F.interpolate(target[None], size=target_size, mode="bilinear")[0], dim=0).flatten(1)
    found, maps = [], []
    for x, y in points:
        cosines = (F.normalize(a[:, int(y), int(x)], dim=0) @ b).view(target_size)
        row, column = divmod(int(cosines.argmax()), target_size[1])
        found.append((column, row))
        maps.append(cosines)
    return np.array(found), torch.stack(maps)


def small_navi(root: Path, objects: int = 2, photos: int = 4, prefix: str = "", side: int = 40) -> Path:
    """A folder of NAVI's: each object a plane half a metre away, turned a little in each photo."""
    rng = np.random.default_rng(0)
    for item in range(objects):
        folder = root / f"object_{item}" / "wild_set"
        (root / f"object_{item}" / "multiview_00_x").mkdir(parents=True)
        for part in ("images", "depth"):
            (folder / part).mkdir(parents=True)
        entries = []
        for photo in range(photos):
            pixels = rng.integers(0, 256, (side, side + 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{prefix}{photo:03d}.jpg", quality=95)
            disparity = np.zeros((side, side + 8), np.uint16)
            disparity[6:30, 9:30] = round(655350 / (500 + photo))
            Image.fromarray(disparity).save(folder / "depth" / f"{prefix}{photo:03d}.png")
            half = np.radians(20 * photo) / 2
            camera = {"q": [float(np.cos(half)), 0.0, 0.0, float(np.sin(half))], "t": [10.0, 20.0, 500.0]}
            entries.append(
                {"filename": f"{photo:03d}.jpg", "image_size": [4 * side, 4 * side + 32], "split": "train",
                 "camera": camera | {"focal_length": 400.0}}
            )  # fmt: skip
        (folder / "annotations.json").write_text(json.dumps(entries))
    return root
