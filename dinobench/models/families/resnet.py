"""ResNet, ResNeXt and wide ResNet, in torchvision's names or as lightly's numbered children."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dinobench.models.architecture import Architecture
from dinobench.models.families.family import Family, count
from dinobench.models.key_mapping import Mapped, Rules
from dinobench.models.spec import ModelSpec

RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
    ("bottleneck", (3, 8, 36, 3)): "resnet152",
}
# lightly and others keep a ResNet as nn.Sequential(*children): 0 conv1, 1 bn1, 4..7 the stages
SEQUENTIAL_RULES: Rules = (
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^4\.", "layer1."),
    (r"^5\.", "layer2."),
    (r"^6\.", "layer3."),
    (r"^7\.", "layer4."),
)


def infer(mapped: Mapped, spec: ModelSpec, partial: bool = False) -> Architecture:
    """Blocks, widths and groups of a ResNet with torchvision's names.

    A 3 x 3 first convolution marks the variant for small images (arXiv 2002.05709, B.9): stride 1, no max pooling.
    """
    tensors = mapped.tensors
    counts = tuple(count(tensors, rf"layer{i}\.(\d+)\.") for i in range(1, 5))
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


TORCHVISION = Family("resnet", ("layer1.0.conv1.weight", "conv1.weight"), infer, label="torchvision")
SEQUENTIAL = Family(
    "resnet-sequential", ("4.0.conv1.weight", "0.weight"), infer, rules=SEQUENTIAL_RULES, label="resnet-sequential"
)
