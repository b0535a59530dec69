"""ResNet, ResNeXt and wide ResNet, in torchvision's names or as lightly's numbered children."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dinobench.models.architecture import Architecture
from dinobench.models.families.family import Family, count, settings_of
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
# transformers' ResNetModel; the parts of a block are numbered
HF_RULES: Rules = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.0\.layers\.", "layer1."),
    (r"^encoder\.stages\.1\.layers\.", "layer2."),
    (r"^encoder\.stages\.2\.layers\.", "layer3."),
    (r"^encoder\.stages\.3\.layers\.", "layer4."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.0\.convolution\.", ".conv1."),
    (r"\.layer\.0\.normalization\.", ".bn1."),
    (r"\.layer\.1\.convolution\.", ".conv2."),
    (r"\.layer\.1\.normalization\.", ".bn2."),
    (r"\.layer\.2\.convolution\.", ".conv3."),
    (r"\.layer\.2\.normalization\.", ".bn3."),
)

LIGHTLY_RULES: Rules = ((r"\.shortcut\.(\d)\.", r".downsample.\1."),)
# without a ReLU and pooling of its own, the stages are the children 2 to 5
LIGHTLY_SEQUENTIAL_RULES: Rules = (
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^2\.", "layer1."),
    (r"^3\.", "layer2."),
    (r"^4\.", "layer3."),
    (r"^5\.", "layer4."),
    *LIGHTLY_RULES,
)


#: What a 3 x 3 first convolution can stand for, which no tensor tells: (its padding, whether max pooling follows).
STEMS = {
    "cifar": (1, False),  # SimCLR, arXiv 2002.05709, B.9; lightly's ResNetGenerator
    "cifar_pad2": (2, False),  # solo-learn, `solo/methods/base.py`
    "cifar_maxpool": (1, True),
    "cifar_pad2_maxpool": (2, True),
}


def infer(mapped: Mapped, spec: ModelSpec, partial: bool = False) -> Architecture:
    """Blocks, widths and groups of a ResNet with torchvision's names.

    A 3 x 3 first convolution marks a variant for small images with stride 1 (see STEMS); which one is as told, or else
    SimCLR's. A stride in the 1 x 1 convolution (Caffe's), dilation and blurred pooling have no tensors either: without
    --arch the model is torchvision's.
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
    if not small:
        spec.tell("assumed: torchvision's, no tensor tells", stride="in the 3 x 3 convolution, no dilation")
        return Architecture("resnet", name, width, make, pool=None)
    stem = spec.settle("stem", "cifar", "assumed: SimCLR's for small images; --arch NAME_cifar_pad2 is solo-learn's")
    linear = bool(spec.get("linear_stem"))
    settings = settings_of((f"stem={stem}" if stem != "cifar" else "", "linear stem" if linear else ""))
    build = functools.partial(small_stem, make, stem, linear)
    return Architecture("resnet", f"{name}_{stem}", width, build, settings=settings, pool=None)


def small_stem(make: Callable[[], nn.Module], stem: str, linear: bool = False) -> nn.Module:
    """The network with a stem of STEMS in place of its own; `linear` has no ReLU after it."""
    module: Any = make()
    padding, pooled = STEMS[stem]
    module.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=padding, bias=False)
    if not pooled:
        module.maxpool = nn.Identity()
    if linear:
        module.act1 = nn.Identity()
    return module


def finish_lightly(mapped: Mapped, spec: ModelSpec) -> None:
    """lightly's stem has padding 1 and no pooling."""
    spec.tell("lightly's ResNetGenerator", stem="cifar")


def finish_lightly_sequential(mapped: Mapped, spec: ModelSpec) -> None:
    """As `nn.Sequential(*children)` it has lost the ReLU after the stem, which was no child but a call."""
    finish_lightly(mapped, spec)
    spec.tell("lightly's ResNetGenerator as nn.Sequential", linear_stem=True)


TORCHVISION = Family("resnet", ("layer1.0.conv1.weight", "conv1.weight"), infer, label="torchvision")
SEQUENTIAL = Family(
    "resnet-sequential", ("4.0.conv1.weight", "0.weight"), infer, rules=SEQUENTIAL_RULES, label="resnet-sequential"
)
HUGGINGFACE = Family(
    "huggingface-resnet",
    ("encoder.stages.0.layers.0.layer.0.convolution.weight", "embedder.embedder.convolution.weight"),
    infer,
    rules=HF_RULES,
    label="huggingface",
)
LIGHTLY = Family(
    "lightly", ("layer2.0.shortcut.0.weight", "layer1.0.conv1.weight", "conv1.weight"), infer, rules=LIGHTLY_RULES,
    finish=finish_lightly, label="lightly",
)  # fmt: skip
LIGHTLY_SEQUENTIAL = Family(
    "lightly-sequential", ("3.0.shortcut.0.weight", "2.0.conv1.weight", "0.weight"), infer,
    rules=LIGHTLY_SEQUENTIAL_RULES, finish=finish_lightly_sequential, label="lightly",
)  # fmt: skip
