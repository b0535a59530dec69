"""What heads read: padding and cutting, blocks after the norm and before it."""

from __future__ import annotations

import pytest
import torch
from helpers.segmentation import ColourBackbone
from helpers.weights import save, vit

import dinobench
from dinobench.context import LocalContext
from dinobench.dense.reading import MapReader
from dinobench.features.extraction import centre_padded
from dinobench.models.loading import load_backbone


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(depth=4), tmp_path_factory.mktemp("weights") / "tiny.pth"))


def test_images_are_padded_around_or_cut_to_whole_patches():
    x = torch.ones(1, 3, 30, 17)
    assert MapReader(ColourBackbone(), padding="cut")(x).shape == (1, 3, 3, 2)
    padded = centre_padded(x, 8)
    assert padded.shape == (1, 3, 32, 24) and padded[0, 0, 1:31, 3:20].all()
    assert padded.sum() == x.sum()
    assert torch.equal(MapReader(ColourBackbone(), padding="centred")(x), ColourBackbone().feature_map(padded))


def test_several_blocks_are_concatenated_on_the_grid():
    backbone = load_backbone("random:vit_tiny_patch16_224")
    x = torch.randn(1, 3, 32, 48)
    both = MapReader(backbone, 2)(x)
    assert both.shape == (1, 384, 2, 3)
    torch.testing.assert_close(both[:, 192:], backbone.feature_map(x))


def test_blocks_come_before_the_norm_with_their_cls_tokens(tiny):
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = MapReader(tiny, (1, 3))(x)
        taken = tiny.blocks(x, (1, 3))
    assert features.shape == (2, 4 * 64, 4, 6) and MapReader(tiny, (1, 3)).shape(64, LocalContext()) == (4 * 64, 4, 4)
    for at, (cls, patches) in enumerate(taken):
        part = features[:, 128 * at : 128 * (at + 1)]
        assert torch.equal(part[:, :64].flatten(2).transpose(1, 2), patches)
        assert torch.equal(part[:, 64:, 2, 5], cls)


def test_padding_is_centred_and_stays_in(tiny):
    x = torch.randn(1, 3, 60, 91, generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., 2:62, 2:93] = x
    with torch.inference_mode():
        assert torch.equal(MapReader(tiny, 1, "centred")(x), tiny.feature_map(padded))
