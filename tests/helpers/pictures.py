"""Pictures with flat, saturated and textured places, random views of them, and torchvision's changes on PIL images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F

from dinobench.pretrain.method import View
from dinobench.pretrain.resample import ImageBatch
from dinobench.pretrain.views import ViewParameters, apply, draw

#: How many pictures a test takes.
N = 24
#: By the indices of colour changes.
CHANGES = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
#: (width, height), odd ones among them: no crop of a legal aspect fits into the narrow ones.
SIZES = ((112, 112), (90, 130), (150, 70), (33, 200), (300, 41), (1, 17), (40, 1), (5, 4), (1, 1))


CPU = torch.device("cpu")
PLAIN = View(size=48, scale=(0.05, 1.0), flip_p=0.5)
#: DINO's views, small.
VIEWS = (
    View(size=32, scale=(0.4, 1.0), jitter_p=0.8, grayscale_p=0.2, blur_p=1.0),
    View(size=32, scale=(0.4, 1.0), jitter_p=0.8, grayscale_p=0.2, blur_p=0.1, solarize_p=0.2),
    View(count=3, size=16, scale=(0.05, 0.4), jitter_p=0.8, grayscale_p=0.2, blur_p=0.5),
)


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Colour patches with soft and with sharp borders, and some noise: flat, saturated and textured places."""
    r = np.random.default_rng(seed)
    patches = Image.fromarray(r.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    soft = patches.resize((width, height), Image.Resampling.BICUBIC)
    sharp = patches.resize((width, height), Image.Resampling.NEAREST)
    mixed = np.where(r.random((height, width, 1)) < 0.7, np.asarray(soft), np.asarray(sharp)).astype(int)
    return Image.fromarray(np.clip(mixed + r.normal(0, 6, mixed.shape), 0, 255).astype(np.uint8))


def pictures(sizes=((112, 112),), n: int = N) -> list[Image.Image]:
    return [picture(*sizes[i % len(sizes)], seed=i) for i in range(n)]


def tensors(images) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(image).transpose(2, 0, 1).copy()) for image in images]


def difference(ours, expected) -> np.ndarray:
    return np.abs(np.asarray(ours).astype(int) - np.asarray(expected).astype(int))


def drawn(view: View, images) -> tuple[ViewParameters, torch.Tensor]:
    """The random parameters of one view of each picture, and its pixels."""
    batch, n = ImageBatch(tensors(images), CPU), np.arange(len(images))
    parameters = draw(view, 0, batch.heights, batch.widths, seed=3, passes=0 * n, rows=n)
    return parameters, apply(batch, n, parameters, view.size)
