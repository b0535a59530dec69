"""Meta's Perception Encoder (PE; facebookresearch/perception_models) in its own names, CLIP's for the most, and timm's.

PE-core ends in attention pooling; PE-spatial and PE-lang end in their last block, without a norm. No tensor tells the
rotary positions (one later where CLS comes first, x before y, in patches of the grid it was trained with), nor eps.
"""

from __future__ import annotations

import functools

from torch import nn

from dinobench.models.architecture import Architecture
from dinobench.models.families import eva, released
from dinobench.models.families.family import Family, grid_of, settings_of, settle_heads, shape_of
from dinobench.models.key_mapping import Mapped, Rules
from dinobench.models.spec import ModelSpec

EPS = 1e-5
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1536: 16}
POOL_HEADS = 8
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1536: "gigantic"}

RULES: Rules = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^positional_embedding$", "pos_embed"),
    (r"^class_embedding$", "cls_token"),
    (r"^proj$", "head.weight"),  # into the space shared with texts
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"^attn_pool\.probe$", "attn_pool.latent"),
    (r"^attn_pool\.layernorm\.", "attn_pool.norm."),
    (r"^attn_pool\.attn\.out_proj\.", "attn_pool.proj."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.ls_(\d)\.gamma$", r".gamma_\1"),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Tokens and positions with the axis of a batch; the pooling's query apart from its key and value."""
    tensors = mapped.tensors
    for name, wanted in (("cls_token", 1), ("pos_embed", 2)):
        if name in tensors and tensors[name].ndim == wanted and tensors[name].numel():
            tensors[name] = tensors[name].reshape(1, -1, tensors[name].shape[-1])
    for part in ("weight", "bias"):
        joined = tensors.get(name := f"attn_pool.attn.qkv.{part}")
        if joined is not None:
            third = joined.shape[0] // 3 if joined.ndim else 0
            query, rest = (joined[:third], joined[third:]) if joined.ndim else (joined, joined)
            mapped.split(name, {f"attn_pool.q.{part}": query, f"attn_pool.kv.{part}": rest})


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """A Perception Encoder, with attention pooling or without."""
    tensors = mapped.tensors
    found = eva.options(tensors, spec.path)
    width, patch, depth = found["embed_dim"], found["patch_size"], found["depth"]
    pooled, has_cls = "attn_pool.latent" in tensors, bool(found["class_token"])
    heads = settle_heads(width, spec, HEADS, "the released PE models' of this width")
    grid = grid_of(tensors["pos_embed"].shape[1] - has_cls, patch, spec, partial)
    eps = float(spec.settle("eps", EPS, "PE's"))
    act = eva.other_activation(spec, gated=False)
    spec.tell("PE's", mean=released.HALF, std=released.HALF)
    found |= {"attn_type": "rope", "use_post_transformer_norm": "norm.weight" in tensors}
    pooling = {
        "attn_pool_num_heads": POOL_HEADS,
        "attn_pool_mlp_ratio": (shape_of(tensors, "attn_pool.mlp.fc1.weight", 0) + 0.5) / width,
    }
    make = functools.partial(
        eva.build,
        act,
        img_size=(grid[0] * patch, grid[1] * patch),
        num_heads=heads,
        global_pool="map" if pooled else "avg",
        use_rot_pos_emb=True,
        ref_feat_shape=grid,
        rope_grid_offset=1.0 if has_cls else 0.0,
        rope_grid_indexing="xy",
        norm_layer=functools.partial(nn.LayerNorm, eps=eps),
        **(pooling if pooled else {}),
        **found,
    )
    settings = settings_of(
        (
            "pe",  # a CLIP tower without rotary positions can have the same tensors
            f"heads={heads}" if heads != HEADS.get(width, width / 64) else "",
            f"activation={spec.get('activation')}" if act else "",
            f"eps={eps:g}" if eps != EPS else "",
            f"grid={grid[0]}x{grid[1]}" if grid[0] != grid[1] else "",
        )
    )
    kind = "core" if pooled else "spatial"  # PE-lang has PE-spatial's tensors
    name = f"vit_pe_{kind}_{SIZES.get(width, f'w{width}_d{depth}')}_patch{patch}"
    pool = "map" if pooled else "mean"
    return Architecture("tokens", name, width, make, patch, depth, heads, 0, grid, settings, pool)


CORE = Family(
    "pe-core", ("attn_pool.probe", "conv1.weight", "ln_pre.weight"), infer, rules=RULES, finish=finish, label="pe"
)
SPATIAL = Family(
    "pe-spatial", ("ln_pre.weight", "conv1.weight", "transformer.resblocks.0.attn.in_proj_weight"), infer,
    absent=("ln_post.weight", "attn_pool.probe"), rules=RULES, finish=finish, label="pe",
)  # fmt: skip
TIMM_CORE = Family(
    "pe-core-timm", ("attn_pool.latent", "norm_pre.weight", "patch_embed.proj.weight"), infer, finish=finish,
    label="pe-timm",
)  # fmt: skip
TIMM_SPATIAL = Family(
    "pe-spatial-timm",
    ("norm_pre.weight", "blocks.0.attn.qkv.bias", "pos_embed", "patch_embed.proj.weight"),
    infer, absent=("norm.weight", "fc_norm.weight", "attn_pool.latent"), finish=finish, label="pe-timm",
)  # fmt: skip
