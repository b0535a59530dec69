"""Plain Vision Transformers with a CLS token, in the names of DeiT, DINO, MAE, MoCo v3, iBOT and DINOv2.

The tensors decide everything but the number of attention heads, which leaves no trace in any shape: it follows from
the width as in the released models, unless the file, the method or the user says otherwise.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from timm.layers import Mlp, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dinobench.errors import UserError
from dinobench.models.architecture import ALIASES, HEADS, NORM_EPS, Architecture, usual_heads, vit_name
from dinobench.models.families.family import (
    Family,
    activation,
    check_patch_embedding,
    count,
    first,
    grid_of,
    has,
    settings_of,
)
from dinobench.models.key_mapping import Mapped, Rules, fold_positions, fuse_qkv
from dinobench.models.spec import ModelSpec

MOCOV3_HEADS = {384: 12}  # facebookresearch/moco-v3 `vits.py`: its ViT-S has 12 heads of 32

RULES: Rules = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks repeat the true index inside
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Join query, key and value; note whose positions these are; fold CLS's and registers' rows into the tokens."""
    fuse_qkv(mapped)
    if is_mocov3(mapped.tensors.get("pos_embed")):
        spec.tell("MoCo v3's fixed positions", method="mocov3")
    fold_positions(mapped, spec.get("grid"))


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Width, patch, depth, MLP, LayerScale, registers and grid of a ViT."""
    tensors, path = mapped.tensors, spec.path
    width, patch = check_patch_embedding(tensors["patch_embed.proj.weight"], path)
    blocks = count(tensors, r"blocks\.(\d+)\.")
    if not blocks:
        raise UserError(f"{path}: has a patch embedding but no `blocks.0`: not a plain ViT; name it with --arch")
    said_width, said_depth = ALIASES.get(spec.get("arch") or "", (0, 0))
    depth = max(blocks, said_depth if said_width == width else 0)
    fc1, fc2 = first(tensors, r"blocks\.\d+\.mlp\.fc1\.weight"), first(tensors, r"blocks\.\d+\.mlp\.fc2\.weight")
    packed = fc1.shape[0] == 2 * fc2.shape[1]
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    heads = settle_heads(width, spec)
    grid = grid_of(tensors["pos_embed"].shape[1], patch, spec, partial) if "pos_embed" in tensors else None
    grid = grid or (224 // patch, 224 // patch)  # reported as missing; matters only where partial loading is allowed
    eps = float(spec.settle("eps", NORM_EPS, "the releases'"))
    usual = "silu" if packed else "gelu"
    act = activation(spec, usual)
    mlp: Any = SwiGLUPacked if packed else Mlp
    build = functools.partial(
        VisionTransformer,
        img_size=(grid[0] * patch, grid[1] * patch),
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(fc1.shape[0] + 0.5) / width,  # timm floors width * ratio: the half keeps it exact
        qkv_bias=has(tensors, r"blocks\.\d+\.attn\.qkv\.bias"),
        qk_norm=has(tensors, r"blocks\.\d+\.attn\.q_norm\.weight"),
        init_values=1e-5 if has(tensors, r"blocks\.\d+\.ls1\.gamma") else None,
        pre_norm=has(tensors, r"norm_pre\.weight"),
        reg_tokens=registers,
        no_embed_class=True,
        num_classes=0,
        norm_layer=functools.partial(nn.LayerNorm, eps=eps),
        mlp_layer=mlp,
        act_layer=act,
        weight_init="skip",
    )
    settings = settings_of(
        (
            f"heads={heads}" if heads != usual_heads(width) else "",
            f"activation={spec.get('activation')}" if act is not activation(ModelSpec(path), usual) else "",
            f"eps={eps:g}" if eps != NORM_EPS else "",
            f"grid={grid[0]}x{grid[1]}" if grid[0] != grid[1] else "",
        )
    )
    name = vit_name(width, depth, patch, registers)
    return Architecture("vit", name, width, build, patch, depth, heads, registers, grid, settings)


def settle_heads(width: int, spec: ModelSpec) -> int:
    """Heads as told, as MoCo v3 has them, or as is usual for the width. Raises UserError when neither settles it."""
    if spec.get("method") == "mocov3" and not spec.get("ours"):  # ours have the usual ones, whatever trains them
        spec.tell("MoCo v3's", heads=MOCOV3_HEADS.get(width))
    origin = "the released models' of this width" if width in HEADS else "assumed: 64 numbers a head"
    spec.tell(origin, heads=usual_heads(width))
    return check_heads(width, spec.get("heads"), spec.path)


def check_heads(width: int, heads: int | None, path: str) -> int:
    """`heads`, if it fits. Raises UserError where it does not, or is None."""
    if heads is None:
        raise UserError(f"{path}: how many attention heads a ViT of width {width} has is not clear; give --heads")
    if heads < 1 or width % heads:
        raise UserError(f"{path}: {heads} heads do not divide the width {width}; give another --heads")
    return heads


def is_mocov3(position: torch.Tensor | None) -> bool:
    """Whether (1, 1 + h * h, D) are the fixed sine-cosine positions of facebookresearch/moco-v3, with zeros for CLS.

    A row is [sin a, cos a, sin b, cos b] of D / 4 frequencies each, falling from 1 to 1/10,000, where b is the place
    that changes from row to row. (MAE's and I-JEPA's have the two places the other way round.)
    """
    if position is None or position.ndim != 3 or position.shape[0] != 1 or position.shape[2] % 4:
        return False
    rows = position[0].float().numpy()
    side = round(max(len(rows) - 1, 0) ** 0.5)
    if side < 2 or side * side != len(rows) - 1 or rows[0].any():
        return False
    frequencies = 10_000.0 ** (-np.arange(rows.shape[1] // 4) / (rows.shape[1] // 4))
    slow, fast = ((place[:, None] * frequencies) for place in np.divmod(np.arange(side * side), side))
    fixed = np.concatenate([np.sin(slow), np.cos(slow), np.sin(fast), np.cos(fast)], axis=1)
    return bool(np.abs(rows[1:] - fixed).max() < 1e-2)  # also after a cast to bfloat16


VIT = Family("vit", ("patch_embed.proj.weight",), infer, rules=RULES, finish=finish, label="vit")
