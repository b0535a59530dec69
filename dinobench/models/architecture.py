"""From the shapes of a backbone's tensors to a module that they fill.

The tensors decide everything but the number of attention heads, which leaves no trace in any shape: it follows from
the width as in the released models, unless the file, the method or the user says otherwise.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Mlp, SwiGLUPacked
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dinobench.errors import UserError
from dinobench.models.key_mapping import Mapped, square_side

# DeiT/DINO tiny..base, MAE large and huge, the 1408-wide giant, DINOv2 giant: heads by width
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}
VIT_SIZES = {
    (192, 12): "vit_tiny",
    (384, 12): "vit_small",
    (768, 12): "vit_base",
    (1024, 24): "vit_large",
    (1280, 32): "vit_huge",
    (1408, 40): "vit_giant",
    (1536, 40): "vit_giant2",
}
# DINO's and DeiT's own names, which leave the patch size open
ALIASES = {name: size for size, name in VIT_SIZES.items()} | {
    "deit_tiny": (192, 12),
    "deit_small": (384, 12),
    "deit_base": (768, 12),
}
RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
CONVNEXTS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 40): "atto",
    ((2, 2, 6, 2), 48): "femto",
    ((2, 2, 6, 2), 64): "pico",
    ((2, 2, 8, 2), 80): "nano",
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 96): "small",
    ((3, 3, 27, 3), 128): "base",
    ((3, 3, 27, 3), 192): "large",
    ((3, 3, 27, 3), 256): "xlarge",
}
MAX_BLOCKS = 256  # of a ViT or a stage; the deepest released are 48 (ViT-22B) and 36 (ResNet-152's third stage)
NORM_EPS = 1e-6  # of every ViT release evaluated here (facebookresearch/dino, dinov2, mae, moco-v3)


@dataclass(frozen=True)
class Architecture:
    """What the tensors turned out to be, and how to build it. `grid` is that of the position embedding."""

    family: str  # "vit", "resnet", "convnext" or "generic"
    arch: str
    embed_dim: int
    build: Callable[[], nn.Module]
    patch_size: int | None = None
    depth: int | None = None
    heads: int | None = None
    registers: int = 0
    grid: tuple[int, int] = (0, 0)
    settings: str = ""  # what the outputs depend on and no tensor tells


@dataclass(frozen=True)
class Coverage:
    """Expected against found: `matched` and `missing` by canonical name, `unexpected` by the file's own names."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def infer(
    mapped: Mapped, layout: str, path: str, heads: int | None = None, stated: str | None = None, partial: bool = False
) -> Architecture:
    """The architecture of canonical tensors. Raises UserError, with --arch or --heads as the remedy, where unclear.

    `stated` is the name the file gives itself: a `vit_small` that lacks its last block is incomplete, not a ViT of 11.
    """
    try:
        if layout in ("vit", "huggingface"):
            return infer_vit(mapped.tensors, path, heads, stated, partial)
        return infer_resnet(mapped.tensors, path) if layout.startswith("resnet") else infer_convnext(mapped.tensors)
    except (LookupError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: its architecture is not clear from its tensors ({error}); give --arch") from None


def infer_vit(
    tensors: Mapping[str, torch.Tensor], path: str, heads: int | None, stated: str | None, partial: bool
) -> Architecture:
    """Width, patch, depth, MLP, LayerScale, registers and grid of a ViT."""
    projection = tensors["patch_embed.proj.weight"]
    if projection.ndim != 4 or projection.shape[1] != 3 or projection.shape[2] != projection.shape[3]:
        raise UserError(
            f"{path}: patch embedding of shape {tuple(projection.shape)}; expected (width, 3, patch, patch)"
        )
    width, patch = projection.shape[0], projection.shape[-1]
    blocks = [int(m[1]) for n in tensors if (m := re.match(r"blocks\.(\d+)\.", n))]
    if not blocks:
        raise UserError(f"{path}: has a patch embedding but no `blocks.0`: not a plain ViT; name it with --arch")
    if max(blocks) >= MAX_BLOCKS:
        raise ValueError(f"a block of the number {max(blocks)}")
    said_width, said_depth = ALIASES.get(stated or "", (0, 0))
    depth = max(max(blocks) + 1, said_depth if said_width == width else 0)
    fc1, fc2 = _first(tensors, r"blocks\.\d+\.mlp\.fc1\.weight"), _first(tensors, r"blocks\.\d+\.mlp\.fc2\.weight")
    mlp: Any = SwiGLUPacked
    packed = fc1.shape[0] == 2 * fc2.shape[1]
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    heads = check_heads(width, heads, path)
    side = _grid_side(tensors, patch, path, partial)

    def has(pattern: str) -> bool:
        return any(re.fullmatch(pattern, n) for n in tensors)

    build = functools.partial(
        VisionTransformer,
        img_size=side * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(fc1.shape[0] + 0.5) / width,  # timm floors width * ratio: the half keeps it exact
        qkv_bias=has(r"blocks\.\d+\.attn\.qkv\.bias"),
        qk_norm=has(r"blocks\.\d+\.attn\.q_norm\.weight"),
        init_values=1e-5 if has(r"blocks\.\d+\.ls1\.gamma") else None,
        pre_norm=has(r"norm_pre\.weight"),
        reg_tokens=registers,
        no_embed_class=True,
        num_classes=0,
        norm_layer=functools.partial(nn.LayerNorm, eps=NORM_EPS),
        mlp_layer=mlp if packed else Mlp,
        act_layer=nn.SiLU if packed else nn.GELU,
        weight_init="skip",
    )
    name = vit_name(width, depth, patch, registers)
    settings = "" if heads == usual_heads(width) else f"heads={heads}"
    return Architecture("vit", name, width, build, patch, depth, heads, registers, (side, side), settings)


def vit_name(width: int, depth: int, patch: int, registers: int) -> str:
    """The name in leaderboards.

    >>> vit_name(384, 12, 14, 4), vit_name(64, 2, 8, 0)
    ('vit_small_patch14_reg4', 'vit_w64_d2_patch8')
    """
    size = VIT_SIZES.get((width, depth), f"vit_w{width}_d{depth}")
    return f"{size}_patch{patch}" + (f"_reg{registers}" if registers else "")


def usual_heads(width: int) -> int | None:
    """Heads by width: the released models' table, else 64 per head where that divides."""
    return HEADS.get(width) or (width // 64 if width % 64 == 0 else None)


def check_heads(width: int, heads: int | None, path: str) -> int:
    """`heads`, or what is usual for the width. Raises UserError when neither settles it."""
    chosen = heads or usual_heads(width)
    if chosen is None:
        raise UserError(f"{path}: how many attention heads a ViT of width {width} has is not clear; give --heads")
    if chosen < 1 or width % chosen:
        raise UserError(f"{path}: {chosen} heads do not divide the width {width}; give another --heads")
    return chosen


def _grid_side(tensors: Mapping[str, torch.Tensor], patch: int, path: str, partial: bool) -> int:
    if "pos_embed" not in tensors:
        return 224 // patch  # reported as missing; the size only matters where partial loading is allowed
    rows = tensors["pos_embed"].shape[1]
    side = square_side(rows)
    if not side and not partial:
        raise not_square(path, rows)
    return side or 224 // patch


def not_square(path: str, rows: int) -> UserError:
    """The error for positions on a grid with unequal sides, which no protocol's square crops could be put on."""
    return UserError(
        f"{path}: its position embedding of {rows} rows is of no square grid; models of images that are not square "
        "are not supported: resample it to a square grid with timm.layers.resample_abs_pos_embed and save that"
    )


def infer_resnet(tensors: Mapping[str, torch.Tensor], path: str) -> Architecture:
    """Blocks, widths and groups of a ResNet, ResNeXt or wide ResNet with torchvision's names.

    A 3 x 3 first convolution marks the variant for small images (arXiv 2002.05709, B.9): stride 1, no max pooling.
    """
    counts = tuple(_count(tensors, rf"layer{i}\.(\d+)\.") for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in tensors
    conv2 = tensors["layer1.0.conv2.weight"]
    groups = conv2.shape[0] // conv2.shape[1]
    base_width = conv2.shape[0] // groups
    small = tensors["conv1.weight"].shape[-1] == 3
    name = RESNETS.get(("bottleneck" if bottleneck else "basic", counts), f"resnet_{'_'.join(map(str, counts))}")
    if groups > 1:
        name = f"{name.replace('resnet', 'resnext')}_{groups}x{base_width}d"
    elif base_width != 64:
        name = f"wide_{name}_{base_width // 64}"
    block: Any = Bottleneck if bottleneck else BasicBlock
    make = functools.partial(ResNet, block, counts, num_classes=0, cardinality=groups, base_width=base_width)
    width = 2048 if bottleneck else 512
    return Architecture(
        "resnet", name + ("_cifar" if small else ""), width, functools.partial(_small_stem, make, small)
    )


def _small_stem(make: Callable[[], nn.Module], small: bool) -> nn.Module:
    module: Any = make()
    if small:
        module.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        module.maxpool = nn.Identity()
    return module


def infer_convnext(tensors: Mapping[str, torch.Tensor]) -> Architecture:
    """Depths, widths, LayerScale and global response norm (arXiv 2301.00808) of a ConvNeXt with a patch stem."""
    depths = tuple(_count(tensors, rf"stages\.{i}\.blocks\.(\d+)\.") for i in range(4))
    kernels = [_first(tensors, rf"stages\.{i}\.blocks\.\d+\.conv_dw\.weight") for i in range(4)]
    dims = tuple(k.shape[0] for k in kernels)
    v2 = any(".grn." in n for n in tensors)
    build = functools.partial(
        ConvNeXt,
        depths=depths,
        dims=dims,
        kernel_sizes=tuple(k.shape[-1] for k in kernels),
        patch_size=tensors["stem.0.weight"].shape[-1],
        ls_init_value=1e-6 if any(n.endswith(".gamma") for n in tensors) else None,
        use_grn=v2,
        head_norm_first="norm_pre.weight" in tensors,
        num_classes=0,
    )
    name = ("convnextv2_" if v2 else "convnext_") + CONVNEXTS.get((depths, dims[0]), f"w{dims[0]}")
    return Architecture("convnext", name, dims[-1], build)


def conv_stride(module: Any) -> int:
    """Pixels between neighbouring positions of a ConvNet's last map."""
    stride = int(module.feature_info[-1]["reduction"])
    return stride // 4 if isinstance(getattr(module, "maxpool", None), nn.Identity) else stride


def build_empty(architecture: Architecture) -> nn.Module:
    """The module without memory for its weights (meta device): quick, and no random number is drawn.

    Raises UserError for sizes that no module can have.
    """
    try:
        with torch.device("meta"):
            return architecture.build()
    except (AssertionError, RuntimeError, ValueError, ArithmeticError) as error:
        raise UserError(f"a {architecture.arch} cannot be built: {' '.join(str(error).split())}; give --arch") from None


def cover(expected: Mapping[str, Any], mapped: Mapped) -> Coverage:
    """Compare a module's state_dict with the tensors found, by name and shape. Counters of batches may be absent."""
    tensors = mapped.tensors
    matched = [n for n, t in expected.items() if n in tensors and _fits(tensors[n], t)]
    missing = [n for n in expected if n not in set(matched) and not n.endswith("num_batches_tracked")]
    unexpected = [mapped.names(n) for n in tensors if n not in expected]
    for n in missing:
        if n in tensors:
            unexpected.append(f"{mapped.names(n)} {_kind(tensors[n])} instead of {_kind(expected[n])}")
    return Coverage(tuple(matched), tuple(missing), tuple(unexpected))


def _fits(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    dense = tensor.layout == torch.strided
    return dense and tensor.shape == expected.shape and tensor.is_floating_point() == expected.is_floating_point()


def _kind(tensor: torch.Tensor) -> str:
    usual = tensor.is_floating_point() and tensor.layout == torch.strided
    return f"{tuple(tensor.shape)}" + ("" if usual else f" {tensor.dtype} {tensor.layout}")


def _first(tensors: Mapping[str, torch.Tensor], pattern: str) -> torch.Tensor:
    for name, tensor in tensors.items():
        if re.fullmatch(pattern, name):
            return tensor
    raise KeyError(f"no {pattern}".replace("\\", ""))


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    last = max((int(m[1]) for n in tensors if (m := re.match(pattern, n))), default=-1)
    if last >= MAX_BLOCKS:
        raise ValueError(f"a block of the number {last}")
    return 1 + last
