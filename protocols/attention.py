"""Attention-mask Jaccard: how well the heads of the last block's CLS attention cover annotated objects.

(Caron et al. 2021, arXiv 2104.14294, Figure 4, whose code was never released; what it leaves open was told by the
author in facebookresearch/dino, thread 54, or is a setting here. Naseer et al. 2021, arXiv 2105.10497.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input, for_backbone
from dinobench.errors import UserError
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image

    from dinobench.data.masks import MaskSet
    from dinobench.features.extraction import cut_to_multiple, forward_batches, lost_images, out_of_range
    from dinobench.metrics.segmentation import sorted_mass

FIGURE = "Caron et al. 2021 (arXiv 2104.14294), Figure 4"
#: Images per forward pass on a CPU, which gains nothing from more, and elsewhere.
BATCH = 2, 32


@dataclass(frozen=True)
class Config:
    """What decides an attention-mask score."""

    image_size: int = setting(480, "side in pixels of the square that images are resized to", FIGURE)
    interpolation: str = setting("bilinear", "how images are resized; masks always by nearest", "torchvision's default")
    keep: float = setting(0.6, "share of a head's attention that its mask keeps", FIGURE)
    masks: Literal["instances", "classes"] = setting("instances", "score each object, or each class of an image")
    heads: Literal["best_per_mask", "best_single", "mean"] = setting(
        "best_per_mask",
        "the best head for every mask (the paper), the one head that is best over the set, or the heads' mean map",
        "the author, facebookresearch/dino, thread 54",
    )
    sweep: tuple[float, ...] = setting(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), "other shares to report as jaccard@share, from the same pass"
    )
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size = {self.image_size} must be at least 1")
        for share in (self.keep, *self.sweep):
            if not 0 < share <= 1:
                raise ValueError(f"a share of attention lies above 0 and at most at 1, not at {share}")

    def transform(self) -> ImageTransform:
        size = (self.image_size, self.image_size)
        return ImageTransform(size, None, self.interpolation, self.input.mean, self.input.std)


name = "attention"
version = 1
summary = "how well the CLS attention's heads cover annotated objects"
data = "masks"
requires = frozenset({"attention"})
_DINO = Config()
profiles = {"dino2021": _DINO, "naseer2021": replace(_DINO, image_size=512, keep=0.9, masks="classes")}


class PatchCounts(NamedTuple):
    """Annotated pixels per patch of one image: `inside` (K, N) of each mask, `valid` (N,) of what is not void."""

    inside: np.ndarray
    valid: np.ndarray
    ids: tuple[int, ...]


def metrics(config: Config) -> tuple[Metric, ...]:
    """The Jaccard at the share kept, and the sweep."""
    sweep = dict.fromkeys(f"jaccard@{share:g}" for share in config.sweep)
    return Metric("jaccard", primary=True), *map(Metric, sweep)


def run(backbone: Backbone, data: MaskSet, config: Config, ctx: Context) -> Result:
    """One forward pass per image; every head's Jaccard with every mask at every share kept."""
    ids = data.ids(config.masks)
    shares = (config.keep, *config.sweep)
    indices = range(len(ids))[ctx.shard(len(ids))]
    broken: list[int] = []

    def work() -> np.ndarray:
        rows = []
        for index, attention, counts in attention_maps(backbone, data, ids, indices, config, ctx, broken):
            if not counts.ids:  # nothing marked, or nothing left at this size; noted below
                continue
            if config.heads == "mean":
                attention = attention.mean(axis=0, keepdims=True)
            values = jaccard_of_shares(attention, counts, shares).reshape(len(counts.ids), -1)
            rows.append(np.column_stack([np.full(len(values), index), np.array(counts.ids, float), values]))
        return np.concatenate(rows) if rows else np.zeros(0)  # torch.cat passes over an empty shard

    table = ctx.gather(torch.from_numpy(ctx.run_on_all(work))).numpy()
    lost = lost_images(data.name, ids, broken, lambda i: (data.load(ids[i]), data.masks(ids[i], config.masks)), ctx)
    if not len(table):
        raise UserError(f"{data.name}: no {config.masks} to score on, all are empty at {config.image_size} pixels")
    result = score(ids, table, config)
    accounted = {*lost, *table[:, 0].astype(int).tolist()}
    if bare := [name for index, name in enumerate(ids) if index not in accounted]:
        result.notes.append(
            f"{len(bare):,} of {len(ids):,} images have no {config.masks} at {config.image_size} pixels and count for "
            f"nothing, such as {bare[0]}"
        )
    return result


