"""How this machine does against the limits of DAVIS and attention, on drawn frames of 480p."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from dinobench.algorithms.label_propagation import Propagator
from dinobench.bench.measure import BenchRow, added_mb, anonymous_mb, in_turn, memory_beside
from dinobench.context import LocalContext
from dinobench.data.embedded.shapes import draw, grain, moved, scatter
from dinobench.data.embedded.shapes import images as shape_images
from dinobench.data.layouts import davis as davis_layout
from dinobench.data.video import label_png
from dinobench.models.loading import load_backbone
from dinobench.types import Backbone

HEIGHT, WIDTH = 480, 854


def davis(
    arch: str = "vit_tiny_patch16_224", frames: int = 12, repeats: int = 3, device: str = "cpu"
) -> list[BenchRow]:
    """All rows: propagation at patch 16 and 8 and as DINOv3 does, the whole protocol, scoring, attention."""
    torch_device = torch.device("cpu" if device == "auto" else device)
    backbone = load_backbone(f"random:{arch}").to(torch_device)
    width = backbone.embed_dim
    rows = propagation(16, repeats, torch_device, width) + propagation(8, 1, torch_device, width)
    rows += tracking(backbone, repeats, torch_device)
    with tempfile.TemporaryDirectory() as folder:
        _write_videos(Path(folder), frames)
        rows += protocol(backbone, Path(folder), repeats, torch_device)
        rows += scoring(Path(folder), repeats)
    return rows + attention(backbone, repeats, torch_device)


def propagation(patch: int, repeats: int, device: torch.device, dim: int = 192, channels: int = 3) -> list[BenchRow]:
    """One frame with a full context, against the dense affinity matrix; seconds and the memory each adds."""
    height, width = 480 // patch, 832 // patch
    features = torch.randn(9, height, width, dim, generator=torch.Generator().manual_seed(0)).to(device)
    masks = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0)).softmax(0).to(device)
    propagator = Propagator(features[0], masks)
    for frame in features[1:8]:
        propagator.step(frame)
    keys = torch.nn.functional.normalize(features[:8].flatten(0, 2), dim=-1)
    values = masks.flatten(1).repeat(1, 8)

    def ours() -> None:
        propagator.step(features[8])

    def dense() -> None:
        dense_step(features[8], keys, values)

    name = f"propagation, {height} x {width} patches, {dim} wide, 8 context frames"
    memory = memory_beside(ours, dense, device)
    a, b = in_turn([ours, dense], repeats)
    least = 4 if patch == 16 else 10
    rows = [
        BenchRow(name, f"{1000 * a:.0f} ms", f"{1000 * b:.0f} ms dense", b / a, f"at least {least}", b / a >= least)
    ]
    return rows + memory


@torch.no_grad()
def dense_step(features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int = 12) -> torch.Tensor:
    """The recipe as published: features (H, W, D), unit keys (T * H * W, D), values (C, T * H * W) -> (C, H * W)."""
    height, width, _ = features.shape
    queries = torch.nn.functional.normalize(features.flatten(0, 1), dim=-1)
    row = torch.arange(height * width, device=features.device) // width
    column = torch.arange(height * width, device=features.device) % width
    near = ((row[:, None] - row).abs() <= window) & ((column[:, None] - column).abs() <= window)
    affinity = (keys @ queries.T / 0.1).exp_().view(-1, *near.shape).mul_(near).flatten(0, 1)
    affinity[affinity < affinity.topk(5, dim=0).values[-1]] = 0
    return values @ (affinity / affinity.sum(0))


def tracking(backbone: Backbone, repeats: int, device: torch.device) -> list[BenchRow]:
    """DINOv3's tracking of one 854 x 480 frame at 1712 x 960, against its bare forward pass.

    Its memory stands beside one affinity of float32 between the frame and its context: the notebook holds several.
    """
    patch = backbone.patch_size or 1
    height, width = -(-960 // patch), -(-1712 // patch)
    image = torch.randn(1, 3, height * patch, width * patch, generator=torch.Generator().manual_seed(0)).to(device)
    features = torch.randn(9, height, width, backbone.embed_dim, generator=torch.Generator().manual_seed(0)).to(device)
    masks = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)).softmax(0).to(device)
    propagator = Propagator(features[0], masks, circle=True, temperature=0.2)
    for frame in features[1:8]:
        propagator.step(frame)

    def forward() -> None:
        with torch.inference_mode():
            backbone.layers(image, 1)

    def ours() -> None:
        forward()
        propagator.step(features[8])

    rows = []
    if device.type == "cpu" and anonymous_mb():
        added, dense = added_mb(lambda: propagator.step(features[8])), 4 * 8 * (height * width) ** 2 / 1e6
        held = f"{dense:.0f} MB one affinity"
        rows = [BenchRow("its memory", f"{added:.0f} MB", held, added / dense, "at most 0.2", added / dense <= 0.2)]
    a, b = in_turn([ours, forward], repeats)
    what = f"DINOv3's tracking, {backbone.info.arch}, a frame of {height} x {width} patches"
    return [BenchRow(what, f"{a:.2f} s", f"{b:.2f} s bare forward", a / b, "at most 1.5", a / b <= 1.5), *rows]


def protocol(backbone: Backbone, folder: Path, repeats: int, device: torch.device) -> list[BenchRow]:
    """The whole protocol on one video, features, scoring and writing included, against its bare forward passes."""
    from dinobench.protocols import davis as davis_protocol

    data = davis_layout.load(folder, "drawn")
    video = data.videos[0]
    config = davis_protocol.Config(videos=(video.name,))
    inputs = [config.view()(video.frame(i))[None].to(device) for i in range(len(video))]

    def ours() -> None:
        davis_protocol.run(backbone, data, config, LocalContext(device, folder=folder / "predictions"))

    def forward() -> None:
        with torch.inference_mode():
            for x in inputs:
                backbone.layers(x, 1)

    a, b = in_turn([ours, forward], repeats)
    what = f"davis, {backbone.info.arch}, {len(video)} frames of {WIDTH} x {HEIGHT}"
    return [BenchRow(what, f"{a:.2f} s", f"{b:.2f} s bare forward", a / b, "at most 1.5", a / b <= 1.5)]


def scoring(folder: Path, repeats: int) -> list[BenchRow]:
    """J and F per frame and object on one core, both PNG files read: processor time, so that a busy machine is fair."""
    from dinobench.protocols.davis import score_folder

    data = davis_layout.load(folder, "drawn")
    single = data.videos[0]
    for index in range(len(single)):  # the truth, displaced as a fair prediction is
        path = folder / "predictions" / single.name / f"{single.names[index]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(label_png(np.roll(single.mask(index), 5, axis=(0, 1))))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        began = time.process_time()
        for _ in range(repeats):
            score_folder(folder / "predictions", data, [single.name], workers=1)
        seconds = (time.process_time() - began) / repeats / (len(single) - 2)
    finally:
        cv2.setNumThreads(threads)
    return [
        BenchRow("scoring, per 480p frame and object", f"{1000 * seconds:.2f} ms", "4 ms", seconds / 0.004, "at most 1",
            seconds <= 0.004)
    ]  # fmt: skip


def attention(backbone: Backbone, repeats: int, device: torch.device) -> list[BenchRow]:
    """The attention protocol at 480 x 480 on photos' sizes, against its bare forward passes."""
    from dinobench.protocols import attention as attention_protocol

    data, config = _EnlargedShapes(), attention_protocol.Config()
    on_cpu, elsewhere = attention_protocol.BATCH
    size = on_cpu if device.type == "cpu" else elsewhere
    count = len(data.ids("instances"))
    x = torch.randn(min(size, count), 3, config.image_size, config.image_size, device=device)

    def ours() -> None:
        attention_protocol.run(backbone, data, config, LocalContext(device))

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, count, size):
                backbone.features(x[: min(size, count - start)])

    a, b = in_turn([ours, forward], repeats)
    what = f"attention, {backbone.info.arch}, {count} images at {config.image_size} x {config.image_size}"
    return [BenchRow(what, f"{a:.2f} s", f"{b:.2f} s bare forward", a / b, "at most 1.1", a / b <= 1.1)]


