from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.weights import save, vit
from PIL import Image

import dinobench
from dinobench.context import LocalContext
from dinobench.data.transforms import ImageTransform, for_backbone
from dinobench.errors import UserError
from dinobench.features.maps import maps_of
from dinobench.features.pictures import seen_and_maps


def test_files_of_several_sizes_keep_their_order(tmp_path):
    files = []
    for i, size in enumerate([(50, 40), (40, 70), (50, 40)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        files.append(tmp_path / f"{i}.png")
    backbone = dinobench.load_backbone(save(vit(), tmp_path / "tiny.pth"))
    seen, maps = seen_and_maps(backbone, files, 48, LocalContext())
    assert [s.shape for s in seen] == [(48, 48, 3), (80, 48, 3), (48, 48, 3)]
    assert [m.shape for m in maps] == [(64, 3, 3), (64, 5, 3), (64, 3, 3)]
    transform = for_backbone(ImageTransform(resize=48, crop=None), backbone)
    x = torch.from_numpy(transform(Image.open(files[2]))[None, :, :48, :48])
    with torch.no_grad():
        wanted = maps_of(backbone, transform.normalise(x))
    assert np.array_equal(seen[2], np.moveaxis(x[0].numpy(), 0, -1))
    assert maps[2] == pytest.approx(wanted[0].numpy(), abs=1e-5)
    files[1].write_text("no image")
    with pytest.raises(UserError, match=r"1.png: cannot be read as an image"):
        seen_and_maps(backbone, files, 48, LocalContext())
    with pytest.raises(UserError, match="less than a patch of tiny at 8 pixels; take a larger --size"):
        seen_and_maps(backbone, files[:1], 8, LocalContext())
