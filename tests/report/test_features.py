"""Patches in the colours of their components, on one basis."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from dinobench.report.features import component_colours, components, features_figure
from dinobench.report.figures import figure_file


def maps() -> list[np.ndarray]:
    """Two maps of two kinds of patches, the first kind in the left half of each."""
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((2, 6)) * 3
    found = []
    for shape in ((4, 6), (5, 4)):
        which = (np.arange(shape[1]) >= shape[1] // 2).astype(int)
        found.append(np.moveaxis(kinds[np.broadcast_to(which, shape)] + 0.3 * rng.standard_normal((*shape, 6)), -1, 0))
    return found


def test_components_are_another_library_s_up_to_their_sign():
    x = np.random.default_rng(1).standard_normal((40, 7)) * np.arange(1, 8)
    theirs, ours = PCA(3).fit_transform(x), components(x, 3)
    assert np.abs(ours) == pytest.approx(np.abs(theirs))
    assert components(x[::-1], 3)[::-1] == pytest.approx(ours), "no sign hangs on the order"


def test_what_is_alike_has_one_colour_in_all_images():
    colours = component_colours(maps())
    assert [c.shape for c in colours] == [(4, 6, 3), (5, 4, 3)] and colours[0].dtype == np.uint8
    left, right = (np.concatenate([c[:, half].reshape(-1, 3) for c, half in zip(colours, halves, strict=True)])
                   for halves in ((slice(0, 3), slice(0, 2)), (slice(3, 6), slice(2, 4))))  # fmt: skip
    assert np.abs(left[:, 0].mean() - right[:, 0].mean()) > 150 and max(left[:, 0].std(), right[:, 0].std()) < 40


def test_one_side_of_the_first_component_is_black():
    above, below = (component_colours(maps(), side) for side in ("above", "below"))
    for one, other in zip(above, below, strict=True):
        shown, rest = one.any(axis=2), other.any(axis=2)
        assert not (shown & rest).any() and (shown | rest).mean() > 0.9
    with pytest.raises(ValueError, match="0 patches of 6 channels are left"):
        component_colours(maps(), "above", threshold=9)
    with pytest.raises(ValueError, match="of 2 channels are left"):
        component_colours([m[:2] for m in maps()])


def test_patches_fill_their_images():
    images = [np.zeros((40, 60, 3), np.uint8), np.zeros((50, 40, 3), np.uint8)]
    figure = features_figure(images, [component_colours(maps())], ["a $x"], "t")
    assert [axis.get_title() for axis in figure.axes] == ["image", "a $x", "", ""]
    assert figure.axes[3].images[0].get_extent() == [-0.5, 39.5, 49.5, -0.5]
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert figure_file(figure, kind).startswith(start)
