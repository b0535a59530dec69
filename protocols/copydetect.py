"""Copy detection: edited copies of photos search for their originals among many others.

Descriptors are the CLS token next to GeM-pooled patches, optionally whitened; every copy is scored by where its
original comes among its nearest neighbours. (Douze et al. 2009, Copydays; Berman et al. 2019, arXiv 1902.05509, whose
protocol Caron et al. 2021, arXiv 2104.14294, section 4.2, follow and `dino2021` reproduces.)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input, for_backbone
from dinobench.errors import UserError
from dinobench.types import Backbone, Context, ImageSplit, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image

    from dinobench.algorithms.descriptors import Whitening, gem, unit_rows
    from dinobench.algorithms.nearest_neighbours import search
    from dinobench.data.layouts.copydays import Copies, with_side
    from dinobench.data.subsets import Subset
    from dinobench.features.extraction import cut_to_multiple, extract
    from dinobench.metrics.retrieval import average_precision, micro_average_precision, micro_average_precision_interval

DINO = "facebookresearch/dino, eval_copy_detection.py"


@dataclass(frozen=True)
class Config:
    """What decides a copy-detection score."""

    image_size: int = setting(320, "side in pixels of the square that images are resized to, bicubic", DINO)
    gem_power: float = setting(4.0, "p of the generalised mean over patches, (mean x^p)^(1/p)", DINO)
    ranks: int = setting(20, "nearest neighbours that count; an original beyond them is not found", DINO)
    distractors: str = setting(
        "auto", "folder of images to add to the database; auto: the data's own distractors/ if any; none", DINO
    )
    whitening: str = setting(
        "auto", "folder of images to learn whitening from; auto: the data's own whitening/ if any; none", DINO
    )
    whitening_power: float = setting(0.5, "directions are divided by their eigenvalue to this power", DINO)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if self.image_size < 1 or self.ranks < 1:
            raise ValueError(f"image_size = {self.image_size} and ranks = {self.ranks} must be at least 1")
        if self.gem_power <= 0:
            raise ValueError(f"gem_power = {self.gem_power} must be above 0")
        if not self.distractors or not self.whitening:
            raise ValueError("distractors and whitening are a folder, auto or none")

    def transform(self) -> ImageTransform:
        size = (self.image_size, self.image_size)
        return ImageTransform(size, None, "bicubic", self.input.mean, self.input.std)


name = "copydetect"
version = 1
summary = "edited copies of photos search for their originals"
data = "copies"
requires = frozenset({"features"})
profiles = {
    "dino2021": Config(),
    "plain": Config(distractors="none", whitening="none"),
}


def metrics(config: Config) -> tuple[Metric, ...]:
    """mAP of every block there is (the first is primary where there is no strong one), and micro-AP of the primary."""
    return Metric("mAP_strong", primary=True), Metric("mAP_*"), Metric("muAP")


def select_data(data: Copies, config: Config) -> Copies:
    """The data set that is scored: with the distractors and the whitening images that the config names."""
    return with_side(data, config.distractors, config.whitening)


def run(backbone: Backbone, data: Copies, config: Config, ctx: Context) -> Result:
    """Search the originals (and distractors) with every copy and score the rank of the right one."""
    data = select_data(data, config)
    _require_enough(data, config)
    splits = {"original": data.originals, **{block.name: block for block in data.blocks}}
    described = {block: descriptors(backbone, split, config, ctx) for block, split in splits.items()}
    data, features = _readable(data, described)
    database = features["original"]
    if data.distractors:
        rows, kept = descriptors(backbone, data.distractors, config, ctx)
        data = replace(data, distractors=Subset(data.distractors, kept, data.distractors.name))
        database = np.concatenate([database, rows])
    _require_enough(data, config)
    notes = []
    if data.whitening:
        whitening = Whitening.fit(descriptors(backbone, data.whitening, config, ctx)[0], config.whitening_power)
        database = whitening.apply(database)
        features = {block: whitening.apply(rows) for block, rows in features.items()}
    if "patches" not in backbone.capabilities:
        notes.append("no patch tokens to pool: the feature alone is the descriptor")
    return score(data, features, unit_rows(database), config, ctx, notes)


def _require_enough(data: Copies, config: Config) -> None:
    size = len(data.originals) + (len(data.distractors) if data.distractors else 0)
    if size < config.ranks:
        raise UserError(
            f"{data.name}: {size} images to search ({len(data.originals)} originals) are fewer than the {config.ranks} "
            f"ranks that count; add originals or distractors, or score fewer ranks with --set ranks={size}"
        )


def _readable(
    data: Copies, described: dict[str, tuple[np.ndarray, np.ndarray]]
) -> tuple[Copies, dict[str, np.ndarray]]:
    """The data set and the rows by block without images that could not be read, nor copies of such originals."""
    rows, originals = described["original"]
    position = np.full(len(data.originals), -1)
    position[originals] = np.arange(len(originals))
    features, blocks = {"original": rows}, []
    for block in data.blocks:
        rows, kept = described[block.name]
        answered = position[block.labels[kept]] >= 0
        features[block.name] = rows[answered]
        blocks.append(Subset(block, kept[answered], block.name, relabel=position))
    return replace(
        data, originals=Subset(data.originals, originals, data.originals.name), blocks=tuple(blocks)
    ), features


def descriptors(backbone: Backbone, split: ImageSplit, config: Config, ctx: Context) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2 D) float32: CLS (or the pooled map) next to GeM of the last block's patches; (n, D) without patches.

    Beside them the indices (n,) of the images that could be read.
    """
    transform, multiple = for_backbone(config.transform(), backbone), backbone.size_multiple

    def prepare(index: int, image: Image.Image) -> np.ndarray:
        return transform(image)

    def forward(images: list[torch.Tensor]) -> torch.Tensor:
        x = cut_to_multiple(transform.normalise(torch.stack(images)), multiple)
        if "patches" not in backbone.capabilities:
            return backbone.features(x)
        [(cls, patches)] = backbone.layers(x, 1)
        return torch.cat([cls, gem(patches, config.gem_power)], dim=1)

    return extract(backbone, split, prepare, forward, ctx, f"Describing {split.name}")


