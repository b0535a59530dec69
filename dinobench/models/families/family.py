"""What a family is, and what several of them need: looking at shapes, activations, attention heads, position grids."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import GELUTanh, QuickGELU
from torch import nn

from dinobench.errors import UserError
from dinobench.models.architecture import HEADS, Architecture, usual_heads
from dinobench.models.key_mapping import Mapped, Rules, apply_rules, square_side
from dinobench.models.spec import ModelSpec

MAX_BLOCKS = 256  # of a ViT or a stage; the deepest released are 48 (ViT-22B) and 36 (ResNet-152's third stage)
#: What files and `config.json` call an activation (transformers' ACT2FN) -> the module.
ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "gelu": nn.GELU,
    "quick_gelu": QuickGELU,
    "gelu_new": GELUTanh,
    "gelu_pytorch_tanh": GELUTanh,
    "gelu_tanh": GELUTanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
}


def _nothing(mapped: Mapped, spec: ModelSpec) -> None:
    """Renaming was all."""


def _not_inferred(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    raise LookupError("of no family")


@dataclass(frozen=True)
class Family:
    """One way in which backbones are written to files.

    `anchors` are tensors that stand together under one prefix, `absent` ones that must not stand beside them. `rules`,
    or `rename` in their place, rename to timm's names; `finish` does what renaming cannot (joining q, k and v, dropping
    buffers that are computed, folding positions) on float32 tensors. `infer(mapped, spec, partial)` gives the
    architecture, asking `spec` for what no shape tells and settling there what it decides; it may raise LookupError,
    ValueError or ArithmeticError where shapes make no sense. `own` is a pattern for names that match
    `key_mapping.IGNORED` but are the backbone's (a ConvNeXt's `head.norm`). `label` is what formats are called in
    records. `method` is who trains such files, where only one does. `online`: its authors evaluate the trained weights,
    not their average beside them. With `named`, a name given by --arch does not make the model timm's own: `infer` is
    told it as the fact `variant`, and answers for it.
    """

    name: str
    anchors: tuple[str, ...]
    infer: Callable[[Mapped, ModelSpec, bool], Architecture] = _not_inferred
    absent: tuple[str, ...] = ()
    rules: Rules = ()
    rename: Callable[[str], str] | None = None
    finish: Callable[[Mapped, ModelSpec], None] = _nothing
    own: str = ""
    label: str = ""
    method: str = ""
    named: bool = False
    online: bool = False

    def canonical(self, name: str) -> str:
        """timm's name of one of the family's tensors."""
        return self.rename(name) if self.rename else apply_rules(self.rules, name)


#: Of a block in transformers' vision models; version 5 has other names in memory than it writes. What is called query,
#: key and value then, `key_mapping.fuse_qkv` joins.
TRANSFORMERS_BLOCK: Rules = (
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(?<!attention)\.output\.dense\.", ".mlp.fc2."),
)
#: Whatever `--arch` names, in timm's own names.
GENERIC = Family("generic", ())


def first(tensors: Mapping[str, torch.Tensor], pattern: str) -> torch.Tensor:
    """The first tensor of such a name. Raises KeyError."""
    for name, tensor in tensors.items():
        if re.fullmatch(pattern, name):
            return tensor
    raise KeyError(f"no {pattern}".replace("\\", ""))


def has(tensors: Mapping[str, torch.Tensor], pattern: str) -> bool:
    """Whether a tensor has such a name."""
    return any(re.fullmatch(pattern, name) for name in tensors)


def count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    """One more than the largest number in the names that start so. Raises ValueError for absurd ones."""
    last = max((int(m[1]) for name in tensors if (m := re.match(pattern, name))), default=-1)
    if last >= MAX_BLOCKS:
        raise ValueError(f"a block of the number {last}")
    return 1 + last


def activation(spec: ModelSpec, usual: str = "gelu") -> Callable[..., nn.Module]:
    """The activation as told, or the family's. Raises UserError for one that we do not know."""
    name = spec.settle("activation", usual, "the family's")
    if name not in ACTIVATIONS:
        raise UserError(
            f"{spec.path}: its activation {str(name)[:40]!r} (from {spec.origin('activation')}) is none of "
            f"{', '.join(ACTIVATIONS)}; name the model with --arch"
        )
    return ACTIVATIONS[name]


