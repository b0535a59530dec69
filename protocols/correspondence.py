"""Correspondence: a keypoint of one image is looked for in another of the same class, by the nearest patch.

(SPair-71k, Min et al. 2019, arXiv 1908.10543. `dift`: Tang et al. 2023, arXiv 2306.03881, eval_spair.py of
Tsingularity/dift. `sd-dino`: Zhang et al. 2023, arXiv 2305.15347, pck_spair_pascal.py of Junyi42/sd-dino, its DINOv2
part. `probe3d`: El Banani et al. 2024, arXiv 2404.08636, mbanani/probe3d.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from typing import Any, Literal

from dinobench import lazy
from dinobench.data.transforms import Input, for_backbone
from dinobench.errors import UserError
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch

    from dinobench.algorithms.keypoint_matching import match
    from dinobench.data.pairs.keypoints import KeypointSet, PointPair, some_of_each
    from dinobench.data.pairs.square import SquareInput
    from dinobench.features.extraction import centre_padded, forward_batches, lost_images, out_of_range
    from dinobench.features.maps import comes_normed, maps_of
    from dinobench.metrics.correspondence import correct, pck
    from dinobench.stats.stratified import stratified_interval

DIFT, SD_DINO, PROBE3D = "Tsingularity/dift, eval_spair.py", "Junyi42/sd-dino", "mbanani/probe3d"
BATCH = 2, 16  # images per forward pass on a CPU, which gains nothing from more, and elsewhere
VIEWS = (0, 1, 2)


@dataclass(frozen=True)
class Config:
    """What decides a correspondence score."""

    size: int = setting(768, "side in pixels of the square that images become; down to a multiple of the patch", DIFT)
    matching: Literal["pixels", "patches", "corners"] = setting(
        "pixels",
        "pixels: images are squashed, maps upsampled to the image, its best pixel is the point. patches: images are "
        "centred on black, the patch that a point lies in is looked for, the centre of the best is the point. corners: "
        "images are padded with white, points read from the map between the centres of its corners, and the best "
        "patch's upper left corner is the point, half a patch off; beside it, its centre",
        DIFT,
    )
    interpolation: str = setting("bilinear", "how images are resized", "ours for dift")
    layer: int = setting(-1, "block that features come from, 0 the first, -1 the last", "ours: DIFT has no ViT")
    norm: bool = setting(True, "whether features are taken after the final norm", "ours: DIFT has no ViT")
    alphas: tuple[float, ...] = setting((0.1, 0.05, 0.01), "thresholds in longer sides of the target's box", SD_DINO)
    strict: bool = setting(False, "whether a point at the threshold itself is wrong", DIFT)
    average: Literal["point", "image", "class", "weighted"] = setting(
        "point",
        "which average stands first: over points, over pairs' shares, over classes' shares, over these by their pairs",
        DIFT,
    )
    pairs_per_class: int = setting(0, "pairs drawn of each class, and of each class at each viewpoint; 0: all", DIFT)
    draw: int = setting(20, "seed of that draw", f"{PROBE3D}, evals/datasets/spair.py")
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("pairs_per_class", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least {least}")
        if not self.alphas or len(set(self.alphas)) < len(self.alphas) or min(self.alphas) <= 0:
            raise ValueError(f"alphas = {self.alphas}: give different thresholds above 0, as in 0.1,0.05")


name = "correspondence"
version = 1
summary = "keypoints of one image found again in another of the same class"
data = "keypoints"
requires = frozenset({"map"})
saves = "points.json, the predicted points in pixels by pair"
_DIFT = Config()
profiles = {
    "dift": _DIFT,
    "sd-dino": replace(
        _DIFT, size=840, matching="patches", interpolation="lanczos", norm=False, strict=True, average="class"
    ),
    "probe3d": replace(
        _DIFT, size=800, matching="corners", interpolation="bicubic", norm=False, alphas=(0.1,), strict=True,
        average="class", pairs_per_class=200,
    ),
}  # fmt: skip
AVERAGES = {"point": "pck", "image": "pck_image", "class": "pck_class", "weighted": "pck_weighted"}


def metrics(config: Config) -> tuple[Metric, ...]:
    """Each average at each threshold; for corners those of the centres too, of which one stands first."""
    kinds = ("_centred", "") if config.matching == "corners" else ("",)
    first = f"{AVERAGES[config.average]}{kinds[0]}@{config.alphas[0]:g}"
    names = [first, *(f"{a}{kind}@{alpha:g}" for kind, alpha, a in product(kinds, config.alphas, AVERAGES.values()))]
    names += [f"pck_class_view{view}@{config.alphas[0]:g}" for view in VIEWS]
    return tuple(Metric(one, primary=one == first) for one in dict.fromkeys(names))


def run(backbone: Backbone, data: KeypointSet, config: Config, ctx: Context) -> Result:
    """The images of a class go through the backbone once, then its pairs are matched; classes follow each other."""
    wanted = sorted(set().union(*(subsets := drawn(data.pairs, config)).values()))
    images = sorted({image for i in wanted for image in (data.pairs[i].source, data.pairs[i].target)})
    own, square = wanted[ctx.shard(len(wanted))], square_of(backbone, config)
    broken: list[str] = []

    def work() -> np.ndarray:
        rows = [np.zeros((0, 6))]
        todo = ctx.progress(own, "Matching points", len(own))
        for _, indices in groupby(todo, key=lambda i: data.pairs[i].category):
            group = list(indices)
            maps = image_maps(backbone, data, [data.pairs[i] for i in group], config, ctx, broken)
            for index in group:
                pair = data.pairs[index]
                if pair.source in maps and pair.target in maps:
                    found = match(pair, maps[pair.source], maps[pair.target], square, backbone.size_multiple)
                    place = np.full(len(found.ratios), index), np.arange(len(found.ratios))
                    rows.append(np.column_stack([*place, found.points, found.ratios, found.centred]))
        return np.concatenate(rows)

    table = ctx.gather(torch.from_numpy(ctx.run_on_all(work))).numpy()
    lost_images(data.name, images, [images.index(b) for b in broken], lambda i: data.load(images[i]), ctx)
    if not len(table):
        raise UserError(f"{data.name}: every pair has an image that cannot be read; repair or replace them")
    result = score(data, table, subsets, config)
    result.notes += notes_of(backbone, config, len(wanted) - len(set(table[:, 0].tolist())))
    if ctx.saves and ctx.rank == 0:
        places, starts = np.unique(table[:, 0].astype(int), return_index=True)
        points = zip(places, np.split(table[:, 2:4], starts[1:]), strict=True)
        ctx.save("points.json", json.dumps({data.pairs[i].id: part.tolist() for i, part in points}).encode())
    return result


def drawn(pairs: Sequence[PointPair], config: Config) -> dict[str, list[int]]:
    """Which pairs count, by index: "" for the averages, "_view0" and so on for those of one viewpoint."""
    views: dict[str, int | None] = {"": None, **{f"_view{view}": view for view in VIEWS}}
    most = config.pairs_per_class or len(pairs)
    return {key: some_of_each(pairs, most, config.draw, view) for key, view in views.items()}


def square_of(backbone: Backbone, config: Config) -> SquareInput:
    """How this backbone gets its images; all but those of `corners`, which are padded, are whole patches."""
    patch = 1 if config.matching == "corners" else backbone.size_multiple
    if config.size < patch:
        raise UserError(f"size = {config.size}: less than a patch of {backbone.info.name}; take {patch} or more")
    fit: Any = {"pixels": "squash", "patches": "centre", "corners": "corner"}[config.matching]
    side = config.size // patch * patch
    return for_backbone(SquareInput(side, fit, config.interpolation, **vars(config.input)), backbone)


def image_maps(
    backbone: Backbone, data: KeypointSet, pairs: Sequence[PointPair], config: Config, ctx: Context, broken: list[str]
) -> dict[str, torch.Tensor]:
    """The map (D, h, w) of every image of the pairs by its name; `broken` gets the unreadable."""
    sizes = {p.source: p.source_size for p in pairs} | {p.target: p.target_size for p in pairs}
    square = square_of(backbone, config)

    def load(name: str) -> torch.Tensor:
        image = data.load(name)
        if image.size != sizes[name]:
            (w, h), (width, height) = sizes[name], image.size
            raise UserError(f"{data.name}: {name} is {width} x {height} pixels, its pairs say {w} x {h}; give one size")
        return torch.from_numpy(square(image))

    def forward(loaded: list[torch.Tensor]) -> torch.Tensor:
        x = square.normalise(torch.stack(loaded).to(ctx.device))
        return maps_of(backbone, centre_padded(x, backbone.size_multiple), config.layer, config.norm)

    maps: dict[str, torch.Tensor] = {}
    names, at_fault = sorted(sizes.keys() - set(broken)), bool(broken) and not ctx.skip_broken
    passes = forward_batches(ctx, names, load, forward, batch=BATCH, broken=broken, looked_at_only=at_fault)
    for batch, _, found in passes:
        if not found.isfinite().all():
            raise out_of_range(backbone, batch)
        maps |= dict(zip(batch, found, strict=True))
    return maps


def matches(backbone: Backbone, data: KeypointSet, pairs: Sequence[PointPair], config: Config, ctx: Context) -> list:
    """The `Matches` of a few pairs. Raises BrokenImage for an image that cannot be read."""
    broken: list[str] = []
    maps, square = image_maps(backbone, data, pairs, config, ctx, broken), square_of(backbone, config)
    for image in broken:
        data.load(image)  # which says what is wrong with it
    return [match(pair, maps[pair.source], maps[pair.target], square, backbone.size_multiple) for pair in pairs]


def score(data: KeypointSet, table: np.ndarray, subsets: dict[str, list[int]], config: Config) -> Result:
    """Rows (pair, point, x, y, distance, the centre's distance) -> the result.

    A point's errors go with its target image's, by which they are resampled; that an image is also a source of others
    is left out of account. A pair's share stands in the row of its first point.
    """
    index = table[:, 0].astype(int)
    pairs = [data.pairs[i] for i in index]
    category, target = np.array([p.category for p in pairs]), np.array([p.target for p in pairs])
    names = [f"{p.id}/{p.names[int(point)]}" for p, point in zip(pairs, table[:, 1], strict=True)]
    ratios, centred = table[:, 4:].T
    items = pd.DataFrame({"id": names, "pair": [p.id for p in pairs], "category": category, "image": target})
    items[["x", "y", "distance"]] = table[:, 2:5]
    result = Result({}, items, cluster="image")
    counted = np.isin(index, subsets[""])
    first = counted & np.r_[True, index[1:] != index[:-1]]

    def of_classes(metric: str, right: np.ndarray, rows: np.ndarray, average: str = "class") -> None:
        """An average of classes' shares over some rows, which is no mean of items, with its interval."""
        weights = np.unique(category[first & rows], return_counts=True)[1] if average == "weighted" else None
        result.metrics[metric] = 100 * pck(right[rows], index[rows], category[rows])[average]
        result.counts[metric] = int(rows.sum())
        if bounds := stratified_interval(right[rows], category[rows], target[rows], weights):
            result.intervals[metric] = 100 * bounds[0], 100 * bounds[1]

    kinds = {"": ratios, "_centred": centred} if config.matching == "corners" else {"": ratios}
    for kind, alpha in product(kinds, config.alphas):
        right = correct(kinds[kind], alpha, config.strict)
        shares = pck(right[counted], index[counted], category[counted])
        by_pair = pd.Series(right).groupby(index).transform("mean").to_numpy()
        for average, values, rows in (("point", right, counted), ("image", by_pair, first)):
            metric = f"{AVERAGES[average]}{kind}@{alpha:g}"
            items[metric] = np.where(rows, values, np.nan)
            result.metrics[metric] = 100 * shares[average]
        for average in ("class", "weighted"):
            of_classes(f"{AVERAGES[average]}{kind}@{alpha:g}", right, counted, average)
    for view in VIEWS:
        if (rows := np.isin(index, subsets[f"_view{view}"])).any():
            right = correct(ratios, config.alphas[0], config.strict)
            of_classes(f"pck_class_view{view}@{config.alphas[0]:g}", right, rows)
    return result


def notes_of(backbone: Backbone, config: Config, lost: int) -> list[str]:
    """What a record has to say of how it came about."""
    notes = []
    if (side := square_of(backbone, config).size) != config.size:
        notes.append(f"images of {side} pixels, not {config.size}: a multiple of the patch")
    if comes_normed(backbone, config.norm):
        notes.append(f"a {backbone.info.arch} has no blocks of one grid: its last map, as it comes")
    if config.pairs_per_class:
        notes.append("pairs are drawn in the order of their names, the release's in that of its file system")
    if lost:
        notes.append(f"{lost:,} pairs left out, an image of which cannot be read")
    return notes
