"""What a segmentation head costs beside the backbone that it reads: at test, window by window, and in training."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from dinobench.bench.measure import BenchRow, in_turn
from dinobench.context import LocalContext
from dinobench.dense.head import SegmentationHead, pixel_recipe
from dinobench.dense.head_training import Batch, HeadTraining
from dinobench.dense.reading import MapReader
from dinobench.dense.segmenter import BATCH, WINDOWS, Segmenter, SlidingView
from dinobench.metrics.semantic import areas
from dinobench.models.loading import load_backbone

#: VOC's.
CLASSES, HEIGHT, WIDTH = 21, 375, 500
MOST = 1.15


def segmentation(arch: str = "vit_small_patch16_224", repeats: int = 3, device: str = "cpu") -> list[BenchRow]:
    """Both rows, on images of VOC's size and windows of 512 pixels."""
    torch_device = torch.device("cpu" if device == "auto" else device)
    maps = MapReader(load_backbone(f"random:{arch}").to(torch_device))
    head = SegmentationHead(maps.shape(512, LocalContext(torch_device))[0], CLASSES, dropout=0.1).to(torch_device)
    return [at_test(maps, head, repeats, torch_device), in_training(maps, head, repeats, torch_device)]


def at_test(maps: MapReader, head: SegmentationHead, repeats: int, device: torch.device) -> BenchRow:
    """Images to counted label maps, resizing included, against the bare forward passes of their windows."""
    split = _Images(BATCH[device.type != "cpu"])
    view, ctx = SlidingView(), LocalContext(device)
    segmenter = Segmenter(maps, head.eval(), view)
    scales = [torch.from_numpy(view(split.load(index))[0]) for index in range(len(split))]
    windows = view.windows(*scales[0].shape[1:]).cut(view.normalise(torch.stack(scales).to(device)))

    def ours() -> None:
        for _, predicted, truth in segmenter.label_maps(split, range(len(split)), ctx, "Segmenting", []):
            areas(predicted, truth, CLASSES)

    def forward() -> None:
        with torch.inference_mode():
            for part in windows.split(WINDOWS):
                maps(part)

    a, b = in_turn([ours, forward], repeats)
    what = f"segmenting {len(split)} of {WIDTH} x {HEIGHT}, {CLASSES} classes, {maps.backbone.info.arch}"
    return BenchRow(what, f"{a:.2f} s", f"{b:.2f} s bare forward", a / b, f"at most {MOST}", a / b <= MOST)


def in_training(maps: MapReader, head: SegmentationHead, repeats: int, device: torch.device) -> BenchRow:
    """A step of the head's training on crops of 512 pixels, against the bare forward pass of these."""
    ctx, size = LocalContext(device), 2 if device.type == "cpu" else 16
    crops = torch.randn(size, 3, 512, 512, device=device)
    labels = torch.randint(0, CLASSES, (size, 512, 512), device=device).to(torch.uint8)
    training = HeadTraining("segmentation", head, pixel_recipe(np.full(1, 1e-3), 1e-3), ctx.scratch / "head.pt", ctx)

    def forward() -> None:
        with torch.inference_mode():
            maps(crops)

    def ours() -> None:
        with torch.inference_mode():
            seen = maps(crops)
        training.step(Batch(seen.clone(), labels), 0)

    a, b = in_turn([ours, forward], repeats)
    what = f"training on {size} crops of 512 x 512, {CLASSES} classes, {maps.backbone.info.arch}"
    return BenchRow(what, f"{a:.2f} s", f"{b:.2f} s bare forward", a / b, f"at most {MOST}", a / b <= MOST)


class _Images:
    """Noise of VOC's size with a label for every pixel."""

    name, fingerprint, in_memory = "noise", "none", True

    def __init__(self, count: int) -> None:
        self.ids = [str(i) for i in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> Image.Image:
        rng = np.random.default_rng(index)
        return Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))

    def labels(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, CLASSES, (HEIGHT, WIDTH), dtype=np.uint8)