def activation_name(module: Any) -> str | None:
    """Our name of an activation, None for one that we do not know."""
    return next((name for name, known in ACTIVATIONS.items() if known is type(module)), None)


def settle_heads(
    width: int, spec: ModelSpec, table: Mapping[int, int] = HEADS, whose: str = "the released models' of this width"
) -> int:
    """Heads as told, as `table` has them by width, or 64 numbers each. Raises UserError where nothing settles it."""
    spec.tell(whose if width in table else "assumed: 64 numbers a head", heads=usual_heads(width, table))
    return check_heads(width, spec.get("heads"), spec.path)


def check_heads(width: int, heads: int | None, path: str) -> int:
    """`heads`, if it fits. Raises UserError where it does not, or is None."""
    if heads is None:
        raise UserError(f"{path}: how many attention heads a ViT of width {width} has is not clear; give --heads")
    if heads < 1 or width % heads:
        raise UserError(f"{path}: {heads} heads do not divide the width {width}; give another --heads")
    return heads


def grid_of(rows: int, patch: int, spec: ModelSpec, partial: bool = False) -> tuple[int, int]:
    """(h, w) of a position embedding with that many rows: as told, else a square. Raises UserError where it is none."""
    grid: tuple[int, int] | None = spec.get("grid")
    if grid:
        if grid[0] * grid[1] != rows:
            raise UserError(
                f"{spec.path}: its position embedding has {rows} rows, a grid of {grid[0]}x{grid[1]} "
                f"({spec.origin('grid')}) needs {grid[0] * grid[1]}; {_grids(rows)}"
            )
        return grid
    stated: tuple[int, int] | None = spec.get("image_size")
    if stated and (stated[0] // patch) * (stated[1] // patch) == rows:
        return spec.settle("grid", (stated[0] // patch, stated[1] // patch), spec.origin("image_size"))
    side = square_side(rows)
    if not side and not partial:
        raise UserError(f"{spec.path}: its position embedding of {rows} rows is of no square grid; {_grids(rows)}")
    side = side or 224 // patch
    return spec.settle("grid", (side, side), "a square")


def _grids(rows: int) -> str:
    """What `--grid` could be, the squarest first."""
    pairs = [(h, rows // h) for h in range(1, int(rows**0.5) + 1) if rows % h == 0][::-1]
    shown = [f"{h}x{w} or {w}x{h}" if h != w else f"{h}x{w}" for h, w in pairs[:2]]
    return f"give its height and width in patches, as in --grid {', '.join(shown)}"


def settings_of(parts: Sequence[str]) -> str:
    """What the outputs depend on and no tensor tells, for the digest of the weights; usual values leave it empty."""
    return ",".join(part for part in parts if part)


#: Whose patch embedding has other axes: frames, height and width of a patch; the numbers in a flat patch.
VIDEO = (
    "is a video model (V-JEPA, V-JEPA 2, VideoMAE and the like): its patches span {} frames by {} x {} pixels, and how "
    "an image becomes a clip is not settled here; take an image model, such as I-JEPA for V-JEPA"
)
NAFLEX = (
    "is a NaFlex ViT (SigLIP 2's kind for any aspect ratio): its patch embedding is a linear layer over flattened "
    "patches of {} numbers; take the model of fixed resolution, such as google/siglip2-base-patch16-224"
)


def check_patch_embedding(projection: torch.Tensor, path: str) -> tuple[int, int]:
    """(width, patch) of a patch embedding's weight (width, 3, patch, patch). Raises UserError for another shape."""
    if projection.ndim == 5:
        raise UserError(f"{path}: {VIDEO.format(*projection.shape[2:])}")
    if projection.ndim == 2:
        raise UserError(f"{path}: {NAFLEX.format(projection.shape[1])}")
    if projection.ndim != 4 or projection.shape[1] != 3 or projection.shape[2] != projection.shape[3]:
        raise UserError(
            f"{path}: patch embedding of shape {tuple(projection.shape)}; expected (width, 3, patch, patch)"
        )
    return projection.shape[0], projection.shape[-1]


def shape_of(tensors: Mapping[str, Any], name: str, axis: int) -> int:
    """A side of a tensor, 0 where it is not there or has fewer."""
    tensor = tensors.get(name)
    return 0 if tensor is None or tensor.ndim <= axis else int(tensor.shape[axis])
