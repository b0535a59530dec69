"""A third party's protocol, from its own folder to a leaderboard row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.paths import PLUGIN
from sklearn.neighbors import NearestCentroid

from dinobench.data.embedded.digits import digits
from dinobench.data.transforms import ImageTransform


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The plugin built and installed into a folder of its own, from a copy so that nothing is left in the sources."""
    folder = tmp_path_factory.mktemp("plugin")
    copy = folder / "source"
    copy.mkdir()
    for file in ("pyproject.toml", "nearest_centroid.py"):
        (copy / file).write_bytes((PLUGIN / file).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--target", str(folder / "site"), str(copy)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return folder / "site"


def command(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-m", "dinobench", *arguments],
        env=environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_installed_plugin_is_listed_run_and_ranked(installed, tmp_path):
    listed = command(installed, tmp_path, "list")
    assert listed.returncode == 0
    assert "nearest_centroid" in listed.stdout and "dinobench-nearest-centroid 0.1" in listed.stdout
    done = command(
        installed, tmp_path, "run", "--protocol", "nearest_centroid", "--ckpt", "pixels", "--data", "digits",
        "--profile", "centred", "--set", "resize=16", "--set", "crop=16", "--json", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["profile"] == "centred+crop=16+resize=16" and record["metrics"]["top1"]["n"] == 450
    assert pd.read_csv(tmp_path / "results" / "leaderboard.csv").protocol.tolist() == ["nearest_centroid"]
    assert record["metrics"]["top1"]["value"] == pytest.approx(by_scikit_learn(), abs=0.5)


def by_scikit_learn() -> float:
    data, transform = digits(), ImageTransform(resize=16, crop=16)
    train, test = (
        np.stack([transform(s.load(i)).ravel() / 255.0 for i in range(len(s))]) for s in (data.train, data.test)
    )
    train, test = train - train.mean(0), test - train.mean(0)
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    model = NearestCentroid().fit(train, data.train.labels)
    unit = model.centroids_ / np.linalg.norm(model.centroids_, axis=1, keepdims=True)
    return float(100 * ((test @ unit.T).argmax(1) == data.test.labels).mean())


@pytest.mark.slow
def test_a_plugin_in_the_way_is_named_and_hides_no_other(installed, tmp_path):
    """Another distribution takes the same name, and a third one cannot be imported."""
    site = tmp_path / "site"
    for dist, entry in (("rival", "nearest_centroid = rival"), ("ruin", "ruin = ruin_module")):
        info = site / f"{dist}-2.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[dinobench.protocols]\n{entry}\n")
    (site / "ruin_module.py").write_text("import something_that_is_not_there\n")
    both = Path(f"{site}{os.pathsep}{installed}")

    clash = command(both, tmp_path, "run", "--protocol", "nearest_centroid", "--ckpt", "pixels")
    assert clash.returncode == 2 and clash.stderr.count("\n") == 1
    assert "rival 2.0" in clash.stderr and "dinobench-nearest-centroid 0.1" in clash.stderr
    ruin = command(both, tmp_path, "run", "--protocol", "ruin", "--ckpt", "pixels")
    assert ruin.returncode == 2 and ruin.stderr.count("\n") == 1
    assert "ruin 2.0" in ruin.stderr and "something_that_is_not_there" in ruin.stderr
    listed = command(both, tmp_path, "list")
    assert listed.returncode == 0 and "knn" in listed.stdout
    assert "rival 2.0" in listed.stderr and "ruin 2.0" in listed.stderr
