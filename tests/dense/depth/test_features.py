import numpy as np
import pytest
import torch
from helpers.depth import golden_depth, golden_head
from helpers.golden import golden_values
from helpers.weights import save, vit
from PIL import Image

import dinobench
from dinobench.algorithms.depth_head import to_labels
from dinobench.context import LocalContext
from dinobench.data.transforms import ImageTransform
from dinobench.dense.depth.features import Reading, at_cells, normalised, to_pixels
from dinobench.metrics.depth import depth_scores

VALUES = golden_values("depth")["end_to_end_nyu_layout"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(depth=4), tmp_path_factory.mktemp("weights") / "tiny.pth"))


FIRST, *OTHERS = VALUES["per_image"]


@pytest.mark.parametrize("name", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_scores_of_whole_images_are_dinov3s(shared_data, tmp_path, name):
    expected = VALUES["per_image"][name]
    path = shared_data / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"
    image = Image.open(path).convert("RGB").resize((640, 480), Image.Resampling.BILINEAR)
    backbone = dinobench.load_backbone(save(vit(width=192, depth=12, image=224), tmp_path / "golden.pth"))
    x = normalised([to_pixels(image, 1)], ImageTransform(None, None), CPU)
    with torch.no_grad():
        maps = golden_head(192)(Reading()(backbone, torch.cat([x, x.flip(-1)])))
        pred = to_labels(*maps.chunk(2), (480, 640), 0.001, 10, "labels")[0].numpy()
    assert pred.mean() == pytest.approx(expected["prediction_mean"], abs=1e-4)
    assert pred[240, 320] == pytest.approx(expected["prediction_at_240_320"], abs=1e-4)
    scores = depth_scores(golden_depth(expected["depth_seed"]) / 1000, pred, 0.001, 10, "nyu")
    for theirs, ours in {"a1": "delta1", "abs_rel": "abs_rel", "rmse": "rmse"}.items():
        assert scores[ours] == pytest.approx(expected[theirs], abs=1e-4)


def test_blocks_come_before_the_norm_with_their_cls_tokens(tiny):
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = Reading((1, 3))(tiny, x)
        taken = tiny.blocks(x, (1, 3))
    assert features.shape == (2, 4 * 64, 4, 6) and Reading((1, 3)).channels(tiny, LocalContext()) == 4 * 64
    for at, (cls, patches) in enumerate(taken):
        part = features[:, 128 * at : 128 * (at + 1)]
        assert torch.equal(part[:, :64].flatten(2).transpose(1, 2), patches)
        assert torch.equal(part[:, 64:, 2, 5], cls)


def test_padding_is_centred_and_stays_in(tiny):
    x = torch.randn(1, 3, 60, 91, generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., 2:62, 2:93] = x
    with torch.inference_mode():
        assert torch.equal(Reading()(tiny, x), tiny.feature_map(padded))


def test_depth_on_a_grid_is_the_pixels_at_the_cells_centres():
    depth = np.arange(48.0).reshape(6, 8)
    assert at_cells(depth, (3, 4)).tolist() == depth[1::2, 1::2].tolist()
    assert at_cells(depth, (6, 8)).tolist() == depth.tolist()
