"""MoCo v3 (Chen et al. 2021, arXiv 2104.02057): contrast within the batch, with predictor and momentum teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from dinobench.distributed import gather
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
from dinobench.pretrain.methods.losses import info_nce_in_batch
from dinobench.pretrain.sync_batch_norm import sync_batch_norms
from dinobench.types import setting

SOURCE = "arXiv 2104.02057"
CODE = "facebookresearch/moco-v3, CONFIG.md"


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of MoCo v3, the optimizer's as published for ViT-S, whose 300 epochs of batches of 4096 are not.

    Negatives come from the images that go through the networks together, on all processes: accumulating gradients over
    parts of a batch gives fewer of them.
    """

    lr: float = setting(1.5e-4, "Learning rate per 256 images of a batch.", CODE)
    min_lr: float = setting(0.0, "Learning rate that the cosine falls to.", CODE)
    warmup_epochs: int = setting(40, "Epochs in which the learning rate rises linearly from 0.", CODE)
    weight_decay: float = setting(0.1, "AdamW's weight decay at the start.", CODE)
    weight_decay_end: float = setting(0.1, "Weight decay that its cosine ends at.", CODE)
    decay_all: bool = setting(True, "Whether biases and norms have weight decay too.", "moco-v3, main_moco.py")
    clip: float = setting(0.0, "Largest gradient norm of each parameter tensor; 0 for no clipping.", CODE)
    drop_path: float = setting(0.0, "Stochastic depth of the student's ViT.", CODE)
    hidden: int = setting(4096, "Hidden width of projector and predictor.", f"{SOURCE}, section 4.3")
    out: int = setting(256, "Width of queries and keys.", f"{SOURCE}, section 4.3")
    temperature: float = setting(0.2, "Temperature of the softmax.", CODE)
    momentum: float = setting(0.99, "Teacher's momentum at the start; its cosine ends at 1.", CODE)
    freeze_patches: bool = setting(
        True, "Leave a ViT's patch projection at its random start.", f"{SOURCE}, section 4.2"
    )
    crop_min: float = setting(0.08, "Smallest crop's share of the image.", CODE)


class MoCoV3(Method):
    """Each view goes through the networks alone, so that batch norms see one kind of view, as published.

    Positions are embedded as in the other methods, where the release has fixed sines. The warm-up is at its end one
    step sooner than the release's, as DINO's is.
    """

    name = "mocov3"
    summary = "contrasts predictions with a momentum teacher's keys within the batch"
    config_type = Config
    student: PredictingNetwork

    def __init__(self, config: Config, spec: NetworkSpec) -> None:
        super().__init__(config, spec)
        backbone = sync_batch_norms(spec.backbone(config.drop_path))
        if spec.is_vit and config.freeze_patches:
            freeze_patch_projection(backbone)

        def projector() -> nn.Module:  # three layers for ViTs, two for ResNets (moco/builder.py)
            layers = 2 if spec.is_vit else 1
            return mlp((spec.embed_dim, *[config.hidden] * layers, config.out), last_norm="plain")

        predictor = mlp((config.out, config.hidden, config.out), last_norm="plain" if spec.is_vit else "")
        self.student = PredictingNetwork(backbone, projector(), predictor)
        self.teacher = momentum_teacher(self.student, spec.backbone, projector())

    @staticmethod
    def views(config: Config, image_size: int) -> tuple[View, ...]:
        """The two of `asymmetric_views`."""
        return asymmetric_views(image_size, config.crop_min)

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """Views: two of (B, 3, S, S). Each one's query against all processes' keys of the other, times 2 T."""
        assert self.teacher is not None
        projected, features = zip(*(self.student([v]) for v in views), strict=True)
        with torch.no_grad():
            keys, teacher_features = zip(*(self.teacher([v]) for v in views), strict=True)
        queries = [self.student.predictor(p) for p in projected]
        temperature = self.config.temperature
        (a, right_a), (b, right_b) = (
            info_nce_in_batch(q, gather(k), temperature) for q, k in zip(queries, reversed(keys), strict=True)
        )
        return MethodOutput(
            2 * temperature * (a + b),
            {"accuracy": (right_a + right_b) / 2},
            {"student": torch.cat(features).detach(), "teacher": torch.cat(teacher_features)},
        )

    def after_step(self, now: StepInfo) -> None:
        assert self.teacher is not None
        update_ema(self.teacher, self.student, self.logged(now)["momentum"], buffers=False)

    def logged(self, now: StepInfo) -> dict[str, float]:
        """The momentum of the update after this step, which the release makes in the next one, at the next one's."""
        after = now.step + 1
        last = after == now.epochs * now.steps_per_epoch
        return {"momentum": 1.0 if last else scheduled(replace(now, step=after), self.config.momentum, 1.0)}


def freeze_patch_projection(backbone: nn.Module) -> None:
    """Draw a ViT's patch projection uniformly, as the release does (moco-v3, vits.py), and take its gradients away."""
    for name, parameter in backbone.named_parameters():
        if "patch_embed.proj." in f"{name}.":
            with torch.no_grad():
                if parameter.ndim > 1:
                    width, *inputs = parameter.shape
                    bound = math.sqrt(6 / (math.prod(inputs) + width))
                    parameter.uniform_(-bound, bound)
                else:
                    parameter.zero_()
            parameter.requires_grad_(False)


METHOD = MoCoV3
