"""Linear probe: linear classifiers trained on frozen features.

(Caron et al. 2021, arXiv 2104.14294, section 4.1, whose evaluation `dino2021` reproduces; Oquab et al. 2023, arXiv
2304.07193, appendix B.3, whose evaluation `dinov2` reproduces.) The papers report the best epoch or the best head *on
the test images*; here the score is that of the last epoch, of the head chosen on images held out of train, and the
papers' ways stand beside it under names of their own.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input
from dinobench.types import (
    Backbone,
    Context,
    FeatureRequest,
    ImageClassification,
    ImageSplit,
    Metric,
    Result,
    setting,
)

with lazy.imports():
    from dinobench.training.augment import CropAndFlip
    from dinobench.training.linear_classifiers import ClassifierSpec, FeatureLayout
    from dinobench.training.linear_probe import Probe, ProbeConfig
    from dinobench.training.scoring import evaluate_released

DINO = "facebookresearch/dino, eval_linear.py"
DINOV2 = "facebookresearch/dinov2, dinov2/eval/linear.py"
OURS = "ours: the papers choose on the test images"
GRID = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)


@dataclass(frozen=True)
class Config:
    """What decides a linear score. A head is trained for every combination of `lr`, `blocks` and `mean_patch`."""

    lr: tuple[float, ...] = setting((0.001,), "learning rates, per 256 images of `batch`", DINO)
    blocks: tuple[int, ...] = setting((4,), "CLS of the last so many blocks, concatenated oldest first", DINO)
    mean_patch: tuple[bool, ...] = setting((False,), "whether the last block's mean patch token stands beside", DINO)
    features: Literal["augmented", "extracted"] = setting(
        "augmented", "train features come from images augmented anew in each pass, or are extracted once", DINO
    )
    batch: int = setting(1024, "images per step in total, whatever the number of devices", DINO)
    epochs: int = setting(100, "epochs of the training; the heads are tested after each", DINO)
    steps_per_epoch: int = setting(0, "full batches per epoch; 0 is one pass, its last batch smaller", DINO)
    minimum_steps: int = setting(
        0, "fewest steps of an epoch that is one pass: on small data, passes follow each other", DINO
    )
    schedule: Literal["epoch", "step"] = setting(
        "epoch", "the learning rate falls by half a cosine, once per epoch or step", DINO
    )
    momentum: float = setting(0.9, "momentum of SGD", DINO)
    weight_decay: float = setting(0.0, "weight decay of SGD", DINO)
    init_std: float = setting(
        0.01, "deviation of the normal distribution that weights start from; biases start at 0", DINO
    )
    holdout: float = setting(0.1, "share of each train class that heads are chosen on; unused with one head", OURS)
    holdout_seed: int = setting(0, "seed of the stratified draw of those images, the same for every backbone", OURS)
    resize: int = setting(256, "test: shorter side of the image in pixels before the crop", DINO)
    crop: int = setting(224, "side of the crop in pixels, in training and test", DINO)
    interpolation: Literal["bicubic", "bilinear"] = setting(
        "bicubic", "test: interpolation of the resize, by PIL", DINO
    )
    train_interpolation: Literal["bicubic", "bilinear"] = setting(
        "bilinear", "interpolation of the random crop, antialiased", DINO
    )
    min_scale: float = setting(0.08, "smallest share of the image's area in a random crop; the largest is 1", DINO)
    flip: float = setting(0.5, "probability of a horizontal flip in training", DINO)
    input: Input = field(default_factory=Input)
    head: str | None = setting(None, "a file with a trained linear head to test instead of training one", DINO)
    interleaved: bool = setting(
        False, "the file's head reads cls0, mean0, cls1, mean1, … as the released heads of DINO's ViT-B do", DINO
    )

    def __post_init__(self) -> None:
        twice = any(len(set(values)) < len(values) for values in (self.lr, self.blocks, self.mean_patch))
        if twice or not all(0 < rate < math.inf for rate in self.lr) or min(self.blocks) < 1:
            raise ValueError("lr are different numbers above 0, blocks different whole numbers from 1")
        if self.batch < 1 or self.epochs < 1 or self.steps_per_epoch < 0 or self.minimum_steps < 0:
            raise ValueError("batch and epochs are 1 or more, steps_per_epoch and minimum_steps 0 or more")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout = {self.holdout} is a share between 0 and 1")
        if not 0 < self.min_scale <= 1 or not 0 <= self.flip <= 1 or not 0 <= self.momentum < 1:
            raise ValueError("min_scale is above 0 and at most 1, flip 0 to 1, momentum 0 to below 1")
        if self.head and len(self.blocks) * len(self.mean_patch) > 1:
            raise ValueError("a head from a file reads one kind of feature: give blocks and mean_patch one value each")
        if self.interleaved and (not self.head or self.blocks != (1,) or self.mean_patch != (True,)):
            raise ValueError("interleaved is of a head from a file (head=...) with blocks=1 and mean_patch=on")

    def classifiers(self) -> list[ClassifierSpec]:
        return [ClassifierSpec(b, m, r) for b in self.blocks for m in self.mean_patch for r in self.lr]

    def layout(self, dim: int) -> FeatureLayout:
        return FeatureLayout(max(self.blocks), any(self.mean_patch), dim)

    def transform(self) -> ImageTransform:
        return ImageTransform(self.resize, self.crop, self.interpolation, self.input.mean, self.input.std)

    def augment(self) -> CropAndFlip:
        return CropAndFlip(
            self.crop, (self.min_scale, 1.0), interpolation=self.train_interpolation, flip=self.flip,
            mean=self.input.mean, std=self.input.std,
        )  # fmt: skip

    def request(self) -> FeatureRequest:
        return FeatureRequest(self.transform(), max(self.blocks), any(self.mean_patch))

    def probe_config(self) -> ProbeConfig:
        return ProbeConfig(
            classifiers=tuple(self.classifiers()), batch=self.batch, epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            minimum_steps=self.minimum_steps, per_step=self.schedule == "step", momentum=self.momentum,
            weight_decay=self.weight_decay, init_std=self.init_std, holdout=self.holdout,
            holdout_seed=self.holdout_seed,
        )  # fmt: skip


name = "linear"
version = 1
summary = "linear classifiers trained on frozen features"
data = "classification"
requires = frozenset({"features"})
other_tests = True

_V2 = Config(
    lr=GRID, blocks=(1, 4), mean_patch=(False, True), epochs=10, steps_per_epoch=1250, schedule="step",
    train_interpolation="bicubic",
)  # fmt: skip
profiles = {
    "dino2021": Config(),
    "dinov2": _V2,
    # A tenth of DINOv2's steps on small data, so that the grid takes seconds on a CPU: the heads of the larger rates
    # have converged by then. On ImageNet a pass is longer than that, and the steps are as many as DINOv2's.
    "cached": dataclasses.replace(_V2, features="extracted", steps_per_epoch=0, minimum_steps=125),
}


def metrics(config: Config) -> tuple[Metric, ...]:
    """The last epoch's, then the best epoch's on the test images and the best head's on the test images."""
    own = (Metric("top1", primary=True), Metric("top5"))
    if config.head:
        return own
    return (*own, Metric("top1_best_epoch"), *([Metric("top1_val_chosen")] if len(config.classifiers()) > 1 else []))