class _EnlargedShapes:
    """The drawn images at the size of VOC's photos."""

    name, layout, fingerprint = "drawn", "shapes", "none"

    def __init__(self, count: int = 8) -> None:
        self._shapes, self._count = shape_images(), count

    def ids(self, kind: str) -> list[str]:
        return self._shapes.ids(kind)[: self._count]

    def load(self, image_id: str) -> Image.Image:
        return self._shapes.load(image_id).resize((500, 375))

    def masks(self, image_id: str, kind: str) -> Any:
        masks = self._shapes.masks(image_id, kind)
        rows, columns = (np.arange(n) * masks.masks.shape[1] // n for n in (375, 500))
        return type(masks)(masks.masks[:, rows][:, :, columns], masks.ids)


def _write_videos(folder: Path, frames: int) -> None:
    """A DAVIS folder with one drawn video of one object."""
    rng = np.random.default_rng(0)
    shapes = scatter(rng, 1, HEIGHT, WIDTH)
    places = [folder / part / "480p" / "drawn" for part in ("JPEGImages", "Annotations")]
    for place in places:
        place.mkdir(parents=True)
    for i in range(frames):
        image, labels = draw(shapes, HEIGHT, WIDTH, grain(rng, HEIGHT, WIDTH))
        Image.fromarray(image).save(places[0] / f"{i:05}.jpg", quality=90)
        (places[1] / f"{i:05}.png").write_bytes(label_png(labels))
        shapes = [moved(shape, 6, 2, 0.03, 1.01) for shape in shapes]
