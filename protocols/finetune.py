"""Fine-tuning: the whole backbone trained with a linear head on top, as in DeiT.

(Touvron et al. 2020, arXiv 2012.12877, table 9, whose recipe is the profile `deit`; Caron et al. 2021, arXiv
2104.14294, appendix A, with the transfer settings that its authors gave in public threads.) The score is that of the
last epoch; the best epoch on the test images, which papers tend to report, stands beside it under its own name.

A run is a pure function of its settings and seed: micro-batches (`--batch-size`), processes and interruptions change
nothing but the rounding of sums. The exception is batch norm (ResNets), which normalises over the images of one
micro-batch of one process: there, keep the micro-batch when comparing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input
from dinobench.types import Backbone, Context, ImageClassification, Metric, Result, setting

with lazy.imports():
    from dinobench.training.augment import CropAndFlip, TrainView
    from dinobench.training.finetuning import FineTuning
    from dinobench.training.mixup import Mixing
    from dinobench.training.randaugment import RandAugment
    from dinobench.training.random_erasing import Erasing

DEIT = "DeiT, arXiv 2012.12877, table 9, and facebookresearch/deit, main.py"
TIMM = "huggingface/pytorch-image-models, as DeiT uses it"
OURS = "ours"


@dataclass(frozen=True)
class Train:
    """How long the training is, how large its steps are, and how fast it learns at each of them."""

    lr: float = setting(5e-4, "learning rate of AdamW per `lr_batch` images of a step", DEIT)
    lr_batch: int = setting(512, "images that `lr` is stated for: a step learns at lr × batch / this", DEIT)
    batch: int = setting(1024, "images per step in total, whatever the number of devices and micro-batches", DEIT)
    epochs: int = setting(300, "passes over the train images", DEIT)
    warmup_epochs: int = setting(5, "epochs in which the learning rate rises linearly", DEIT)
    warmup_lr: float = setting(1e-6, "learning rate of the first step, not scaled by the batch", DEIT)
    min_lr: float = setting(1e-5, "learning rate that the cosine ends at, not scaled by the batch", DEIT)
    schedule: Literal["epoch", "step"] = setting(
        "epoch",
        "how often the learning rate changes: once per epoch or step; an epoch learns at the rate of its own number, "
        "where DeiT's program, which steps at an epoch's end, is one behind",
        DEIT,
    )
    head_std: float = setting(
        0.02, "deviation of the truncated normal that the head's weights start from; biases start at 0", DEIT
    )
    test_epochs: int = setting(1, "the test images are scored every so many epochs, and after the last", DEIT)

    def __post_init__(self) -> None:
        if min(self.lr, self.lr_batch, self.head_std) <= 0 or min(self.warmup_lr, self.min_lr) < 0:
            raise ValueError("lr, lr_batch and head_std are above 0; warmup_lr and min_lr 0 or more")
        if min(self.batch, self.epochs, self.test_epochs) < 1:
            raise ValueError("batch, epochs and test_epochs are 1 or more")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}; set both")


@dataclass(frozen=True)
class Optimizer:
    """AdamW, and what is done to gradients before it and to weights after it."""

    weight_decay: float = setting(0.05, "weight decay of AdamW; none on biases, norms, tokens and positions", DEIT)
    betas: tuple[float, ...] = setting((0.9, 0.999), "decays of AdamW's averages of gradients and their squares", DEIT)
    eps: float = setting(1e-8, "number that AdamW adds to the divisor of a step", DEIT)
    clip: float = setting(0.0, "largest norm of all gradients together; 0 is no limit", DEIT)
    layer_decay: float = setting(1.0, "learning rate of each layer per that of the layer above; 1 is none", DEIT)
    ema: float = setting(0.0, "decay of a moving average of the weights, which is then what is tested; 0 is none", OURS)

    def __post_init__(self) -> None:
        if self.eps <= 0 or min(self.weight_decay, self.clip) < 0:
            raise ValueError("eps is above 0, weight_decay and clip 0 or more")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in (*self.betas, self.ema)):
            raise ValueError("betas are two numbers; they and ema are 0 to below 1")
        if not 0 < self.layer_decay <= 1:
            raise ValueError("layer_decay is above 0 and at most 1")


@dataclass(frozen=True)
class Regularisation:
    """What keeps a training from learning its images by heart: softened and mixed labels, dropped blocks."""

    smoothing: float = setting(0.1, "label smoothing: share of a label that is spread over all classes", DEIT)
    mixup: float = setting(0.8, "alpha of mixup; 0 is none", DEIT)
    cutmix: float = setting(1.0, "alpha of CutMix; 0 is none", DEIT)
    mix_switch: float = setting(0.5, "probability that a step has CutMix and not mixup, where both are on", DEIT)
    drop_path: float = setting(0.1, "stochastic depth: rate in the last block, rising from 0 in the first", DEIT)

    def __post_init__(self) -> None:
        if not all(0 <= p < 1 for p in (self.smoothing, self.drop_path)):
            raise ValueError("smoothing and drop_path are 0 to below 1")
        if not 0 <= self.mix_switch <= 1 or min(self.mixup, self.cutmix) < 0:
            raise ValueError("mix_switch is 0 to 1, mixup and cutmix 0 or more")

    def mixing(self) -> Mixing:
        return Mixing(self.mixup, self.cutmix, self.mix_switch)


@dataclass(frozen=True)
class Augmentation:
    """What a train image goes through before it is seen."""

    repeats: int = setting(3, "repeated augmentation: views of an image that a step has; 1 is none", DEIT)
    min_scale: float = setting(0.08, "smallest share of the image's area in a random crop; the largest is 1", DEIT)
    flip: float = setting(0.5, "probability of a horizontal flip in training", DEIT)
    randaugment: int = setting(2, "operations of RandAugment per image; 0 is none", DEIT)
    magnitude: float = setting(9.0, "magnitude of RandAugment's operations, 0 to 10", DEIT)
    magnitude_std: float = setting(0.5, "standard deviation of that magnitude", DEIT)
    erasing: float = setting(0.25, "probability that a box of an image is erased", DEIT)
    erasing_area: tuple[float, ...] = setting(
        (0.02, 1 / 3), "smallest and largest share of the image's area in the erased box", TIMM
    )
    erasing_aspect: float = setting(
        0.3, "smallest ratio of the erased box's height to its width; the largest is its inverse", TIMM
    )

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.randaugment < 0:
            raise ValueError("repeats is 1 or more, randaugment 0 or more")
        if not all(0 <= p <= 1 for p in (self.erasing, self.flip)):
            raise ValueError("erasing and flip are 0 to 1")
        if not 0 < self.min_scale <= 1 or not 0 < self.erasing_aspect <= 1:
            raise ValueError("min_scale and erasing_aspect are above 0 and at most 1")
        if len(self.erasing_area) != 2 or not 0 < self.erasing_area[0] <= self.erasing_area[1] <= 1:
            raise ValueError("erasing_area is a smallest and a largest share, as in 0.02,0.33")
        if not 0 <= self.magnitude <= 10 or self.magnitude_std < 0:
            raise ValueError("magnitude is 0 to 10, magnitude_std 0 or more")


@dataclass(frozen=True)
class Transform:
    """How images come to the size that the model sees."""

    resize: int = setting(256, "test: shorter side of the image in pixels before the crop", DEIT)
    crop: int = setting(224, "side of the images in pixels, in training and test", DEIT)
    interpolation: Literal["bicubic", "bilinear"] = setting("bicubic", "interpolation of every resize, by PIL", DEIT)


@dataclass(frozen=True)
class Config:
    """What decides a fine-tuned score, in groups. The defaults are DeiT's for ImageNet."""

    train: Train = field(default_factory=Train)
    optimizer: Optimizer = field(default_factory=Optimizer)
    regularisation: Regularisation = field(default_factory=Regularisation)
    augmentation: Augmentation = field(default_factory=Augmentation)
    transform: Transform = field(default_factory=Transform)
    input: Input = field(default_factory=Input)

    def test_transform(self) -> ImageTransform:
        """What a test image goes through."""
        own = self.transform
        return ImageTransform(own.resize, own.crop, own.interpolation, self.input.mean, self.input.std)

    def train_view(self, uniforms: int) -> TrainView:
        """What a train image goes through; `uniforms` numbers are drawn beside it, for the model's dropped blocks."""
        own, size = self.augmentation, self.transform
        crop = CropAndFlip(size.crop, (own.min_scale, 1.0), interpolation=size.interpolation, flip=own.flip)
        operations, erasing = None, None
        if own.randaugment:
            operations = RandAugment(own.randaugment, own.magnitude, own.magnitude_std, size.interpolation)
        if own.erasing:
            erasing = Erasing(own.erasing, (own.erasing_area[0], own.erasing_area[1]), own.erasing_aspect)
        return TrainView(crop, operations, erasing, uniforms)


