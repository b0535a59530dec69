"""Fine-tuning: the whole backbone trained with a linear head on top, as in DeiT.

(Touvron et al. 2020, arXiv 2012.12877, table 9, whose recipe is the profile `deit`; Caron et al. 2021, arXiv
2104.14294, appendix A, with the transfer settings that its authors gave in public threads.) The score is that of the
last epoch; the best epoch on the test images, which papers tend to report, stands beside it under its own name.

A run is a pure function of its settings and seed: micro-batches (`--batch-size`), processes and interruptions change
nothing but the rounding of sums. The exception is batch norm (ResNets), which normalises over the images of one
micro-batch of one process: there, keep the micro-batch when comparing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinobench.data.transforms import ImageTransform
from dinobench.training.augment import CropAndFlip
from dinobench.training.finetuning import FineTuning
from dinobench.training.mixup import Mixing
from dinobench.training.randaugment import RandAugment
from dinobench.training.random_erasing import Erasing
from dinobench.types import (
    Backbone,
    Context,
    ImageClassification,
    Metric,
    Result,
    setting,
)

DEIT = "DeiT, arXiv 2012.12877, table 9, and facebookresearch/deit, main.py"
TIMM = "huggingface/pytorch-image-models, as DeiT uses it"
OURS = "ours"


@dataclass(frozen=True)
class Config:
    """What decides a fine-tuned score. The defaults are DeiT's for ImageNet."""

    lr: float = setting(5e-4, "learning rate of AdamW per `lr_batch` images of a step", DEIT)
    lr_batch: int = setting(512, "images that `lr` is stated for: a step learns at lr × batch / this", DEIT)
    batch: int = setting(1024, "images per step in total, whatever the number of devices and micro-batches", DEIT)
    epochs: int = setting(300, "passes over the train images", DEIT)
    warmup_epochs: int = setting(5, "in which the learning rate rises linearly", DEIT)
    warmup_lr: float = setting(1e-6, "learning rate of the first step, not scaled by the batch", DEIT)
    min_lr: float = setting(1e-5, "learning rate that the cosine ends at, not scaled by the batch", DEIT)
    schedule: Literal["epoch", "step"] = setting("epoch", "the learning rate changes per this", DEIT)
    weight_decay: float = setting(0.05, "of AdamW; none on biases, norms, tokens and positions", DEIT)
    betas: tuple[float, ...] = setting((0.9, 0.999), "of AdamW", DEIT)
    eps: float = setting(1e-8, "of AdamW", DEIT)
    clip: float = setting(0.0, "largest norm of all gradients together; 0 is no limit", DEIT)
    layer_decay: float = setting(1.0, "learning rate of each layer per that of the layer above; 1 is none", DEIT)
    ema: float = setting(0.0, "decay of a moving average of the weights, which is then what is tested; 0 is none", OURS)
    head_std: float = setting(0.02, "of the truncated normal that the head's weights start from; bias 0", DEIT)
    smoothing: float = setting(0.1, "label smoothing", DEIT)
    mixup: float = setting(0.8, "alpha of mixup; 0 is none", DEIT)
    cutmix: float = setting(1.0, "alpha of CutMix; 0 is none", DEIT)
    mix_switch: float = setting(0.5, "probability that a step has CutMix and not mixup, where both are on", DEIT)
    randaugment: int = setting(2, "operations of RandAugment per image; 0 is none", DEIT)
    magnitude: float = setting(9.0, "of RandAugment's operations, 0 to 10", DEIT)
    magnitude_std: float = setting(0.5, "standard deviation of that magnitude", DEIT)
    erasing: float = setting(0.25, "probability that a box of an image is erased", DEIT)
    erasing_area: tuple[float, ...] = setting((0.02, 1 / 3), "smallest and largest share of the image in it", TIMM)
    erasing_aspect: float = setting(0.3, "smallest height to width of that box; the largest is its inverse", TIMM)
    drop_path: float = setting(0.1, "stochastic depth: rate in the last block, rising from 0 in the first", DEIT)
    repeats: int = setting(3, "repeated augmentation: views of an image that a step has; 1 is none", DEIT)
    resize: int = setting(256, "test: shorter side of the image in pixels before the crop", DEIT)
    crop: int = setting(224, "side of the images in pixels, in training and test", DEIT)
    interpolation: Literal["bicubic", "bilinear"] = setting("bicubic", "of every resize, by PIL", DEIT)
    min_scale: float = setting(0.08, "smallest share of the image's area in a random crop; the largest is 1", DEIT)
    flip: float = setting(0.5, "probability of a horizontal flip in training", DEIT)
    test_epochs: int = setting(1, "the test images are scored every so many epochs, and after the last", DEIT)
    save: str | None = setting(
        None, "file, or folder ending in /, that the fine-tuned weights are kept in", OURS, decides=False
    )

    def __post_init__(self) -> None:
        if min(self.lr, self.lr_batch, self.eps) <= 0 or min(self.warmup_lr, self.min_lr, self.weight_decay) < 0:
            raise ValueError("lr, lr_batch and eps are above 0; warmup_lr, min_lr and weight_decay 0 or more")
        if min(self.batch, self.epochs, self.repeats, self.test_epochs) < 1 or self.randaugment < 0 or self.clip < 0:
            raise ValueError("batch, epochs, repeats and test_epochs are 1 or more, randaugment and clip 0 or more")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}; set both")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in (*self.betas, self.ema, self.smoothing, self.drop_path)):
            raise ValueError("betas are two numbers; they, ema, smoothing and drop_path are 0 to below 1")
        if not all(0 <= p <= 1 for p in (self.erasing, self.flip, self.mix_switch)) or min(self.mixup, self.cutmix) < 0:
            raise ValueError("erasing, flip and mix_switch are 0 to 1, mixup and cutmix 0 or more")
        if not 0 < self.min_scale <= 1 or not 0 < self.layer_decay <= 1 or not 0 < self.erasing_aspect <= 1:
            raise ValueError("min_scale, layer_decay and erasing_aspect are above 0 and at most 1")
        if len(self.erasing_area) != 2 or not 0 < self.erasing_area[0] <= self.erasing_area[1] <= 1:
            raise ValueError("erasing_area is a smallest and a largest share, as in 0.02,0.33")
        if self.head_std <= 0 or not 0 <= self.magnitude <= 10 or self.magnitude_std < 0:
            raise ValueError("head_std is above 0, magnitude 0 to 10, magnitude_std 0 or more")

    def transform(self) -> ImageTransform:
        return ImageTransform(resize=self.resize, crop=self.crop, interpolation=self.interpolation)

    def augment(self) -> CropAndFlip:
        return CropAndFlip(self.crop, (self.min_scale, 1.0), interpolation=self.interpolation, flip=self.flip)

    def operations(self) -> RandAugment | None:
        if not self.randaugment:
            return None
        return RandAugment(self.randaugment, self.magnitude, self.magnitude_std, self.interpolation)

    def erase(self) -> Erasing | None:
        area = self.erasing_area[0], self.erasing_area[1]
        return Erasing(self.erasing, area, self.erasing_aspect) if self.erasing else None

    def mixing(self) -> Mixing:
        return Mixing(self.mixup, self.cutmix, self.mix_switch)


