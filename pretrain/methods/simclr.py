"""SimCLR (Chen et al. 2020, arXiv 2002.05709): tell an image's other view from all other views of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dinobench.distributed import gather_with_gradient, rank
from dinobench.pretrain.heads import mlp
from dinobench.pretrain.method import Method, MethodConfig, MethodOutput, Network, NetworkSpec, StepInfo, View
from dinobench.pretrain.methods.losses import accuracy
from dinobench.pretrain.sync_batch_norm import sync_batch_norms
from dinobench.types import setting

SOURCE = "arXiv 2002.05709"
CODE = "google-research/simclr, model_util.py"


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of SimCLR. The optimizer's are DINO's, since the paper's LARS recipe is for ResNets.

    Negatives come from the images that go through the networks together, on all processes: accumulating gradients over
    parts of a batch gives fewer of them.
    """

    hidden: int = setting(2048, "Hidden width of the projector.", f"{SOURCE}, section 4.2 (a ResNet-50's width)")
    projector_norm: bool = setting(
        True, "Batch norm, with a scale and no shift, after the projector's last layer.", CODE
    )
    out: int = setting(128, "Width of the projections.", f"{SOURCE}, section 4.2")
    temperature: float = setting(
        0.1, "Temperature of the softmax; 0.5 for small data sets.", f"{SOURCE}, appendices B.7 and B.9"
    )
    jitter: float = setting(1.0, "Strength of the colour jitter; 0.5 for small images.", f"{SOURCE}, appendices A, B.9")
    blur_p: float = setting(0.5, "Probability of blur; 0 for small images.", f"{SOURCE}, appendices A and B.9")
    crop_min: float = setting(0.08, "Smallest crop's share of the image.", f"{SOURCE}, appendix A")


def nt_xent(z: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views' projections (2 × B, d), view-major -> (loss, accuracy), scalars over this process's 2 × B rows.

    Equation 1 of the paper: each row's positive is the other view of its image, its negatives all other rows of all
    processes. Float32 whatever the precision around it.
    """
    n = len(z)
    with torch.autocast(z.device.type, enabled=False):
        unit = F.normalize(z.float(), dim=1)
        similarity = unit @ gather_with_gradient(unit).T / temperature
    row = torch.arange(n, device=z.device)
    itself = torch.arange(similarity.shape[1], device=z.device) == row[:, None] + rank() * n
    similarity = similarity.masked_fill(itself, float("-inf"))
    positive = row.roll(n // 2) + rank() * n
    return F.cross_entropy(similarity, positive), accuracy(similarity, positive)


class SimCLR(Method):
    """One network, no teacher; both views go through it together, as published."""

    name = "simclr"
    summary = "contrasts two views of an image with all other images of the batch"
    config_type = Config

    def __init__(self, config: Config, spec: NetworkSpec) -> None:
        super().__init__(config, spec)
        head = mlp((spec.embed_dim, config.hidden, config.out), last_norm="scaled" if config.projector_norm else "")
        self.student = Network(sync_batch_norms(spec.backbone(config.drop_path)), head)

    @staticmethod
    def views(config: Config, image_size: int) -> tuple[View, ...]:
        """Appendix A: two alike, with jitter of 0.8, 0.8, 0.8 and 0.2 times its strength."""
        s = config.jitter
        return (
            View(
                count=2,
                size=image_size,
                scale=(config.crop_min, 1.0),
                jitter=(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s),
                jitter_p=0.8,
                grayscale_p=0.2,
                blur_p=config.blur_p,
            ),
        )

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """Views: two of (B, 3, S, S)."""
        projected, features = self.student(views)
        loss, hits = nt_xent(projected, self.config.temperature)
        return MethodOutput(loss, {"accuracy": hits}, {"student": features.detach()})


METHOD = SimCLR
