from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.contexts import on_processes
from helpers.correspondence import small_navi
from helpers.weights import save, vit

import dinobench
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.embedded import shape_views
from dinobench.errors import UserError
from dinobench.protocols import navi
from dinobench.protocols.navi import Config, run
from dinobench.runner import with_intervals

SMALL = Config(size=96, points=100)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return dinobench.load_backbone(save(vit(), tmp_path_factory.mktemp("weights") / "tiny.pth"))


def test_the_runner_takes_the_result(tiny):
    result = run(tiny, shape_views.views(), SMALL, LocalContext())
    values = with_intervals("navi", navi.metrics(SMALL), result, seed=0)
    assert next(iter(values)) == "recall_3d@0.02" and values["recall_2d@50"].n == 9
    assert values["recall_3d@0.01"].value <= values["recall_3d@0.02"].value <= values["recall_3d@0.05"].value
    items = result.items
    assert (items["degrees"] <= 120).all() and set(items["object"]) == {"ball_0", "ball_1", "ball_2"}
    near = items[items["degrees"] < 30]["recall_3d@0.02"]
    assert result.metrics["recall_3d@0.02_0-30"] == pytest.approx(100 * near.mean())
    everything = run(tiny, shape_views.views(), dataclasses.replace(SMALL, every=9), LocalContext())
    assert everything.items["id"].tolist() == ["ball_0/00", "ball_0/09", "ball_1/06", "ball_2/03"]


def test_processes_give_what_one_does(tiny):
    alone = run(tiny, shape_views.views(), SMALL, LocalContext())
    for result in on_processes(2, lambda ctx: run(tiny, shape_views.views(), SMALL, ctx)):
        assert result.metrics == alone.metrics and result.items.equals(alone.items)


def test_broken_photos_take_their_pairs_along(tiny, tmp_path):
    root = small_navi(tmp_path, prefix="downsampled_")
    (root / "object_0" / "wild_set" / "images" / "downsampled_000.jpg").write_bytes(b"no image")
    data, config = load_dataset(str(root), "navi"), dataclasses.replace(SMALL, size=32, every=1)
    with pytest.raises(
        UserError, match=r"of 8 images of .* cannot be read: object_0/000 with object_0/00.*--skip-broken"
    ):
        run(tiny, data, config, LocalContext())
    ctx = LocalContext(skip_broken=True)
    result = run(tiny, data, config, ctx)
    assert len(result.items) + len(ctx.broken) == 8 and ctx.broken
    assert not any("object_0/000" in row for row in result.items["id"])


def test_views_without_partner_are_noted(tiny, tmp_path):
    data = load_dataset(str(small_navi(tmp_path, prefix="downsampled_")), "navi")
    config = dataclasses.replace(SMALL, size=32, every=1, widest=10.0)
    with pytest.raises(UserError, match="no pair of views"):
        run(tiny, data, config, LocalContext())
    pixels = run(dinobench.load_backbone("pixels"), data, dataclasses.replace(config, widest=120.0), LocalContext())
    assert any("no blocks of one grid" in note for note in pixels.notes)
    assert np.isfinite(list(pixels.metrics.values())).all()


def test_settings():
    for name, value, words in (
        ("binned", "0.03", "one of metres"),
        ("every", "0", "every"),
        ("pixels", "-1", "above 0"),
    ):
        with pytest.raises(UserError, match=words):
            resolve_config(navi, None, {name: value})
