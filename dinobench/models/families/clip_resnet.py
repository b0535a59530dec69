"""CLIP's ResNets: a stem of three convolutions, average pooling before every stride, attention pooling at the end.

In the names of openai/CLIP and open_clip (`ModifiedResNet`), and in timm's. The feature is the attention pooling before
its last projection: `c_proj` is what leads to the space that images share with texts, as an author says (openai/CLIP,
issue 51), and the features of the ViTs are taken before theirs (arXiv 2103.00020, appendix A.3, which does not say it
of the ResNets). timm's `forward_head(pre_logits=True)` is the same.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from timm.layers import AttentionPool2d
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import nn

from dinobench.errors import UserError
from dinobench.models.architecture import Architecture
from dinobench.models.families import released
from dinobench.models.families.family import Family, count, grid_of, settings_of
from dinobench.models.key_mapping import Mapped, Rules, apply_rules
from dinobench.models.spec import ModelSpec

#: Blocks and width of the stem -> timm's name (openai/CLIP `clip.py`, `_MODELS`; open_clip's `model_configs`).
NAMES: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 64): "resnet50_clip",
    ((3, 4, 23, 3), 64): "resnet101_clip",
    ((4, 6, 10, 6), 80): "resnet50x4_clip",
    ((6, 8, 18, 8), 96): "resnet50x16_clip",
    ((3, 15, 36, 10), 128): "resnet50x64_clip",
}
HEAD_WIDTH = 64  # openai/CLIP `model.py`: vision_heads = vision_width * 32 // 64
STRIDE = 32
RULES: Rules = (
    (r"^(conv|bn)(\d)\.", r"stem.conv\2.\1."),
    (r"\.downsample\.0\.", ".shortcut.conv.conv."),
    (r"\.downsample\.1\.", ".shortcut.conv.bn."),
    (r"^attnpool\.positional_embedding$", "head.pos_embed"),
    (r"^attnpool\.([qkv])_proj\.", r"head.\1."),
    (r"^attnpool\.c_proj\.", "head.proj."),
)
_PLACES = {"1": "conv1_1x1", "2": "conv2_kxk", "3": "conv3_1x1"}


def rename(name: str) -> str:
    """openai/CLIP's names -> timm's.

    >>> rename("layer1.0.conv2.weight"), rename("layer2.0.downsample.1.bias"), rename("bn3.weight")
    ('stages.0.0.conv2_kxk.conv.weight', 'stages.1.0.shortcut.conv.bn.bias', 'stem.conv3.bn.weight')
    """
    if match := re.match(r"layer([1-4])\.(\d+)\.(.*)$", name):
        part = re.sub(r"^(conv|bn)([123])\.", lambda m: f"{_PLACES[m[2]]}.{m[1]}.", match[3])
        name = f"stages.{int(match[1]) - 1}.{match[2]}.{part}"
    return apply_rules(RULES, name)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """The projection after the feature aside."""
    for part in ("weight", "bias"):
        mapped.set_aside(f"head.proj.{part}")


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Blocks and widths by shapes; the heads of the pooling as told, or else of 64 numbers each.

    Raises UserError for heads that do not divide the width, and for positions of no square grid without --grid.
    """
    tensors = mapped.tensors
    stem = tuple(int(tensors[f"stem.conv{i}.conv.weight"].shape[0]) for i in (1, 2, 3))
    depths = tuple(count(tensors, rf"stages\.{i}\.(\d+)\.") for i in range(4))
    widths = tuple(int(tensors[f"stages.{i}.0.conv3_1x1.conv.weight"].shape[0]) for i in range(4))
    grid = grid_of(tensors["head.pos_embed"].shape[0] - 1, STRIDE, spec, partial)
    usual = widths[-1] // HEAD_WIDTH
    heads = spec.settle("heads", usual or None, "CLIP's: 64 numbers a head")
    if not heads or widths[-1] % heads:
        raise UserError(f"{spec.path}: {heads or 'no'} heads do not divide the width {widths[-1]}; give --heads")
    spec.tell("CLIP's", mean=released.CLIP_MEAN, std=released.CLIP_STD)
    name = NAMES.get((depths, stem[-1]), f"resnet_clip_{'_'.join(map(str, depths))}_w{stem[-1]}")
    settings = settings_of(
        (
            name,
            f"heads={heads}" if heads != usual else "",
            f"grid={grid[0]}x{grid[1]}" if grid[0] != grid[1] else "",
        )
    )
    make = functools.partial(build, stem, depths, widths, heads, grid)
    return Architecture("resnet", name, widths[-1], make, settings=settings, pool=None)


def build(
    stem: tuple[int, ...], depths: tuple[int, ...], widths: tuple[int, ...], heads: int, grid: tuple[int, int]
) -> nn.Module:
    """timm's network of those widths, whose pooling has positions for `grid`."""
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=d, c=c, s=1 if i == 0 else 2, br=0.25)
        for i, (d, c) in enumerate(zip(depths, widths, strict=True))
    )
    config = ByoModelCfg(
        blocks=blocks, stem_chs=stem, stem_type="", stem_pool="avg2", downsample="avg", aa_layer="avg",
        head_type="classifier",
    )  # fmt: skip
    module: Any = ByobNet(config, num_classes=0)
    module.head = AttentionPool2d(
        widths[-1], feat_size=grid, out_features=0, num_heads=heads, qkv_separate=True, pool_type="token"
    )
    return module


OPENAI = Family(
    "clip-resnet", ("attnpool.positional_embedding", "conv1.weight", "conv3.weight", "layer1.0.conv1.weight"), infer,
    rename=rename, finish=finish, own=r"head\..*", label="clip", method="clip",
)  # fmt: skip
TIMM = Family(
    "clip-resnet-timm", ("head.pos_embed", "stem.conv3.conv.weight", "stages.0.0.conv1_1x1.conv.weight"), infer,
    finish=finish, own=r"head\..*", label="clip-resnet-timm", method="clip",
)  # fmt: skip
