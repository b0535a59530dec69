"""MoCo v2 (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297): contrast with a queue of old keys.

The paper shuffles images among GPUs before the keys' batch norms. There is nothing to shuffle for in a ViT, which has
no batch norm; a ResNet's is synced here over the images of all processes instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dinobench.distributed import gather
from dinobench.pretrain.heads import mlp, momentum_teacher
from dinobench.pretrain.method import (
    Method,
    MethodConfig,
    MethodOutput,
    Network,
    NetworkSpec,
    StepInfo,
    View,
    update_ema,
)
from dinobench.pretrain.methods.losses import accuracy
from dinobench.pretrain.sync_batch_norm import sync_batch_norms
from dinobench.types import setting

SOURCE = "arXiv 2003.04297"


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of MoCo v2. The optimizer's are DINO's, since the paper's SGD recipe is for ResNets."""

    hidden: int = setting(2048, "Hidden width of the head.", f"{SOURCE}, section 3")
    out: int = setting(128, "Width of queries and keys.", "arXiv 1911.05722, section 3.3")
    temperature: float = setting(0.2, "Temperature of the softmax.", f"{SOURCE}, table 2")
    momentum: float = setting(0.999, "Teacher's momentum.", "arXiv 1911.05722, section 3.3")
    queue: int = setting(
        65_536, "Keys in the queue; below the data set's size, or an image meets its own old keys.", SOURCE
    )
    crop_min: float = setting(0.2, "Smallest crop's share of the image.", "arXiv 1911.05722, section 3.3")


def info_nce_with_queue(
    queries: torch.Tensor, keys: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries (B, d), their keys (B, d), negatives (K, d), all of unit length -> (loss, accuracy), scalars.

    Equation 1 of arXiv 1911.05722. Float32 whatever the precision around it.
    """
    with torch.autocast(queries.device.type, enabled=False):
        positive = (queries * keys).sum(1, keepdim=True)
        logits = torch.cat([positive, queries @ negatives.T], dim=1) / temperature
    first = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    return F.cross_entropy(logits, first), accuracy(logits, first)


class MoCoV2(Method):
    """The first view gives queries, the second keys, which enter the queue after the step, the oldest leaving."""

    name = "mocov2"
    summary = "contrasts a view with a momentum teacher's key of the other and a queue of older keys"
    config_type = Config
    queue: torch.Tensor
    pointer: torch.Tensor

    def __init__(self, config: Config, spec: NetworkSpec) -> None:
        super().__init__(config, spec)
        dims = (spec.embed_dim, config.hidden, config.out)
        self.student = Network(sync_batch_norms(spec.backbone(config.drop_path)), mlp(dims, norm=False))
        self.teacher = momentum_teacher(self.student, spec.backbone, mlp(dims, norm=False))
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.out), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self._waiting: list[torch.Tensor] = []  # keys of this step, which may come in accumulated parts

    @staticmethod
    def views(config: Config, image_size: int) -> tuple[View, ...]:
        """Two alike: MoCo's crop, flip, jitter and grayscale, with MoCo v2's blur."""
        return (
            View(
                count=2,
                size=image_size,
                scale=(config.crop_min, 1.0),
                jitter=(0.4, 0.4, 0.4, 0.1),
                jitter_p=0.8,
                grayscale_p=0.2,
                blur_p=0.5,
            ),
        )

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """Views: two of (B, 3, S, S)."""
        assert self.teacher is not None
        query, features = self.student(views[:1])
        with torch.no_grad():
            key, teacher_features = self.teacher(views[1:])
            key = F.normalize(key.float(), dim=1)
        loss, hits = info_nce_with_queue(F.normalize(query.float(), dim=1), key, self.queue, self.config.temperature)
        if self.training:
            self._waiting.append(key)
        return MethodOutput(loss, {"accuracy": hits}, {"student": features.detach(), "teacher": teacher_features})

    def after_step(self, now: StepInfo) -> None:
        assert self.teacher is not None
        update_ema(self.teacher, self.student, self.config.momentum, buffers=False)
        self.enqueue(gather(torch.cat(self._waiting)))
        self._waiting.clear()

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Put keys (n, d) in the place of the oldest; of more than the queue holds, the last ones."""
        size = len(self.queue)
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places[-size:]] = keys[-size:]
        self.pointer.copy_((self.pointer + len(keys)) % size)


METHOD = MoCoV2
