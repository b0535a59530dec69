"""Plain Vision Transformers with a CLS token, in the names of DeiT, DINO, MAE, MoCo v3, iBOT and DINOv2.

The tensors decide everything but the number of attention heads, which leaves no trace in any shape: it follows from
the width as in the released models, unless the file, the method or the user says otherwise.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import torch
from timm.layers import Mlp, SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dinobench.errors import UserError
from dinobench.models.architecture import ALIASES, Architecture, usual_heads, vit_name
from dinobench.models.families import family, released
from dinobench.models.families.family import (
    Family,
    activation,
    activation_name,
    check_patch_embedding,
    count,
    first,
    grid_of,
    has,
    settings_of,
    shape_of,
)
from dinobench.models.key_mapping import PREFIX_TOKENS, Mapped, Rules, fold_positions, fuse_qkv, square_side
from dinobench.models.spec import ModelSpec

MOCOV3_HEADS = {384: 12}  # facebookresearch/moco-v3 `vits.py`: its ViT-S has 12 heads of 32

RULES: Rules = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks repeat the true index inside
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),  # DeiT III
)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Join query, key and value; note whose positions these are; fold the rows of CLS and registers into the tokens."""
    fuse_qkv(mapped)
    if is_mocov3(mapped.tensors.get("pos_embed")):
        spec.tell("MoCo v3's fixed positions", method="mocov3")
    fold_positions(mapped, spec.get("grid") or _stated_grid(mapped, spec))


