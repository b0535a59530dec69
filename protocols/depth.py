"""Monocular depth: one linear head on frozen patch features says how far every pixel is.

(Oquab et al. 2023, arXiv 2304.07193, section 7.4, and Siméoni et al. 2025, arXiv 2508.10104, whose evaluations the
profiles reproduce; scores by Eigen et al. 2014, arXiv 1406.2283.) DINOv2 reports the state that is best *on the test
images*; here that stands beside the last one's score, under a name of its own. Its hub builds NYU's heads with bins up
to 80 m, which are 10 m here; and the gradient loss of its configs differences samples of a batch, not pixels: on the
two images of a GPU it is nothing, and so it is here (`gradient_axes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input
from dinobench.errors import UserError
from dinobench.metrics.depth import NAMES
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import pandas as pd

    from dinobench.algorithms.depth_head import DepthBins, four_blocks
    from dinobench.data.depth_maps import DepthSet
    from dinobench.dense.depth.augment import DepthView
    from dinobench.dense.depth.losses import DepthLoss
    from dinobench.dense.depth.probe import DepthProbe, ProbeConfig, TestTable
    from dinobench.dense.depth.schedules import Schedule

V3 = "facebookresearch/dinov3, eval/depth, configs/config-nyu.yaml"
RECIPE = "zhyever/Monocular-Depth-Estimation-Toolbox, depth/datasets/pipelines/transforms.py; the same in DINOv3"
BINS = "AdaBins, arXiv 2011.14141; facebookresearch/dinov2 and dinov3"
OURS = "ours"
#: What the state that is best on the test images is reported with beside the last.
OF_BEST = ("rmse", "abs_rel", "delta1")
UNITS = {"rmse": "m", "delta1": "%", "delta2": "%", "delta3": "%"}


@dataclass(frozen=True)
class Config:
    """What decides a depth score. The defaults are DINOv3's."""

    read: Literal["map", "last", "four"] = setting(
        "map", "the last map after the final norm; or the last block, or four, before it and with their CLS tokens", V3
    )
    features: Literal["augmented", "extracted"] = setting(
        "augmented", "train features come from images augmented anew in each pass, or are extracted once", V3
    )
    scale: float = setting(1.0, "share of their size that images are resized to, with features=extracted", OURS)
    train_images: int = setting(0, "train images taken, spread over the split; 0 is all", OURS)
    upsample: int = setting(1, "factor that features are upsampled by, bilinearly, before the convolution", V3)
    batchnorm: bool = setting(True, "whether the features are normalised over the batch first", V3)
    init_std: float | None = setting(0.01, "deviation that weights start from, with biases 0; none: torch's own", V3)
    bins: int = setting(256, "depths whose weighted mean is the prediction; 1 is a regression", BINS)
    spacing: Literal["linear", "log"] = setting(
        "linear", "whether the bins or their logarithms are evenly spaced", BINS
    )
    weights: Literal["linear", "softmax", "sigmoid"] = setting(
        "linear", "how the bins' weights come from the logits; linear is relu + .1", BINS
    )
    low: float = setting(0.001, "metres above which depth counts, and where the bins begin", V3)
    high: float | None = setting(None, "metres below which it counts, and where they end; none: the data set's own", V3)
    crop: Literal["data", "none", "nyu", "garg", "eigen"] = setting(
        "data", "where test pixels count; data: as is usual on the data set", V3
    )
    train_crop: tuple[int, int] = setting(
        (0, 0), "height and width in pixels of the random crops; 0,0: as is usual on the data set", RECIPE
    )
    rotate: float = setting(2.5, "degrees that half of the train images are turned by, either way", RECIPE)
    flip: float = setting(0.5, "probability of a horizontal flip in training", RECIPE)
    colour: float = setting(0.5, "probability of other gamma, brightness and tint in training", RECIPE)
    iterations: int = setting(38_400, "steps of the optimizer", V3)
    warmup: float = setting(1 / 3, "share of them in which the rate rises", V3)
    schedule: Literal["dinov2", "dinov3", "cosine"] = setting("dinov3", "how rate and first moment change", V3)
    batch: int = setting(16, "images per step in total, whatever the number of devices", V3)
    group: int = setting(2, "images of it that a loss is computed over: those on one GPU of the release", V3)
    lr: float = setting(3e-4, "highest learning rate of AdamW", V3)
    weight_decay: float = setting(1e-4, "weight decay of AdamW", V3)
    beta2: float = setting(0.99, "decay of AdamW's second moment; the first one's is the schedule's", V3)
    clip: float = setting(35.0, "largest norm of the gradient; 0 is no limit", V3)
    sig: float = setting(1.0, "weight of SigLoss", V3)
    without_variance: int = setting(100, "steps in which SigLoss is without its variance", V3)
    gradient: float = setting(0.0, "weight of the gradient loss", V3)
    gradient_axes: Literal["pixels", "batch"] = setting(
        "pixels", "what it differences: pixels (DINOv3), or samples of the batch as DINOv2's does", V3
    )
    l1: float = setting(0.0, "weight of the mean distance in metres", V3)
    clamp: Literal["head", "labels"] = setting(
        "labels", "where predictions are clamped: at the head's resolution before flips are averaged, or last", V3
    )
    flip_average: bool = setting(True, "whether the mirrored test image is averaged in", V3)
    align: bool = setting(False, "whether scale and shift are fitted to each test image's truth first", V3)
    test_every: int = setting(0, "steps between tests in training, the best of which is reported too; 0: none", V3)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if min(self.iterations, self.batch, self.group, self.bins, self.upsample) < 1:
            raise ValueError("iterations, batch, group, bins and upsample are 1 or more")
        if min(self.train_images, self.test_every, self.without_variance, *self.train_crop) < 0:
            raise ValueError("train_images, test_every, without_variance and train_crop are 0 or more")
        if not 0 < self.low < (self.high or math.inf) or self.lr <= 0 or not 0 <= self.warmup < 1:
            raise ValueError("low is above 0 and below high, lr above 0, warmup 0 to below 1")
        if not 0 <= self.flip <= 1 or not 0 <= self.colour <= 1 or not 0 <= self.beta2 < 1 or self.rotate < 0:
            raise ValueError("flip and colour are 0 to 1, beta2 0 to below 1, rotate 0 or more")
        if min(self.sig, self.gradient, self.l1, self.weight_decay, self.clip) < 0 or not (
            self.sig + self.gradient + self.l1
        ):
            raise ValueError("sig, gradient, l1, weight_decay and clip are 0 or more, one of the first three above 0")
        if not 0 < self.scale <= 4 or (self.scale != 1 and self.features == "augmented"):
            raise ValueError("scale is above 0 and at most 4, and 1 unless features=extracted")


