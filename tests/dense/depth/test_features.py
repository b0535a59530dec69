import numpy as np
import pytest
import torch
from helpers.depth import golden_depth, golden_head
from helpers.golden import golden_values
from helpers.plain import arrays, depth_of, nyu_scores, vit_maps
from helpers.plain import normalised as plainly_normalised
from helpers.weights import quiet, save, vit
from PIL import Image

import dinobench
from dinobench.algorithms.depth_head import to_labels
from dinobench.data.transforms import ImageTransform
from dinobench.dense.depth.features import at_cells, normalised, to_pixels
from dinobench.dense.reading import MapReader
from dinobench.metrics.depth import depth_scores

VALUES = golden_values("depth")["end_to_end_nyu_layout"]
CPU = torch.device("cpu")


FIRST, *OTHERS = VALUES["per_image"]


@pytest.mark.parametrize("name", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_scores_of_whole_images_are_dinov3s(shared_data, tmp_path, name):
    expected = VALUES["per_image"][name]
    path = shared_data / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"
    image = Image.open(path).convert("RGB").resize((640, 480), Image.Resampling.BILINEAR)
    backbone = dinobench.load_backbone(save(vit(width=192, depth=12, image=224), tmp_path / "golden.pth"))
    x = normalised([to_pixels(image, 1)], ImageTransform(None, None), CPU)
    with torch.no_grad():
        maps = golden_head(192)(MapReader(backbone, 1, "centred")(torch.cat([x, x.flip(-1)])))
        pred = to_labels(*maps.chunk(2), (480, 640), 0.001, 10, "labels")[0].numpy()
    assert pred.mean() == pytest.approx(expected["prediction_mean"], abs=1e-4)
    assert pred[240, 320] == pytest.approx(expected["prediction_at_240_320"], abs=1e-4)
    scores = depth_scores(golden_depth(expected["depth_seed"]) / 1000, pred, 0.001, 10, "nyu")
    for theirs, ours in {"a1": "delta1", "abs_rel": "abs_rel", "rmse": "rmse"}.items():
        assert scores[ours] == pytest.approx(expected[theirs], abs=1e-4)


def plain_depth(image, weights, heads, high, head):
    x = plainly_normalised(image)
    seen = [vit_maps(weights, np.ascontiguousarray(one), heads)[0] for one in (x, x[..., ::-1])]
    return depth_of(seen, arrays(head.state_dict()), (image.height, image.width), 0.001, high)


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES["per_image"])
def test_plain_steps_give_dinov3s_scores(shared_data, name):
    expected = VALUES["per_image"][name]
    path = shared_data / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"
    image = Image.open(path).convert("RGB").resize((640, 480), Image.Resampling.BILINEAR)
    pred = plain_depth(image, arrays(vit(width=192, depth=12, image=224)), 3, 10, golden_head(192))
    assert pred.mean() == pytest.approx(expected["prediction_mean"], abs=1e-4)
    assert pred[240, 320] == pytest.approx(expected["prediction_at_240_320"], abs=1e-4)
    scores = nyu_scores(golden_depth(expected["depth_seed"]) / 1000, pred)
    assert scores == pytest.approx({name: expected[name] for name in scores}, abs=1e-4)


@pytest.mark.parametrize("high", [10, 80])
def test_the_plain_steps_see_the_same_depth(tmp_path, high):
    weights = quiet(vit(depth=2))
    backbone = dinobench.load_backbone(save(weights, tmp_path / "quiet.pth"), heads=2)
    image = Image.fromarray(np.random.default_rng(high).integers(0, 256, (96, 64, 3), dtype=np.uint8))
    x = normalised([to_pixels(image, 1)], ImageTransform(None, None), CPU)
    with torch.no_grad():
        maps = golden_head(64, high)(MapReader(backbone, 1, "centred")(torch.cat([x, x.flip(-1)])))
        ours = to_labels(*maps.chunk(2), (96, 64), 0.001, high, "labels")[0]
    np.testing.assert_allclose(ours, plain_depth(image, arrays(weights), 2, high, golden_head(64, high)), atol=1e-4)


def test_depth_on_a_grid_is_the_pixels_at_the_cells_centres():
    depth = np.arange(48.0).reshape(6, 8)
    assert at_cells(depth, (3, 4)).tolist() == depth[1::2, 1::2].tolist()
    assert at_cells(depth, (6, 8)).tolist() == depth.tolist()
