"""Depth heads, folders in the layouts of NYU and KITTI, and contexts that stop a training on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.weights import fill
from PIL import Image

from dinobench.algorithms.depth_head import DepthBins, DepthHead
from dinobench.data.depth_maps import depth_png


def golden_head(width: int, high: float = 10.0) -> DepthHead:
    """DINOv3's linear head by the rule of the golden values."""
    head = DepthHead(width, DepthBins(0.001, high), batchnorm=True, init_std=0.01)
    state = {}
    for name, tensor in head.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        # the rule's "norm" is in the name of every tensor of the batch norm
        state[name] = fill(name, tuple(tensor.shape))
    state["batchnorm_layer.running_var"] = state["batchnorm_layer.running_var"].abs() + 0.5
    head.load_state_dict(state, strict=False)
    return head.eval()


def golden_depth(seed: int) -> np.ndarray:
    """Depth of the end-to-end golden value: (480, 640) uint16 millimetres."""
    r = np.random.default_rng(seed)
    depth = (1000 * (1 + 6 * np.kron(r.random((12, 16)), np.ones((40, 40))))).astype(np.uint16)
    return np.where(r.random((480, 640)) < 0.1, 0, depth).astype(np.uint16)


def picture(height: int, width: int, seed: int) -> tuple[Image.Image, np.ndarray]:
    """An image and depth (H, W) in metres, blocks of one depth each, brighter the nearer, some of it unknown."""
    r = np.random.default_rng(seed)
    coarse = np.kron(r.random((height // 16 + 1, width // 16 + 1)), np.ones((16, 16)))[:height, :width]
    depth = 1 + 6 * coarse
    pixels = (255 - 30 * depth[..., None] + 10 * r.random((height, width, 3))).astype(np.uint8)
    return Image.fromarray(pixels), np.where(r.random((height, width)) < 0.1, 0, depth).astype(np.float32)


def make_nyu(root: Path, train: int = 5, test: int = 3, size: tuple[int, int] = (96, 128)) -> Path:
    """A folder in NYU's layout with pairs of `size` (height, width), and one test image without depth."""
    folder = root / "nyu"
    for count, split in ((train, "train"), (test, "test")):
        lines = []
        for i in range(count):
            scene = f"kitchen_{i % 2:04d}" if split == "train" else "office"
            (folder / scene).mkdir(parents=True, exist_ok=True)
            image, depth = picture(*size, seed=i + (100 if split == "test" else 0))
            image.save(folder / scene / f"rgb_{i:05d}.jpg", quality=95)
            (folder / scene / f"sync_depth_{i:05d}.png").write_bytes(depth_png(depth, 1000))
            lines.append(f"/{scene}/rgb_{i:05d}.jpg /{scene}/sync_depth_{i:05d}.png 518.8579")
        if split == "test":
            lines.append("/office/rgb_99999.jpg None 518.8579")
        (folder / f"nyu_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_kitti(root: Path, train: int = 3, test: int = 2, size: tuple[int, int] = (375, 1242)) -> Path:
    """A folder in KITTI's layout, of two drives, with one test image without depth."""
    folder = root / "kitti"
    for count, split in ((train, "train"), (test, "test")):
        lines = []
        for i in range(count):
            drive = f"2011_09_26_drive_{i % 2:04d}_sync"
            image = f"2011_09_26/{drive}/image_02/data/{split}{i:04d}.png"
            truth = f"{drive}/proj_depth/groundtruth/image_02/{split}{i:04d}.png"
            for path in (folder / "input" / image, folder / "gt_depth" / truth):
                path.parent.mkdir(parents=True, exist_ok=True)
            pixels, depth = picture(*size, seed=i + (100 if split == "test" else 0))
            pixels.save(folder / "input" / image, compress_level=1)
            (folder / "gt_depth" / truth).write_bytes(depth_png(depth, 256))
            lines.append(f"{image} {truth} 721.5377")
        if split == "test":
            lines.append("2011_09_26/2011_09_26_drive_0009_sync/image_02/data/0000000077.png None 721.5377")
        (folder / f"kitti_eigen_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder
