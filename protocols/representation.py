"""What frozen features tell without a probe: rank, spectrum, spread, dimension and clusters.

No label decides any of them but the scores of the clusters. (RankMe: Garrido et al. 2023, arXiv 2210.02885; LiDAR:
Thilak et al. 2023, arXiv 2312.04000; alpha-ReQ: Agrawal et al. 2022, arXiv 2202.05808; alignment and uniformity: Wang
and Isola 2020, arXiv 2005.10242; TwoNN: Facco et al. 2017, arXiv 1803.06992; clusters as scored by Van Gansbeke et al.
2020, arXiv 2005.12320.) Features are the backbone's, not a projector's behind it, for which LiDAR was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dinobench import lazy
from dinobench.data.layouts import ANY_IMAGES
from dinobench.data.transforms import ImageTransform, Input, for_backbone
from dinobench.errors import UserError
from dinobench.types import Backbone, Context, FeatureRequest, ImageClassification, ImageSplit, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    from dinobench.data.subsets import Subset, draw, of_any_images
    from dinobench.features.views import features_of_views
    from dinobench.metrics import representation as measures
    from dinobench.stats.delete_one import agreement_intervals, log_pair_mean_interval
    from dinobench.training.augment import CropAndFlip

RANKME = "Garrido et al. 2023 (arXiv 2210.02885), section 3"
LIDAR = "Thilak et al. 2023 (arXiv 2312.04000), section 3"
ALPHA = "Agrawal et al. 2022 (arXiv 2202.05808), as in the package reptrix"
UNIFORM = "Wang and Isola 2020 (arXiv 2005.10242)"
SCAN = "Van Gansbeke et al. 2020 (arXiv 2005.12320)"
DINO = "facebookresearch/dino, eval_knn.py"


@dataclass(frozen=True)
class Config:
    """What decides the numbers."""

    split: Literal["train", "test"] = setting("train", "the images that are looked at", RANKME)
    images: int = setting(25_600, "images drawn of them, by the seed; 0 takes all, as do fewer images", RANKME)
    alpha_range: tuple[int, int] = setting(
        (10, 100), "eigenvalues that alpha-ReQ's line is fitted to, counted from 0, the last one not included", ALPHA
    )
    uniformity_t: float = setting(2.0, "factor t of the squared distances in uniformity", UNIFORM)
    clusters: int = setting(0, "clusters of k-means; 0 makes as many as there are classes", SCAN)
    starts: int = setting(5, "k-means runs from different seeds, of which the one of least inertia counts", "ours")
    views: int = setting(0, "random views of an image for LiDAR and alignment, 2 or more; 0 leaves both out", LIDAR)
    view_images: int = setting(1000, "images that are viewed so, drawn by the seed; fewer take all", LIDAR)
    view_scale: tuple[float, float] = setting(
        (0.08, 1.0), "share of the image's area that a view is cropped from; it is flipped half of the time", "ours"
    )
    resize: int = setting(256, "shorter side of the image in pixels before the crop", DINO)
    crop: int = setting(224, "side of the centre crop, and of a view, in pixels", DINO)
    interpolation: Literal["bicubic", "bilinear"] = setting("bicubic", "interpolation of the resize, by PIL", DINO)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        lo, hi = self.alpha_range
        if not 0 <= lo <= hi - 2:
            raise ValueError(f"alpha_range = {lo},{hi}: a line is fitted to two eigenvalues or more, counted from 0")
        if self.uniformity_t <= 0:
            raise ValueError(f"uniformity_t = {self.uniformity_t} must be above 0")
        for name in ("views", "clusters"):
            if getattr(self, name) < 0 or getattr(self, name) == 1:
                raise ValueError(f"{name} = {getattr(self, name)}: 2 or more, or 0 for what that stands for")
        if self.images < 0 or self.starts < 1 or self.view_images < 2:
            raise ValueError("images is 0 (all) or more, starts 1 or more, view_images 2 or more")
        if not 0 < self.view_scale[0] <= self.view_scale[1] <= 1:
            raise ValueError(f"view_scale = {self.view_scale}: shares above 0 up to 1, the smaller one first")

    def transform(self) -> ImageTransform:
        return ImageTransform(self.resize, self.crop, self.interpolation, self.input.mean, self.input.std)

    def view(self) -> CropAndFlip:
        channels = self.input.mean, self.input.std
        return CropAndFlip(self.crop, self.view_scale, (3 / 4, 4 / 3), self.interpolation, 0.5, *channels)


name = "representation"
version = 1
summary = "rank, spectrum, spread, dimension and clusters of frozen features, without a probe"
data = ANY_IMAGES
requires = frozenset({"features"})
several_classes = True
profiles = {"default": Config(), "views": Config(views=50)}


def metrics(config: Config) -> tuple[Metric, ...]:
    """RankMe, then the other measures of the features, then the clusters' scores, then what needs views.

    Of alpha-ReQ and the dimension neither less nor more is better in itself: they are ranked by less, as a steep
    spectrum and many dimensions are what worse features of one kind tend to have.
    """
    own = (
        Metric("rankme", unit="dimensions", primary=True),
        Metric("rankme_reptrix", unit="dimensions"),
        Metric("alpha_req", unit="", higher_is_better=False),
        Metric("alpha_req_r2", unit=""),
        Metric("uniformity", unit="ln", higher_is_better=False),
        Metric("twonn", unit="dimensions", higher_is_better=False),
        Metric("twonn_likelihood", unit="dimensions", higher_is_better=False),
        Metric("cluster_accuracy"),
        Metric("cluster_purity"),
        Metric("cluster_nmi", unit="points"),
        Metric("cluster_ari", unit="points"),
    )
    viewed = (
        Metric("lidar", unit="dimensions"),
        Metric("lidar_reptrix", unit="dimensions"),
        Metric("alignment", unit="squared distance", higher_is_better=False),
    )
    return own + (viewed if config.views else ())


def select_data(data: Any, config: Config) -> ImageClassification:
    """Any images as a data set, without classes where they have none."""
    return of_any_images(data)


def select(data: ImageClassification, config: Config, seed: int = 0) -> ImageSplit:
    """The images that are looked at: all of the split, or as many as asked for, drawn by the seed."""
    whole = data.train if config.split == "train" else data.test
    if not len(whole):
        raise UserError(f"{data.name}: has no test images; leave split=test out")
    if not config.images or config.images >= len(whole):
        return whole
    return Subset(whole, draw(len(whole), config.images, seed), whole.name)


def requests(data: ImageClassification, config: Config, backbone: Backbone) -> list[tuple[ImageSplit, FeatureRequest]]:
    """What `run` will ask the feature service for, where that does not hang on the seed."""
    split = select(data, config)
    return [] if isinstance(split, Subset) else [(split, FeatureRequest(config.transform()))]


def run(backbone: Backbone, data: ImageClassification, config: Config, ctx: Context) -> Result:
    """Extract by all processes, measure in the first one, tell the others."""
    split = select(data, config, ctx.seed)
    if config.clusters and not data.classes:
        raise UserError(f"{data.name}: has no classes to score clusters by; leave clusters out")
    clusters = config.clusters or len(data.classes)
    _check(backbone, split, config, clusters)
    found = ctx.features(backbone, split, FeatureRequest(config.transform()))
    x = np.asarray(found.cls[:, -1], np.float64)
    viewed, embeddings = _views(backbone, split, found.kept, config, ctx)

    def work() -> tuple[np.ndarray, np.ndarray]:
        if ctx.rank:
            return np.zeros(0), np.zeros(0, np.int64)
        try:
            measured = _measured(x, embeddings, config)
            return measured, _clustered(x, clusters, config.starts, ctx) if clusters else np.zeros(0, np.int64)
        except ValueError as error:
            raise UserError(f"{backbone.info.name} on {split.name}: {error}") from error

    values, pred = (ctx.gather(torch.from_numpy(part)).numpy() for part in ctx.run_on_all(work))
    *numbers, low, high = values.tolist()
    names = [m.name for m in metrics(config) if not m.name.startswith("cluster_") and m.name != "alignment"]
    result = Result(dict(zip(names, numbers, strict=True)), intervals={"uniformity": (low, high)})
    result.items = _scored(result, data, split, found.kept, pred)
    if config.views:
        terms = np.full(len(split), np.nan)
        terms[viewed] = measures.alignment_terms(embeddings[:, 0], embeddings[:, 1])
        result.items["alignment"] = terms[found.kept]
        result.metrics["alignment"] = float(np.nanmean(terms))
        result.counts = dict.fromkeys(("lidar", "lidar_reptrix"), len(viewed))
    result.notes = _notes(x, split) + ["no clusters: there are no classes to score them by"] * (not clusters)
    return result


def _check(backbone: Backbone, split: ImageSplit, config: Config, clusters: int) -> None:
    """Raises UserError for what cannot be measured, before minutes are spent on features."""
    eigenvalues = min(backbone.embed_dim, len(split) - 1)
    if config.alpha_range[1] > eigenvalues:
        raise UserError(
            f"{backbone.info.name} on {len(split):,} images of {split.name}: alpha_range ends at "
            f"{config.alpha_range[1]}, and there are {eigenvalues} eigenvalues; --set alpha_range=5,{eigenvalues}, say"
        )
    if clusters > len(split):
        raise UserError(f"{clusters} clusters of {len(split)} images of {split.name}; --set clusters to fewer")


def _views(
    backbone: Backbone, split: ImageSplit, kept: np.ndarray, config: Config, ctx: Context
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (m,) of images of the split and features (m, views, D) of their random views; none without views."""
    if not config.views:
        return kept[:0], np.zeros((0, 0, 0), np.float32)
    viewed = kept[draw(len(kept), config.view_images, ctx.seed)]
    return features_of_views(backbone, split, viewed, for_backbone(config.view(), backbone), config.views, ctx)


def _measured(x: np.ndarray, embeddings: np.ndarray, config: Config) -> np.ndarray:
    """The numbers of features x (n, D) and of views (m, views, D), in the order of `metrics`; uniformity's interval."""
    law = measures.power_law(measures.covariance_eigenvalues(x), *config.alpha_range)
    terms = measures.uniformity_terms(x, config.uniformity_t)
    return np.array([
        measures.rankme(x), measures.rankme_reptrix(x), *law, np.log(terms.mean()),
        measures.twonn(x), measures.twonn(x, "likelihood"),
        *([measures.lidar(embeddings), measures.lidar_reptrix(embeddings)] if config.views else []),
        *log_pair_mean_interval(terms),
    ])  # fmt: skip


def _clustered(x: np.ndarray, clusters: int, starts: int, ctx: Context) -> np.ndarray:
    """The cluster (n,) int64 of each of x (n, D), brought to length 1, in the best of several runs of k-means."""
    directions = measures.unit(x).astype(np.float32)
    runs = ctx.progress(range(starts), f"Making {clusters} clusters", starts)
    found = [KMeans(clusters, n_init=1, random_state=ctx.seed + start).fit(directions) for start in runs]
    return np.asarray(min(found, key=lambda run: run.inertia_).labels_, np.int64)


