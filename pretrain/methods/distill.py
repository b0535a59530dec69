"""Distillation (Hinton et al. 2015, arXiv 1503.02531): a student learns a frozen teacher's soft targets, no labels.

Where the teacher's file holds a DINO head, the targets are over that head's outputs. Other files have no outputs worth
matching (a pretrained backbone's classifier is not kept), so that targets are over a fixed set of random directions:
the cosines of the teacher's features with them, enough of which tell all of a feature. Either way the outputs' running
mean is taken away first, as in DINO, because what all images share teaches nothing.

Student and teacher see the same crop ("consistent teaching", Beyer et al. 2022, arXiv 2106.05237).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dinobench import lazy
from dinobench.errors import UserError
from dinobench.inputs import input_of
from dinobench.models.sources.references import Weights, kind, resolve
from dinobench.pretrain.method import Method, MethodConfig, MethodOutput, Network, NetworkSpec, StepInfo, View
from dinobench.pretrain.methods.dino_head import DinoHead
from dinobench.pretrain.methods.dino_loss import Center, entropy
from dinobench.pretrain.methods.losses import accuracy
from dinobench.pretrain.sync_batch_norm import sync_batch_norms
from dinobench.pretrain.views import renormalised
from dinobench.types import setting

with lazy.imports():
    from dinobench.models.loading import load_backbone


@dataclass(frozen=True)
class Config(MethodConfig):
    """Settings of distillation."""

    teacher: str = setting("", "The frozen teacher: a checkpoint file, or timm:MODEL.")
    teacher_temperature: float = setting(
        0.04, "Temperature of the targets' softmax.", "arXiv 2104.14294 (its teacher's)"
    )
    student_temperature: float = setting(
        1.0, "Temperature of the student's softmax; its linear head can learn any other."
    )
    prototypes: int = setting(4096, "Random directions, for a teacher whose file has no DINO head.")
    center_momentum: float = setting(0.9, "Momentum of the running mean of teacher outputs.", "arXiv 2104.14294")
    crop_min: float = setting(0.25, "Smallest crop's share of the image.", "arXiv 2106.05237, section 3.2")

    def __post_init__(self) -> None:
        if min(self.teacher_temperature, self.student_temperature) <= 0:
            raise ValueError("temperatures must be above 0")
        if self.prototypes < 2:
            raise ValueError("prototypes must be at least 2")


class Prototypes(nn.Module):
    """Features (B, D) -> their cosines (B, K) with K random directions, the same for every run."""

    directions: torch.Tensor

    def __init__(self, embed_dim: int, outputs: int) -> None:
        super().__init__()
        drawn = torch.randn(outputs, embed_dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", F.normalize(drawn, dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=1) @ self.directions.T


class Distill(Method):
    """The teacher stays out of the checkpoint, so that what is loaded from it later is the student."""

    name = "distill"
    summary = "learns a frozen checkpoint's soft targets"
    config_type = Config
    student: Network

    def __init__(self, config: Config, spec: NetworkSpec) -> None:
        super().__init__(config, spec)
        if not config.teacher:
            raise UserError(
                "distill needs a teacher: give its checkpoint with --set teacher=FILE (or hf:OWNER/MODEL, timm:MODEL)"
            )
        self._frozen = load_backbone(config.teacher)  # no nn.Module itself, so that it is no part of this one
        patch = self._frozen.patch_size if "attention" in self._frozen.capabilities else None
        if patch and spec.image_size % patch:
            raise UserError(
                f"{config.teacher}: its patches of {patch} pixels do not divide --image-size {spec.image_size}; "
                f"use {max(1, round(spec.image_size / patch)) * patch}"
            )
        head = teacher_head(config.teacher, self._frozen.info.key)
        self._outputs: tuple[nn.Module] = (head or Prototypes(self._frozen.embed_dim, config.prototypes),)
        self._frozen.module.requires_grad_(False)
        self._outputs[0].requires_grad_(False).eval()
        with torch.no_grad():
            outputs = self._outputs[0](torch.zeros(1, self._frozen.embed_dim)).shape[1]
        self.centering = Center(outputs, config.center_momentum)
        self.student = Network(sync_batch_norms(spec.backbone(config.drop_path)), nn.Linear(spec.embed_dim, outputs))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Distill:
        """Moves to another device move the teacher too."""
        for module in (self._frozen.module, self._outputs[0]):
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @staticmethod
    def views(config: Config, image_size: int) -> tuple[View, ...]:
        """One view, cropped and flipped."""
        return (View(size=image_size, scale=(config.crop_min, 1.0)),)

    def forward(self, views: Sequence[torch.Tensor], labels: torch.Tensor | None, now: StepInfo) -> MethodOutput:
        """Views: one of (B, 3, S, S)."""
        with torch.no_grad():
            seen = renormalised(views[0], input_of(self._frozen.info))
            outputs = self._outputs[0](self._frozen.features(seen)).float()
            self.centering.add(outputs)
            targets = ((outputs - self.centering.center) / self.config.teacher_temperature).softmax(dim=1)
        predicted, features = self.student(views)
        loss = F.cross_entropy(predicted.float() / self.config.student_temperature, targets)
        uncertainty = entropy(targets)
        agree = accuracy(predicted, targets.argmax(1))
        # Not called teacher_entropy: a sharp teacher that is met exactly would look like a collapsed one.
        stats = {"target_entropy": uncertainty, "kl": loss.detach() - uncertainty, "accuracy": agree}
        return MethodOutput(loss, stats, {"student": features.detach()})

    def after_step(self, now: StepInfo) -> None:
        self.centering.update()


def teacher_head(spec: str, key: str) -> DinoHead | None:
    """The DINO head that stands in the file beside the backbone of `key`; None where there is none.

    Raises UserError for a head of another form.
    """
    if not key.endswith("backbone") or kind(spec) in ("timm", "random", "pixels"):
        return None
    source = resolve(spec)
    assert isinstance(source, Weights)  # what the others come as
    prefix = f"{key.removesuffix('backbone')}head."
    inside = {n.removeprefix(prefix): t for n, t in source.read().tensors.items() if n.startswith(prefix)}
    names = {"last_layer.parametrizations.weight.original0": "last_layer.weight_g",
             "last_layer.parametrizations.weight.original1": "last_layer.weight_v"}  # fmt: skip
    tensors = {names.get(n, n): t.float() if t.is_floating_point() else t for n, t in inside.items()}
    if "last_layer.weight_v" not in tensors:
        return None
    try:
        head = DinoHead(**_head_sizes(tensors))
        head.load_state_dict(tensors)
    except (LookupError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{spec}: its head under {prefix} is not DINO's ({why}); give a file of its backbone") from None
    return head


def _head_sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """DinoHead's arguments, from the tensors' shapes."""
    linear = [t for n, t in tensors.items() if re.fullmatch(r"mlp\.(\d+\.)?weight", n) and t.ndim == 2]
    return {
        "embed_dim": linear[0].shape[1],
        "out_dim": tensors["last_layer.weight_v"].shape[0],
        "hidden_dim": linear[0].shape[0],
        "bottleneck_dim": linear[-1].shape[0],
        "layers": len(linear),
        "norm": nn.BatchNorm1d if any("running_mean" in n for n in tensors) else None,
        "predictor": any(n.startswith("predictor.") for n in tensors),
    }


METHOD = Distill
