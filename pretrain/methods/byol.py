"""BYOL (Grill et al. 2020, arXiv 2006.07733): predict a momentum teacher's projection of another view, no negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dinobench.pretrain.heads import PredictingNetwork, mlp, momentum_teacher
from dinobench.pretrain.method import (
    Method,
    MethodConfig,
    MethodOutput,
    NetworkSpec,
    StepInfo,
    View,
    asymmetric_views,
    scheduled,
    update_ema,
)
from dinobench.pretrain.sync_batch_norm import sync_batch_norms
from dinobench.types import setting

SOURCE = "arXiv 2006.07733"


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of BYOL. The optimizer's are DINO's, since the paper's LARS recipe is for ResNets."""

    hidden: int = setting(4096, "Hidden width of projector and predictor.", f"{SOURCE}, section 3.3")
    out: int = setting(256, "Width of the projections.", f"{SOURCE}, section 3.3")
    momentum: float = setting(0.996, "Teacher's momentum at the start; its cosine ends at 1.", f"{SOURCE}, section 3.3")
    crop_min: float = setting(0.08, "Smallest crop's share of the image.", f"{SOURCE}, appendix B")


def loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(B, d) and (B, d) -> the mean of 2 − 2 cos, the squared distance of unit vectors (equation 2)."""
    return 2 - 2 * F.cosine_similarity(predicted.float(), target.float(), dim=1).mean()


class BYOL(Method):
    """Each view goes through the networks alone, so that batch norms see one kind of view, as published."""

    name = "byol"
    summary = "predicts a momentum teacher's projection of the other view; no negatives"
    config_type = Config
    student: PredictingNetwork

    def __init__(self, config: Config, spec: NetworkSpec) -> None:
        super().__init__(config, spec)
        dims = (spec.embed_dim, config.hidden, config.out)
        self.student = PredictingNetwork(
            sync_batch_norms(spec.backbone(config.drop_path)), mlp(dims), mlp((config.out, config.hidden, config.out))
        )
        self.teacher = momentum_teacher(self.student, spec.backbone, mlp(dims))

    @staticmethod
    def views(config: Config, image_size: int) -> tuple[View, ...]:
        """The two of `asymmetric_views`."""
        return asymmetric_views(image_size, config.crop_min)

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """Views: two of (B, 3, S, S). The loss is symmetric: the sum over both views of one predicting the other."""
        assert self.teacher is not None
        projected, features = zip(*(self.student([v]) for v in views), strict=True)
        with torch.no_grad():
            targets, teacher_features = zip(*(self.teacher([v]) for v in views), strict=True)
        first, second = (self.student.predictor(p) for p in projected)
        total = loss(first, targets[1]) + loss(second, targets[0])
        return MethodOutput(
            total,
            {"cosine": 1 - total.detach() / 4},
            {"student": torch.cat(features).detach(), "teacher": torch.cat(teacher_features)},
        )

    def after_step(self, now: StepInfo) -> None:
        assert self.teacher is not None
        update_ema(self.teacher, self.student, self.logged(now)["momentum"], buffers=False)

    def logged(self, now: StepInfo) -> dict[str, float]:
        return {"momentum": scheduled(now, self.config.momentum, 1.0)}


METHOD = BYOL
