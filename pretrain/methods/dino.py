"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294).

A student sees all views of an image, a teacher the two global ones; the student predicts the teacher's distribution
over K dimensions, and the teacher is the student's moving average. Every part that the paper's Table 7 and Figure 7
take away is a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dinobench.pretrain.method import (
    Method,
    MethodConfig,
    MethodOutput,
    Network,
    NetworkSpec,
    StepInfo,
    View,
    scheduled,
    update_ema,
)
from dinobench.pretrain.methods.dino_head import DinoHead
from dinobench.pretrain.methods.dino_loss import (
    Center,
    cross_entropy,
    entropy,
    sinkhorn,
    squared_error,
    teacher_temperature,
)
from dinobench.pretrain.sync_batch_norm import SyncedBatchNorm, sync_batch_norms
from dinobench.types import setting

PAPER = "arXiv 2104.14294"
RELEASE = "facebookresearch/dino, main_dino.py"
#: Below this many images in a part of a batch, how many outputs the teacher uses says nothing.
ENOUGH_IMAGES = 16


@dataclass(frozen=True)
class Config(MethodConfig):
    """DINO's settings; the defaults are those of the release for a ViT."""

    local_crops: int = setting(8, "Local views of each image; 0 for no multi-crop.", PAPER)
    local_size: int | None = setting(
        None, "Side of a local view in pixels; none: 96/224 of the image's. Brought to a multiple of the patch.", PAPER
    )
    global_scale: tuple[float, ...] = setting((0.4, 1.0), "Share of the image's area in a global view.", RELEASE)
    local_scale: tuple[float, ...] = setting((0.05, 0.4), "Share of the image's area in a local view.", RELEASE)
    flip_p: float = setting(0.5, "Probability of a horizontal flip.", RELEASE)
    jitter: tuple[float, ...] = setting(
        (0.4, 0.4, 0.2, 0.1), "Strengths of jitter: brightness, contrast, saturation, hue.", RELEASE
    )
    jitter_p: float = setting(0.8, "Probability of the colour jitter.", RELEASE)
    grayscale_p: float = setting(0.2, "Probability of grayscale.", RELEASE)
    blur_p: tuple[float, ...] = setting(
        (1.0, 0.1, 0.5), "Probabilities of a blur: first and second global, local views.", RELEASE
    )
    blur_radius: tuple[float, ...] = setting((0.1, 2.0), "Range of the blur's radius in pixels.", RELEASE)
    solarize_p: float = setting(0.2, "Probability of solarisation, second global view only.", RELEASE)

    out_dim: int = setting(65536, "K, dimensions of the head's output.", PAPER)
    hidden_dim: int = setting(2048, "Width of the head's hidden layers.", PAPER)
    bottleneck_dim: int = setting(256, "Width before the last layer.", PAPER)
    head_layers: int = setting(3, "Linear layers before the last one.", PAPER)
    head_batch_norm: bool | None = setting(None, "Batch norm in the head; none: for ResNets, not for ViTs.", PAPER)
    norm_last_layer: bool = setting(True, "Keep the last layer's gains at 1.", RELEASE)
    freeze_last_layer: int = setting(1, "Epochs in which the last layer does not learn.", RELEASE)
    predictor: bool = setting(False, "A predictor in the student's head, before its last layer.", PAPER + ", Table 7")

    loss: Literal["ce", "mse"] = setting("ce", "Cross-entropy, or squared error of normalised outputs.", PAPER)
    centering: Literal["on", "off", "sinkhorn"] = setting("on", "What keeps one dimension from winning.", PAPER)
    sharpening: bool = setting(
        True, "Sharpen the teacher's outputs; off: its temperature is the student's.", PAPER + ", Figure 7"
    )
    center_momentum: float = setting(0.9, "Momentum of the running mean of teacher outputs.", RELEASE)
    student_temperature: float = setting(0.1, "Temperature of the student's softmax.", PAPER)
    teacher_temperature: float = setting(
        0.04, "Temperature of the teacher's softmax after warm-up (.07 in the paper).", RELEASE
    )
    warmup_teacher_temperature: float = setting(
        0.04, "Temperature of the teacher's softmax in the first epoch.", RELEASE
    )
    warmup_teacher_temperature_epochs: int = setting(
        0, "Epochs in which that temperature rises (30 in the paper).", RELEASE
    )
    momentum_teacher: bool = setting(
        True, "Average the student into the teacher; off: it is a copy of the student, without gradient.", PAPER
    )
    momentum: float = setting(
        0.996, "Momentum of the teacher's moving average at the start; its cosine ends at 1.", PAPER
    )

    def __post_init__(self) -> None:
        lengths = {"global_scale": 2, "local_scale": 2, "jitter": 4, "blur_p": 3, "blur_radius": 2}
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} needs {length} numbers, not {len(getattr(self, name))}")
        for name in ("out_dim", "hidden_dim", "bottleneck_dim", "head_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.local_crops < 0:
            raise ValueError("local_crops must be 0 or more")
        if min(self.student_temperature, self.teacher_temperature, self.warmup_teacher_temperature) <= 0:
            raise ValueError("temperatures must be above 0")


class Dino(Method):
    """Student and teacher of one architecture, the teacher without stochastic depth."""

    name = "dino"
    summary = "self-distillation: a student predicts its moving average's view of other crops"
    config_type = Config

    student: Network
    teacher: Network

    def __init__(self, config: Config, spec: NetworkSpec) -> None:
        super().__init__(config, spec)
        self.student = self._network(config.drop_path, config.predictor)
        self.teacher = self._network(0.0, predictor=False)
        update_ema(self.teacher, self.student, 0.0)
        self.teacher.requires_grad_(False)
        self.centering = Center(config.out_dim, config.center_momentum)

    def _network(self, drop_path: float, predictor: bool) -> Network:
        c, spec = self.config, self.spec
        batch_norm = c.head_batch_norm if c.head_batch_norm is not None else not spec.is_vit
        head = DinoHead(
            spec.embed_dim, c.out_dim, c.hidden_dim, c.bottleneck_dim, c.head_layers,
            SyncedBatchNorm if batch_norm else None, c.norm_last_layer, predictor,
        )  # fmt: skip
        return Network(sync_batch_norms(spec.backbone(drop_path)), head)

    @staticmethod
    def views(config: Config, image_size: int) -> tuple[View, ...]:
        """Two global views and the local ones."""
        c = config
        jitter: Any = c.jitter
        local_size = c.local_size or max(1, round(image_size * 96 / 224))

        def view(count: int, size: int, scale: Sequence[float], blur_p: float, solarize_p: float = 0.0) -> View:
            return View(
                count, size, (scale[0], scale[1]), flip_p=c.flip_p, jitter=jitter, jitter_p=c.jitter_p,
                grayscale_p=c.grayscale_p, blur_p=blur_p,
                blur_radius=(c.blur_radius[0], c.blur_radius[1]), solarize_p=solarize_p,
            )  # fmt: skip

        first, second, local = c.blur_p
        both = (
            view(1, image_size, c.global_scale, first),
            view(1, image_size, c.global_scale, second, c.solarize_p),
        )
        return (*both, view(c.local_crops, local_size, c.local_scale, local)) if c.local_crops else both

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """2 + local_crops views of (B, 3, ·, ·), the global ones first."""
        images = len(views[0])
        with torch.no_grad():
            seen, teacher_features = self.teacher(views[:2])
        predicted, student_features = self.student(views)
        seen, predicted = seen.float(), predicted.float().unflatten(0, (len(views), images))  # (V, B, K)
        self.centering.add(seen)
        logits = self._center(seen) / self._temperature(now)
        targets = sinkhorn(logits) if self.config.centering == "sinkhorn" else logits.softmax(dim=-1)
        targets = targets.unflatten(0, (2, images))
        ce = cross_entropy(targets, predicted / self.config.student_temperature)
        loss = ce
        if self.config.loss == "mse":
            loss = squared_error(self._center(seen).unflatten(0, (2, images)), predicted)
        uncertainty = entropy(targets)
        stats = {"teacher_entropy": uncertainty, "kl": ce.detach() - uncertainty}
        if images >= ENOUGH_IMAGES:
            stats["teacher_mean_entropy"] = entropy(targets.mean(dim=(0, 1)))
        return MethodOutput(
            loss,
            stats,
            {"student": student_features[: 2 * images].detach(), "teacher": teacher_features},
        )

    def _center(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs - self.centering.center if self.config.centering == "on" else outputs

    def _temperature(self, now: StepInfo) -> float:
        c = self.config
        if not c.sharpening:
            return c.student_temperature
        return teacher_temperature(
            now.epoch, c.warmup_teacher_temperature, c.teacher_temperature, c.warmup_teacher_temperature_epochs
        )

    def _momentum(self, now: StepInfo) -> float:
        return scheduled(now, self.config.momentum, 1.0) if self.config.momentum_teacher else 0.0

    def before_step(self, now: StepInfo) -> None:
        """The last layer's gradients are dropped in the first epochs, without weight decay on it either."""
        if now.epoch < self.config.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, now: StepInfo) -> None:
        self.centering.update()
        # a teacher with batch norm has statistics of its own, from the global views that it sees
        update_ema(self.teacher, self.student, self._momentum(now), buffers=False)

    def logged(self, now: StepInfo) -> dict[str, float]:
        return {"momentum": self._momentum(now), "teacher_temperature": self._temperature(now)}


METHOD = Dino
