"""A third party's protocol, from its own folder to a leaderboard row."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.paths import PLUGIN, ROOT
from helpers.plugins import install, method, protocol
from sklearn.neighbors import NearestCentroid

from dinobench.cli import main
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
    pip_install(copy, folder / "site")
    return folder / "site"


def pip_install(source: Path, site: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--target", str(site), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip


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


SECTIONS = {
    "class_means": "## Adding a protocol in one file",
    "same_outputs": "## Adding a pretraining method in one file",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SECTIONS)
def test_the_files_in_the_contributors_guide_install_and_run_as_written(name, tmp_path):
    section = (ROOT / "CONTRIBUTING.md").read_text().split(SECTIONS[name], 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "toml", ""]
    module, project, typed = (text for _, text in blocks)
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (source / f"{name}.py").write_text(module)
    (source / "pyproject.toml").write_text(project)
    pip_install(source, site)
    words = shlex.split(typed)
    assert words[0] == "dinobench" and typed.count("\n") == 1
    listed = command(site, tmp_path, "list", "methods" if words[1] == "pretrain" else "protocols")
    assert listed.returncode == 0 and name in listed.stdout and listed.stderr == ""
    done = command(site, tmp_path, *words[1:])
    assert done.returncode == 0, done.stderr
    if words[1] == "run":
        (path,) = (tmp_path / "results" / "runs").glob("*.json")
        record = json.loads(path.read_text())
        top1 = record["metrics"]["top1"]
        assert record["protocol"] == name and 80 < top1["ci_low"] < top1["value"] < top1["ci_high"] < 100
    else:
        row = json.loads((tmp_path / "same-outputs" / "metrics.jsonl").read_text())
        assert row["epoch"] == 1 and row["likeness"] > 0


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """The command as typed, in this process, with what stands in `site` installed -> (exit code, stdout, stderr)."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dinobench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return call


#: What is wrong with a module, for protocols and methods alike.
BROKEN = ("raise SystemExit(0)", "raise BaseException('all')", "def f(): f()\nf()", "def (", "import nowhere", "")
#: What is wrong with a whole protocol, and with a whole method.
MISTYPED = ("version = '1'", "profiles = [Config()]", "profiles = {'default': Config}", "del run", "data = 3")
MISTYPED_METHODS = (
    "METHOD = Own.__init__",
    "Own.config_type = dict",
    "Own.summary = 3",
    "del Own.forward",
    "Own.name = 'dino'",
    "del Own.views",
    "Own.labels = 'yes'",
    "class Config(MethodConfig):\n    def __init__(self): raise SystemExit('no')\nOwn.config_type = Config",
    "class Config(MethodConfig):\n    hidden: int = 3\nOwn.config_type = Config",
)


@pytest.mark.slow
def test_a_listing_names_what_cannot_be_used_and_shows_all_else(typed, tmp_path):
    site = tmp_path / "site"
    install(site, "sound", protocol("sound"))
    install(site, "sounder", method("sounder"), "methods")
    install(site, "unmeasured", protocol("unmeasured", "def metrics(config): raise SystemExit('no')"))
    install(site, "mismeasured", protocol("mismeasured", "def metrics(config): return 'top1'"))
    broken = {f"p{i}": text for i, text in enumerate(BROKEN)}
    broken |= {f"q{i}": protocol(f"q{i}", more) for i, more in enumerate(MISTYPED)}
    methods = {f"m{i}": text for i, text in enumerate(BROKEN)}
    methods |= {f"n{i}": method(f"n{i}", more) for i, more in enumerate(MISTYPED_METHODS)}
    for name, text in broken.items():
        install(site, name, text)
    for name, text in methods.items():
        install(site, name, text, "methods")
    for what, unusable, whole in (
        ("protocols", [*broken, "unmeasured", "mismeasured"], ("knn", "sound")),
        ("profiles", broken, ("knn", "sound")),
        ("methods", methods, ("dino", "sounder")),
    ):
        code, out, err = typed("list", what)
        assert code == 0 and all(name in out for name in whole)
        lines = err.splitlines()
        assert len(lines) == len(unusable) and all(line.startswith("warning: ") for line in lines), err
        for name in unusable:
            assert sum(f"{name!r} of {name}-dist 1.0 " in line for line in lines) == 1, (name, err)
            assert f"{name}_module" not in out
    for name in broken:
        code, out, err = typed("run", "--protocol", name, "--ckpt", "pixels")
        assert code == 2 and out == "" and err.count("\n") == 1 and f"{name}-dist 1.0" in err, err
    for name in methods:
        code, out, err = typed("pretrain", "--method", name, "--data", "digits", "--out", "out")
        assert code == 2 and out == "" and err.count("\n") == 1 and f"{name}-dist 1.0" in err, err
    assert not (tmp_path / "out").exists() and not (tmp_path / "results").exists()


