"""Unsupervised object discovery: one box an image from a backbone's patches, right where it covers any object.

LOST (arXiv 2109.14279), TokenCut (arXiv 2202.11539) and DINO-seg, as valeoai/LOST at fcedbec and
YangtaoWANG95/TokenCut at fed52cd compute them: images at their native size, padded with zeros after normalisation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from dinobench import lazy
from dinobench.data.boxes import BOXES, BoxSet, BoxSplits
from dinobench.data.transforms import ImageTransform, Input, for_backbone
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.metrics.localization import FOUND, best_iou
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch
    from torch.nn import functional as F

    from dinobench.algorithms.object_discovery import box_of, dinoseg, lost, tokencut
    from dinobench.features.extraction import forward_batches, lost_images, out_of_range

LOST, TOKENCUT = "Siméoni et al. 2021 (arXiv 2109.14279)", "Wang et al. 2022 (arXiv 2202.11539)"
#: Images per forward pass on a CPU, which gains nothing from more, and elsewhere.
BATCH = 2, 16
#: What the images' sides are padded to where a backbone has no patches: the stride of ConvNets' last map.
STRIDE = 32
#: What a method cannot do without.
NEEDS = {"keys": "keys", "tokens": "map"}


@dataclass(frozen=True)
class Config:
    """What decides a CorLoc."""

    method: Literal["lost", "tokencut", "dinoseg"] = setting("lost", "how an object is found among the patches", LOST)
    features: Literal["keys", "tokens"] = setting(
        "keys", "what patches are compared by: the last block's keys, or its output after the final norm", LOST
    )
    candidates: int = setting(100, "lost: patches of smallest degree that may join the seed", LOST)
    tau: float = setting(0.2, "tokencut: cosine above which two patches are joined", TOKENCUT)
    keep: float = setting(0.6, "dinoseg: share of the attention that the mask keeps", "valeoai/LOST, `dino_seg`")
    head: int = setting(4, "dinoseg: the head whose attention is taken, counted from 0", "valeoai/LOST, `main_lost.py`")
    split: str = setting("", "which list or set of the data, as in val or coco20k; the usual one when empty")
    no_hard: bool = setting(
        False, "leave out objects that are truncated or difficult, and images without others", "valeoai/LOST, --no_hard"
    )
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates = {self.candidates} must be at least 1")
        if not -1 <= self.tau < 1:
            raise ValueError(f"tau = {self.tau} is a cosine, from -1 to below 1")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep = {self.keep} is a share of attention, above 0 and at most 1")
        if self.head < 0:
            raise ValueError(f"head = {self.head} must not be negative")
        if self.method == "dinoseg" and self.features != "keys":
            raise ValueError("dinoseg compares no patches: leave features out")


name = "discovery"
version = 1
summary = "one box an image, found without labels, against the annotated objects"
data = "boxes"
requires = frozenset({"features"})  # and what the method needs, see `NEEDS`
saves = "boxes.json, the box of every image as [x1, y1, x2, y2] by image id"
_LOST = Config()
profiles = {
    "lost": _LOST,
    "tokencut": replace(_LOST, method="tokencut"),
    "dinoseg": replace(_LOST, method="dinoseg"),
}


class Found(NamedTuple):
    """An image's box (4,) as released, and in `sound` what it is without the release's slip, where there is one."""

    box: np.ndarray
    sound: np.ndarray


def metrics(config: Config) -> tuple[Metric, ...]:
    """CorLoc; for dinoseg the sound one beside the released."""
    if config.method == "dinoseg":
        return Metric("corloc_sound", primary=True), Metric("corloc")
    return (Metric("corloc", primary=True),)


def select_data(data: BoxSplits, config: Config) -> BoxSet:
    """The list or set that the config names. Raises UserError where there is none such."""
    return data.select(config.split, config.no_hard)


def run(backbone: Backbone, data: BoxSplits | BoxSet, config: Config, ctx: Context) -> Result:
    """One forward pass an image, one graph over its patches, one box."""
    _require(backbone, config)
    chosen = select_data(data, config) if isinstance(data, BoxSplits) else data
    indices = range(len(chosen))[ctx.shard(len(chosen))]
    broken: list[int] = []

    def work() -> np.ndarray:
        found = discover(backbone, chosen, indices, config, ctx, broken)
        rows = [np.concatenate([[index], box, sound]) for index, (box, sound) in found]
        return np.array(rows, np.int64) if rows else np.zeros(0, np.int64)  # torch.cat passes over an empty shard

    table = ctx.gather(torch.from_numpy(ctx.run_on_all(work))).numpy()
    lost_images(chosen.name, chosen.ids, broken, lambda i: chosen.load(chosen.ids[i]), ctx)
    table = table[np.argsort(table[:, 0])]
    if ctx.saves and ctx.rank == 0:
        boxes = {chosen.ids[row[0]]: row[1:5] for row in table.tolist()}
        ctx.save(BOXES, (json.dumps(boxes, indent=1) + "\n").encode())
    return score(chosen, table, config)


def discover(
    backbone: Backbone, data: BoxSet, indices: Sequence[int], config: Config, ctx: Context, broken: list[int]
) -> Iterator[tuple[int, Found]]:
    """Of every image that can be read its index and what is found in it; `broken` gets the others."""
    patch = backbone.patch_size or STRIDE
    transform = for_backbone(ImageTransform(None, None, mean=config.input.mean, std=config.input.std), backbone)

    def padded(pixels: np.ndarray) -> tuple[int, int]:
        return -(-pixels.shape[1] // patch) * patch, -(-pixels.shape[2] // patch) * patch

    def forward(images: list[np.ndarray]) -> list[Found | None]:
        height, width = padded(images[0])
        x = torch.stack(
            [
                F.pad(
                    transform.normalise(torch.from_numpy(pixels).to(ctx.device)),
                    (0, width - pixels.shape[2], 0, height - pixels.shape[1]),
                )
                for pixels in images
            ]
        )
        described, grid = describe(backbone, x, config)
        cell = height // grid[0], width // grid[1]
        if (cell[0] * grid[0], cell[1] * grid[1]) != (height, width):
            raise UnsupportedCapability(f"{backbone.info.name} ({backbone.info.arch}): its map cuts through pixels")
        return [
            found(values, grid, cell, (pixels.shape[1], pixels.shape[2]), config) if values.isfinite().all() else None
            for values, pixels in zip(described, images, strict=True)
        ]

    passes = forward_batches(
        ctx, indices, lambda index: transform(data.load(data.ids[index])), forward, batch=BATCH, key=padded,
        broken=broken, watch=lambda loaded: ctx.progress(loaded, "Discovering objects", len(indices)),
    )  # fmt: skip
    for batch, _, results in passes:
        for index, result in zip(batch, results, strict=True):
            if result is None:
                raise out_of_range(backbone, [data.ids[index]])
            yield index, result


def describe(backbone: Backbone, x: torch.Tensor, config: Config) -> tuple[torch.Tensor, tuple[int, int]]:
    """Images (B, 3, H, W) -> (B, N, D) of the patches, or one head's attention (B, N) for dinoseg; rows and columns."""
    if config.features == "tokens" and config.method != "dinoseg":
        maps = backbone.feature_map(x)
        return maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])
    patch = backbone.patch_size or 1
    grid = x.shape[2] // patch, x.shape[3] // patch
    if config.method == "dinoseg":
        attention = backbone.cls_attention(x)
        if config.head >= attention.shape[1]:
            raise UserError(
                f"{backbone.info.name}: has {attention.shape[1]} heads, counted from 0, and no head {config.head}; "
                f"choose one with --set head={attention.shape[1] - 1} or less"
            )
        return attention[:, config.head], grid
    return backbone.keys(x).transpose(1, 2).flatten(2), grid  # heads side by side