def score(
    data: Copies,
    features: dict[str, np.ndarray],
    database: np.ndarray,
    config: Config,
    ctx: Context,
    notes: list[str],
) -> Result:
    """Features (n, D) per block and a database (N, D) of unit rows, originals first -> the result."""
    splits = {**{block.name: block for block in data.blocks}, "original": data.originals}
    database_ids = [*data.originals.ids, *(data.distractors.ids if data.distractors else ())]
    values: dict[str, float] = {}
    tables, primary = [], data.blocks[0].name
    for block, split in splits.items():
        labels = np.arange(len(split)) if block == "original" else split.labels
        near = search(unit_rows(features[block]), database, config.ranks, device=ctx.device, progress=ctx.progress)
        similarity, index = (part.cpu().numpy() for part in near)
        right = index == labels[:, None]
        rank = np.where(right.any(axis=1), right.argmax(axis=1), -1)
        ap = [average_precision([r] if r >= 0 else [], 1) for r in rank]
        metric = "mAP_" + block.replace("/", "")
        values[metric] = 100 * float(np.mean(ap))
        columns = {
            "id": list(split.ids),
            "block": block,
            "original": [data.originals.ids[i] for i in labels.tolist()],
            "rank": np.where(rank < 0, np.nan, rank),
            "nearest": [database_ids[i] for i in index[:, 0].tolist()],
            "similarity": similarity[:, 0],
            metric: ap,
        }
        tables.append(pd.DataFrame(columns))
        if block == primary:
            micro, counts = micro_average_precision(similarity, right, len(right)), {"muAP": len(right)}
            interval = micro_average_precision_interval(similarity, right, np.ones(len(right)), seed=ctx.seed)
    values["muAP"] = 100 * micro
    low, high = interval
    items = pd.concat(tables, ignore_index=True)
    return Result(values, items, intervals={"muAP": (100 * low, 100 * high)}, counts=counts, notes=notes)
