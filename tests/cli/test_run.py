"""`dinobench run` with several protocols and data sets, and on a part of the data, as typed."""

from __future__ import annotations

import json

import pytest
from helpers.forked import typed_by_two
from helpers.typed import assert_one_line

from dinobench import console
from dinobench.results.comparability import key, reasons
from dinobench.results.records import read_all

#: Two protocols on images with labels and one on images with masks, made small.
RUN = (
    "run", "--protocol", "knn", "--protocol", "logreg", "--protocol", "attention", "--set", "resize=16", "--set",
    "crop=16", "--set", "knn.k=1,3", "--set", "logreg.c_count=2", "--set", "image_size=32", "--profile", "knn=dinov2",
    "--data", "digits", "--data", "shapes", "--ckpt", "random:vit_tiny_patch16_224", "--device", "cpu",
)  # fmt: skip


def test_several_protocols_with_their_own_settings_share_one_extraction(command, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(console, "progress", lambda items, text, total=None: (seen.append(text), iter(items))[1])
    code, out, err = command(*RUN, "--limit", "40")
    assert code == 0, err
    titles = [line for line in out.splitlines() if " · " in line]
    assert [line.split(" · ")[0] for line in titles] == ["knn", "logreg", "attention"]
    assert "knn · dinov2+crop=16+k=1,3+resize=16+limit40 · digits · n = 40" in out
    assert err.count("is not run on") == 3 and "attention is not run on digits, which is not masks" in err
    assert sum("Extracting" in text for text in seen) == 2  # train and test, once for both protocols
    assert "100 % of" not in err and "--limit 40: 40 of 1,347 images of train, 40 of 450 images of test" in err
    code, again, err = command(*RUN, "--limit", "40", "--json")
    assert code == 0 and err.count("finished before") == 3 and "attention is not run on digits" in err
    records = json.loads(again)
    assert [r["protocol"] for r in records] == ["knn", "logreg", "attention"]
    assert {r["profile"].rpartition("+")[2] for r in records} == {"limit40"}


def test_a_table_is_shown_for_each_data_set_as_soon_as_it_is_done(command, tmp_path, monkeypatch):
    """The second data set cannot be scored, and the first one's numbers are on the screen."""
    from dinobench import registry

    knn = registry.load("knn")
    monkeypatch.setattr(knn, "run", lambda *given, run=knn.run: run(*given) if given[1].name == "digits" else 1 / 0)
    small = ("--set", "resize=16", "--set", "crop=16", "--ckpt", "pixels", "--limit", "30", "--device", "cpu")
    code, out, _ = command("run", "--protocol", "knn", *small, "--data", "digits", "--data", "again=digits")
    assert code == 70 and out.count("knn · ") == 1 and "· digits · n = 30" in out


def test_parts_never_rank_with_the_whole(command, tmp_path):
    knn = ("run", "--protocol", "knn", "--set", "resize=16", "--set", "crop=16", "--set", "k=3", "--device", "cpu")
    for ckpt, limit in (
        ("pixels", ()),
        ("pixels", ("--limit", 99)),
        ("b=pixels:4", ("--limit", 9999)),
        ("b=pixels:4", ()),
    ):
        code, _, err = command(*knn, "--ckpt", ckpt, *limit)
        assert code == 0, err
    records, _ = read_all(tmp_path / "results")
    assert len({key(r) for r in records}) == 3 and len(records) == 4
    whole = next(r for r in records if "limit" not in r.profile)
    some = next(r for r in records if r.profile.endswith("+limit99"))
    assert any("99 items of each split" in line for line in reasons(whole, some))
    code, out, err = command("compare", "--format", "markdown")
    assert code == 0 and "not ranked with knn dino2021" in out and "99 items of each split" in out, err
    (tmp_path / "part" / "runs").mkdir(parents=True)
    (tmp_path / "all" / "runs").mkdir(parents=True)
    for record in records:
        if record.checkpoint.name == "pixels16":
            side = "part" if record is some else "all"
            (tmp_path / "results" / "runs" / f"{record.run_id}.json").rename(
                tmp_path / side / "runs" / f"{record.run_id}.json"
            )
    assert_one_line(*command("gate", "part", "--baseline", "all"), "part has no counterpart of any row of all")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--set", "knm.k=3"),
            "the setting knm.k: 'knm' is not among the protocols asked for (knn, davis); did you mean",
        ),
        (("--set", "kk=3"), "unknown setting of knn or davis 'kk'"),
        (("--profile", "knn=dinov3"), "unknown profile of knn 'dinov3': did you mean 'dinov2'"),
        (("--profile", "kn=dinov2"), "did you mean 'knn'?"),
        (("--profile", "dinov3", "--profile", "dinov2"), "--profile: dinov3 and dinov2; give one, or"),
        (("--data", "digits", "--data", "tiles"), "tiles: no such file or folder"),
        (("--data", "digits", "--data", "a=digits", "--data", "a=digits", "--limit", "0"), "--limit"),
        (("--data", "digits", "--limit", "x"), "--limit"),
    ],
)
def test_what_fits_no_protocol_is_one_line(command, arguments, words):
    base = ("run", "--protocol", "knn", "--protocol", "davis", "--ckpt", "pixels", "--device", "cpu")
    data = () if "--data" in arguments else ("--data", "digits", "--data", "shapes")
    assert_one_line(*command(*base, *data, *arguments), words)