name = "depth"
version = 1
summary = "a linear head on frozen patch features says how far every pixel is"
data = "depth"
requires = frozenset({"map"})
saves = "every test image's predicted depth as a 16-bit PNG in the data set's scale"
# Of the linear heads' own configs only copies were seen: Jiawei-Yang/Denoising-ViT, vitb_nyu_linear_config.py.
_V2 = Config(
    read="last", upsample=4, batchnorm=False, init_std=None, schedule="dinov2", lr=5e-3, weight_decay=0.01, beta2=0.999,
    gradient=0.5, gradient_axes="batch", clamp="head", test_every=800,
)  # fmt: skip
profiles = {
    "dinov2-lin1": _V2,
    "dinov2-lin4": replace(_V2, read="four"),
    "dinov3": Config(),
    # DINOv3's head on features of images of half the size, extracted once: minutes on a CPU.
    "cached": Config(
        features="extracted", scale=0.5, train_images=1000, iterations=1000, warmup=0.1, schedule="cosine", lr=3e-3,
        beta2=0.999,
    ),
}  # fmt: skip


def metrics(config: Config) -> tuple[Metric, ...]:
    """The last state's, and where it was asked for those of the state with the least AbsRel on the test images."""
    names = [*NAMES, *(f"{name}_best_on_test" for name in OF_BEST if config.test_every)]
    return tuple(
        Metric(
            name, UNITS.get(base := name.removesuffix("_best_on_test"), ""), base.startswith("delta"), name == "rmse"
        )
        for name in names
    )


