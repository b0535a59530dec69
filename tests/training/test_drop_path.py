from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import mixup as timm_mixup
from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS, LEVEL_TO_ARG
from timm.layers import DropPath as TimmDropPath

from dinobench.training.augment import CropAndFlip, TrainView
from dinobench.training.drop_path import Draws, DropPath, add_drop_path
from dinobench.training.mixup import Mix, Mixing, cut_box, in_pairs
from dinobench.training.randaugment import NAMES, OPERATIONS, RandAugment, apply
from dinobench.training.random_erasing import ERASING, Erasing, erase


def picture(side=24):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def test_operations_are_timm_s_increasing_set_at_timm_s_levels():
    assert list(NAMES) == list(_RAND_INCREASING_TRANSFORMS)
    for name in NAMES:
        for level in (0.0, 3.7, 9.0, 10.0):
            theirs = LEVEL_TO_ARG[name]
            expected = {tuple(theirs(level, {"translate_pct": 0.45})) if theirs else () for _ in range(30)}
            found = {OPERATIONS[name](level / 10), OPERATIONS[name](-level / 10)}
            assert np.allclose(sorted(found), sorted(expected)), name


def test_randaugment_is_a_function_of_its_generator():
    image, augment = picture(), RandAugment()
    views = [np.asarray(augment(image, np.random.default_rng(seed))) for seed in (*range(20), 3)]
    assert np.array_equal(views[3], views[-1]) and all(v.shape == (24, 24, 3) for v in views)
    changed = [not np.array_equal(v, np.asarray(image)) for v in views]
    assert any(changed) and not all(changed)  # a quarter goes unchanged
    for name in NAMES:  # the extremes too
        assert all(apply(name, part, image).size == image.size for part in (-1.0, 0.0, 1.0))
    assert not np.asarray(apply("PosterizeIncreasing", 1.0, image)).any()
    shifted = np.asarray(apply("TranslateXRel", 1.0, image))
    assert (shifted[:, -5:] == (124, 116, 104)).all()  # the mean colour comes in


@settings(deadline=None, max_examples=50)
@given(height=st.integers(8, 64), width=st.integers(8, 64), seed=st.integers(0, 2**31))
def test_erased_boxes_lie_inside_and_have_the_share_asked_for(height, width, seed):
    top, left, h, w, _ = Erasing(1.0).draw(height, width, np.random.default_rng(seed))
    if h:
        assert min(top, left) >= 0 and top + h <= height and left + w <= width
        assert 0.02 * height * width - max(height, width) <= h * w <= height * width / 3 + max(height, width)


def test_erasing_writes_noise_of_its_seed_into_its_box_only():
    x = torch.zeros(3, 3, 64, 64)
    boxes = torch.tensor([[2, 3, 40, 50, 7], [0, 0, 0, 0, 0], [2, 3, 40, 50, 7]], dtype=torch.float64)
    erase(x, boxes)
    assert torch.equal(x[0], x[2]) and not x[1].any()
    inside = x[0, :, 2:42, 3:53].clone()
    assert inside.mean().abs() < 0.05 and inside.std() == pytest.approx(1, abs=0.05)
    x[0, :, 2:42, 3:53] = 0
    assert not x[0].any()
    share = np.mean([Erasing(0.25).draw(32, 32, np.random.default_rng(i))[2] > 0 for i in range(2000)])
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("cutmix", [False, True])
def test_mixing_is_timm_s(monkeypatch, cutmix):
    x, labels = torch.rand(8, 3, 12, 20), torch.arange(8) % 5
    theirs = timm_mixup.Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=5)
    box = cut_box(12, 20, 0.4, 2, 18)
    lam = 1 - (box[1] - box[0]) * (box[3] - box[2]) / 240 if cutmix else 0.4
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (0.4, cutmix))
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", lambda *a, **k: (box, lam))
    ours = Mix(lam, box if cutmix else None)
    pairs = torch.from_numpy(in_pairs(8))
    mixed, targets = ours.images(x[pairs]), ours.targets(labels[pairs], 5, 0.1)
    expected, expected_targets = theirs(x.clone(), labels)
    torch.testing.assert_close(mixed, expected[pairs])
    torch.testing.assert_close(targets, expected_targets[pairs])


def test_cutmix_boxes_are_timm_s():
    for seed in range(50):
        lam = np.random.default_rng(seed).random()
        np.random.seed(seed)
        row, column = np.random.randint(0, 13), np.random.randint(0, 40)
        np.random.seed(seed)
        assert cut_box(13, 40, lam, row, column) == tuple(timm_mixup.rand_bbox((3, 13, 40), lam))


def test_mixes_are_drawn_as_asked():
    draws = [Mixing().draw(32, 32, np.random.default_rng(i)) for i in range(1000)]
    assert np.mean([m.box is not None for m in draws]) == pytest.approx(0.5, abs=0.05)
    assert all(m.box is None for m in (Mixing(0.8, 0).draw(32, 32, np.random.default_rng(i)) for i in range(50)))
    assert all(m.box for m in (Mixing(0, 1).draw(32, 32, np.random.default_rng(i)) for i in range(50)))
    assert Mixing(0, 0).draw(32, 32, np.random.default_rng(0)) == Mix()
    x = torch.rand(3, 3, 4, 4)
    assert Mix().images(x) is x
    torch.testing.assert_close(Mix(0.3).images(x)[2], x[2])  # the odd one stays as it is


def test_drop_path_agrees_with_timm_s():
    draws = Draws()
    module = DropPath(0.3, draws, 1)
    draws.uniform = torch.tensor([[0.0, 0.2], [0.0, 0.4]])
    x = torch.ones(2, 5, 7)
    assert torch.equal(module(x), torch.stack([torch.zeros(5, 7), torch.full((5, 7), 1 / 0.7)]))
    assert torch.equal(module.eval()(x), x)
    draws.uniform = torch.rand(20000, 2)
    ours, theirs = module.train()(torch.ones(20000, 1)), TimmDropPath(0.3)(torch.ones(20000, 1))
    assert ours.mean() == pytest.approx(1, abs=0.03) and ours.max() == pytest.approx(float(theirs.max()))


@pytest.mark.parametrize(("name", "branches"), [("vit_tiny_patch16_224", 22), ("resnet18", 7), ("convnext_atto", 11)])
def test_drop_path_rates_are_those_of_timm(name, branches):
    ours = timm.create_model(name, num_classes=0)
    assert add_drop_path(ours, 0.2, Draws()) == branches
    theirs = timm.create_model(name, num_classes=0, drop_path_rate=0.2)
    expected = {n: m.drop_prob for n, m in theirs.named_modules() if isinstance(m, TimmDropPath)}
    assert {n: m.rate for n, m in ours.named_modules() if isinstance(m, DropPath)} == pytest.approx(expected)
    assert add_drop_path(torch.nn.Linear(2, 2), 0.2, Draws()) == 0


def test_views_draw_everything_from_the_generator_of_the_image():
    view = TrainView(CropAndFlip(16), RandAugment(), Erasing(1.0), uniforms=4)
    (pixels, draws), (again, same) = (view(picture(), np.random.default_rng(5)) for _ in range(2))
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8 and draws.shape == (ERASING + 4,)
    assert np.array_equal(pixels, again) and np.array_equal(draws, same) and draws[2] > 0
    plain, none = TrainView(CropAndFlip(16))(picture(), np.random.default_rng(5))
    assert plain.shape == (3, 16, 16) and not none.any()
