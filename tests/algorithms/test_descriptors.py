from __future__ import annotations

import numpy as np
import pytest
from helpers.golden import NUMBERS

from dinobench.algorithms.descriptors import Whitening, gem, unit_rows


def test_whitening_golden():
    golden = NUMBERS["pca_whitening"]
    x = np.array(golden["x"])
    rows = unit_rows(Whitening.fit(x).apply(x)[:5])
    np.testing.assert_allclose(rows @ rows.T, golden["cosine_after"], atol=1e-3)


def test_whitening_survives_fewer_images_than_dimensions():
    rows = Whitening.fit(np.random.default_rng(0).standard_normal((5, 20))).apply(np.ones((2, 20)))
    assert np.isfinite(rows).all() and rows.dtype == np.float32


def test_gem_between_mean_and_maximum():
    torch = pytest.importorskip("torch")
    x = torch.rand(2, 50, 7, generator=torch.Generator().manual_seed(0)) + 0.1
    torch.testing.assert_close(gem(x, power=1), x.mean(1))
    assert (gem(x, 4) > x.mean(1)).all() and (gem(x, 4) < x.amax(1)).all()
    torch.testing.assert_close(gem(-x, 4), torch.full((2, 7), 1e-6))
