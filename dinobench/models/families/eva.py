"""EVA and EVA-02 in timm's names and BAAI's own (baaivision/EVA), and what all readers of timm's `Eva` module share.

EVA-02's rotary positions are those of a 16 x 16 grid stretched over the image (`pt_hw_seq_len`), which its own files
repeat as tables; timm's leave them out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.models.eva import Eva
from torch import nn

from dinobench.errors import UserError
from dinobench.models.architecture import NORM_EPS, Architecture, usual_heads
from dinobench.models.families import released
from dinobench.models.families.family import (
    Family,
    activation,
    check_patch_embedding,
    count,
    first,
    grid_of,
    has,
    settings_of,
    settle_heads,
    shape_of,
)
from dinobench.models.key_mapping import Mapped, Rules
from dinobench.models.spec import ModelSpec

ROPE_GRID = 16  # EVA-02's pt_hw_seq_len: positions are told in patches of a 224 px image of patch 14
ROPE_THETA = 10_000.0
MAX_SIDE = 1 << 12
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1408: "giant"}
POST_NORM_WIDTH = 1792  # EVA-02-E norms after its branches, which no tensor tells

RULES: Rules = (
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.(qkv|[qv])_proj\.bias$", r".\1_bias"),
)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Tables of rotary positions tell grid and heads; projections are joined where timm joins them (no norm inside)."""
    tensors = mapped.tensors
    spec.tell("masked image modelling", pool="mean" if _masked(mapped) and "fc_norm.weight" not in tensors else None)
    read_rope_tables(mapped, spec)
    if has(tensors, r"blocks\.\d+\.mlp\.fc1_g\.weight") and not has(tensors, r"blocks\.\d+\.mlp\.norm\.weight"):
        for i in range(count(tensors, r"blocks\.(\d+)\.")):
            for part in ("weight", "bias"):
                mapped.join([f"blocks.{i}.mlp.fc1_{half}.{part}" for half in "gx"], f"blocks.{i}.mlp.fc1.{part}")
            mapped.join([f"blocks.{i}.attn.{x}_proj.weight" for x in "qkv"], f"blocks.{i}.attn.qkv.weight")
    elif has(tensors, r"blocks\.\d+\.attn\.q_proj\.weight"):  # timm's separate projections keep their biases
        mapped.rename(r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias")


def _masked(mapped: Mapped) -> bool:
    """Whether the file is of masked pretraining, before any fine-tuning."""
    return any(re.search(r"(^|\.)(mask_token|lm_head\.weight)$", n) for n in mapped.ignored)


def read_rope_tables(mapped: Mapped, spec: ModelSpec) -> None:
    """`rope.freqs_cos` and `freqs_sin` (h * w, head size) are computed anew; they tell the heads and the grid."""
    tensors = mapped.tensors
    tables = [n for n in tensors if re.fullmatch(r"(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)", n)]
    sine = next((tensors[n] for n in tables if n.endswith("sin") and tensors[n].ndim == 2), None)
    projection = tensors.get("patch_embed.proj.weight")
    if sine is not None and projection is not None and sine.shape[1] and projection.shape[0] % sine.shape[1] == 0:
        spec.tell("the file's rotary table", heads=projection.shape[0] // sine.shape[1])
        side = round(len(sine) ** 0.5)
        if side > 1 and sine.shape[1] >= 4:  # the slowest angle of the second column: its sine is unambiguous
            slowest = ROPE_THETA ** -(1 - 4 / sine.shape[1])
            stretched = float(torch.asin(sine[1, -1].clamp(-1, 1))) * side / slowest
            spec.tell("the file's rotary table", rope_grid=round(stretched) if 0.5 < stretched < MAX_SIDE else None)
    mapped.set_aside_all(r"(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)")


def options(tensors: Mapping[str, torch.Tensor], path: str) -> dict[str, Any]:
    """What the tensors tell of timm's `Eva`: all but heads, eps, activation, pooling and rotary positions."""
    width, patch = check_patch_embedding(tensors["patch_embed.proj.weight"], path)
    depth = count(tensors, r"blocks\.(\d+)\.")
    if not depth:
        raise UserError(f"{path}: has a patch embedding but no `blocks.0`; name the model with --arch")

    def within(layer: str) -> bool:
        return has(tensors, rf"blocks\.\d+\.{layer}")

    hidden = first(tensors, r"blocks\.\d+\.mlp\.fc2\.weight").shape[1]
    separate = within(r"mlp\.fc1_g\.weight")
    packed = not separate and first(tensors, r"blocks\.\d+\.mlp\.fc1\.weight").shape[0] == 2 * hidden
    biased = within(r"attn\.(q_bias|q_proj\.bias|qkv\.bias)")
    return {
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "mlp_ratio": (hidden + 0.5) / width,  # timm floors width * ratio: the half keeps it exact
        "swiglu_mlp": separate or packed,
        "swiglu_align_to": 1 if separate else 0,
        "scale_mlp": within(r"mlp\.norm\.weight"),
        "scale_attn_inner": within(r"attn\.norm\.weight"),
        "qkv_fused": not within(r"attn\.q_proj\.weight"),
        "qkv_bias": biased,
        "attn_type": "rope" if within(r"attn\.(qkv|k_proj)\.bias") else "eva",  # "eva" has no bias of the keys
        "init_values": 1e-5 if within("gamma_1") else None,
        "class_token": "cls_token" in tensors,
        "num_reg_tokens": shape_of(tensors, "reg_token", 1),
        "use_abs_pos_emb": "pos_embed" in tensors,
        "use_pre_transformer_norm": "norm_pre.weight" in tensors,
        "use_fc_norm": "fc_norm.weight" in tensors,
        "use_post_transformer_norm": "fc_norm.weight" not in tensors,
        "dynamic_img_size": True,
        "num_classes": 0,
    }


def build(act: Callable[..., nn.Module] | None, **kwargs: Any) -> nn.Module:
    """timm's `Eva`, with another activation than its own where `act` says so (it has no option for that)."""
    module: Any = Eva(**kwargs)
    if act:
        for block in module.blocks:
            block.mlp.act = act()
    return module


def other_activation(spec: ModelSpec, gated: bool) -> Callable[..., nn.Module] | None:
    """The activation where it is not the one that `Eva` has: GELU, and SiLU in gated MLPs."""
    usual = "silu" if gated else "gelu"
    act = activation(spec, usual)
    return None if act is activation(ModelSpec(spec.path), usual) else act


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """EVA: learned positions, plain MLP. EVA-02: rotary ones beside them, gated MLP."""
    tensors, path = mapped.tensors, spec.path
    found = options(tensors, path)
    width, patch, depth = found["embed_dim"], found["patch_size"], found["depth"]
    if width == POST_NORM_WIDTH and not partial:
        raise UserError(
            f"{path}: an EVA of width {width} may norm before or after its branches, which its tensors do not tell; "
            "name it with --arch, as in --arch eva02_enormous_patch14_clip_224"
        )
    gated = found["swiglu_mlp"]
    heads = settle_heads(width, spec)
    rows = tensors["pos_embed"].shape[1] - (1 if found["class_token"] else 0)
    grid = grid_of(rows, patch, spec, partial)
    eps = float(spec.settle("eps", NORM_EPS, "the releases'"))
    act = other_activation(spec, gated)
    spec.tell("EVA's", mean=released.CLIP_MEAN, std=released.CLIP_STD)  # its training takes CLIP's over
    stretched = int(spec.settle("rope_grid", ROPE_GRID, "EVA-02's")) if gated else 0
    pool = "mean" if "fc_norm.weight" in tensors else spec.get("pool")
    if pool not in ("cls", "mean"):
        pool = "cls"
    make = functools.partial(
        build,
        act,
        img_size=(grid[0] * patch, grid[1] * patch),
        num_heads=heads,
        use_rot_pos_emb=gated,
        ref_feat_shape=(stretched, stretched) if gated else None,
        norm_layer=functools.partial(nn.LayerNorm, eps=eps),
        global_pool="avg" if pool == "mean" else "token",
        **found,
    )
    settings = settings_of(
        (
            f"heads={heads}" if heads != usual_heads(width) else "",
            f"activation={spec.get('activation')}" if act else "",
            f"eps={eps:g}" if eps != NORM_EPS else "",
            f"rope_grid={stretched}" if gated and stretched != ROPE_GRID else "",
            f"grid={grid[0]}x{grid[1]}" if grid[0] != grid[1] else "",
            "" if pool == "mean" or "norm.weight" not in tensors else "pool=cls",
        )
    )
    name = f"eva{'02' if gated else ''}_{SIZES.get(width, f'w{width}_d{depth}')}_patch{patch}"
    registers = found["num_reg_tokens"]
    return Architecture("tokens", name, width, make, patch, depth, heads, registers, grid, settings, pool)


FUSED = Family(
    "eva", ("blocks.0.attn.q_bias", "blocks.0.attn.qkv.weight", "pos_embed", "patch_embed.proj.weight"), infer,
    absent=("blocks.0.attn.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table"),
    rules=RULES, finish=finish, label="eva",
)  # fmt: skip
TIMM_02 = Family(
    "eva02-timm", ("blocks.0.attn.q_proj.weight", "blocks.0.mlp.fc1_g.weight", "pos_embed", "patch_embed.proj.weight"),
    infer, rules=RULES, finish=finish, label="eva02-timm",
)  # fmt: skip
ORIGINAL_02 = Family(
    "eva02", ("blocks.0.attn.q_proj.weight", "blocks.0.mlp.w3.weight", "pos_embed", "patch_embed.proj.weight"), infer,
    rules=RULES, finish=finish, label="eva02",
)  # fmt: skip