def run(backbone: Backbone, data: DepthSet, config: Config, ctx: Context) -> Result:
    """Train a head on the train images and score the test images, each by itself."""
    blocks, notes = blocks_of(backbone, config)
    probe = DepthProbe(backbone, data, probe_config(data, config, blocks), ctx)
    last, best = probe.run()
    counted = ~last.scores[:, 0].isnan()
    ids = [data.test.ids[row] for row in last.rows.tolist()]
    if not counted.any():
        raise UserError(f"{data.name}: no test image has a pixel whose depth lies within its range and crop")
    if bare := [name for name, counts in zip(ids, counted.tolist(), strict=True) if not counts]:
        notes.append(f"{len(bare):,} of {len(ids):,} test images have no pixel that counts, such as {bare[0]}")
    items = pd.DataFrame({"id": ids})
    if clustered := data.test.clusters:
        items["cluster"] = [clustered[row] for row in last.rows.tolist()]
    scores = take(last, items, NAMES, "")
    if best is not None:
        notes.append(f"best on the test images, by AbsRel: step {best.step:,} of {config.iterations:,}")
        scores |= take(best, items, OF_BEST, "_best_on_test")
    return Result(scores, items, cluster="cluster" if clustered else None, notes=notes)


def take(table: TestTable, items: pd.DataFrame, names: tuple[str, ...], suffix: str) -> dict[str, float]:
    """Puts the columns of `names` into `items`; returns their means over the images that count, shares in percent."""
    for name in names:
        items[name + suffix] = table.scores[:, NAMES.index(name)].numpy()
    return {n + suffix: (100 if UNITS.get(n) == "%" else 1) * table.mean(NAMES.index(n)) for n in names}


def blocks_of(backbone: Backbone, config: Config) -> tuple[int | tuple[int, ...], list[str]]:
    """What the head reads, and a note where the backbone has only its last map to give."""
    if config.read == "map":
        return 1, []
    depth = backbone.info.depth
    if "layers" not in backbone.capabilities or depth is None:
        return 1, [f"a {backbone.info.arch} has no blocks with a CLS token: read=map"]
    if config.read == "last":
        return (depth - 1,), []
    try:
        return four_blocks(depth), []
    except ValueError as error:
        raise UserError(f"{backbone.info.name}: {error}; use --set read=last") from None


def probe_config(data: DepthSet, config: Config, blocks: int | tuple[int, ...]) -> ProbeConfig:
    """The training's settings, what is the data set's own filled in."""
    usual = data.convention
    train_crop = config.train_crop if all(config.train_crop) else usual.train_crop
    view = DepthView(
        train_crop, usual.border == "nyu", config.rotate, config.flip, config.colour, brightness=usual.brightness
    )
    high = usual.high if config.high is None else config.high
    return ProbeConfig(
        blocks=blocks,
        bins=DepthBins(config.low, high, config.bins, config.spacing, config.weights),
        loss=DepthLoss(
            config.sig, config.gradient, config.gradient_axes, config.l1, config.group, config.without_variance
        ),
        schedule=Schedule(config.schedule, config.lr, config.iterations, round(config.warmup * config.iterations)),
        view=view if config.features == "augmented" else None,
        batch=config.batch, weight_decay=config.weight_decay, beta2=config.beta2, clip=config.clip,
        upsample=config.upsample, batchnorm=config.batchnorm, init_std=config.init_std,
        crop=usual.crop if config.crop == "data" else config.crop, border=usual.border == "nyu", clamp=config.clamp,
        flip_average=config.flip_average, align=config.align, test_every=config.test_every, scale=config.scale,
        train_images=config.train_images,
        transform=ImageTransform(None, None, mean=config.input.mean, std=config.input.std),
    )  # fmt: skip