name = "finetune"
version = 1
summary = "the whole backbone trained with a linear head"
data = "classification"
requires = frozenset({"features"})
profiles = {
    "deit": Config(),
    # facebookresearch/dino, issues 81 and 144, and facebookresearch/deit, issues 105 and 117, all by DeiT's first
    # author. 7.5e-6 is stated with a global batch of 768, 5e-6 without one: lr × 768 / 512 makes them one setting. No
    # list has random erasing, and min_lr was left at its default, so that the rate ends above where the warm-up led.
    "cifar10": Config(lr=7.5e-6, lr_batch=768, batch=768, epochs=1000, erasing=0.0),
    "cifar100": Config(lr=5e-6, batch=768, epochs=1000, erasing=0.0),
    # facebookresearch/dino, issue 171: "lr before scaling"
    "inat": Config(lr=5e-5),
    # Ours, for a laptop: small images, a few epochs, and none of what only pays in hundreds of them.
    "small": Config(
        lr=5e-4, lr_batch=64, batch=64, epochs=5, warmup_epochs=1, min_lr=1e-6, schedule="step", layer_decay=0.75,
        clip=1.0, mixup=0.0, cutmix=0.0, randaugment=0, erasing=0.0, drop_path=0.0, repeats=1, resize=64, crop=64,
        min_scale=0.5,
    ),
}  # fmt: skip


def metrics(config: Config) -> tuple[Metric, ...]:
    """The last epoch's, and the best epoch's on the test images."""
    return (Metric("top1", primary=True), Metric("top5"), Metric("top1_best_epoch"))


def run(backbone: Backbone, data: ImageClassification, config: Config, ctx: Context) -> Result:
    """Train a copy of the backbone and score the test images."""
    return FineTuning(backbone, data, config, ctx).run()