def _scored(
    result: Result, data: ImageClassification, split: ImageSplit, kept: np.ndarray, pred: np.ndarray
) -> pd.DataFrame:
    """The clusters' scores, put into the result, where there are classes, and a row per image."""
    y, ids = split.labels[kept], split.ids
    if not data.classes:
        return pd.DataFrame({"id": [ids[i] for i in kept]})
    rows: dict[str, Any] = {"id": [ids[i] for i in kept], "label": [data.classes[c] for c in y], "cluster": pred}
    for metric, one_to_one in (("cluster_accuracy", True), ("cluster_purity", False)):
        matched = measures.match_clusters(pred, y, one_to_one)
        rows[metric] = np.array([matched.get(int(c), -1) for c in pred]) == y
        result.metrics[metric] = 100 * float(rows[metric].mean())
    result.metrics["cluster_nmi"] = 100 * float(normalized_mutual_info_score(y, pred))
    result.metrics["cluster_ari"] = 100 * float(adjusted_rand_score(y, pred))
    for metric, (low, high) in agreement_intervals(pred, y).items():
        result.intervals[f"cluster_{metric}"] = 100 * low, 100 * high
    return pd.DataFrame(rows)


def _notes(x: np.ndarray, split: ImageSplit) -> list[str]:
    whole = split.whole if isinstance(split, Subset) else split
    notes = [
        f"measured on {len(x):,} of the {len(whole):,} images of {split.name}; ranks, spectra and dimensions hang on "
        "their number, and have no intervals as images drawn twice would change them; the clusters' take these as given"
    ]
    if same := len(x) - len(np.unique(x, axis=0)):
        notes.append(f"{same:,} images have the same features as another; TwoNN looks at one of them")
    return notes