def found(
    values: torch.Tensor, grid: tuple[int, int], cell: tuple[int, int], size: tuple[int, int], config: Config
) -> Found:
    """Features (N, D), or attention (N,), of one image of `size` (height, width) -> its box; `cell` is a patch's size.

    DINO-seg's box as released may reach beyond the image, into the padding.
    """
    if config.method == "dinoseg":
        released, largest = dinoseg(values.double().cpu().numpy(), grid, config.keep)
        return Found(box_of(released, cell), box_of(largest, cell, size))
    if config.method == "tokencut":
        discovered = tokencut(values.float(), grid, config.tau)
    else:
        discovered = lost(values.float(), grid, config.candidates)
    box = box_of(discovered.mask, cell, size)
    return Found(box, box)


def _require(backbone: Backbone, config: Config) -> None:
    """Raises UnsupportedCapability where the backbone has not what the method needs."""
    need = "attention" if config.method == "dinoseg" else NEEDS[config.features]
    if need not in backbone.capabilities:
        raise UnsupportedCapability(f"{backbone.info.name} ({backbone.info.arch}) has no {need} for {config.method}")


def score(data: BoxSet, table: np.ndarray, config: Config) -> Result:
    """Rows (image, box, sound box) int64, one an image that was read -> CorLoc."""
    columns: dict[str, Any] = {"id": [data.ids[i] for i in table[:, 0]]}
    columns |= {side: table[:, 1 + i] for i, side in enumerate(("x1", "y1", "x2", "y2"))}
    parts = {"": table[:, 1:5], "_sound": table[:, 5:9]} if config.method == "dinoseg" else {"": table[:, 1:5]}
    for ending, boxes in parts.items():
        ious = np.array([best_iou(box, data.boxes[i]) for i, box in zip(table[:, 0], boxes, strict=True)])
        columns |= {f"iou{ending}": ious, f"corloc{ending}": (ious >= FOUND).astype(np.float64)}
    items = pd.DataFrame(columns)
    notes = []
    if config.method == "dinoseg":
        notes.append(
            "corloc and the boxes are as the release has them, which forgets the last component and does not clip to "
            "the image; corloc_sound takes the largest of all components, within the image"
        )
    return Result({m.name: 100 * float(items[m.name].mean()) for m in metrics(config)}, items, notes=notes)