#: What a protocol does wrong while it runs -> what is said of it.
FAILING = {
    "def run(*a): raise ValueError('two\\nlines')": "ValueError: two lines",
    "def run(*a): raise SystemExit(0)": "SystemExit: 0",
    "def run(*a): raise RecursionError('deep')": "RecursionError: deep",
    "def run(*a): open('own.txt')": "FileNotFoundError: ",
    "def run(*a): pass": "run returned None (NoneType), not a dinobench.types.Result",
    "def run(*a): return Result({'top1': float('nan')})": "top1 = nan",
    "def run(*a): return Result({'top5': 1.0})": "undeclared metrics: top5",
    "def run(*a): return Result({'top1': 1.0}, [1])": "items is [1] (list), not a DataFrame with a column id",
    "def run(*a): return Result({'top1': 1.0}, pd.DataFrame({'top1': [1.0]}))": "not a DataFrame with a column id",
    "def run(*a): return Result({'top1': 1.0}, pd.DataFrame({'id': ['a'], 'top1': ['b']}))": "ValueError: ",
    "def run(*a): return Result([1])": "failed: ",
    "def metrics(config): raise KeyError('gone')": "KeyError: 'gone'",
    "def metrics(config): return ['top1']": "metrics returned ('top1',)",
    "def requests(*a): raise IndexError('out')": "IndexError: out",
    "def requests(*a): return [3]": "TypeError: ",
    "def requests(data, *a): return [(data.train, 3)]": "not pairs of a split and a FeatureRequest",
    "def select_data(*a): raise OSError('none')": "OSError: none",
}


def test_what_a_plugin_does_wrong_while_it_runs_is_laid_at_its_door(typed, tmp_path):
    site = tmp_path / "site"
    for i, (more, words) in enumerate(FAILING.items()):
        install(site, f"failing{i}", protocol(f"failing{i}", more))
        code, out, err = typed("run", "--protocol", f"failing{i}", "--ckpt", "pixels", "--device", "cpu", "--no-cache")
        assert code == 70 and out == "", (more, err)
        assert f"error: protocol 'failing{i}' of failing{i}-dist 1.0 failed: " in err and words in err, err
        assert err.endswith("; --debug shows where\n") and "fault in dinobench" not in err
        assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
    code, _, err = typed("run", "--protocol", "failing0", "--ckpt", "pixels", "--device", "cpu", "--debug")
    assert code == 70 and 'failing0_module.py", line' in err
    assert not list((tmp_path / "results" / "runs").iterdir())


#: The same of methods.
FAILING_METHODS = {
    "def forward(self, views, labels, now): raise ValueError('two\\nlines')\nOwn.forward = forward": "ValueError: two",
    "def forward(self, views, labels, now): raise SystemExit(0)\nOwn.forward = forward": "SystemExit: 0",
    "Own.forward = lambda self, views, labels, now: None": "forward returned None (NoneType), not a MethodOutput",
    "def views(config, size): raise KeyError('size')\nOwn.views = staticmethod(views)": "KeyError: 'size'",
    "def init(self, config, spec): open('own.txt')\nOwn.__init__ = init": "FileNotFoundError: ",
    "def after_step(self, now): return 1 / 0\nOwn.after_step = after_step": "ZeroDivisionError: ",
}


def test_what_a_method_does_wrong_while_it_trains_is_laid_at_its_door(typed, tmp_path):
    for i, (more, words) in enumerate(FAILING_METHODS.items()):
        name = f"untrainable{i}"
        install(tmp_path / "site", name, method(name, more), "methods")
        code, out, err = typed(
            "pretrain", "--method", name, "--data", "digits", "--out", name, "--arch", "vit_tiny", "--depth", "1",
            "--image-size", "16", "--patch-size", "8", "--epochs", "1", "--batch", "64", "--device", "cpu",
            "--workers", "1",
        )  # fmt: skip
        assert code == 70 and out == "", (more, err)
        assert f"error: method '{name}' of {name}-dist 1.0 failed: " in err and words in err, err
        assert "fault in dinobench" not in err
