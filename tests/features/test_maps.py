from __future__ import annotations

import pytest
import torch
from helpers.weights import golden_input, save, vit

import dinobench
from dinobench.errors import UnsupportedCapability
from dinobench.features.maps import comes_normed, maps_of


def test_maps_of_blocks_and_of_what_has_none(tmp_path):
    backbone = dinobench.load_backbone(save(vit(), tmp_path / "tiny.pth"))
    x = golden_input(1, 48, 32)
    ((_, normed),) = backbone.layers(x)
    ((_, raw),) = backbone.blocks(x, [0])
    torch.testing.assert_close(maps_of(backbone, x).flatten(2).transpose(1, 2), normed)
    torch.testing.assert_close(maps_of(backbone, x, 0, norm=False)[0, :, 2, 1], raw[0, 5])
    assert maps_of(backbone, x, 1, norm=False).shape == (1, 64, 3, 2) and not comes_normed(backbone, False)
    pixels = dinobench.load_backbone("pixels")
    assert maps_of(pixels, x, -1, norm=False).ndim == 4 and comes_normed(pixels, False)
    with pytest.raises(UnsupportedCapability, match="last map only"):
        maps_of(pixels, x, 1)