def attention_maps(
    backbone: Backbone,
    data: MaskSet,
    ids: Sequence[str],
    indices: Sequence[int],
    config: Config,
    ctx: Context,
    broken: list[int],
) -> Iterator[tuple[int, np.ndarray, PatchCounts]]:
    """Of every image (its index, attention (heads, N) float64, annotation per patch); `broken` gets the unreadable."""
    patch = backbone.patch_size or 1
    transform = for_backbone(config.transform(), backbone)

    def load(index: int) -> tuple[torch.Tensor, PatchCounts]:
        image = data.load(ids[index])
        masks = data.masks(ids[index], config.masks)
        if masks.masks.shape[1:] != (image.height, image.width):
            height, width = masks.masks.shape[1:]
            raise UserError(
                f"{data.name}: the masks of {ids[index]} are {width} x {height} pixels, its image "
                f"{image.width} x {image.height}; give both one size"
            )
        inside, valid = patch_counts(masks.masks, masks.void, config.image_size, patch)
        seen = np.flatnonzero(inside.any(axis=1)).tolist()  # a mask may fall between the pixels of the smaller size
        mask_ids = tuple(masks.ids[k] for k in seen)
        return torch.from_numpy(transform(image)), PatchCounts(inside[seen], valid, mask_ids)

    def forward(loaded: list[tuple[torch.Tensor, PatchCounts]]) -> torch.Tensor:
        x = transform.normalise(torch.stack([pixels for pixels, _ in loaded]).to(ctx.device))
        return backbone.cls_attention(cut_to_multiple(x, patch))

    batches = forward_batches(
        ctx, indices, load, forward, batch=BATCH, broken=broken,
        watch=lambda loaded: ctx.progress(loaded, "Scoring attention", len(indices)),
    )  # fmt: skip
    for batch, loaded, attention in batches:
        if not attention.isfinite().all():
            raise out_of_range(backbone, [ids[index] for index in batch])
        yield from zip(batch, attention.double().cpu().numpy(), [counts for _, counts in loaded], strict=True)


def patch_counts(masks: np.ndarray, void: np.ndarray | None, size: int, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (K, H, W), void (H, W) -> pixels per patch inside each mask (K, N) and not void (N,), after the resize.

    Comparing patches upsampled by nearest with a mask pixel by pixel comes down to these counts, which are far fewer.
    """
    grid = size // patch
    rows, columns = (_nearest(length, size)[: grid * patch] for length in masks.shape[1:])

    def count(pixels: np.ndarray) -> np.ndarray:
        resized = pixels.view(np.uint8).take(rows, axis=-2).take(columns, axis=-1)
        per_row = resized.reshape(-1, grid, patch, grid * patch).sum(axis=2, dtype=np.uint16)
        return per_row.reshape(*pixels.shape[:-2], grid * grid, patch).sum(axis=-1, dtype=np.int64)

    if not len(masks):
        return np.zeros((0, grid * grid), np.int64), np.full(grid * grid, patch * patch)
    if void is None:
        return count(masks), np.full(grid * grid, patch * patch)
    return count(masks & ~void), count(~void)


@lru_cache(maxsize=1024)
def _nearest(length: int, size: int) -> np.ndarray:
    """Which of `length` pixels each of `size` takes; asked of PIL, whose rounding at ties is its own."""
    positions = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(positions.resize((size, 1), Image.Resampling.NEAREST))[0]


def jaccard_of_shares(attention: np.ndarray, counts: PatchCounts, shares: tuple[float, ...]) -> np.ndarray:
    """Attention (heads, N) -> (K, heads, shares): each head's Jaccard with each mask, from one sort of the patches."""
    order, mass = sorted_mass(attention)
    first = np.stack([(mass <= 1 - share).sum(axis=-1) for share in shares], axis=-1)  # (heads, shares): first kept
    kept_inside = _from_the_end(counts.inside[:, order])  # (K, heads, N + 1)
    kept_valid = _from_the_end(counts.valid[order])
    intersection = np.take_along_axis(kept_inside, first[None], axis=-1)
    union = counts.inside.sum(axis=1)[:, None, None] + np.take_along_axis(kept_valid, first, axis=-1) - intersection
    return intersection / union


def _from_the_end(values: np.ndarray) -> np.ndarray:
    """(..., N) -> (..., N + 1): entry i is the sum of values[i:]."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1), np.int64)
    np.cumsum(values[..., ::-1], axis=-1, out=sums[..., -2::-1])
    return sums


def score(ids: Sequence[str], table: np.ndarray, config: Config) -> Result:
    """Rows (image, number, heads x shares) of all objects -> the result.

    The score is the mean over images of the mean over their masks; so the column of a metric holds an image's mean in
    the row of its first object and NaN in the others, and `iou` the object's own.
    """
    image = table[:, 0].astype(int)
    values = table[:, 2:].reshape(len(table), -1, 1 + len(config.sweep))  # (objects, heads, shares)
    starts = np.flatnonzero(np.r_[True, image[1:] != image[:-1]])
    objects = np.diff(np.r_[starts, len(image)])
    notes = []
    if config.heads == "best_per_mask":
        head, chosen = values[:, :, 0].argmax(axis=1), values.max(axis=1)
    else:
        per_head = (np.add.reduceat(values[:, :, 0], starts) / objects[:, None]).mean(axis=0)
        head = np.full(len(values), per_head.argmax())
        chosen = values[:, per_head.argmax()]
        if config.heads == "best_single":
            notes.append(f"head {per_head.argmax()} is the best single one, chosen on the images it is scored on")
    names = ["jaccard", *(f"jaccard@{share:g}" for share in config.sweep)]
    image_names = [ids[i] for i in image]
    items = pd.DataFrame(
        {
            "id": [f"{name}/{int(n)}" for name, n in zip(image_names, table[:, 1], strict=True)],
            "image": image_names,
            "iou": chosen[:, 0],
        }
    )
    if config.heads != "mean":
        items["head"] = head
    scores = {}
    for column, metric in enumerate(names):
        means = np.add.reduceat(chosen[:, column], starts) / objects
        items[metric] = np.nan
        items.loc[starts, metric] = means
        scores[metric] = 100 * float(means.mean())
    return Result(scores, items, notes=notes)
