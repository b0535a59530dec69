"""What ViTs released under one shape have in common that no tensor tells: eps, activation, heads, input.

Models that agree in every shape and differ in this are known; where a file's marks leave it open between them, the
user is asked by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinobench.errors import UserError
from dinobench.models.architecture import HEADS, NORM_EPS, VIT_SIZES
from dinobench.models.spec import ModelSpec

#: openai/CLIP `clip.py`, mlfoundations/open_clip `constants.py`
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
#: google-research/big_vision `value_range(-1, 1)`, which SigLIP is trained with
HALF = (0.5, 0.5, 0.5)
LAYER_NORM_EPS = 1e-5  # torch's default, which CLIP and BEiT-3 keep
CLIP_WIDTHS = HEADS | {1792: 16}  # open_clip's ViT-e-14; its others have timm's
#: Width and depth of the SigLIP models in timm -> patch and side of the grid where their GELU is the tanh one (others
#: of that size: the exact one). None: all of that size.
SIGLIP_TANH: dict[tuple[int, int], tuple[tuple[int, int | None], ...]] = {
    (768, 12): ((32, None),),
    (1024, 24): ((16, 32),),
    (1152, 27): ((16, None),),
    (1536, 40): ((16, None),),
}
SIGLIP_EXACT = frozenset({(896, 18)})  # timm's own with attention pooling, whose GELU is exact
SIGLIP_HEADS = {1536: 16}
TIMM_TEST_HEADS = {(64, 6): 2, (64, 8): 2}  # width, depth of timm's `test_vit` and `test_vit2`


@dataclass(frozen=True)
class Usual:
    """What the releases of a kind have."""

    eps: float = NORM_EPS


def settle(
    kind: str, sizes: tuple[int, int, int, tuple[int, int]], tensors: Mapping[str, Any], spec: ModelSpec
) -> Usual:
    """Tell `spec` what the kind's releases have: `sizes` are width, depth, patch and grid.

    Raises UserError, with the candidates, where several known models fit and nothing says which.
    """
    if "norm_pre.weight" in tensors:
        _settle_clip(sizes, spec)
        return Usual(LAYER_NORM_EPS)
    spec.tell("timm's of this size", heads=TIMM_TEST_HEADS.get(sizes[:2]))
    if kind == "fc_norm" and "cls_token" not in tensors and sizes[:3] == (768, 12, 16):
        raise UserError(
            f"{spec.path}: has the shapes of vit_base_patch16_rpn_224, whose norms stand after its layers, and of "
            "ViTs with norms before; name it with --arch"
        )
    if any(name.endswith(".attn.norm.weight") for name in tensors):
        return Usual(LAYER_NORM_EPS)
    if kind == "map" or (kind == "gap" and spec.get("method") is None):
        _settle_siglip(kind, sizes, tensors, spec)
    return Usual()


def _settle_clip(sizes: tuple[int, int, int, tuple[int, int]], spec: ModelSpec) -> None:
    """OpenAI's and those of `-quickgelu` have x * sigmoid(1.702 x), LAION's the exact GELU, under the same shapes."""
    width, depth, patch, _ = sizes
    spec.tell("CLIP's", mean=CLIP_MEAN, std=CLIP_STD)
    if spec.get("activation") is None:
        name = f"{VIT_SIZES.get((width, depth), 'vit_base').replace('giant2', 'gigantic')}_patch{patch}_clip"
        raise UserError(
            f"{spec.path}: is a CLIP tower of which no tensor tells whether its GELU is the exact one or the quick one "
            f"of OpenAI's; give --arch, as in {name}_224 or {name}_quickgelu_224, or put its open_clip_config.json or "
            "config.json beside it"
        )
    if spec.get("heads") is None and width not in CLIP_WIDTHS:
        raise UserError(f"{spec.path}: a CLIP tower of width {width}, whose number of heads is open; give --heads")
    spec.tell("the released models' of this width", heads=CLIP_WIDTHS.get(width))


def _settle_siglip(
    kind: str, sizes: tuple[int, int, int, tuple[int, int]], tensors: Mapping[str, Any], spec: ModelSpec
) -> None:
    """SigLIP's as timm builds them, whose GELU is exact in some sizes; Hugging Face's tell by config or by name."""
    width, depth, patch, grid = sizes
    size = (width, depth)
    if kind == "map":
        spec.tell("SigLIP's", mean=HALF, std=HALF)
    if spec.get("heads") is None and kind == "gap" and size == (768, 12) and patch == 16 and grid == (14, 14):
        raise UserError(
            f"{spec.path}: has the shapes of vit_base_patch16_siglip_gap_224 (12 heads) and of "
            "vit_base_patch16_gap_224 (16 heads); give --heads or --arch"
        )
    spec.tell("SigLIP's of this width", heads=SIGLIP_HEADS.get(width))
    if spec.get("activation") is not None:
        return
    if size in SIGLIP_TANH and "reg_token" not in tensors:
        tanh = any(p == patch and side in (None, grid[0]) for p, side in SIGLIP_TANH[size])
        spec.tell("timm's SigLIP of these shapes", activation="gelu_tanh" if tanh else "gelu")
    elif kind == "map" and size not in SIGLIP_EXACT:
        raise UserError(
            f"{spec.path}: ends in attention pooling as SigLIP does, and no tensor tells whether its GELU is the exact "
            "one or tanh's; give --arch, as in vit_base_patch16_siglip_224, or put its config.json beside it"
        )
