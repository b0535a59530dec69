"""BEiT, BEiT v2 and data2vec-vision: microsoft/unilm's own layout, which timm shares, and Hugging Face's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from timm.models.beit import Beit
from torch import nn

from dinobench.errors import UserError
from dinobench.models.architecture import NORM_EPS, Architecture, usual_heads
from dinobench.models.families import eva, released
from dinobench.models.families.family import (
    TRANSFORMERS_BLOCK,
    Family,
    check_heads,
    check_patch_embedding,
    count,
    first,
    grid_of,
    has,
    settings_of,
)
from dinobench.models.key_mapping import Mapped, Rules, fuse_qkv
from dinobench.models.spec import ModelSpec

HUGGINGFACE_EPS = 1e-12  # transformers' BeitConfig and Data2VecVisionConfig, where no config.json tells another
SIZES = {(768, 12): "beit_base", (1024, 24): "beit_large"}
MAX_INDICES = 1 << 27  # of all blocks, 1 GiB of them; BEiT-L at 512 px has 25 million
TABLE = "relative_position_bias_table"

HUGGINGFACE_RULES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.relative|shared)_position_bias\.", "rel_pos_bias."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"(\.attention\.attention)?\.relative_position_bias\.", ".attn."),
    *TRANSFORMERS_BLOCK,
    (r"\.lambda_(\d)$", r".gamma_\1"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^layernorm\.", "norm."),
)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Joined query, key and value with two biases; indices into the tables of positions are computed anew."""
    tensors = mapped.tensors
    masked = any(re.search(r"(^|\.)lm_head\.weight$", n) for n in mapped.ignored)
    spec.tell("masked image modelling", pool="mean" if masked and "fc_norm.weight" not in tensors else None)
    if has(tensors, r"cls_pt_layers\..*"):
        spec.tell("its layers for pretraining CLS", method="beitv2")
    mapped.set_aside_all(r"cls_pt_layers\..*|(.*\.)?relative_position_index")
    mapped.rename(r"\.attn\.query\.bias$", ".attn.q_bias")
    mapped.rename(r"\.attn\.value\.bias$", ".attn.v_bias")
    fuse_qkv(mapped)
    kind = spec.get("model_type")
    if kind in ("beit", "data2vec-vision"):
        spec.tell("config.json", method=kind.removesuffix("-vision"))


def infer(mapped: Mapped, spec: ModelSpec, partial: bool, usual_eps: float = NORM_EPS) -> Architecture:
    """A BEiT; the tables of relative positions tell heads and grid."""
    tensors, path = mapped.tensors, spec.path
    width, patch = check_patch_embedding(tensors["patch_embed.proj.weight"], path)
    depth = count(tensors, r"blocks\.(\d+)\.")
    shared, own = f"rel_pos_bias.{TABLE}" in tensors, has(tensors, rf"blocks\.\d+\.attn\.{TABLE}")
    heads, grid = _heads_and_grid(mapped, spec, patch, partial)
    check_heads(width, heads, path)
    indices = (grid[0] * grid[1] + 1) ** 2 * (depth if own else 1)
    if indices > MAX_INDICES:
        raise UserError(
            f"{path}: relative positions of {depth} blocks on a grid of {grid[0]}x{grid[1]} would need {indices:,} "
            f"indices; {MAX_INDICES:,} are supported"
        )
    hidden = first(tensors, r"blocks\.\d+\.mlp\.fc2\.weight").shape[1]
    eps = float(spec.settle("eps", usual_eps, "the releases'"))
    act = eva.other_activation(spec, gated=False)
    pool, fc_norm = _pool(mapped, spec), "norm.weight" not in tensors
    # transformers' models without pooler have no norm at the end; a file alone that lacks it is broken
    bare = fc_norm and "fc_norm.weight" not in tensors and spec.origin("model_type") == "config.json"
    if spec.get("model_type") != "data2vec-vision" and spec.get("method") not in ("beitv2", "data2vec"):
        # unilm/beit: `imagenet_default_mean_and_std` is off unless asked for
        spec.tell("BEiT's (BEiT v2 and data2vec: ImageNet's)", mean=released.HALF, std=released.HALF)
    make = functools.partial(
        build,
        act,
        bare,
        img_size=(grid[0] * patch, grid[1] * patch),
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(hidden + 0.5) / width,
        qkv_bias=has(tensors, r"blocks\.\d+\.attn\.q_bias"),
        init_values=0.1 if has(tensors, r"blocks\.\d+\.gamma_1") else None,
        use_abs_pos_emb="pos_embed" in tensors,
        use_rel_pos_bias=own,
        use_shared_rel_pos_bias=shared,
        global_pool="avg" if fc_norm else "token",  # decides which norm it has; the adapter pools
        norm_layer=functools.partial(nn.LayerNorm, eps=eps),
        num_classes=0,
    )
    settings = settings_of(
        (
            f"heads={heads}" if heads != usual_heads(width) else "",
            f"activation={spec.get('activation')}" if act else "",
            f"eps={eps:g}" if eps != NORM_EPS else "",
            f"grid={grid[0]}x{grid[1]}" if grid[0] != grid[1] else "",
            "" if fc_norm else f"pool={pool}",
        )
    )
    name = f"{SIZES.get((width, depth), f'beit_w{width}_d{depth}')}_patch{patch}"
    return Architecture("tokens", name, width, make, patch, depth, heads, 0, grid, settings, pool)


