"""How a model takes its images: what is subtracted from their pixels and what they are divided by, and who says so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

#: One number per channel: red, green, blue.
Channels = tuple[float, float, float]
# Of ImageNet's training images, as used by torchvision's and DINO's published weights.
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
#: Least deviation that pixels on the scale 0..1 are divided by; a model that takes bytes has 1/255.
LEAST_STD = 1e-3


def check_channels(mean: Channels | None, std: Channels | None) -> None:
    """Raises ValueError unless both, where given, can normalise pixels on the scale 0..1."""
    for name, values, least in (("mean", mean, 0.0), ("std", std, LEAST_STD)):
        if values is None:
            continue
        if len(values) != 3:
            raise ValueError(f"{name} takes 3 numbers, one per RGB channel, as in 0.5,0.5,0.5")
        if not all(math.isfinite(v) and least <= v <= 1 for v in values):
            scale = "; on the scale 0..255, divide by 255" if max(values) > 1 else ""
            raise ValueError(f"{name} = {','.join(f'{v:g}' for v in values)}: each is {least:g} to 1{scale}")


@dataclass(frozen=True)
class ModelInput:
    """How a model takes its images: pixels on the scale 0..1, less `mean`, by `std`, each per RGB channel.

    `origin` says in a few words where this is known from. Raises ValueError for what cannot be.
    """

    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    origin: str = "ImageNet's, assumed"

    def __post_init__(self) -> None:
        check_channels(self.mean, self.std)

    @property
    def usual(self) -> bool:
        """Whether it is ImageNet's, as known or as assumed."""
        return (tuple(self.mean), tuple(self.std)) == (IMAGENET_MEAN, IMAGENET_STD)

    def __str__(self) -> str:
        mean, std = (",".join(map(str, values)) for values in (self.mean, self.std))
        return f"mean {mean}, std {std} ({self.origin})"


def input_of(info: Any) -> ModelInput:
    """How the model takes its images; ImageNet's, assumed, where its CheckpointInfo does not say."""
    return getattr(info, "input", None) or ModelInput()


def reading_of(info: Any) -> dict[str, Any]:
    """How the weights are read, as far as it is not the usual: what decides numbers beside weights and architecture."""
    own, pool = input_of(info), getattr(info, "pool", None)
    reading: dict[str, Any] = {} if own.usual else {"mean": own.mean, "std": own.std}
    return reading if pool is None else {**reading, "pool": pool}


def recorded(info: T) -> T:
    """A CheckpointInfo as records have it: they do not mention ImageNet's input, known or assumed."""
    known: Any = info
    own = getattr(known, "input", None)
    if own is None or not own.usual:
        return info
    without: T = dataclasses.replace(known, input=None)
    return without


def input_lines(infos: Iterable[Any]) -> list[str]:
    """How models take their images, in a line for each way that is not ImageNet's."""
    lines: dict[str, list[str]] = {}
    for info in infos:
        if not (own := input_of(info)).usual:
            lines.setdefault(str(own), []).append(info.name)
    return [f"input of {', '.join(dict.fromkeys(names))}: {line}" for line, names in lines.items()]


def reading_lines(backbones: Iterable[Any]) -> list[str]:
    """What people must know of how models are read: input that is not ImageNet's, and what had to be assumed."""
    known = list(backbones)
    assumed = [line for backbone in known for line in getattr(backbone, "assumed", ())]
    return [*input_lines(backbone.info for backbone in known), *dict.fromkeys(assumed)]