def finish_plain(mapped: Mapped, spec: ModelSpec) -> None:
    """As `finish`; and whether these are TIPS, which have DINOv2's names, and images that are not normalised."""
    finish(mapped, spec)
    if spec.get("method") is None and not spec.get("ours") and is_tips(mapped):
        spec.tell("TIPS's marks", method="tips", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def is_tips(mapped: Mapped) -> bool:
    """Whether these are the vision towers of google-deepmind/tips, or timm's of them: one register, LayerScale.

    No DINOv2 was released with one register. timm's files have no mask token; patches of 14 and grids of 16 or 32 (224
    or 448 pixels, its `run_image_encoder_inference.py`, which also has mean 0 and std 1) are left to know them by.
    """
    tensors = mapped.tensors
    if shape_of(tensors, "reg_token", 1) != 1 or "cls_token" not in tensors or "blocks.0.ls1.gamma" not in tensors:
        return False
    own_names = "mask_token" in mapped.ignored and "register_tokens" in mapped.sources.get("reg_token", ())
    patch, rows = shape_of(tensors, "patch_embed.proj.weight", 3), shape_of(tensors, "pos_embed", 1)
    return own_names or (patch == 14 and rows in (16 * 16, 32 * 32))


def _stated_grid(mapped: Mapped, spec: ModelSpec) -> tuple[int, int] | None:
    """The grid of the images that the file says it was made for, where the positions can be of them."""
    size, rows = spec.get("image_size"), shape_of(mapped.tensors, "pos_embed", 1)
    patch = shape_of(mapped.tensors, "patch_embed.proj.weight", 3)
    if not size or not patch:
        return None
    prefix = sum(shape_of(mapped.tensors, name, 1) for name in PREFIX_TOKENS)
    grid = (size[0] // patch, size[1] // patch)
    return grid if 0 <= rows - grid[0] * grid[1] <= prefix else None


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Width, patch, depth, MLP, LayerScale, registers, grid and pooling of a ViT.

    One with a CLS token and a norm after the last block is a plain one. All others (attention pooling, a norm after
    the mean, a distillation token, no CLS token) are left to timm's own forward pass.
    """
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
    kind = _kind(mapped, spec)
    grid = grid_of(tensors["pos_embed"].shape[1], patch, spec, partial) if "pos_embed" in tensors else None
    grid = grid or (224 // patch, 224 // patch)  # reported as missing; matters only where partial loading is allowed
    known = released.settle(kind, (width, depth, patch, grid), tensors, spec)
    heads = settle_heads(width, spec)
    eps = float(spec.settle("eps", known.eps, "the releases'"))
    usual = "silu" if packed else "gelu"
    act = nn.SiLU if packed else activation(spec, usual)  # SwiGLU has its own, whatever a config.json says of others
    mlp: Any = SwiGLUPacked if packed else Mlp
    options: dict[str, Any] = {
        "img_size": (grid[0] * patch, grid[1] * patch),
        "patch_size": patch,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": (fc1.shape[0] + 0.5) / width,  # timm floors width * ratio: the half keeps it exact
        "qkv_bias": has(tensors, r"blocks\.\d+\.attn\.qkv\.bias"),
        "qk_norm": has(tensors, r"blocks\.\d+\.attn\.q_norm\.weight"),
        "scale_attn_norm": has(tensors, r"blocks\.\d+\.attn\.norm\.weight"),
        "scale_mlp_norm": has(tensors, r"blocks\.\d+\.mlp\.norm\.weight"),
        "init_values": 1e-5 if has(tensors, r"blocks\.\d+\.ls1\.gamma") else None,
        "pre_norm": has(tensors, r"norm_pre\.weight"),
        "reg_tokens": registers,
        "no_embed_class": True,
        "num_classes": 0,
        "norm_layer": functools.partial(nn.LayerNorm, eps=eps),
        "mlp_layer": mlp,
        "act_layer": act,
        "weight_init": "skip",
    }
    settings = settings_of(
        (
            f"heads={heads}" if heads != usual_heads(width) else "",
            f"activation={activation_name(act())}" if act is not activation(ModelSpec(path), usual) else "",
            f"eps={eps:g}" if eps != known.eps else "",
            f"grid={grid[0]}x{grid[1]}" if grid[0] != grid[1] else "",
        )
    )
    name = vit_name(width, depth, patch, registers)
    if kind == "plain":
        build = functools.partial(VisionTransformer, **options)
        return Architecture("vit", name, width, build, patch, depth, heads, registers, grid, settings)
    options |= {"dynamic_img_size": True}
    if kind != "distilled":
        options |= {"class_token": "cls_token" in tensors, "global_pool": "map" if kind == "map" else "avg"}
        options |= {"fc_norm": kind == "fc_norm"}
    make: Any = _distilled if kind == "distilled" else VisionTransformer
    return Architecture(
        "tokens", f"{name}_{kind}", width, functools.partial(make, **options), patch, depth, heads, registers, grid,
        settings, POOL_OF[kind],
    )  # fmt: skip


#: What is taken for the feature by those who train them. DeiT averages the predictions from its two tokens
#: (facebookresearch/deit `models.py`), which is what a classifier of their mean does; of MAE's fine-tuned models
#: (facebookresearch/mae `models_vit.py`), I-JEPA's and timm's models without CLS the mean of the patches is classified.
POOL_OF = {"plain": "cls", "distilled": "cls&dist", "map": "map", "fc_norm": "mean", "gap": "mean"}


def _kind(mapped: Mapped, spec: ModelSpec) -> str:
    """What stands at a ViT's end: a key of POOL_OF.

    A norm after the pooling of patches comes with the classifier that it was trained for, as in MAE's fine-tuned files,
    or with other marks of a model that has one (BEiT-3's inner norms, mmpretrain's names). Without any a ViT with CLS
    and such a norm may be half of something else: then `norm` is missing, unless --pool says what is meant.
    """
    tensors = mapped.tensors
    if "attn_pool.latent" in tensors:
        return "map"
    if "fc_norm.weight" in tensors and "norm.weight" not in tensors:
        classified = any(re.search(r"(^|\.)(head|classifier|fc)\.", name) for name in mapped.ignored)
        classified |= bool(spec.get("classified")) or has(tensors, r"blocks\.\d+\.(attn|mlp)\.norm\.weight")
        if classified or "cls_token" not in tensors or spec.get("pool") == "mean":
            return "fc_norm"
    if "dist_token" in tensors:
        return "distilled"
    rows = shape_of(tensors, "pos_embed", 1)
    lost = not rows or (not square_side(rows) and square_side(rows - 1))  # a row for the CLS token that is not there
    return "plain" if "cls_token" in tensors or lost else "gap"


def _distilled(**options: Any) -> nn.Module:
    """timm's ViT with a distillation token, its positions apart from those of the tokens."""
    module: Any = VisionTransformerDistilled(**options)
    module.pos_embed = nn.Parameter(module.pos_embed.detach()[:, module.num_prefix_tokens :].clone())
    return module


def settle_heads(width: int, spec: ModelSpec) -> int:
    """Heads as told, as MoCo v3 has them, or as is usual for the width. Raises UserError when neither settles it."""
    if spec.get("method") == "mocov3" and not spec.get("ours"):  # ours have the usual ones, whatever trains them
        spec.tell("MoCo v3's", heads=MOCOV3_HEADS.get(width))
    return family.settle_heads(width, spec)


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


VIT = Family("vit", ("patch_embed.proj.weight",), infer, rules=RULES, finish=finish_plain, label="vit")
