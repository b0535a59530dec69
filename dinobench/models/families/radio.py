"""C-RADIO as NVIDIA's models on the hub have it (NVlabs/RADIO, `hf_model.py`, `vit_patch_generator.py`).

One CLS token a teacher and registers stand before the patches, no norm after the last block. The feature is RADIO's
summary: the CLS tokens of the teachers that the file names, one after the other. Positions are a grid for images of
2048 pixels, brought to a square of the longer side bilinearly and cut to the image. Whether that has its corners
aligned differs between models of one shape and no tensor tells, so that the model is asked for by timm's name.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from dinobench.errors import UserError
from dinobench.models.architecture import Architecture
from dinobench.models.families import released
from dinobench.models.families.family import Family, check_heads, count, first, has
from dinobench.models.key_mapping import Mapped, Rules, square_side
from dinobench.models.spec import ModelSpec


class Variant(NamedTuple):
    """One of the releases: tokens are those before the patches."""

    width: int
    depth: int
    heads: int
    tokens: int
    align_corners: bool


#: timm's `vision_transformer.py` and `naflexvit.py`, which follow the code beside each of NVIDIA's models.
VARIANTS = {
    "vit_base_patch16_radio_v3": Variant(768, 12, 12, 8, True),
    "vit_large_patch16_radio_v3": Variant(1024, 24, 16, 8, False),
    "vit_huge_patch16_radio_v3": Variant(1280, 32, 16, 8, True),
    "vit_giant_patch16_radio_v3": Variant(1536, 40, 24, 8, False),
    "vit_so400m_patch16_radio_v4": Variant(1152, 27, 16, 10, False),
    "vit_huge_patch16_radio_v4": Variant(1280, 32, 16, 10, False),
}
RULES: Rules = (
    (r"^model\.patch_generator\.embedder\.weight$", "patch_embed.proj.weight"),
    (r"^model\.patch_generator\.pos_embed$", "pos_embed"),
    (r"^model\.patch_generator\.cls_token\.token$", "cls_token"),
    (r"^model\.blocks\.", "blocks."),
    (r"\.grandma$", ".gamma"),  # transformers renamed what is called gamma
)


class Radio(VisionTransformer):
    """timm's ViT with RADIO's positions; `summary` are the places of the tokens that make the feature."""

    def __init__(self, *, align_corners: bool, summary: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self.align_corners, self.summary = align_corners, summary

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """Patches (B, h, w, D) -> (B, tokens + h * w, D)."""
        inner: Any = self
        b, h, w, width = x.shape
        side = square_side(inner.pos_embed.shape[1])
        rows = inner.pos_embed.reshape(1, side, side, width).permute(0, 3, 1, 2)
        if (h, w) != (side, side):
            size = (max(h, w), max(h, w))
            rows = F.interpolate(rows.float(), size, mode="bilinear", align_corners=self.align_corners).to(rows.dtype)
        patches = x.reshape(b, h * w, width) + rows[..., :h, :w].flatten(2).transpose(1, 2)
        return torch.cat([inner.cls_token.expand(b, -1, -1), inner.reg_token.expand(b, -1, -1), patches], dim=1)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """The patches' matrix as a convolution without bias; CLS apart from the tokens after it; buffers read as facts."""
    tensors = mapped.tensors
    matrix, token, chosen = (tensors.get(n) for n in ("patch_embed.proj.weight", "cls_token", "summary_idxs"))
    if matrix is not None and matrix.ndim == 2 and matrix.shape[1] % 3 == 0:
        side = square_side(matrix.shape[1] // 3)
        if side:
            tensors["patch_embed.proj.weight"] = matrix.reshape(len(matrix), 3, side, side)
            tensors["patch_embed.proj.bias"] = matrix.new_zeros(len(matrix))
            mapped.sources["patch_embed.proj.bias"] = mapped.sources["patch_embed.proj.weight"]
    if token is not None and token.ndim == 2 and len(token) > 1:
        tensors["cls_token"], tensors["reg_token"] = token[None, :1], token[None, 1:]
        mapped.sources["reg_token"] = mapped.sources["cls_token"]
    if chosen is not None and chosen.ndim == 1 and 0 < len(chosen) <= 64 and not chosen.is_floating_point():
        spec.tell("the file's summary_idxs", summary=tuple(int(i) for i in chosen))
    mean, std = (tensors.get(f"input_conditioner.norm_{n}") for n in ("mean", "std"))
    if mean is not None and std is not None and mean.numel() == std.numel() == 3:
        found, usual = [*mean.flatten().tolist(), *std.flatten().tolist()], released.CLIP_MEAN + released.CLIP_STD
        if max(abs(a - b) for a, b in zip(found, usual, strict=True)) > 1e-3:  # bfloat16's are off by less
            spec.tell("the file's input_conditioner", mean=tuple(found[:3]), std=tuple(found[3:]))
    mapped.set_aside_all(r"summary_idxs|(adaptors|input_conditioner)\..*")


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """The release that --arch names, where the shapes are its. Raises UserError for another or none."""
    tensors, path = mapped.tensors, spec.path
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth, tokens = count(tensors, r"blocks\.(\d+)\."), 1 + tensors["reg_token"].shape[1]
    shape = f"a RADIO of width {width}, depth {depth} and {tokens} tokens before its patches"
    fitting = [n for n, v in VARIANTS.items() if (v.width, v.depth, v.tokens) == (width, depth, tokens)]
    name = str(spec.get("variant") or "").partition(".")[0].replace("naflexvit", "vit")
    if not name:
        raise UserError(
            f"{path}: is {shape}, of which no tensor tells how its positions are resized; give --arch, as in "
            f"{' or '.join(fitting or VARIANTS)}"
        )
    if name not in fitting:
        raise UserError(
            f"{path}: holds {shape}, not --arch {name}; " + (f"give {' or '.join(fitting)}" if fitting else
            "what is read is C-RADIO v3 and v4 (timm's *_radio_*)")
        )  # fmt: skip
    known, rows, summary = VARIANTS[name], tensors["pos_embed"].shape[1], spec.get("summary")
    side = square_side(rows)
    if not side:
        raise UserError(f"{path}: its position embedding of {rows} rows is of no square grid, as RADIO's are")
    if not summary or not all(0 <= i < tokens for i in summary):
        raise UserError(f"{path}: its summary_idxs {summary} are not places of its {tokens} tokens; copy it again")
    heads = check_heads(width, spec.settle("heads", known.heads, f"{name}'s"), path)
    spec.tell("RADIO's", mean=released.CLIP_MEAN, std=released.CLIP_STD)
    fc1 = first(tensors, r"blocks\.\d+\.mlp\.fc1\.weight")
    build = functools.partial(
        Radio,
        align_corners=known.align_corners,
        summary=summary,
        img_size=side * patch,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(fc1.shape[0] + 0.5) / width,  # timm floors width * ratio: the half keeps it exact
        init_values=1e-5 if has(tensors, r"blocks\.\d+\.ls1\.gamma") else None,
        reg_tokens=tokens - 1,
        no_embed_class=True,
        final_norm=False,
        num_classes=0,
        dynamic_img_size=True,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        weight_init="skip",
    )
    settings = f"{name},summary={'+'.join(map(str, summary))}" + (f",heads={heads}" if heads != known.heads else "")
    return Architecture(
        "tokens", name, width * len(summary), build, patch, depth, heads, tokens - 1, (side, side), settings, "summary",
        width,
    )  # fmt: skip


def infer_own(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Raises UserError: training files name the tokens of the summary in their arguments only, teacher by teacher."""
    raise UserError(
        f"{spec.path}: is a RADIO that does not say which of its CLS tokens make its summary; give the "
        f"model.safetensors of NVIDIA's model on the hub, with --arch, as in {next(iter(VARIANTS))}"
    )


HUGGINGFACE = Family(
    "radio", ("model.patch_generator.embedder.weight", "model.patch_generator.cls_token.token", "summary_idxs"), infer,
    rules=RULES, finish=finish, label="huggingface", method="radio", named=True,
)  # fmt: skip
OWN = Family(
    "radio-own", ("patch_generator.embedder.weight", "patch_generator.cls_token.token"), infer_own, label="radio",
    method="radio", named=True,
)  # fmt: skip
