"""EfficientNet-Lite as lukemelas/EfficientNet-PyTorch writes it."""

from __future__ import annotations

import functools

import timm
import torch
from helpers.families_hierarchical import made
from helpers.layouts_table import Case

ENDS = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
SEPARABLE = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
INVERTED = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
            "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip


def lukemelas(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """timm's names -> the repository's, which numbers the blocks through."""
    numbers: dict[tuple[str, str], int] = {}
    out = {}
    for name, tensor in tensors.items():
        first, *path, field = name.split(".")
        if first == "blocks":
            stage, block, part = path
            number = numbers.setdefault((stage, block), len(numbers))
            out[f"_blocks.{number}.{(INVERTED if int(stage) else SEPARABLE)[part]}.{field}"] = tensor
        else:
            out[f"{ENDS[first]}.{field}"] = tensor
    return out


def cases() -> list[Case]:
    make = functools.partial(timm.create_model, "tf_efficientnet_lite0", num_classes=3)
    return [Case("EfficientNet-Lite", "lukemelas/EfficientNet-PyTorch", "by itself", made("lite0", make, lukemelas))]
