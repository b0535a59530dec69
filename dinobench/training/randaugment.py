"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) as DeiT trains with it: timm's `rand-m9-mstd0.5-inc1`.

The operations on pixels are timm's. The draws are ours, because timm takes them from Python's and NumPy's global
generators, which threads that decode images share: here they come from the image's own generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP

from dinobench.data.transforms import resampling

#: The highest magnitude, at which an operation does the most it can.
TOP = 10.0
#: ImageNet's mean colour, for what a shift or a turn brings in from outside (timm `create_transform`).
FILL = (124, 116, 104)


def _nothing(part: float) -> tuple[float, ...]:
    return ()


def _factor(part: float) -> tuple[float, ...]:
    return (max(0.1, 1.0 + 0.9 * part),)


def _times(most: float) -> Callable[[float], tuple[float, ...]]:
    return lambda part: (most * part,)


#: timm's "increasing" set (`inc1`): from the part of the top magnitude, -1..1, to the operation's argument.
OPERATIONS: dict[str, Callable[[float], tuple[float, ...]]] = {
    "AutoContrast": _nothing,
    "Equalize": _nothing,
    "Invert": _nothing,
    "Rotate": _times(30.0),  # degrees
    "PosterizeIncreasing": lambda part: (4 - int(4 * abs(part)),),  # bits kept
    "SolarizeIncreasing": lambda part: (256 - int(256 * abs(part)),),  # threshold
    "SolarizeAdd": lambda part: (min(128, int(110 * abs(part))),),
    "ColorIncreasing": _factor,
    "ContrastIncreasing": _factor,
    "BrightnessIncreasing": _factor,
    "SharpnessIncreasing": _factor,
    "ShearX": _times(0.3),
    "ShearY": _times(0.3),
    "TranslateXRel": _times(0.45),  # of the side
    "TranslateYRel": _times(0.45),
}
NAMES = tuple(OPERATIONS)


@dataclass(frozen=True)
class RandAugment:
    """`operations` drawn with replacement, each done with probability one half at a magnitude of 0 to 10.

    The magnitude is normal around `magnitude` with deviation `std`; shifts, turns and factors go either way.
    """

    operations: int = 2
    magnitude: float = 9.0
    std: float = 0.5
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """RGB image -> RGB image of the same size."""
        for index in rng.integers(len(NAMES), size=self.operations):
            if rng.random() < 0.5:
                continue
            part = min(max(rng.normal(self.magnitude, self.std), 0.0), TOP) / TOP
            part = -part if rng.random() < 0.5 else part
            image = apply(NAMES[int(index)], part, image, self.interpolation)
        return image


def apply(name: str, part: float, image: Image.Image, interpolation: str = "bicubic") -> Image.Image:
    """One operation at `part` of its top magnitude, -1..1, on an RGB image."""
    operation: Any = NAME_TO_OP[name]
    arguments = OPERATIONS[name](part)
    if name == "PosterizeIncreasing" and arguments == (0,):  # no bits left: black, which newer Pillows refuse to do
        return Image.new("RGB", image.size)
    return operation(image, *arguments, fillcolor=FILL, resample=resampling(interpolation))
