"""ViTs in the names of Hugging Face transformers, torchvision and OpenMMLab (mmpretrain, mmcls, mmseg's backbones)."""

from __future__ import annotations

from dinobench.models.architecture import Architecture
from dinobench.models.families import vit
from dinobench.models.families.family import TRANSFORMERS_BLOCK, Family, count, shape_of
from dinobench.models.key_mapping import Mapped, Rules
from dinobench.models.spec import ModelSpec

TRANSFORMERS_RULES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers|encoder\.layers)\.(\d+)\.", r"blocks.\1."),
    *TRANSFORMERS_BLOCK,
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
TORCHVISION_RULES: Rules = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
)
MMLAB_RULES: Rules = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^pre_norm\.", "norm_pre."),
    (r"^ln1\.", "norm."),
    (r"^ln2\.", "fc_norm."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln(\d)\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
    (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
)
#: Width, depth, hidden width -> heads of mmpretrain's ViT "small" (`vision_transformer.py`), which is nobody else's.
MMLAB_HEADS = {(768, 8, 2304): 8}


def infer_mmlab(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """A ViT, with the heads of mmpretrain's own sizes."""
    tensors = mapped.tensors
    width, hidden = (shape_of(tensors, "blocks.0.mlp.fc1.weight", axis) for axis in (1, 0))
    spec.tell("mmpretrain's", heads=MMLAB_HEADS.get((width, count(tensors, r"blocks\.(\d+)\."), hidden)))
    spec.tell("mmpretrain's", classified=True if "fc_norm.weight" in tensors else None)
    return vit.infer(mapped, spec, partial)


TRANSFORMERS = Family(  # ViT, DeiT and DINOv2; `config.json` tells what tensors do not
    "huggingface", ("embeddings.patch_embeddings.projection.weight",), vit.infer, rules=TRANSFORMERS_RULES,
    finish=vit.finish, label="huggingface",
)  # fmt: skip
TORCHVISION = Family(
    "vit-torchvision", ("conv_proj.weight", "encoder.pos_embedding"), vit.infer, rules=TORCHVISION_RULES,
    finish=vit.finish, label="torchvision",
)  # fmt: skip
MMLAB = Family(
    "vit-openmmlab", ("patch_embed.projection.weight", "layers.0.ffn.layers.0.0.weight", "layers.0.attn.qkv.weight"),
    infer_mmlab, ("layers.0.attn.relative_position_bias_table",), rules=MMLAB_RULES, finish=vit.finish,
    label="openmmlab",
)  # fmt: skip
