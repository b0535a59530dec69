"""The supervised baseline: cross-entropy with labels, under the same loop, backbones and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from dinobench.pretrain.method import Method, MethodConfig, MethodOutput, Network, NetworkSpec, StepInfo, View
from dinobench.pretrain.methods.losses import accuracy
from dinobench.pretrain.sync_batch_norm import sync_batch_norms
from dinobench.types import setting


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of the supervised baseline: weak augmentation alone, without DeiT's mixing of images."""

    label_smoothing: float = setting(0.1, "Mass of the target spread over all classes.", "arXiv 2012.12877, table 9")
    crop_min: float = setting(0.08, "Smallest crop's share of the image.", "arXiv 1409.4842, section 6")


class Supervised(Method):
    """A linear classifier on the backbone's features, trained with it."""

    name = "supervised"
    summary = "cross-entropy with the class labels: the baseline"
    config_type = Config
    labels = True

    def __init__(self, config: Config, spec: NetworkSpec) -> None:
        super().__init__(config, spec)
        head = nn.Linear(spec.embed_dim, spec.classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.student = Network(sync_batch_norms(spec.backbone(config.drop_path)), head)

    @staticmethod
    def views(config: Config, image_size: int) -> tuple[View, ...]:
        """One view, cropped and flipped."""
        return (View(size=image_size, scale=(config.crop_min, 1.0)),)

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """Views: one of (B, 3, S, S); labels (B,)."""
        assert labels is not None, "a supervised training needs labels"
        logits, features = self.student(views)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        return MethodOutput(loss, {"accuracy": accuracy(logits, labels)}, {"student": features.detach()})


METHOD = Supervised
