"""Semantic segmentation by a linear head on frozen patch features: mIoU of label maps made window by window.

(Oquab et al. 2023, arXiv 2304.07193, section 7.4, whose release `dinov2` and `dinov2-ms` follow as far as its configs
are public; Siméoni et al. 2025, arXiv 2508.10104, whose `eval/segmentation` `dinov3` follows.) Both releases report on
the images that they choose the best or the last validation on; here the score is that of the last one, and DINOv3's two
slips stand beside it: its best validation as mIoU_best, and its labels less one, right for ADE20k alone, as
mIoU_zero_reduced. Images are decoded by Pillow, in `dinov2` too, whose release has OpenCV do it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from dinobench import lazy
from dinobench.data.transforms import Input
from dinobench.errors import UserError
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np

    from dinobench.algorithms.semantic_result import semantic_result
    from dinobench.dense.augment import SegmentationCrop
    from dinobench.dense.probe import SegmentationProbe
    from dinobench.dense.rates import one_cycle, poly
    from dinobench.dense.segmenter import SlidingView
    from dinobench.metrics.semantic import areas_of, confusion, scores

if TYPE_CHECKING:
    from dinobench.data.label_maps import LabelMapSet

#: The layout whose labels the releases lessen by one, and whose reader has done so.
ADE20K = "ade20k"
DINOV3 = "facebookresearch/dinov3, configs/config-ade20k-linear-training.yaml and eval/segmentation"


@dataclass(frozen=True)
class Train:
    """How the head is trained."""

    blocks: int = setting(1, "outputs of so many last blocks, each after the final norm, concatenated", DINOV3)
    dropout: float = setting(0.1, "share of channels that are dropped before the head's batch norm", DINOV3)
    lr: float = setting(1e-3, "highest learning rate of AdamW", DINOV3)
    weight_decay: float = setting(1e-3, "weight decay of AdamW", DINOV3)
    iterations: int = setting(40_000, "steps of the training", DINOV3)
    batch: int = setting(16, "crops per step in total, whatever the number of devices", DINOV3)
    schedule: Literal["one_cycle", "poly"] = setting(
        "one_cycle", "after the warm-up the rate falls by half a cosine, or linearly", DINOV3
    )
    warmup: float = setting(0.0375, "share of the iterations in which the rate rises (1,500 of 40,000)", DINOV3)
    warmup_ratio: float = setting(1e-6, "the rate's factor at the start of the warm-up", DINOV3)
    validate_every: int = setting(5000, "iterations between validations on the test images; 0: only the last", DINOV3)
    features: Literal["augmented", "extracted"] = setting(
        "augmented", "train features come from crops augmented anew, or from windows extracted once", DINOV3
    )
    loss_stride: int = setting(1, "the loss takes every so manieth pixel in rows and columns", DINOV3)

    def __post_init__(self) -> None:
        if min(self.blocks, self.iterations, self.batch, self.loss_stride) < 1 or self.validate_every < 0:
            raise ValueError("blocks, iterations, batch and loss_stride are 1 or more, validate_every 0 or more")
        if not 0 <= self.dropout < 1 or not 0 <= self.warmup <= 1 or not 0 <= self.warmup_ratio <= 1:
            raise ValueError("dropout is 0 to below 1, warmup and warmup_ratio 0 to 1")
        if not self.lr > 0 or self.weight_decay < 0:
            raise ValueError("lr is above 0, weight_decay 0 or more")

    def rates(self) -> np.ndarray:
        """The learning rate of every step (iterations,)."""
        of = one_cycle if self.schedule == "one_cycle" else poly
        return of(self.lr, self.iterations, round(self.warmup * self.iterations), self.warmup_ratio)


@dataclass(frozen=True)
class View:
    """How images are resized and cut."""

    side: int = setting(512, "shorter side of the image in pixels, in test and, before `scale`, in training", DINOV3)
    longest: int = setting(0, "most pixels of the longer side; 0: any", DINOV3)
    crop: int = setting(512, "side of the training crops and of the test windows in pixels", DINOV3)
    stride: int = setting(341, "pixels from one test window to the next", DINOV3)
    library: Literal["pil", "opencv"] = setting(
        "pil", "what resizes: Pillow with antialiasing, or OpenCV without, whose windows follow mmseg too", DINOV3
    )
    padding: Literal["centred", "cut"] = setting(
        "cut", "sides that are no multiple of the patch: filled up with zeros around, or cut right and below", DINOV3
    )
    ratios: tuple[float, ...] = setting((1.0,), "test: scales whose class probabilities are averaged", DINOV3)
    mirror: bool = setting(False, "test: every scale is seen mirrored too", DINOV3)
    scale: tuple[float, ...] = setting((0.5, 2.0), "training: least and largest factor of `side`", DINOV3)
    most: float = setting(
        0.75, "training: a crop is drawn again while one class has this share of it; 1: never", DINOV3
    )
    flip: float = setting(0.5, "training: probability of a horizontal flip", DINOV3)
    distort: bool = setting(True, "training: photometric distortion, in the manner of `library`", DINOV3)

    def __post_init__(self) -> None:
        if min(self.side, self.crop) < 1 or self.longest < 0 or not 1 <= self.stride <= self.crop:
            raise ValueError("side and crop are 1 or more, longest 0 or more, stride 1 to crop")
        if not self.ratios or min(self.ratios) * self.side < 1:
            raise ValueError("ratios are one or more, each leaving a side of 1 pixel or more")
        if len(self.scale) != 2 or not 1 / self.side <= self.scale[0] <= self.scale[1]:
            raise ValueError("scale is a least and a largest factor, as in 0.5,2")
        if not 0 < self.most <= 1 or not 0 <= self.flip <= 1:
            raise ValueError("most is above 0 and at most 1, flip 0 to 1")


@dataclass(frozen=True)
class Config:
    """What decides a segmentation score. The defaults are DINOv3's for ADE20k."""

    train: Train = field(default_factory=Train)
    view: View = field(default_factory=View)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if self.train.features == "extracted" and (self.view.side < self.view.crop or self.view.longest):
            raise ValueError("features=extracted needs whole windows: a side of crop or more, and longest=0")

    def sliding_view(self) -> SlidingView:
        own = self.view
        return SlidingView(
            own.side, own.longest, own.crop, own.stride, own.library == "pil", own.library, own.ratios, own.mirror,
            self.input.mean, self.input.std,
        )  # fmt: skip

    def augment(self) -> SegmentationCrop:
        own = self.view
        return SegmentationCrop(
            own.side, own.longest, (own.scale[0], own.scale[1]), own.crop, own.most, own.flip, own.distort, own.library,
            self.input.mean, self.input.std,
        )  # fmt: skip


