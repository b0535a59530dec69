"""`dinobench run --test`: learnt from one set, scored on others, as typed."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest
from helpers.forked import typed_by_two
from helpers.other_tests import WNIDS, make_corrupted, make_folders, make_imagenet, make_objectnet, make_v2
from helpers.typed import assert_one_line

from dinobench.cli import main
from dinobench.metrics.robustness import mce, mce_dinov3

pytestmark = pytest.mark.usefixtures("own_cache")
CLASSES = list(WNIDS)
FEW = ["--set", "lr=0.1", "--set", "blocks=1", "--set", "mean_patch=off", "--set", "minimum_steps=5"]
SMALL = ["--set", "resize=8", "--set", "crop=8"]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    make_imagenet(tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)

    def typed(*words, out="results"):
        line = ["dinobench", "run", "--ckpt", "pixels:8", "--data", "imagenet", "--device", "cpu", "--out", out, *words]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return typed


def records(run, *words):
    code, out, err = run("--json", *words)
    assert code == 0, err
    return json.loads(out)


def test_three_protocols_score_four_sets(run, tmp_path):
    make_v2(tmp_path / "v2")
    make_folders(tmp_path / "imagenet-a", [(w, w) for w in CLASSES[3:]])
    make_objectnet(tmp_path / "objectnet")
    (tmp_path / "real.json").write_text(json.dumps([[n, 6] for n in WNIDS.values() for _ in (1, 2)]))
    tests = ["--test", "imagenet-v2=v2", "--test", "a=imagenet-a", "--test", "objectnet", "--test", "real=real.json"]
    found = [
        *records(run, "--protocol", "knn", *tests, *SMALL, "--set", "k=3"),
        *records(run, "--protocol", "logreg", *tests, *SMALL, "--set", "c_count=1", "--set", "c_min=1"),
        *records(run, "--protocol", "linear", "--profile", "cached", *tests, *SMALL, *FEW),
    ]
    names = ["imagenet+imagenet-v2", "imagenet+imagenet-a", "imagenet+objectnet", "imagenet+imagenet-real"]
    assert [r["dataset"] for r in found] == 3 * names
    assert len({r["run_id"] for r in found}) == 12 and len({r["dataset_fingerprint"] for r in found}) == 4
    assert [next(iter(r["metrics"].values()))["n"] for r in found] == 3 * [10, 4, 4, 10]
    assert min(r["metrics"][r["primary"]]["value"] for r in found) > 90, "the colours are told apart"
    items = pd.read_parquet(tmp_path / "results" / "items" / f"{found[2]['run_id']}.parquet")
    assert set(items["label"]) == {"n01440764 | n01443537 | n01498041", "n01531178"}
    code, _, err = run("--protocol", "knn", *tests, *SMALL, "--set", "k=3")
    assert code == 0 and err.count("finished before") == 4, "known again, each by its test set"


def test_corruption_error_stands_beside_top_1(run, tmp_path):
    make_corrupted(tmp_path / "c", extra=True)
    (record,) = records(run, "--protocol", "knn", "--test", "c=c", *SMALL, "--set", "k=1,3")
    assert record["primary"] == "mCE@k1" and "mCE@k3" in record["metrics"] and "mCE_dinov3@k3" in record["metrics"]
    assert {"mCE@k1", "mCE_dinov3@k1"} <= set(record["lower_is_better"])
    (noted,) = [n for n in record["notes"] if n.startswith("error by corruption (k3): gaussian_noise")]
    told = [words.rsplit(" ", 1) for words in noted.split(": ")[1].split(", ")]
    errors = {name: [float(error) / 100] * 5 for name, error in told}
    acc = {name: [1 - e for e in each] for name, each in errors.items()}
    assert len(acc) == 19 and max(map(max, errors.values())) > 0.1
    for name, of in (("mCE@k3", mce), ("mCE_dinov3@k3", mce_dinov3)):
        value = record["metrics"][name]
        assert value["value"] == pytest.approx(100 * of(acc), abs=0.1) and value["n"] == 2
        assert value["ci_low"] <= value["value"] <= value["ci_high"]
    items = pd.read_parquet(tmp_path / "results" / "items" / f"{record['run_id']}.parquet")
    assert list(items["id"]) == [f"{w}/ILSVRC2012_val_{k:08d}.JPEG" for k, w in enumerate((CLASSES[0], CLASSES[3]))]
    assert items["top1@k1"].mean() == pytest.approx(record["metrics"]["top1@k1"]["value"] / 100)


def test_runs_without_it_are_called_as_before(run):
    (record,) = records(run, "--protocol", "knn", *SMALL, "--set", "k=3")
    assert record["dataset"] == "imagenet" and list(record["metrics"]) == ["top1@k3", "top5@k3"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--protocol", "finetune", "--test", "a=imagenet"], "--test: finetune scores the test images of --data alone"),
        (["--protocol", "knn", "--test", "b=imagenet"], "unknown test set 'b'"),
        (["--protocol", "knn", "--test", "a=nowhere"], "nowhere: no such file or folder"),
        (["--protocol", "knn", "--test", "a=imagenet/train"], "no class of ImageNet-A"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, words, error):
    assert_one_line(*run(*words, *SMALL if "finetune" not in words else []), error)


@pytest.mark.slow
def test_two_processes_come_to_the_same(run, tmp_path):
    make_corrupted(tmp_path / "c")
    (tmp_path / "real.json").write_text(json.dumps([[n, 6] for n in WNIDS.values() for _ in (1, 2)]))
    words = ["--protocol", "knn", "--test", "c=c", "--test", "real=real.json", *SMALL, "--set", "k=1,3"]
    alone = records(run, *words)
    line = ["run", "--ckpt", "pixels:8", "--data", "imagenet", "--device", "cpu", "--out", "two", "--json"]
    code, out, err = typed_by_two(tmp_path, *line, *words)
    assert code == 0, err
    both = json.loads(out)
    assert [r["processes"] for r in both] == [2, 2] and [r["metrics"] for r in both] == [r["metrics"] for r in alone]
    assert [r["run_id"] for r in both] == [r["run_id"] for r in alone]
