"""data2vec 2.0 for images (facebookresearch/fairseq `examples/data2vec/models/data2vec2.py`).

A ViT as the first transformers were: each norm stands behind the sum of a branch and what went around it, the first of
all behind patches, positions and CLS, none at the end. Its first blocks belong to the encoder of the modality, the rest
are shared between modalities. Positions are fixed; attention has no ALiBi in the released image models.

The files hold the trained network and its average (`_ema`); fine-tuning loads the trained one
(`mae_image_classification.py`), and classifies the mean of the patches, normed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from dinobench.errors import UserError
from dinobench.models.architecture import NORM_EPS, Architecture, usual_heads
from dinobench.models.families import vit
from dinobench.models.families.family import (
    Family,
    activation,
    check_patch_embedding,
    count,
    grid_of,
    settings_of,
    shape_of,
)
from dinobench.models.key_mapping import Mapped, Rules
from dinobench.models.spec import ModelSpec

IMAGE = r"^modality_encoders\.IMAGE\."
PATCHES = "modality_encoders.IMAGE.local_encoder.proj.weight"
RULES: Rules = (
    (IMAGE + r"local_encoder\.", "patch_embed."),
    (IMAGE + r"extra_tokens$", "cls_token"),
    (IMAGE + r"(fixed_)?positional_encoder\.(positions|pos_embed)$", "pos_embed"),
    (IMAGE + r"context_encoder\.norm\.", "norm_pre."),
    (IMAGE + r"context_encoder\.blocks\.", "first_blocks."),
    (IMAGE + r"decoder\.", "decoder."),
    (r"^(shared_decoder|recon_proj)\.", r"decoder.\1."),
)


class PostNormBlock(Block):
    """timm's block with each norm behind the sum, as in arXiv 1706.03762."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.norm1(x + self.attn(x, *args, **kwargs))
        normed: torch.Tensor = self.norm2(x + self.mlp(x))
        return normed


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """The image encoder's blocks come before the shared ones."""
    first = count(mapped.tensors, r"first_blocks\.(\d+)\.")
    renumbered = {n: _numbered(n, first) for n in mapped.tensors}
    mapped.tensors = {renumbered[n]: t for n, t in mapped.tensors.items()}
    mapped.sources = {renumbered.get(n, n): s for n, s in mapped.sources.items()}


def _numbered(name: str, first: int) -> str:
    kind, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    if kind == "first_blocks":
        return f"blocks.{number}.{rest}"
    return f"blocks.{int(number) + first}.{rest}" if kind == "blocks" and number.isdecimal() else name


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Width, patch, depth and MLP from the tensors; heads and eps from the file's `cfg`, or as released."""
    tensors, path = mapped.tensors, spec.path
    _check(tensors, path)
    width, patch = check_patch_embedding(tensors["patch_embed.proj.weight"], path)
    depth, hidden = count(tensors, r"blocks\.(\d+)\."), shape_of(tensors, "blocks.0.mlp.fc1.weight", 0)
    heads = vit.settle_heads(width, spec)
    eps = float(spec.settle("eps", NORM_EPS, "data2vec 2's"))
    grid = grid_of(shape_of(tensors, "pos_embed", 1), patch, spec, partial)
    make = functools.partial(
        build, img_size=(grid[0] * patch, grid[1] * patch), patch_size=patch, embed_dim=width, depth=depth,
        num_heads=heads, mlp_ratio=(hidden + 0.5) / width, norm_layer=functools.partial(nn.LayerNorm, eps=eps),
        act_layer=activation(spec), fc_norm="fc_norm.weight" in tensors,
    )  # fmt: skip
    settings = settings_of(
        (
            "post-norm",  # the tensors are also those of a ViT with a norm before its first block
            f"heads={heads}" if heads != usual_heads(width) else "",
            f"activation={spec.get('activation')}" if spec.get("activation") != "gelu" else "",
            f"eps={eps:g}" if eps != NORM_EPS else "",
            f"grid={grid[0]}x{grid[1]}" if grid[0] != grid[1] else "",
        )
    )
    name = f"data2vec2_w{width}_d{depth}_patch{patch}"
    return Architecture("tokens", name, width, make, patch, depth, heads, 0, grid, settings, "mean")


def _check(tensors: Mapping[str, torch.Tensor], path: str) -> None:
    """Raises UserError for variants that were trained by nobody who released them."""
    if any("alibi" in name for name in tensors):
        raise UserError(f"{path}: a data2vec 2 whose attention has ALiBi biases, which no released image model has")
    if "norm.weight" in tensors or shape_of(tensors, "cls_token", 1) != 1:
        what = "norms before its branches" if "norm.weight" in tensors else "another number of extra tokens than one"
        raise UserError(f"{path}: a data2vec 2 with {what}, which no released image model has and is not read here")


def build(fc_norm: bool, **kwargs: Any) -> nn.Module:
    """timm's ViT of post-norm blocks, with a norm before the first, and one after the mean if it was fine-tuned."""
    module: Any = VisionTransformer(
        block_fn=PostNormBlock, final_norm=False, no_embed_class=True, global_pool="avg", num_classes=0,
        dynamic_img_size=True, weight_init="skip", **kwargs,
    )  # fmt: skip
    module.norm_pre = kwargs["norm_layer"](kwargs["embed_dim"])  # timm's own option takes the patches' bias away
    if fc_norm:
        module.fc_norm = nn.LayerNorm(kwargs["embed_dim"], eps=NORM_EPS)
    return module


FINE_TUNED = Family(
    "data2vec2-finetuned", (f"model.{PATCHES}", "model.blocks.0.attn.qkv.weight", "fc_norm.weight"), infer,
    rules=((r"^model\.", ""), *RULES), finish=finish, label="data2vec2", method="data2vec2",
)  # fmt: skip
IMAGES = Family(
    "data2vec2", (PATCHES, "blocks.0.attn.qkv.weight"), infer, rules=RULES, finish=finish, label="data2vec2",
    method="data2vec2", online=True,
)  # fmt: skip
