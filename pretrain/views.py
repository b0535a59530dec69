"""Random views of images, in batches on any device, alike in distribution and pixels to torchvision's on PIL images.

Every random number is a hash of (seed, pass over the data, row of the image, view, draw): no generator has a state, so
a view never depends on the batch it is made in, on processes or on threads. Tests hold crops, jitter order, factors
and blur against torchvision's own draws, and pixels against PIL's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD, ModelInput
from dinobench.pretrain.colour import grayscale, jitter_, solarize
from dinobench.pretrain.method import View
from dinobench.pretrain.resample import ImageBatch, blur, crop_and_resize, on
from dinobench.training.crop_box import ATTEMPTS, crop_boxes

#: Pixels of views whose colours are worked on at once: a CPU works in its cache, a GPU wants few launches.
COLOUR_PIXELS_CPU, COLOUR_PIXELS_GPU = 1 << 17, 1 << 23

# Which random number of a view is used for what.
AREA, ASPECT = 0, ATTEMPTS
TOP, LEFT, FLIP, JITTER, GRAYSCALE, BLUR, RADIUS, SOLARIZE = range(2 * ATTEMPTS, 2 * ATTEMPTS + 8)
FACTORS = SOLARIZE + 1
ORDER = FACTORS + 4
DRAWS = ORDER + 4


def make(
    images: Sequence[torch.Tensor],
    views: Sequence[View],
    *,
    seed: int,
    passes: np.ndarray,
    rows: np.ndarray,
    device: torch.device,
) -> list[torch.Tensor]:
    """Every view of every image: for each View and each of its `count` copies (B, 3, size, size) float32 on `device`.

    `images`: B of (3, H, W) uint8, any sizes; `passes` and `rows` (B,): the pass over the data and the row of the data
    set that each image is taken for. Pixels are normalised by ImageNet's mean and deviation. What an image becomes
    depends on seed, pass, row and view alone.
    """
    batch = ImageBatch(images, device)
    return [normalise(view) for view in render(batch, views, seed=seed, passes=passes, rows=rows)]


def normalise(view: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) uint8 -> float32 with ImageNet's mean and deviation."""
    mean, std = (
        on(np.array(values, np.float32), view.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return view.float().div_(255).sub_(mean).div_(std)


def renormalised(view: torch.Tensor, own: ModelInput) -> torch.Tensor:
    """A view as `normalise` made it -> as a model of another input takes it; itself where that is ImageNet's too."""
    if own.usual:
        return view
    mean, std, own_mean, own_std = (
        on(np.array(values, np.float32), view.device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD, own.mean, own.std)
    )
    return (view * std + mean - own_mean) / own_std


@torch.no_grad()
def render(
    images: ImageBatch, views: Sequence[View], *, seed: int, passes: np.ndarray, rows: np.ndarray
) -> list[torch.Tensor]:
    """`make` before it normalises: (B, 3, size, size) uint8 each."""
    copies = [view for view in views for _ in range(view.count)]
    n = len(rows)
    rendered: list[torch.Tensor] = [torch.empty(0)] * len(copies)
    with _exact(images.device):
        for size in sorted({view.size for view in copies}):
            indices = [i for i, view in enumerate(copies) if view.size == size]
            drawn = [
                draw(copies[i], i, images.heights, images.widths, seed=seed, passes=passes, rows=rows) for i in indices
            ]
            pixels = apply(images, np.tile(np.arange(n), len(indices)), ViewParameters.join(drawn), size)
            for i, view in zip(indices, pixels.split(n), strict=True):
                rendered[i] = view
    return rendered


def snapped(views: tuple[View, ...], patch: int | None) -> tuple[View, ...]:
    """Sizes brought to the nearest multiple of the patch size, of one patch at least."""
    if patch is None:
        return views
    return tuple(replace(v, size=max(1, round(v.size / patch)) * patch) for v in views)


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """float32 products with all their bits, whatever the training around asked for (see resample)."""
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if precision != "highest":
            torch.set_float32_matmul_precision(precision)


@dataclass(frozen=True)
class ViewParameters:
    """What happens to each of n images; arrays with n rows.

    `boxes` (n, 4): top, left, height, width. `jitter`, `flip`, `grayscale`, `blur`, `solarize` (n,) bool: what happens.
    `order` (n, 4): the indices 0..3 of brightness, contrast, saturation, hue in the order in which they come;
    `factors` (n, 4): each change's, by index; `hue` (n,) bool: False where its range is empty, which leaves it out.
    `radius` (n,): of the blur's Gaussian, in pixels.
    """

    boxes: np.ndarray
    flip: np.ndarray
    jitter: np.ndarray
    order: np.ndarray
    factors: np.ndarray
    hue: np.ndarray
    grayscale: np.ndarray
    blur: np.ndarray
    radius: np.ndarray
    solarize: np.ndarray

    @staticmethod
    def join(drawn: Sequence[ViewParameters]) -> ViewParameters:
        return ViewParameters(
            *(np.concatenate([getattr(part, f.name) for part in drawn]) for f in fields(ViewParameters))
        )


def draw(
    view: View,
    index: int,
    heights: np.ndarray,
    widths: np.ndarray,
    *,
    seed: int,
    passes: np.ndarray,
    rows: np.ndarray,
) -> ViewParameters:
    """The random parameters of one view of n images; `index` counts the views of an image, copies included."""
    u = uniforms(seed, passes, rows, index)
    n = len(u)
    *strengths, turn = view.jitter
    low = np.array([max(0.0, 1 - s) for s in strengths] + [-turn])
    high = np.array([1 + s for s in strengths] + [turn])
    return ViewParameters(
        boxes=crop_boxes(
            u[:, AREA : AREA + ATTEMPTS],
            u[:, ASPECT : ASPECT + ATTEMPTS],
            u[:, [TOP, LEFT]],
            heights,
            widths,
            view.scale,
            view.ratio,
        ),
        flip=u[:, FLIP] < view.flip_p,
        jitter=u[:, JITTER] < view.jitter_p,
        order=np.argsort(u[:, ORDER : ORDER + 4], axis=1),
        factors=low + u[:, FACTORS : FACTORS + 4] * (high - low),
        hue=np.full(n, turn > 0),
        grayscale=u[:, GRAYSCALE] < view.grayscale_p,
        blur=u[:, BLUR] < view.blur_p,
        radius=view.blur_radius[0] + u[:, RADIUS] * (view.blur_radius[1] - view.blur_radius[0]),
        solarize=u[:, SOLARIZE] < view.solarize_p,
    )


def uniforms(seed: int, passes: np.ndarray, rows: np.ndarray, index: int) -> np.ndarray:
    """(n, DRAWS) float64, uniform in [0, 1): splitmix64 (Steele et al. 2014) keyed by everything a view depends on."""
    key = _mix(np.full(len(rows), seed & (2**64 - 1), np.uint64))
    for part in (np.asarray(passes), np.asarray(rows), np.full(len(rows), index)):
        key = _mix(key + part.astype(np.uint64))
    # The golden ratio's fraction in 64 bits, splitmix64's step from one number to the next.
    steps = np.arange(1, DRAWS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (_mix(key[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser; products wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def apply(images: ImageBatch, which: np.ndarray, parameters: ViewParameters, size: int) -> torch.Tensor:
    """Carry out the parameters on images `which` (n,) of `images`: (n, 3, size, size) uint8."""
    x = crop_and_resize(images, which, parameters.boxes, parameters.flip, size)
    at_once = max(1, (COLOUR_PIXELS_CPU if x.device.type == "cpu" else COLOUR_PIXELS_GPU) // size**2)
    pixels = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    for start in range(0, len(which), at_once):
        part = slice(start, start + at_once)
        pixels[part] = _recolour(
            x[part], ViewParameters(*(getattr(parameters, f.name)[part] for f in fields(ViewParameters)))
        )
    return pixels


def _recolour(x: torch.Tensor, parameters: ViewParameters) -> torch.Tensor:
    """Everything after the crop, in place; (n, 3, S, S) float32 of whole numbers."""
    p = parameters
    # A hue whose range is empty is left out, as PIL's way through HSV would change pixels all the same.
    changes: list[tuple[np.ndarray, Callable[[torch.Tensor, np.ndarray], torch.Tensor]]] = [
        (p.jitter & p.hue, lambda part, at: jitter_(part, p.order[at], p.factors[at])),
        (p.jitter & ~p.hue, lambda part, at: jitter_(part, p.order[at], p.factors[at], hue=False)),
        (p.grayscale, lambda part, at: grayscale(part).expand_as(part)),
        (p.blur, lambda part, at: blur(part, p.radius[at])),
        (p.solarize, lambda part, at: solarize(part)),
    ]
    for chosen, change in changes:
        at = np.flatnonzero(chosen)
        if len(at):
            rows = on(at, x.device)
            x.index_copy_(0, rows, change(x.index_select(0, rows), at))
    return x
