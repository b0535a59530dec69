"""Families of backbones, one file each: what marks their files, how their names become timm's, what their authors do.

The first family in the list whose marks stand under a prefix takes it, so that the particular come before the plain.
"""

from __future__ import annotations

from dinobench.models.families import (
    beit,
    clip,
    clip_resnet,
    convnext,
    data2vec2,
    dinov3,
    efficientnet,
    eva,
    not_read,
    other_vits,
    perception,
    radio,
    resnet,
    swin,
    vit,
)
from dinobench.models.families.family import GENERIC, Family

FAMILIES: tuple[Family, ...] = (
    *swin.FAMILIES,
    data2vec2.FINE_TUNED,
    data2vec2.IMAGES,
    *not_read.FAMILIES,
    dinov3.ORIGINAL,
    dinov3.HUGGINGFACE,
    dinov3.TIMM,
    beit.OWN_TABLES,
    beit.SHARED_TABLE,
    *beit.HUGGINGFACE,
    eva.FUSED,
    eva.TIMM_02,
    eva.ORIGINAL_02,
    perception.CORE,
    perception.SPATIAL,
    perception.TIMM_CORE,
    perception.TIMM_SPATIAL,
    radio.HUGGINGFACE,
    radio.OWN,
    convnext.DINOV3_HUGGINGFACE,
    convnext.DINOV3_TRANSFORMERS,
    resnet.HUGGINGFACE,
    convnext.HUGGINGFACE,
    other_vits.TRANSFORMERS,
    clip_resnet.OPENAI,
    clip_resnet.TIMM,
    clip.OPENAI,
    clip.HF_CLIP,
    clip.HF_SIGLIP,
    other_vits.TORCHVISION,
    other_vits.MMLAB,
    efficientnet.LITE,
    resnet.LIGHTLY,
    resnet.LIGHTLY_SEQUENTIAL,
    resnet.TORCHVISION,
    resnet.SEQUENTIAL,
    convnext.OPEN_CLIP,
    convnext.OPEN_CLIP_MLP,
    convnext.TIMM,
    convnext.ORIGINAL,
    convnext.TORCHVISION,
    vit.VIT,
)
BY_NAME: dict[str, Family] = {family.name: family for family in (*FAMILIES, GENERIC)}

__all__ = ["BY_NAME", "FAMILIES", "GENERIC", "Family"]