name = "finetune"
version = 1
summary = "the whole backbone trained with a linear head"
data = "classification"
requires = frozenset({"features"})
saves = "the fine-tuned weights and the head, model.pth"
profiles = {
    "deit": Config(),
    # facebookresearch/dino, issues 81 and 144, and facebookresearch/deit, issues 105 and 117, all by DeiT's first
    # author. 7.5e-6 is stated with a global batch of 768, 5e-6 without one: lr × 768 / 512 makes them one setting. No
    # list has random erasing, and min_lr was left at its default, so that the rate ends above where the warm-up led.
    "cifar10": Config(Train(lr=7.5e-6, lr_batch=768, batch=768, epochs=1000), augmentation=Augmentation(erasing=0.0)),
    "cifar100": Config(Train(lr=5e-6, batch=768, epochs=1000), augmentation=Augmentation(erasing=0.0)),
    # facebookresearch/dino, issue 171: "lr before scaling"
    "inat": Config(Train(lr=5e-5)),
    # Ours, for a laptop: small images, a few epochs, and none of what only pays in hundreds of them.
    "small": Config(
        Train(lr=5e-4, lr_batch=64, batch=64, epochs=5, warmup_epochs=1, min_lr=1e-6, schedule="step"),
        Optimizer(layer_decay=0.75, clip=1.0),
        Regularisation(mixup=0.0, cutmix=0.0, drop_path=0.0),
        Augmentation(randaugment=0, erasing=0.0, repeats=1, min_scale=0.5),
        Transform(resize=64, crop=64),
    ),
}


def metrics(config: Config) -> tuple[Metric, ...]:
    """The last epoch's, and the best epoch's on the test images."""
    return (Metric("top1", primary=True), Metric("top5"), Metric("top1_best_epoch"))


def run(backbone: Backbone, data: ImageClassification, config: Config, ctx: Context) -> Result:
    """Train a copy of the backbone and score the test images."""
    return FineTuning(backbone, data, config, ctx).run()