name = "segmentation"
version = 1
summary = "a linear head on frozen patch features, trained to segment"
data = "label_maps"
requires = frozenset({"map"})
saves = "every test image's label map as an indexed PNG, and the trained head, head.pth"

# DINOv2's own config for VOC, as kept in faymek/MPCompress. Its GPUs have 2 crops each, 16 in all.
_V2 = Config(
    Train(dropout=0.0, weight_decay=1e-4, schedule="poly", validate_every=10_000),
    View(longest=2048, library="opencv", padding="centred"),
)
profiles = {
    "dinov2": _V2,
    # From copies of DINOv2's configs and its notebook; stride, training scale and test scales were not seen in the
    # original.
    "dinov2-ms": Config(
        replace(_V2.train, blocks=4),
        View(640, 0, 640, 320, "opencv", "centred", ratios=(1.0, 1.32, 1.73, 2.28, 3.0), mirror=True, scale=(1.0, 3.0)),
    ),
    "dinov3": Config(),
    # Ours: a head in minutes on a CPU, on features that are computed once. Not comparable with the releases'.
    "cached": Config(
        Train(iterations=1000, batch=16, validate_every=0, features="extracted", loss_stride=4, warmup=0.05),
        View(side=320, crop=320, stride=213),
    ),
}


def metrics(config: Config) -> tuple[Metric, ...]:
    """The last validation's, then the two readings of DINOv3's release."""
    own = Metric("mIoU", primary=True), Metric("mAcc"), Metric("aAcc")
    return *own, Metric("mIoU_best"), Metric("mIoU_zero_reduced")


def run(backbone: Backbone, data: LabelMapSet, config: Config, ctx: Context) -> Result:
    """Train the head, then score the label maps of the test images."""
    classes = len(data.classes)

    def count(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(2, 3, C): areas as they are, and as DINOv3's evaluation reads the labels."""
        counted = confusion(predicted, truth, classes)
        return np.stack([areas_of(counted), areas_of(zero_reduced(counted))])

    probe = SegmentationProbe(backbone, data, config, count, ctx)
    validated = probe.run()
    rows, counts = (validated[config.train.iterations][part].numpy() for part in ("rows", "counts"))
    ids = [data.test.ids[row] for row in rows]
    result = semantic_result(ids, counts[:, 0])
    if not np.isfinite(result.metrics["mIoU"]):
        raise UserError(f"{data.name}: no pixel of {data.test.name} has a label; give label maps that have")
    if len(validated) > 1:
        reached = {step: scores(one["total"][0].numpy())["mIoU"] for step, one in validated.items()}
        best = max(reached, key=lambda step: reached[step])
        result.metrics["mIoU_best"] = 100 * reached[best]
        result.notes.append(f"best of {len(reached)} validations on the images scored: after {best:,} steps")
    if data.layout != ADE20K and counts[:, 1, 2].any():  # ADE20k's labels are less one already
        slip = semantic_result(ids, counts[:, 1])
        result.metrics["mIoU_zero_reduced"] = slip.metrics["mIoU"]
        if "mIoU" in slip.intervals:
            result.intervals["mIoU_zero_reduced"] = slip.intervals["mIoU"]
    result.notes[:0] = probe.notes
    return result


def zero_reduced(counted: np.ndarray) -> np.ndarray:
    """Confusion (C, C) -> that of labels less one, class 0 ignored, and predictions as they are.

    So does `evaluate_segmentation_model` of DINOv3's release read labels, whatever its config says.
    """
    return np.concatenate([counted[1:], np.zeros_like(counted[:1])])
