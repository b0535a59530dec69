"""What a pretraining method is: its settings, its views, its networks, its loss, and what happens after a step.

The loop knows nothing else of a method. A third party adds one with a module that has a `Method` subclass called
`METHOD`, and an entry point in the group `dinobench.methods`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from dinobench.training.schedules import cosine
from dinobench.types import setting


@dataclass(frozen=True)
class View:
    """A kind of random view of an image, made `count` times: crop, flip, jitter, grayscale, blur, solarise, normalise.

    `scale`: the crop's share of the image's area. `jitter`: strengths of brightness, contrast, saturation and hue.
    `blur_radius`: range of the Gaussian's standard deviation in pixels (PIL's `radius`). What ends in `_p` is a
    probability; the steps come in this order.
    """

    count: int = 1
    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.0
    grayscale_p: float = 0.0
    blur_p: float = 0.0
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0


def asymmetric_views(size: int, crop_min: float) -> tuple[View, View]:
    """BYOL's two views, which MoCo v3 took over: one always blurred, one seldom but sometimes solarised.

    (Grill et al. 2020, arXiv 2006.07733, Table 6.)
    """
    first = View(size=size, scale=(crop_min, 1.0), jitter_p=0.8, grayscale_p=0.2, blur_p=1.0)
    return first, replace(first, blur_p=0.1, solarize_p=0.2)


@dataclass(frozen=True)
class MethodConfig:
    """Settings that every method shares, so that methods are compared under equal conditions.

    A method's own Config inherits from it, adds its fields and changes defaults where its paper does.
    """

    epochs: int = setting(100, "Passes over the data.", "arXiv 2104.14294")
    batch: int = setting(256, "Images per optimizer step, over all processes and accumulated parts.")
    lr: float = setting(5e-4, "Learning rate per 256 images of a batch.", "arXiv 2104.14294, section 3.2")
    min_lr: float = setting(1e-6, "Learning rate that the cosine falls to.", "arXiv 2104.14294")
    warmup_epochs: int = setting(10, "Epochs in which the learning rate rises linearly from 0.", "arXiv 2104.14294")
    weight_decay: float = setting(0.04, "AdamW's weight decay at the start.", "arXiv 2104.14294")
    weight_decay_end: float = setting(0.4, "Weight decay that its cosine ends at.", "arXiv 2104.14294")
    decay_all: bool = setting(False, "Whether biases and norms have weight decay too.", "dino, utils.py")
    optimizer: Literal["adamw", "sgd"] = setting(
        "adamw", "Optimizer; sgd (momentum .9) is the paper's choice for ResNets."
    )
    clip: float = setting(3.0, "Largest gradient norm of each parameter tensor; 0 for no clipping.", "dino, utils.py")
    drop_path: float = setting(0.1, "Stochastic depth of the student's ViT.", "arXiv 2104.14294")
    seed: int = setting(0, "Seed of weights, order and views.")


@dataclass(frozen=True)
class StepInfo:
    """Where a training stands: `step` counts optimizer steps from 0 over all epochs."""

    step: int
    epoch: int
    steps_per_epoch: int
    epochs: int


@functools.lru_cache(maxsize=32)
def _values(base: float, final: float, epochs: int, steps_per_epoch: int, warmup: int, start: float) -> np.ndarray:
    return cosine(base, final, epochs, steps_per_epoch, warmup, start)


def scheduled(now: StepInfo, base: float, final: float, warmup_epochs: int = 0, start: float = 0.0) -> float:
    """The value of a cosine schedule at this step (see dinobench.training.schedules.cosine)."""
    warmup = min(warmup_epochs, now.epochs)
    return float(_values(base, final, now.epochs, now.steps_per_epoch, warmup, start)[now.step])


@dataclass
class MethodOutput:
    """What a forward pass gave: the loss, a scalar averaged over this process's images, and what to log.

    `stats`: scalars by name, detached, averaged over the images like the loss (`teacher_entropy`, `kl`, `accuracy`).
    `features`: backbone outputs (n, embed_dim), detached, by network (`student`, `teacher`), of global views, from
    which the loop measures collapse.
    """

    loss: torch.Tensor
    stats: dict[str, torch.Tensor] = field(default_factory=dict)
    features: dict[str, torch.Tensor] = field(default_factory=dict)


class Network(nn.Module):
    """A backbone (images -> (B, embed_dim)) and a head on it. One forward per resolution (see `forward`)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of (B, 3, H, W) each -> (head's output, backbone's output), view-major: (views × B, ·).

        Consecutive views of one size go through the backbone together.
        """
        features, start = [], 0
        for end in range(1, len(views) + 1):
            if end == len(views) or views[end].shape[-2:] != views[start].shape[-2:]:
                features.append(self.backbone(torch.cat(list(views[start:end]))))
                start = end
        joined = torch.cat(features)
        return self.head(joined), joined


@dataclass(frozen=True)
class NetworkSpec:
    """What a method builds its networks from.

    `backbone(drop_path)` makes a new backbone of the chosen architecture (images -> (B, embed_dim)), drawn from
    torch's global generator, which the loop has seeded. `classes` is for methods with labels.
    """

    backbone: Callable[[float], nn.Module]
    embed_dim: int
    classes: int
    is_vit: bool
    image_size: int


class Method(nn.Module):
    """A method as one module: its forward is a training step's loss, its buffers are part of the checkpoint.

    Subclasses set the class attributes, build `student` (what the optimizer trains, a Network) and, where there is
    one, `teacher` (a Network without gradients) in `__init__`, and write `forward`. Everything trained lives in
    `student`, a predictor included; everything else without gradients. Buffers (centre, queue) must be the same on
    every process after `after_step`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    #: The method's frozen Config, a subclass of MethodConfig; every field a documented setting.
    config_type: ClassVar[type[MethodConfig]] = MethodConfig
    #: Whether images come with class labels.
    labels: ClassVar[bool] = False

    student: nn.Module
    teacher: nn.Module | None

    def __init__(self, config: Any, spec: NetworkSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.teacher = None  # not on the class, where it would hide a submodule of the name

    @staticmethod
    def views(config: Any, image_size: int) -> tuple[View, ...]:
        """The views of every image, in the order in which `forward` gets them (a View of count n is n tensors)."""
        raise NotImplementedError

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """The loss of a batch: views of (B, 3, size, size) float32, normalised; labels (B,) or None."""
        raise NotImplementedError

    def before_step(self, now: StepInfo) -> None:
        """After the gradients are there and before they are clipped and used."""

    def after_step(self, now: StepInfo) -> None:
        """After the optimizer's step: moving averages, queues."""

    def logged(self, now: StepInfo) -> dict[str, float]:
        """Schedules of the method's own, for metrics.jsonl (`momentum`, `teacher_temperature`)."""
        return {}


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, momentum: float, buffers: bool = True) -> None:
    """teacher ← momentum × teacher + (1 − momentum) × student, parameters by name; buffers (batch norm's) copied.

    Parameters of `student` that `teacher` lacks (a predictor) are left out. `buffers` False is for a teacher that
    gathers statistics of its own in training mode.
    """
    trained = dict(student.named_parameters())
    names, averages = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_([p.data for p in averages], [trained[n].detach() for n in names], 1 - momentum)
    if not buffers:
        return
    current = dict(student.named_buffers())
    for name, buffer in teacher.named_buffers():
        if name in current:
            buffer.copy_(current[name])
