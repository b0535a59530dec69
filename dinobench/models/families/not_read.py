"""Models that are known and not read here, so that a refusal says what they are."""

from __future__ import annotations

from dinobench.models.architecture import Architecture
from dinobench.models.families.family import Family, check_patch_embedding
from dinobench.models.key_mapping import Mapped
from dinobench.models.spec import ModelSpec


def refuse(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Raises UserError by what the patch embedding is."""
    check_patch_embedding(mapped.tensors["patch_embed.proj.weight"], spec.path)
    raise LookupError("of an unknown variant of a video model or NaFlex ViT")


def _renamed(name: str, anchors: tuple[str, ...]) -> Family:
    return Family(name, anchors, refuse, rules=((rf"^{anchors[0]}$".replace(".", r"\."), "patch_embed.proj.weight"),))


FAMILIES = (
    # transformers' VJEPA2Model, timm's naflexvit.py
    _renamed("vjepa2", ("embeddings.patch_embeddings.proj.weight", "layer.0.attention.query.weight")),
    _renamed("naflex", ("embeds.proj.weight", "embeds.pos_embed")),
)
