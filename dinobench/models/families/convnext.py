"""ConvNeXt and ConvNeXt V2 in timm's names, the original's and torchvision's."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import torch
from timm.models.convnext import ConvNeXt

from dinobench.models.architecture import NORM_EPS, Architecture
from dinobench.models.families import released
from dinobench.models.families.family import (
    ACTIVATIONS,
    Family,
    activation,
    activation_name,
    count,
    first,
    settings_of,
    shape_of,
)
from dinobench.models.key_mapping import Mapped, Rules, flatten_convnext
from dinobench.models.spec import ModelSpec

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
    ((3, 4, 30, 3), 384): "xxlarge",
}
#: Depths and widths -> eps and activation of those of timm's that have others than the releases (its `convnext.py`).
UNUSUAL: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, str]] = {
    ((3, 4, 30, 3), (384, 768, 1536, 3072)): (1e-5, "gelu"),  # convnext_xxlarge, which LAION's CLIP has
    ((1, 2, 4, 2), (24, 32, 48, 64)): (1e-5, "gelu_tanh"),  # test_convnext
}
RULES: Rules = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
)
HF_RULES: Rules = (
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1.blocks."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"\.grn\.", ".mlp.grn."),
    (r"^layernorm\.", "head.norm."),
)
# transformers' DINOv3ConvNext: the stem is the first stage's downsampling
DINOV3_RULES: Rules = (
    (r"^(?:model\.)?stages\.0\.downsample_layers\.", "stem."),
    (r"^(?:model\.)?stages\.(\d+)\.downsample_layers\.", r"stages.\1.downsample."),
    (r"^(?:model\.)?stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.depthwise_conv\.", ".conv_dw."),
    (r"\.layer_norm\.", ".norm."),
    (r"\.pointwise_conv(\d)\.", r".mlp.fc\1."),
    (r"^layer_norm\.", "head.norm."),
)
_TV_BLOCK = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}
# open_clip keeps timm's model as `trunk`, and the projection to the space it shares with texts as `head`
OPEN_CLIP_RULES: Rules = (
    (r"^trunk\.", ""),
    (r"^head\.mlp\.fc1\.", "head.pre_logits.fc."),
)
# timm's ConvNeXt keeps its final norm in the head (the original's `norm` maps there too), and some a layer behind it
OWN = r"head\.(norm|pre_logits\.fc)\..*"


def rename_torchvision(name: str) -> str:
    """torchvision interleaves: features.0 stem, odd ones stages, even ones the downsampling between them.

    >>> rename_torchvision("features.3.1.block.3.weight")
    'stages.1.blocks.1.mlp.fc1.weight'
    """
    if match := re.match(r"features\.0\.(\d)\.(\w+)$", name):
        return f"stem.{match[1]}.{match[2]}"
    if match := re.match(r"features\.(\d+)\.(\d+)\.(block\.(\d)\.(\w+)|layer_scale)$", name):
        stage = f"stages.{int(match[1]) // 2}.blocks.{match[2]}"
        return f"{stage}.gamma" if match[4] is None else f"{stage}.{_TV_BLOCK.get(match[4], match[4])}.{match[5]}"
    if match := re.match(r"features\.(\d+)\.(\d)\.(\w+)$", name):
        return f"stages.{int(match[1]) // 2}.downsample.{match[2]}.{match[3]}"
    return re.sub(r"^classifier\.0\.", "head.norm.", name)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """1 x 1 convolutions to matrices; DINOv3's second name of its final norm is left out."""
    flatten_convnext(mapped.tensors)
    for part in ("weight", "bias"):
        again, norm = mapped.tensors.get(f"norms.3.{part}"), mapped.tensors.get(f"head.norm.{part}")
        if again is not None and norm is not None and torch.equal(again, norm):
            spec.tell("DINOv3's second name of its norm", method="dinov3")
            mapped.set_aside(f"norms.3.{part}")