def test_files_of_several_data_sets_lie_apart(command, tmp_path):
    davis = ("run", "--protocol", "davis", "--set", "short_side=64", "--set", "multiple=32", "--limit", "1", "--device",
             "cpu", "--ckpt", "random:vit_tiny_patch16_224", "--save", "masks")  # fmt: skip
    code, _, err = command(*davis, "--data", "shapes", "--data", "again=shapes")
    assert code == 0, err
    assert {p.name for p in (tmp_path / "masks").iterdir()} == {"shapes", "again"}


def test_what_is_scored_is_shown_in_a_tracker(command, tmp_path, monkeypatch):
    """Records made and records found alike, each once."""
    told = []

    class Tracker:
        def record(self, record):
            told.append(record.run_id)

        def close(self):
            told.append("closed")

    from dinobench import tracking

    monkeypatch.setattr(tracking, "find", lambda kind, name, group: lambda target: told.append(target) or Tracker())
    knn = ("run", "--protocol", "knn", "--set", "resize=16", "--set", "crop=16", "--limit", "30", "--device", "cpu",
           "--ckpt", "pixels", "--track", "mine=there")  # fmt: skip
    code, _, err = command(*knn)
    assert code == 0, err
    code, _, err = command(*knn, "--ckpt", "b=pixels:4")
    assert code == 0, err
    ids = {r.checkpoint.name: r.run_id for r in read_all(tmp_path / "results")[0]}
    assert told[:3] == ["there", ids["pixels16"], "closed"]
    assert told[3] == "there" and sorted(told[4:6]) == sorted(ids.values()) and told[6:] == ["closed"]


def test_an_unknown_tracker_is_one_line(command):
    knn = ("run", "--protocol", "knn", "--ckpt", "pixels", "--data", "digits", "--track", "tensorbord=x")
    assert_one_line(*command(*knn), "unknown tracker 'tensorbord': did you mean 'tensorboard'?")


@pytest.mark.slow
def test_two_processes_see_the_same_part_of_the_same_data(command, tmp_path):
    arguments = [*RUN, "--limit", "40", "--json", "--no-cache"]
    code, both, err = typed_by_two(tmp_path, *arguments, "--out", "two")
    assert code == 0 and err.count("attention is not run on digits") == 1, err
    code, out, err = command(*arguments)
    assert code == 0, err
    one, two = ({r["run_id"]: r["metrics"] for r in json.loads(text)} for text in (out, both))
    assert one.keys() == two.keys() and len(one) == 3
    for run_id, metrics in one.items():
        for name, measured in metrics.items():
            assert measured["value"] == pytest.approx(two[run_id][name]["value"], abs=1e-3)
