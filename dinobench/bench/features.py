"""Extraction of features beside the bare model on the same images."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from dinobench.bench.measure import BenchRow, in_turn, photographs


def features(
    arch: str = "vit_small_patch16_224", images: int = 192, repeats: int = 3, device: str = "auto"
) -> list[BenchRow]:
    """Extraction from JPEG files through the feature service, against the bare model on tensors already in memory."""
    from dinobench import runtime
    from dinobench.data.transforms import ImageTransform
    from dinobench.features.service import BATCH, FeatureService
    from dinobench.models.loading import load_backbone
    from dinobench.types import FeatureRequest

    started = runtime.start(device)
    backbone = load_backbone(f"random:{arch}").to(started.device)
    with tempfile.TemporaryDirectory() as folder:
        split = photographs(Path(folder), images)
        request = FeatureRequest(ImageTransform())
        batch = BATCH[started.device.type != "cpu"]
        x = torch.randn(batch, 3, 224, 224, device=started.device)
        counts = [min(batch, images - i) for i in range(0, images, batch)]
        calls = iter(range(10_000))

        def ours() -> None:
            FeatureService(started, Path(folder) / f"cache{next(calls)}").get(backbone, split, request)

        def limit() -> None:
            with started.inference():
                for count in counts:
                    backbone.features(x[:count]).cpu()

        a, b = in_turn([ours, limit], repeats)
    ratio = b / a
    return [
        BenchRow(f"{arch}, {images} JPEG files of 500 x 375, {started.device.type}", f"{images / a:.1f} images/s",
            f"{images / b:.1f} images/s bare model", ratio, "at least 0.90", ratio >= 0.90)
    ]  # fmt: skip
