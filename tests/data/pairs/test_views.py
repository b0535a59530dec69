from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from dinobench.data.pairs.views import View, object_box, surface


@given(seed=st.integers(0, 10**6), height=st.integers(20, 70), width=st.integers(20, 70))
def test_a_surface_as_torchvision_makes_it(seed, height, width):
    """Shorter side by nearest, centre crop, points in space, box of the object, nearest again; all on tensors."""
    rng = np.random.default_rng(seed)
    size = 24
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    depth = np.zeros((height, width), np.float32)
    top, left = height // 2 - 6, width // 2 - 6
    depth[top : top + rng.integers(6, 14), left : left + rng.integers(6, 14)] = 0.5 + rng.random()
    view = View("a", "a", np.eye(4), 50.0, 2 * min(height, width))
    found = surface(Image.fromarray(pixels), depth, view, size)
    planes = torch.cat([torch.from_numpy(pixels).permute(2, 0, 1).float(), torch.from_numpy(depth)[None]])
    planes = TF.center_crop(TF.resize(planes, size, InterpolationMode.NEAREST), size)
    focal = 50.0 * size / (2 * min(height, width))
    grid = torch.arange(size) + 0.5 - size / 2
    xyz = torch.stack([planes[3] * grid / focal, planes[3] * grid[:, None] / focal, planes[3]])
    marked = (planes[3] > 0).nonzero()
    first, box = marked.min(0).values, marked.max(0).values - marked.min(0).values
    side = int(box.max())
    start = first - (side - box) // 2
    if (start < 0).any() or (start + side > size).any():
        start = (first - (side - box)).clamp_min(0)
    (y, x), focal = start.tolist(), focal * size / side
    cut = torch.cat([planes[:3], xyz])[:, y : y + side, x : x + side]
    if cut.shape[1:] == (side, side):
        np.testing.assert_allclose(found.focal, focal)
    cut = F.interpolate(cut[None], size=(size, size), mode="nearest")[0]
    np.testing.assert_array_equal(found.pixels, cut[:3])
    np.testing.assert_allclose(found.xyz, cut[3:].permute(1, 2, 0), atol=1e-5)


def test_boxes_are_square_and_inside():
    mask = np.zeros((20, 20), bool)
    mask[4:9, 6:17] = True
    assert object_box(mask) == (slice(1, 11), slice(6, 16))
    mask[:] = False
    mask[0:4, 3:14] = True
    assert object_box(mask) == (slice(0, 10), slice(3, 13))
    mask[:] = False
    mask[5, 5] = True
    assert object_box(mask) == (slice(None), slice(None))
