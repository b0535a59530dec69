"""What is trained: ViTs of any image, patch size and depth, ResNets, and whatever else timm can build.

The ViTs have the tensor names of the released DINO checkpoints, start as they do, and bring their position embedding
to other resolutions as they do and as the evaluation does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from dinobench.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from dinobench.errors import UserError
from dinobench.models.architecture import ALIASES, NORM_EPS, usual_heads, vit_name
from dinobench.models.factory import create
from dinobench.models.families.family import activation_name
from dinobench.models.pos_embed import resample_abs_pos_embed

#: Deviation of the truncated normal that weights are drawn from (facebookresearch/dino, `vision_transformer.py`).
STD = 0.02
#: Of a ViT whose width no release has: the width of its heads, and its blocks (ViT-tiny's to ViT-base's).
HEAD, USUAL_DEPTH = 32, 12


@dataclass(frozen=True)
class Chosen:
    """An architecture to train. `build(drop_path)` draws its weights from torch's global generator.

    `arch` is how checkpoints call it: DINO's own name where it is one of DINO's models. `recognisable` is
    whether a reader can tell the architecture from the tensors alone; else `dinobench run` needs `--arch`.
    """

    arch: str
    build: Callable[[float], nn.Module]
    embed_dim: int
    is_vit: bool
    patch_size: int | None
    recognisable: bool


class ViT(VisionTransformer):
    """(B, 3, H, W) -> (B, D): CLS after the final norm. H and W are multiples of the patch size, whatever they are."""

    def __init__(self, width: int, depth: int, patch: int, image_size: int, drop_path: float) -> None:
        heads = usual_heads(width) or max(1, width // HEAD)
        super().__init__(
            img_size=image_size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, qkv_bias=True,
            num_classes=0, drop_path_rate=drop_path, norm_layer=functools.partial(nn.LayerNorm, eps=NORM_EPS),
        )  # fmt: skip
        self.grid = image_size // patch, image_size // patch
        cls: Any = self.cls_token
        nn.init.trunc_normal_(cls, std=STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        patches: Any = self.patch_embed.proj(x)
        h, w = patches.shape[-2:]
        cls: Any = self.cls_token
        tokens = torch.cat([cls.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._positions(h, w)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        return self.norm(_cls_after(self.blocks[-1], tokens))

    def _positions(self, h: int, w: int) -> torch.Tensor:
        """(1, 1 + h * w, D)"""
        rows: Any = self.pos_embed
        if (h, w) == self.grid:
            return rows
        return torch.cat([rows[:, :1], resample_abs_pos_embed(rows[:, 1:], self.grid, (h, w), registers=False)], dim=1)


def _cls_after(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """CLS (B, D) after the last `block` of `tokens` (B, N, D).

    Nobody asks for the patches behind it: they are keys and values, and go through neither its MLP nor its projection,
    which are five sixths of a block's work.
    """
    seen, cls = block.norm1(tokens), tokens[:, :1]
    width, qkv = tokens.shape[-1], block.attn.qkv
    parts = (
        F.linear(seen[:, :1], qkv.weight[:width], qkv.bias[:width]),
        *F.linear(seen, qkv.weight[width:], qkv.bias[width:]).chunk(2, dim=-1),
    )
    query, key, value = (part.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2) for part in parts)
    drawn = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    cls = cls + block.drop_path1(block.ls1(block.attn.proj(drawn)))
    cls = cls + block.drop_path2(block.ls2(block.mlp(block.norm2(cls))))
    return cls[:, 0]


def choose(arch: str, image_size: int, patch_size: int | None = None, depth: int | None = None) -> Chosen:
    """The architecture called `arch`: vit_tiny, vit_small ..., resnet18, resnet50, or any timm model's name.

    `patch_size` is 16 for a ViT by default; `depth` makes a ViT of fewer or more blocks, for small experiments, and
    so does `vit_wWIDTH` of another width, as in vit_w96.
    Raises UserError for an unknown name and for sizes that do not fit.
    """
    if image_size < 1:
        raise UserError(f"--image-size {image_size}: at least 1 is needed")
    if size := ALIASES.get(arch) or _of_width(arch):
        return _vit(arch, size, image_size, patch_size or 16, depth)
    if depth is not None:
        raise UserError(
            f"--depth {depth}: only for {', '.join(ALIASES)} and vit_wWIDTH; {arch} has the depth that its name says"
        )
    probe = _timm(arch, image_size, patch_size, 0.0)
    is_vit = hasattr(probe, "patch_embed") and hasattr(probe, "blocks")
    patch = _patch(probe) if is_vit else None
    if patch_size and not is_vit:
        raise UserError(f"--patch-size {patch_size}: {arch} has no patches; leave it out")
    if patch and image_size % patch:
        raise _no_multiple(image_size, patch)
    with torch.no_grad():
        width = probe.eval()(torch.zeros(1, 3, image_size, image_size)).shape[-1]
    return Chosen(
        arch, functools.partial(_timm, arch, image_size, patch_size), width, is_vit, patch,
        type(probe) is VisionTransformer or arch.startswith(("resnet", "convnext")),
    )  # fmt: skip


def header(backbone: Any, args: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its backbone, because no tensor does; read by `dinobench.models.statements`.

    `args` are those of the training: `arch` and `image_size` are taken from them. Images are normalised with
    ImageNet's mean and std in every method.
    """
    model: dict[str, Any] = {"arch": args.get("arch"), "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    if size := args.get("image_size"):
        model["image_size"] = [size, size]
    blocks = getattr(backbone, "blocks", None)
    if blocks is not None and hasattr(blocks[0], "attn"):
        model |= {"heads": blocks[0].attn.num_heads, "eps": getattr(backbone.norm, "eps", None)}
        model["activation"] = activation_name(getattr(blocks[0].mlp, "act", None))
    return model


def _of_width(arch: str) -> tuple[int, int] | None:
    """(width, usual depth) of `vit_wWIDTH`; None for another name. Raises UserError for a width without heads."""
    digits = arch.removeprefix("vit_w")
    if digits == arch or not digits.isdecimal():
        return None
    if not int(digits) or int(digits) % HEAD:
        raise UserError(f"--arch {arch}: a width is a multiple of {HEAD}, the width of a head")
    return int(digits), USUAL_DEPTH


def _vit(arch: str, size: tuple[int, int], image_size: int, patch: int, depth: int | None) -> Chosen:
    if patch < 1 or image_size % patch:
        raise _no_multiple(image_size, patch)
    width, usual = size
    depth = usual if depth is None else depth
    if depth < 1:
        raise UserError(f"--depth {depth}: a ViT has at least one block")
    # Readers take DINO's names for DINO's depths: another one goes by what it is.
    name = arch if depth == usual else vit_name(width, depth, patch, 0)
    build = functools.partial(ViT, width, depth, patch, image_size)
    return Chosen(name, build, width, True, patch, recognisable=True)


def _timm(arch: str, image_size: int, patch_size: int | None, drop_path: float) -> Any:
    if not timm.is_model(arch.partition(".")[0]):
        create(arch, f"--arch {arch}", 0, pretrained=False)  # its error names the nearest models
        raise UserError(f"--arch {arch}: only timm's models and {', '.join(ALIASES)} can be pretrained")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    if arch.startswith("resnet"):
        return timm.create_model(arch, zero_init_last=False, **options)  # torchvision's start, as in the paper
    if "vit" in arch or "deit" in arch:
        options |= {"img_size": image_size, "dynamic_img_size": True}
        options |= {"patch_size": patch_size} if patch_size else {}
    try:
        return timm.create_model(arch, drop_path_rate=drop_path, **options)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise UserError(f"--arch {arch}: cannot be built for {image_size} px: {error}") from None


def _patch(module: Any) -> int:
    size = module.patch_embed.patch_size
    return int(size[0] if isinstance(size, tuple) else size)


def _no_multiple(image_size: int, patch: int) -> UserError:
    return UserError(
        f"--image-size {image_size} is not a multiple of the patch size {patch}; "
        f"use {max(1, round(image_size / max(patch, 1))) * patch} or another --patch-size"
    )
