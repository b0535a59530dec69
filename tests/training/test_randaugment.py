from __future__ import annotations

import numpy as np
from helpers.pictures import picture
from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS, LEVEL_TO_ARG

from dinobench.training.randaugment import NAMES, OPERATIONS, RandAugment, apply


def test_operations_are_timm_s_increasing_set_at_timm_s_levels():
    assert list(NAMES) == list(_RAND_INCREASING_TRANSFORMS)
    for name in NAMES:
        for level in (0.0, 3.7, 9.0, 10.0):
            theirs = LEVEL_TO_ARG[name]
            expected = {tuple(theirs(level, {"translate_pct": 0.45})) if theirs else () for _ in range(30)}
            found = {OPERATIONS[name](level / 10), OPERATIONS[name](-level / 10)}
            assert np.allclose(sorted(found), sorted(expected)), name


def test_randaugment_is_a_function_of_its_generator():
    image, augment = picture(24, 24, 0), RandAugment()
    views = [np.asarray(augment(image, np.random.default_rng(seed))) for seed in (*range(20), 3)]
    assert np.array_equal(views[3], views[-1]) and all(v.shape == (24, 24, 3) for v in views)
    changed = [not np.array_equal(v, np.asarray(image)) for v in views]
    assert any(changed) and not all(changed)  # a quarter goes unchanged
    for name in NAMES:  # the extremes too
        assert all(apply(name, part, image).size == image.size for part in (-1.0, 0.0, 1.0))
    assert not np.asarray(apply("PosterizeIncreasing", 1.0, image)).any()
    shifted = np.asarray(apply("TranslateXRel", 1.0, image))
    assert (shifted[:, -5:] == (124, 116, 104)).all()  # the mean colour comes in
