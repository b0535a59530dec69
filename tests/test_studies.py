"""The study in results/: its page follows from its records alone, its suites say what can be trained."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.runs import run
from helpers.samples import INFO, record

from dinobench.pretrain import run as runs
from dinobench.results import records
from dinobench.suite import file as suites
from dinobench.types import MetricValue

HOME = ROOT / "results" / "studies" / "dino-findings"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("page", HOME / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_training(home, name, method, settings, rows=()):
    config = runs.configure(runs.load_method(method), {"epochs": 2, **settings})
    made = runs.Run(method, "vit_w96", 32, 8, 4, "cifar10", dataclasses.asdict(config), "32")
    runs.begin(home / "training" / name, made)
    if rows:
        (home / "training" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def epochs(entropy):
    keys = ("kl", "teacher_mean_entropy", "teacher_effective_rank")
    return [{"epoch": e, "teacher_entropy": entropy / e, **dict.fromkeys(keys, 1.0)} for e in (1, 2)]


def features(home, name, rankme):
    """A record of `representation`, without items."""
    checkpoint = dataclasses.replace(INFO, name=name, weights_digest=f"{name:0<64}")
    values = dict.fromkeys(
        ("lidar", "alpha_req", "uniformity", "alignment", "twonn"), MetricValue(rankme**2, None, None, 9, "")
    )
    metrics = {"rankme": MetricValue(rankme, None, None, 9, "dimensions"), **values}
    made = record(
        f"representation-{name}", protocol="representation", checkpoint=checkpoint, metrics=metrics, primary="rankme"
    )
    records.write(home, made, pd.DataFrame({"id": ["0"]}))


@pytest.fixture
def study(tmp_path):
    """Records of made scores: DINO best, a change of it that costs much, and one of no effect."""
    home = tmp_path / "study"
    home.mkdir()
    shutil.copy(HOME / "README.md", home)
    right = np.random.default_rng(0).permutation(500)
    shares = {
        "dino": 400,
        "byol": 300,
        "simclr": 396,
        "dino-start": 150,
        "pixels16": 200,
        "no-centring": 160,
        "mse": 398,
    }
    for name, share in shares.items():
        run(home, name, right < share, run_id=f"knn-{name}")
        if name != "pixels16":
            features(home, name, rankme=share / 10)
    dino = {"lr": 0.002, "out_dim": 256}
    a_training(home, "dino", "dino", dino, epochs(4.0))
    a_training(home, "no-centring", "dino", {**dino, "centering": "off"}, epochs(1.0))
    a_training(home, "byol", "byol", {"lr": 0.006})
    for rate, share in ((0.002, 200), (0.006, 250)):
        a_training(home / "selection", f"byol-lr{rate}", "byol", {"lr": rate})
        run(home / "selection", f"byol-lr{rate}", right < share, run_id=f"knn-byol-lr{rate}")
    (home / "costs.csv").write_text("name,cpu_minutes\ndino,12.5\n")
    return home


def test_the_page_has_the_numbers_of_the_records_and_is_the_same_bytes_again(study, page):
    page.write(study)
    text = (study / "README.md").read_text(encoding="utf-8")
    made = {
        mark: text.partition(f"<!-- {mark} -->\n")[2].partition(f"<!-- /{mark} -->")[0]
        for mark, _ in page.made(page.Study(study))
    }
    assert "| top-1, % | dino 80.0, simclr 79.2, byol 60.0, pixels16 40.0, dino-start 30.0 |" in made["findings"]
    start = "| **above** dino +50.0, simclr +49.2, byol +30.0 |"
    assert f"(`dino-start`) {start}" in made["findings"]
    assert "against `dino` | **level** simclr -0.8<br>**below** byol -20.0 |" in made["findings"]
    assert "against itself | **level** mse -0.4<br>**below** no-centring -48.0 |" in made["findings"]
    assert "foretold by rankme (+1.00)" in made["findings"] and "attention" not in made["findings"]
    assert (
        "| dino | dino | 2 of 32 px, 8 of 16 px | lr 0.002, teacher_temperature 0.04, momentum 0.996 | 12.5 |"
        in made["trainings"]
    )
    assert "| no-centring | dino | 2 of 32 px, 8 of 16 px | centering off |  |" in made["trainings"]
    assert "| byol | lr 0.002 | 40.0 " in made["selection"] and "| byol | lr 0.006 | **50.0 " in made["selection"]
    assert "80.0 [0.0, 100.0]" in made["methods"] and "**-20.0 [" in made["pairs"]
    assert "| dino | 2.00 | 5.55 | 1.000 | 3 of 256 | 1.0 |" in made["collapse"]
    assert "| `rankme` | +1.00 [+1.00, +1.00] |" in made["measures"]
    assert made["places"] == page.NOTHING
    pictures = {p.name: p.read_bytes() for p in (study / "pictures").iterdir()}
    assert set(pictures) == {"teacher_entropy.svg", "kl.svg", "rankme.svg", "knn.svg"}
    for picture in pictures.values():
        ElementTree.fromstring(picture)
    page.write(study)
    assert (study / "README.md").read_text(encoding="utf-8") == text
    assert {p.name: p.read_bytes() for p in (study / "pictures").iterdir()} == pictures


def test_without_a_record_the_page_says_so(tmp_path, page):
    shutil.copy(HOME / "README.md", tmp_path)
    for _, words in page.made(page.Study(tmp_path)):
        assert words == page.NOTHING


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_the_study_names_every_training_of_the_page(scale, page):
    suite = suites.read(HOME / "study.toml", scale=scale)
    trained = {*page.METHODS, *page.ABLATIONS, page.FINE, page.START, page.FINE_START}
    assert set(suite.trainings) == trained and set(suite.models) == {*trained, page.PIXELS}
    shared = {
        (t.arch, t.image_size, t.depth, t.settings["epochs"], t.settings["batch"]) for t in suite.trainings.values()
    }
    assert len(shared) == 1
    plain = {name: {**t.settings, "seed": 0} for name, t in suite.trainings.items()}
    for name in page.ABLATIONS:
        assert 1 <= len([k for k in plain[name] if plain[name][k] != plain[page.DINO].get(k)]) <= 2


def test_every_method_has_as_many_trials():
    suite = suites.read(HOME / "selection.toml")
    trials = [t.method for t in suite.trainings.values()]
    assert {trials.count(method) for method in trials} == {4} and len(set(trials)) == 6