def _pool(mapped: Mapped, spec: ModelSpec) -> str:
    """unilm/beit's: the normed mean of patches where `fc_norm` is there, else CLS; of masked pretraining, the mean."""
    if "norm.weight" not in mapped.tensors:
        return "mean"
    return "mean" if spec.origin("pool") == "masked image modelling" else "cls"


def _heads_and_grid(mapped: Mapped, spec: ModelSpec, patch: int, partial: bool) -> tuple[int, tuple[int, int]]:
    """A table has a row for each shift between patches, (2h - 1)(2w - 1), and three for CLS; a column a head."""
    table = first(mapped.tensors, rf"(rel_pos_bias|blocks\.\d+\.attn)\.{TABLE}")
    if table.ndim != 2 or not table.shape[1]:
        raise ValueError(f"a table of relative positions of shape {tuple(table.shape)}")
    heads, shifts = int(table.shape[1]), len(table) - 3
    told = spec.settle("heads", heads, "its tables of relative positions")
    if told != heads:
        raise UserError(
            f"{spec.path}: its tables of relative positions are of {heads} heads, not {told} ({spec.origin('heads')})"
        )
    side = round((max(shifts, 0) ** 0.5 + 1) / 2)
    if (2 * side - 1) ** 2 == shifts and not spec.get("grid"):
        return heads, spec.settle("grid", (side, side), "its tables of relative positions")
    rows = mapped.tensors["pos_embed"].shape[1] - 1 if "pos_embed" in mapped.tensors else _patches(shifts, spec)
    grid = grid_of(rows, patch, spec, partial)
    if (2 * grid[0] - 1) * (2 * grid[1] - 1) != shifts:
        raise UserError(
            f"{spec.path}: its tables of relative positions have {shifts} shifts, a grid of {grid[0]}x{grid[1]} "
            f"({spec.origin('grid')}) has {(2 * grid[0] - 1) * (2 * grid[1] - 1)}; give another --grid"
        )
    return heads, grid


def _patches(shifts: int, spec: ModelSpec) -> int:
    """h * w of a grid with that many shifts: as told, else the squarest. Raises ValueError where there is none."""
    if grid := spec.get("grid"):
        return int(grid[0] * grid[1])
    pairs = [(a, shifts // a) for a in range(1, int(max(shifts, 0) ** 0.5) + 1, 2) if shifts % a == 0]
    if not pairs or shifts % 2 == 0:
        raise ValueError(f"tables of relative positions with {shifts} shifts")
    return (pairs[-1][0] + 1) // 2 * ((pairs[-1][1] + 1) // 2)


def build(act: Callable[..., nn.Module] | None, bare: bool, **kwargs: Any) -> nn.Module:
    """timm's `Beit`, with another activation than GELU where `act` says so, and without norm at the end if `bare`."""
    module: Any = Beit(**kwargs)
    if bare:
        module.fc_norm = nn.Identity()
    if act:
        for block in module.blocks:
            block.mlp.act = act()
    return module


OWN_TABLES = Family("beit", (f"blocks.0.attn.{TABLE}", "patch_embed.proj.weight"), infer, finish=finish, label="beit")
SHARED_TABLE = Family(
    "beit-shared", (f"rel_pos_bias.{TABLE}", "patch_embed.proj.weight"), infer, finish=finish, label="beit"
)
#: transformers' files, and (the latter two) its state_dict in memory since version 5
HUGGINGFACE = tuple(
    Family(
        f"beit-huggingface-{i}", ("embeddings.patch_embeddings.projection.weight", f"{table}.{TABLE}"),
        functools.partial(infer, usual_eps=HUGGINGFACE_EPS), rules=HUGGINGFACE_RULES, finish=finish,
        label="huggingface",
    )
    for i, table in enumerate((
        "encoder.layer.0.attention.attention.relative_position_bias", "encoder.relative_position_bias",
        "layers.0.relative_position_bias", "shared_position_bias",
    ))
)  # fmt: skip
