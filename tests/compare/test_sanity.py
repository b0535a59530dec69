"""Numbers that nobody should believe at once."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pandas as pd
import pytest
from helpers.runs import run
from helpers.samples import INFO, record

from dinobench.compare import sanity
from dinobench.data import leaks
from dinobench.results import records
from dinobench.types import MetricValue


def made(name, value, *, method="dino", half=1.0, n=1000, arch="vit", top5=80.0, weights=None, **changes):
    metrics = {
        "top1@k20": MetricValue(value, value - half, value + half, n, "%"),
        "top5@k20": MetricValue(top5, top5 - half, top5 + half, n, "%"),
    }
    info = dataclasses.replace(INFO, name=name, method=method, arch=arch, weights_digest=weights or (name * 64)[:64])
    return record(changes.pop("run_id", f"knn-{name}"), checkpoint=info, metrics=metrics, **changes)


def test_nothing_is_said_of_a_good_run(tmp_path):
    assert sanity.flags(tmp_path, [made("a", 70.0), made("r", 30.0, method="random")]) == {}


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (made("a", 100.0, half=0.0), "100 %"),
        (made("a", 0.0, half=0.0), "nothing is right"),
        (made("a", 30.9), "within noise of an untrained vit's 30.00 (knn-r)"),
        (made("a", 20.0), "20.00 is below an untrained"),
        (made("a", 55.0, weights="r" * 64), "weights are those of an untrained"),
        (made("a", 70.0, leak="leaked images: 3 of 9 test images"), "leaked images: 3 of 9"),
    ],
)
def test_each_oddity_has_its_line(tmp_path, run, said):
    found = sanity.flags(tmp_path, [run, made("r", 30.0, method="random", top5=70.0)])
    assert list(found) == ["knn-a"] and said in found["knn-a"][0]


@pytest.mark.parametrize(
    ("right", "said"),
    [(60, ""), (45, "45.00 is within noise of an untrained"), (38, "38.00 is within noise"), (20, "20.00 is below")],
)
def test_where_intervals_leave_it_open_the_items_decide(tmp_path, right, said):
    """Their intervals are 0 to 100 %; of 100 images the same ones are easy for both networks."""
    start = dataclasses.replace(INFO, name="start", method="random", weights_digest="s" * 64)
    runs = [
        run(tmp_path, "ours", np.arange(100) < right),
        run(tmp_path, "start", np.arange(100) < 42, checkpoint=start),
    ]
    found = sanity.flags(tmp_path, runs)
    assert list(found) == ["knn-ours-digits"] * bool(said) and said in "".join(found.get("knn-ours-digits", []))


def test_an_untrained_backbone_of_another_kind_or_question_is_no_yardstick(tmp_path):
    others = [
        made("r", 30.0, method="random", arch="resnet", top5=70.0),
        made("s", 30.0, method="random", config_hash="e" * 64, top5=70.0),
        made("p", 30.0, method="pixels", top5=71.0),
    ]
    assert sanity.flags(tmp_path, [made("a", 30.0), *others]) == {}


@pytest.mark.parametrize(("value", "flagged"), [(24.0, True), (61.0, True), (63.0, False)])
def test_guessing_names_the_most_frequent_class(tmp_path, value, flagged):
    labels = ["cat"] * 60 + ["dog"] * 30 + ["eel"] * 10
    records.write(tmp_path, made("a", value), pd.DataFrame({"id": range(100), "label": labels}))
    found = sanity.flags(tmp_path, [made("z", 90.0, run_id="without-items"), made("a", value)])
    assert (list(found) == ["knn-a"]) == flagged
    if flagged:
        assert "no better than guessing, which gives 60.00" in found["knn-a"][0]


def test_items_that_cannot_be_read_are_no_reason_to_doubt(tmp_path):
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "knn-a.parquet").write_bytes(b"half a fi")
    assert sanity.flags(tmp_path, [made("a", 1.0, half=0.5)]) == {}


def test_two_checkpoints_with_the_same_scores(tmp_path):
    alike = [made("a", 70.0), made("b", 70.0), made("c", 70.0, top5=81.0)]
    found = sanity.flags(tmp_path, alike)
    assert set(found) == {"knn-a", "knn-b"} and "knn-b" in found["knn-a"][0] and "knn-a" in found["knn-b"][0]
    again = [made("a", 70.0), made("a", 70.0, run_id="knn-again")]  # the same weights twice
    assert sanity.flags(tmp_path, again) == {}
    few = [
        dataclasses.replace(r, metrics={k: dataclasses.replace(m, n=20) for k, m in r.metrics.items()}) for r in alike
    ]
    assert sanity.flags(tmp_path, few) == {}  # equal by accident


def test_ten_thousand_records_open_no_file_but_one_per_data_set(tmp_path, monkeypatch):
    records.write(tmp_path, made("a", 50.0), pd.DataFrame({"id": range(4), "label": list("abcd")}))
    opened = []
    real = sanity._Chance._shares
    monkeypatch.setattr(sanity._Chance, "_shares", lambda self, run: opened.append(run.run_id) or real(self, run))
    many = [made("a", 50.0 + i / 1000, run_id="knn-a" if i == 0 else f"run-{i}") for i in range(10_000)]
    assert sanity.flags(tmp_path, many) == {} and opened == ["knn-a"]


def test_leaked_images_are_those_with_the_same_bytes():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (50, 4, 4, 3), np.uint8), rng.integers(0, 256, (20, 4, 4, 3), np.uint8)
    test[[3, 17]] = train[[8, 8]]
    hashed = leaks.digests(train), leaks.digests(test)
    assert hashed[0][0].tobytes() == hashlib.sha256(train[0].tobytes()).digest()
    found = leaks.leaked(*hashed)
    assert found.tolist() == [3, 17]
    note = leaks.note([f"val/{i}.png" for i in range(20)], found)
    assert note == "leaked images: 2 of 20 test images are in train too, byte for byte, such as val/3.png"
    assert leaks.note([], np.array([], int)) is None


def test_unreadable_files_and_half_equal_digests_are_no_leak():
    train, test = np.zeros((3, 32), np.uint8), np.zeros((2, 32), np.uint8)
    assert leaks.leaked(train, test).size == 0
    train[1, :8], test[1, :8], test[1, 20] = 7, 7, 1
    assert leaks.leaked(train, test).size == 0
