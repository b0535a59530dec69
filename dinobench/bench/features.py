"""Extraction of features beside the bare model on the same images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dinobench.bench.measure import BenchRow, in_turn, photographs

if TYPE_CHECKING:
    from dinobench.data.image_split import FileSplit
    from dinobench.runtime import Runtime


#: What extraction is asked to reach of the bare model: a small model waits longer for its images.
BARS = {"vit_tiny_patch16_224": 0.92, "vit_small_patch16_224": 0.96}


def features(arch: str = "", images: int = 192, repeats: int = 3, device: str = "auto") -> list[BenchRow]:
    """Extraction from JPEG files through the feature service, against the bare model on tensors already in memory.

    The bare model is timm's own: every block on every token.
    """
    from dinobench import runtime

    started = runtime.start(device)
    with tempfile.TemporaryDirectory() as folder:
        split = photographs(Path(folder), images)
        return [_row(a, split, repeats, started, Path(folder)) for a in ([arch] if arch else BARS)]


def _row(arch: str, split: FileSplit, repeats: int, started: Runtime, folder: Path) -> BenchRow:
    from dinobench.data.transforms import ImageTransform
    from dinobench.features.service import BATCH, FeatureService
    from dinobench.models.loading import load_backbone
    from dinobench.types import FeatureRequest

    backbone = load_backbone(f"random:{arch}").to(started.device)
    module, images, bar = backbone.module, len(split), BARS.get(arch, 0.90)
    request, batch = FeatureRequest(ImageTransform()), BATCH[started.device.type != "cpu"]
    x = torch.randn(batch, 3, 224, 224, device=started.device)
    counts = [min(batch, images - i) for i in range(0, images, batch)]
    calls = iter(range(10_000))

    def ours() -> None:
        FeatureService(started, folder / f"{arch}-{next(calls)}").get(backbone, split, request)

    def limit() -> None:
        with started.inference():
            for count in counts:
                module(x[:count]).cpu()

    a, b = in_turn([ours, limit], repeats)
    ratio = b / a
    return BenchRow(
        f"{arch}, {images} JPEG files of 500 x 375, {started.device.type}", f"{images / a:.1f} images/s",
        f"{images / b:.1f} images/s bare model", ratio, f"at least {bar:.2f}", ratio >= bar,
    )  # fmt: skip
