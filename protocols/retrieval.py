"""Instance retrieval: queries search a database for images of the same landmark, or of the same class.

Descriptors are CLS tokens of images at their own aspect, averaged over scales. Revisited Oxford and Paris (Radenovic et
al. 2018, arXiv 1803.11285) are scored as published; in a folder of labelled images every image is a query for the
others of its class. `dino2021` reproduces Caron et al. 2021, arXiv 2104.14294, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input, for_backbone
from dinobench.errors import UserError, unknown_name
from dinobench.metrics.retrieval import DIFFICULTIES, scores_of_places
from dinobench.types import Backbone, Context, ImageSplit, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image
    from torch.nn import functional as F

    from dinobench.algorithms.descriptors import unit_rows
    from dinobench.algorithms.ranking import Wanted, leave_one_out, nearest_and_places, similarities, tiles
    from dinobench.data.layouts.landmarks import LabelledImages, Landmarks, LandmarkSets
    from dinobench.data.subsets import Subset
    from dinobench.features.extraction import cut_to_multiple, extract

DINO = "facebookresearch/dino, eval_image_retrieval.py"
KS = (1, 5, 10)  # the depths that both benchmarks report
#: Longer side in pixels and scales where the config leaves them open (Caron et al. 2021, section 4.2).
SIZES = {"rparis6k": (512, (1.0, 2**-0.5, 0.5))}
OTHERWISE = (224, (1.0,))
#: Pixels that a query's box may reach beyond its image, which are black then, as where the reference cuts it.
BEYOND = 16


@dataclass(frozen=True)
class Config:
    """What decides a retrieval score."""

    dataset: str = setting("", "which ground truth, where the folder holds several: roxford5k or rparis6k")
    image_size: int | None = setting(
        None, "longer side in pixels that larger images shrink to (Lanczos); none: 512 on rparis6k, else 224", DINO
    )
    scales: tuple[float, ...] | None = setting(
        None, "scales whose descriptors are averaged; none: 1, 1/√2, 1/2 on rparis6k, else 1", DINO
    )
    crop_queries: bool = setting(False, "cut queries to their boxes first, as the benchmark asks", DINO)
    enlarge: bool = setting(False, "bring smaller images up to image_size too", DINO)
    trapezoid: bool = setting(
        True, "average precision by trapezoids, as the benchmark; off: in steps, as scikit-learn and metric learning"
    )
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size = {self.image_size} must be at least 1")
        if self.scales is not None and (not self.scales or min(self.scales) <= 0):
            raise ValueError(f"scales = {self.scales} must be above 0")


name = "retrieval"
version = 1
summary = "queries search for images of the same landmark, or of the same class"
data = "landmarks"
requires = frozenset({"features"})
profiles = {
    "dino2021": Config(),
    "revisitop": Config(crop_queries=True),
}


def metrics(config: Config) -> tuple[Metric, ...]:
    """Of landmarks mAP and mP@k by difficulty, medium being primary; of labelled images mAP and recall@k."""
    difficulties = ("medium", "easy", "hard")
    landmarks = [Metric(f"mAP_{d}", primary=d == "medium") for d in difficulties]
    landmarks += [Metric(f"mP@{k}_{d}") for d in difficulties for k in KS]
    return (*landmarks, Metric("mAP", primary=True), *(Metric(f"recall@{k}") for k in KS))


def select_data(data: Landmarks | LabelledImages | LandmarkSets, config: Config) -> Landmarks | LabelledImages:
    """The data set that is scored: of several ground truths the one that the config names."""
    if isinstance(data, LandmarkSets):
        if not config.dataset:
            options = " or ".join(f"--set dataset={key}" for key in data.sets)
            raise UserError(f"{data.name} holds several ground truths: choose with {options}")
        if config.dataset not in data.sets:
            raise unknown_name(f"dataset of {data.name}", config.dataset, list(data.sets))
        return data.sets[config.dataset]
    key = data.key if isinstance(data, Landmarks) else ""
    if config.dataset and config.dataset != key:
        raise UserError(f"dataset={config.dataset}: {data.name} holds {key or 'labelled images and no ground truth'}")
    return data


def run(backbone: Backbone, data: Landmarks | LabelledImages | LandmarkSets, config: Config, ctx: Context) -> Result:
    """Describe all images, rank by cosine, score."""
    chosen = select_data(data, config)
    if isinstance(chosen, LabelledImages):
        rows, kept = _descriptors(backbone, chosen.images, chosen, config, ctx)
        readable = replace(chosen, images=Subset(chosen.images, kept, chosen.images.name))
        return _score_labelled(readable, rows, config, ctx)
    database, in_database = _descriptors(backbone, chosen.database, chosen, config, ctx)
    boxes = chosen.boxes if config.crop_queries else None
    queries, asked = _descriptors(backbone, chosen.queries, chosen, config, ctx, boxes)
    return _score_landmarks(_readable(chosen, in_database, asked), queries, database, config, ctx)


def _readable(data: Landmarks, in_database: np.ndarray, asked: np.ndarray) -> Landmarks:
    """The data set without the images that could not be read, in the database and among the queries."""
    if len(in_database) == len(data.database) and len(asked) == len(data.queries):
        return data
    position = np.full(len(data.database), -1)
    position[in_database] = np.arange(len(in_database))

    def moved(indices: np.ndarray) -> np.ndarray:
        return position[indices][position[indices] >= 0]

    truth = tuple({kind: moved(rows) for kind, rows in data.truth[query].items()} for query in asked.tolist())
    return replace(
        data,
        database=Subset(data.database, in_database, data.database.name),
        queries=Subset(data.queries, asked, data.queries.name),
        truth=truth,
        boxes=data.boxes[asked],
    )


def size_and_scales(config: Config, key: str) -> tuple[int, tuple[float, ...]]:
    """The longer side in pixels and the scales for the ground truth `key`, where the config leaves them open."""
    size, scales = SIZES.get(key, OTHERWISE)
    return config.image_size or size, config.scales or scales


def _descriptors(
    backbone: Backbone,
    split: ImageSplit,
    data: Landmarks | LabelledImages,
    config: Config,
    ctx: Context,
    boxes: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) float32 rows of unit length: the mean over scales of CLS; and the indices (n,) of the readable images.

    `boxes` (n, 4) in pixels are cut out first. Scaled copies are made from the whole image and then cut to a multiple
    of the patch size, so images are batched by the sizes that are left.
    """
    side, scales = size_and_scales(config, data.key if isinstance(data, Landmarks) else "")
    multiple = backbone.size_multiple
    own = config.input
    transform = for_backbone(ImageTransform(resize=None, crop=None, mean=own.mean, std=own.std), backbone)

    def prepare(index: int, image: Image.Image) -> np.ndarray:
        if boxes is not None and not np.isnan(boxes[index]).any():
            left, top, right, bottom = (round(float(v)) for v in boxes[index])
            if min(left, top, image.width - right, image.height - bottom) < -BEYOND or right < 1 or bottom < 1:
                raise UserError(
                    f"{split.ids[index]}: its box {left, top, right, bottom} reaches beyond the image of {image.width} "
                    f"x {image.height} pixels; the ground truth is not this image's"
                )
            image = image.crop((left, top, right, bottom))
        pixels = transform(fit(image, side, config.enlarge))
        if min(map(min, sizes(pixels))) == 0:
            raise UserError(
                f"{split.ids[index]}: {image.width} x {image.height} pixels are less than one patch of "
                f"{multiple} x {multiple} at scale {min(scales):.3g}; try --set enlarge=on or a larger image_size"
            )
        return pixels

    def sizes(pixels: np.ndarray) -> tuple[tuple[int, int], ...]:
        """(height, width) in patches at every scale; F.interpolate rounds down in the same way."""
        h, w = pixels.shape[1:]
        return tuple((int(h * s) // multiple, int(w * s) // multiple) for s in scales)

    def forward(images: list[torch.Tensor]) -> torch.Tensor:
        whole = [transform.normalise(image[None]) for image in images]
        total = torch.zeros(())
        for scale in scales:
            x = torch.cat([cut_to_multiple(_rescale(image, scale), multiple) for image in whole])
            total = backbone.features(x) + total.to(x.device)
        return total / len(scales)

    rows, kept = extract(backbone, split, prepare, forward, ctx, f"Describing {split.name}", key=sizes)
    return unit_rows(rows), kept


def fit(image: Image.Image, side: int, enlarge: bool) -> Image.Image:
    """The image with its longer side at most `side` (exactly, with `enlarge`), by Lanczos, at its own aspect."""
    if enlarge and max(image.size) < side:
        ratio = side / max(image.size)
        width, height = (max(1, round(s * ratio)) for s in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)  # PIL's own rounding and reducing, as the reference
    return image


def _rescale(image: torch.Tensor, scale: float) -> torch.Tensor:
    """(1, 3, H, W) -> bilinear at `scale`; the kernel's coordinates come from the scale, not from the rounded size."""
    if scale == 1:
        return image
    return F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)


def _score_landmarks(
    data: Landmarks, queries: np.ndarray, database: np.ndarray, config: Config, ctx: Context
) -> Result:
    """Unit rows (Q, D) and (N, D) -> mAP and mP@k by difficulty; difficulties without any positive are left out."""
    wanted = Wanted(data.truth)
    left, right, images = (torch.from_numpy(x).to(ctx.device) for x in (queries, database, wanted.images))
    own = tiles(len(queries), len(database), ctx.shard)
    ranked = torch.cat([nearest_and_places(left[tile], right, images[tile]) for tile in own])
    found = ctx.gather(ranked).numpy()
    items = pd.DataFrame({"id": list(data.queries.ids), "nearest": [data.database.ids[i] for i in found[:, 0]]})
    by_kind = wanted.by_kind(found[:, 1:])
    values: dict[str, float] = {}
    for difficulty in ("medium", *(d for d in DIFFICULTIES if d != "medium")):
        ap, precision = scores_of_places(by_kind, difficulty, KS, config.trapezoid)
        if np.isnan(ap).all():
            continue
        scores = {f"mAP_{difficulty}": ap}
        scores |= {f"mP@{k}_{difficulty}": precision[:, column] for column, k in enumerate(KS)}
        for metric, per_query in scores.items():
            items[metric] = per_query
            values[metric] = 100 * float(np.nanmean(per_query))
    if not values:
        raise UserError(f"{data.name}: no query has a positive image, so nothing can be scored")
    return Result(values, items)


def _score_labelled(data: LabelledImages, rows: np.ndarray, config: Config, ctx: Context) -> Result:
    """Unit rows (n, D) -> leave-one-out mAP and recall@k; images that are alone in their class are no queries."""
    labels = data.images.labels
    database, classes = torch.from_numpy(rows).to(ctx.device), torch.tensor(labels).to(ctx.device)
    every, own = torch.arange(len(rows), device=ctx.device), tiles(len(rows), len(rows), ctx.shard)
    parts = []
    for tile in ctx.progress(own, "Ranking", len(own)):
        similarity = similarities(database[tile], database)
        ap, recall = leave_one_out(similarity, every[tile], classes, KS, config.trapezoid)
        parts.append(torch.cat([ap[:, None], recall], dim=1))
    scores = ctx.gather(torch.cat(parts)).numpy()
    items = pd.DataFrame({"id": list(data.images.ids), "label": [data.classes[i] for i in labels]})
    names = ["mAP", *(f"recall@{k}" for k in KS)]
    items[names] = scores
    return Result({m: 100 * float(np.nanmean(items[m])) for m in names}, items)