def requests(data: ImageClassification, config: Config, backbone: Backbone) -> list[tuple[ImageSplit, FeatureRequest]]:
    """What `run` will ask the feature service for."""
    config, _ = shrink(config, backbone)
    train = [data.train] if config.features == "extracted" and not config.head else []
    return [(split, config.request()) for split in (*train, data.test)]


def run(backbone: Backbone, data: ImageClassification, config: Config, ctx: Context) -> Result:
    """Train the heads (or read one from its file) and score the test images."""
    config, notes = shrink(config, backbone)
    layout = config.layout(backbone.embed_dim)
    if config.head:
        return evaluate_released(backbone, data, config.request(), layout, config.head, config.interleaved, ctx)
    augment = config.augment() if config.features == "augmented" else None
    probe = Probe(backbone, data, layout, config.request(), augment, config.probe_config(), ctx)
    result = probe.run()
    result.notes[:0] = notes
    return result


def shrink(config: Config, backbone: Backbone) -> tuple[Config, list[str]]:
    """The Config without what a backbone does not have, and a note that says so.

    A ConvNet has one feature, its global average pool, which is its mean patch too.
    """
    if "layers" in backbone.capabilities or (config.blocks == (1,) and config.mean_patch == (False,)):
        return config, []
    note = f"a {backbone.info.arch} has one feature: blocks=1, mean_patch=off"
    return dataclasses.replace(config, blocks=(1,), mean_patch=(False,)), [note]
