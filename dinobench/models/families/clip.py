"""CLIP and SigLIP: OpenAI's and open_clip's names, and those of Hugging Face.

The feature of CLIP is CLS after the last norm and before the projection to the common space of images and texts, as in
the linear probes of arXiv 2103.00020 (appendix A.3: "features before the linear projection"); SigLIP's is its
attention pooling.
"""

from __future__ import annotations

from dataclasses import replace

from dinobench.errors import UserError
from dinobench.models.architecture import HEADS, Architecture
from dinobench.models.families import released, vit
from dinobench.models.families.family import Family, check_patch_embedding, settings_of
from dinobench.models.key_mapping import Mapped, Rules
from dinobench.models.spec import ModelSpec

OPENAI_RULES: Rules = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.ls_(\d)\.gamma$", r".ls\1.gamma"),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
HF_RULES: Rules = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.q_proj\.", ".attn.query."),
    (r"\.self_attn\.k_proj\.", ".attn.key."),
    (r"\.self_attn\.v_proj\.", ".attn.value."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """CLS and positions with an axis for the batch; the projection after the feature and tables of indices aside."""
    tensors = mapped.tensors
    for name, axes in (("cls_token", 1), ("pos_embed", 2)):
        if name in tensors and tensors[name].ndim == axes:
            tensors[name] = tensors[name].reshape(1, *((1,) if axes == 1 else ()), *tensors[name].shape)
    for name in ("proj", "embeddings.position_ids"):
        mapped.set_aside(name)
    for kind in ("weight", "bias"):
        joint = tensors.get(name := f"attn_pool.qkv.{kind}")
        if joint is not None and joint.ndim and joint.shape[0] % 3 == 0:
            width = joint.shape[0] // 3
            mapped.split(name, {f"attn_pool.q.{kind}": joint[:width], f"attn_pool.kv.{kind}": joint[width:]})
    vit.finish(mapped, spec)


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """A CLIP tower, with the quick GELU where OpenAI's marks stand beside it."""
    width = mapped.tensors["patch_embed.proj.weight"].shape[0]
    if spec.get("openai"):  # openai/CLIP `model.py`, `build_model`: 64 numbers a head
        spec.tell("OpenAI's file", activation="quick_gelu", heads=width // 64 or None)
    spec.tell("CLIP's", mean=released.CLIP_MEAN, std=released.CLIP_STD)
    architecture = vit.infer(mapped, spec, partial)
    pool = spec.get("open_clip_pool")
    if pool == "avg":
        return replace(architecture, pool="mean", settings=settings_of((architecture.settings, "pool=mean")))
    if pool not in (None, "tok"):
        raise UserError(f"{spec.path}: its tower pools by {pool!r} (open_clip_config.json), which is not known here")
    return architecture


def infer_siglip(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """SigLIP as transformers has it, with tanh's GELU unless a config.json says otherwise."""
    width, _ = check_patch_embedding(mapped.tensors["patch_embed.proj.weight"], spec.path)
    spec.tell("SigLIP's of this width", heads=released.SIGLIP_HEADS.get(width, HEADS.get(width)))
    if spec.get("heads") is None:
        raise UserError(f"{spec.path}: how many heads a SigLIP of width {width} has is open; give --heads")
    spec.tell("SigLIP's", activation="gelu_pytorch_tanh", mean=released.HALF, std=released.HALF)
    return vit.infer(mapped, spec, partial)


OPENAI = Family(
    "clip", ("class_embedding", "conv1.weight"), infer, rules=OPENAI_RULES, finish=finish, label="clip", method="clip"
)
HF_CLIP = Family(
    "huggingface-clip", ("embeddings.class_embedding", "embeddings.patch_embedding.weight"), infer, rules=HF_RULES,
    finish=finish, own=r"attn_pool\..*", label="huggingface", method="clip",
)  # fmt: skip
HF_SIGLIP = Family(
    "huggingface-siglip", ("embeddings.position_embedding.weight", "embeddings.patch_embedding.weight"), infer_siglip,
    ("embeddings.class_embedding",), rules=HF_RULES, finish=finish, label="huggingface", method="siglip",
)  # fmt: skip