def infer(mapped: Mapped, spec: ModelSpec, partial: bool = False) -> Architecture:
    """Depths, widths, LayerScale and global response norm (arXiv 2301.00808) of a ConvNeXt with a patch stem.

    A layer before the classifier (timm's `convnext_large_mlp`, the first of open_clip's projection of two) is part of
    the feature, as in timm's `forward_head(pre_logits=True)`.
    """
    tensors = mapped.tensors
    depths = tuple(count(tensors, rf"stages\.{i}\.blocks\.(\d+)\.") for i in range(4))
    kernels = [first(tensors, rf"stages\.{i}\.blocks\.\d+\.conv_dw\.weight") for i in range(4)]
    dims = tuple(k.shape[0] for k in kernels)
    v2 = any(".grn." in n for n in tensors)
    size = CONVNEXTS.get((depths, dims[0]), f"w{dims[0]}")
    usual_eps, usual_act = UNUSUAL.get((depths, dims), (NORM_EPS, "gelu"))
    eps = float(spec.settle("eps", usual_eps, "the releases'"))
    act = activation(spec, usual_act)
    hidden = shape_of(tensors, "head.pre_logits.fc.weight", 0)
    if hidden or size == "xxlarge":  # only CLIP trains these
        spec.tell("CLIP's", mean=released.CLIP_MEAN, std=released.CLIP_STD)
    build = functools.partial(
        ConvNeXt,
        depths=depths,
        dims=dims,
        kernel_sizes=tuple(k.shape[-1] for k in kernels),
        patch_size=tensors["stem.0.weight"].shape[-1],
        ls_init_value=1e-6 if any(n.endswith(".gamma") for n in tensors) else None,
        use_grn=v2,
        norm_eps=eps,
        act_layer=act,
        head_norm_first="norm_pre.weight" in tensors,
        head_hidden_size=hidden or None,
        num_classes=0,
    )
    settings = settings_of(
        (
            f"eps={eps:g}" if eps != usual_eps else "",
            f"activation={activation_name(act())}" if act is not ACTIVATIONS[usual_act] else "",
        )
    )
    name = f"{'convnextv2' if v2 else 'convnext'}_{size}{'_mlp' if hidden else ''}"
    return Architecture("convnext", name, hidden or dims[-1], build, settings=settings)


def finish_open_clip(mapped: Mapped, spec: ModelSpec) -> None:
    """A tower of open_clip's, whose images are normalised as CLIP's."""
    spec.tell("CLIP's", mean=released.CLIP_MEAN, std=released.CLIP_STD)
    finish(mapped, spec)


_TRUNK = ("trunk.stages.0.blocks.0.conv_dw.weight", "trunk.stem.0.weight")
OPEN_CLIP = Family(
    "open-clip-convnext", (*_TRUNK, "head.proj.weight"), infer, rules=OPEN_CLIP_RULES, finish=finish_open_clip, own=OWN,
    label="convnext-timm", method="clip",
)  # fmt: skip
OPEN_CLIP_MLP = replace(OPEN_CLIP, name="open-clip-convnext-mlp", anchors=(*_TRUNK, "head.mlp.fc1.weight"))
TIMM = Family(
    "convnext-timm", ("stages.0.blocks.0.conv_dw.weight", "stem.0.weight"), infer, finish=finish, own=OWN,
    label="convnext-timm",
)  # fmt: skip
ORIGINAL = Family(
    "convnext-original", ("stages.0.0.dwconv.weight", "downsample_layers.0.0.weight"), infer, rules=RULES,
    finish=finish, own=OWN, label="convnext-original",
)  # fmt: skip
TORCHVISION = Family(
    "convnext-torchvision", ("features.1.0.block.0.weight", "features.0.0.weight"), infer, rename=rename_torchvision,
    finish=finish, own=OWN, label="convnext-torchvision",
)  # fmt: skip
HUGGINGFACE = Family(
    "huggingface-convnext", ("encoder.stages.0.layers.0.dwconv.weight", "embeddings.patch_embeddings.weight"), infer,
    rules=HF_RULES, finish=finish, own=OWN, label="huggingface",
)  # fmt: skip
DINOV3_HUGGINGFACE = Family(
    "convnext-dinov3-huggingface", ("layer_norm.weight", "stages.0.downsample_layers.0.weight"), infer,
    rules=DINOV3_RULES, finish=finish, own=OWN, label="huggingface", method="dinov3",
)  # fmt: skip
DINOV3_TRANSFORMERS = Family(  # the state_dict as it is in memory
    "convnext-dinov3-transformers", ("layer_norm.weight", "model.stages.0.downsample_layers.0.weight"), infer,
    rules=DINOV3_RULES, finish=finish, own=OWN, label="huggingface", method="dinov3",
)  # fmt: skip
