"""What an architecture is, how it is built, and whether a file's tensors are all that it needs.

Which architecture tensors are of, the families tell (`dinobench.models.families`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dinobench.errors import UserError
from dinobench.models.key_mapping import Mapped
from dinobench.models.spec import POOLS

#: Attention heads by width, of every plain ViT released under one of timm's names (its `vision_transformer.py`).
HEADS = {192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 576: 9, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16, 1152: 16}
HEADS |= {1280: 16, 1408: 16, 1536: 24, 1664: 16, 3200: 25, 4096: 32}
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
NORM_EPS = 1e-6  # of every ViT release evaluated here (facebookresearch/dino, dinov2, mae, moco-v3)


@dataclass(frozen=True)
class Architecture:
    """What the tensors turned out to be, and how to build it. `grid` is that of the position embedding."""

    family: str  # which adapter it gets: "vit", "tokens", "maps", "resnet", "convnext", "generic" or "pixels"
    arch: str
    embed_dim: int
    build: Callable[[], nn.Module]
    patch_size: int | None = None
    depth: int | None = None
    heads: int | None = None
    registers: int = 0
    grid: tuple[int, int] = (0, 0)
    settings: str = ""  # what the outputs depend on and no tensor tells
    pool: str | None = "cls"  # what the family's authors take for the feature; None where there are no tokens to pool
    token_dim: int | None = None  # of one token, where the feature is not as wide


@dataclass(frozen=True)
class Coverage:
    """Expected against found: `matched` and `missing` by canonical name, `unexpected` by the file's own names."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def vit_name(width: int, depth: int, patch: int, registers: int) -> str:
    """The name in leaderboards.

    >>> vit_name(384, 12, 14, 4), vit_name(64, 2, 8, 0)
    ('vit_small_patch14_reg4', 'vit_w64_d2_patch8')
    """
    size = VIT_SIZES.get((width, depth), f"vit_w{width}_d{depth}")
    return f"{size}_patch{patch}" + (f"_reg{registers}" if registers else "")


def usual_heads(width: int, table: Mapping[int, int] = HEADS) -> int | None:
    """Heads by width: the released models' table, else 64 per head where that divides."""
    return table.get(width) or (width // 64 if width % 64 == 0 else None)


def repool(architecture: Architecture, pool: str | None, path: str) -> Architecture:
    """The architecture with another feature than its authors take. Raises UserError where that cannot be."""
    if pool is None or pool == architecture.pool:
        return architecture
    if pool not in POOLS:
        raise UserError(f"--pool {pool}: is none of {', '.join(POOLS)}")
    if architecture.pool is None:
        raise UserError(f"{path}: a {architecture.arch} has no tokens for --pool {pool}; leave it out")
    settings = ",".join(s for s in (architecture.settings, f"pool={pool}") if s)
    width = (architecture.token_dim or architecture.embed_dim) * (2 if pool == "cls+mean" else 1)
    return replace(architecture, pool=pool, settings=settings, embed_dim=width)


def fit_shapes(expected: Mapping[str, Any], mapped: Mapped) -> None:
    """Matrices that the file holds as 1 x 1 convolutions, or vectors with broadcast axes, as the module has them."""
    for name, tensor in mapped.tensors.items():
        wanted = expected.get(name)
        if wanted is None or tensor.shape == wanted.shape or tensor.layout != torch.strided:
            continue
        if [n for n in tensor.shape if n != 1] == [n for n in wanted.shape if n != 1]:
            mapped.tensors[name] = tensor.reshape(wanted.shape)


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


def build_computed(architecture: Architecture) -> nn.Module:
    """The module on the CPU with buffers that no state_dict holds (tables of positions) computed, its weights not set.

    Nothing is drawn where the modules that own such buffers can compute them alone, as timm's can; without any the
    module stays without memory, as from `build_empty`. No global generator is moved.
    """
    module = build_empty(architecture)
    computed = {n for n, _ in module.named_buffers()} - set(module.state_dict())
    if not computed:
        return module
    owners: list[Any] = [module.get_submodule(name.rpartition(".")[0]) for name in computed]
    if all(hasattr(owner, "init_non_persistent_buffers") for owner in owners):
        module.to_empty(device="cpu")
        for owner in owners:
            owner.init_non_persistent_buffers()
        return module
    with torch.random.fork_rng(devices=[]):
        return architecture.build()


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
