"""`dinobench compare`, `gate` and `explain` as typed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from helpers.mutations import json_mutated
from helpers.runs import run
from helpers.samples import INFO, record
from helpers.typed import assert_one_line

from dinobench.results import records
from dinobench.types import MetricValue, RunRecord


def scored(model: str, value: float, half: float | None = None, **changes: object) -> RunRecord:
    """A record of `model` with the primary metric at `value`, its interval `half` to either side."""
    interval = (None, None) if half is None else (value - half, value + half)
    fields = {
        "checkpoint": dataclasses.replace(INFO, name=model, weights_digest=model.encode().hex().ljust(64, "0")),
        "metrics": {"top1@k20": MetricValue(value, *interval, 40, "%")},
        **changes,
    }
    return record("-".join([model, *map(str, changes.values()), str(value)]), **fields)


@pytest.fixture
def results(tmp_path):
    for r in (scored("a", 10, 1), scored("b", 30, 1), scored("b", 7, protocol="logreg")):
        records.write(tmp_path / "results", r, None)
    return tmp_path / "results"


def test_pairs_are_shown_item_by_item(command, tmp_path):
    def items(correct: str) -> pd.DataFrame:
        right = [c == "1" for c in correct]
        return pd.DataFrame({"id": [str(i) for i in range(len(right))], "top1@k20": right})

    records.write(tmp_path / "results", scored("a", 75), items("1110" * 10))
    records.write(tmp_path / "results", scored("b", 50), items("1100" * 10))
    records.write(tmp_path / "results", scored("a", 75, protocol="logreg"), None)
    code, out, err = command("compare", "--pair", "a", "b")
    assert code == 0, err
    line = next(row for row in out.splitlines() if row.startswith("knn dino2021 digits  "))
    assert "75.00" in line and "+25.00" in line
    assert "of 40 items A is ahead on 10 and B on 0 (McNemar" in out and "left out: a-logreg" in out
    for name, start in (("p.tex", "% left out"), ("p.md", "| test |"), ("p.csv", "model_a,"), ("p.json", "{")):
        code, out, err = command("compare", "--pair", "a", "b", "-o", name)
        assert code == 0 and not out and (tmp_path / name).read_text().startswith(start), err
    code, out, _ = command("compare", "--pair", "a", "b", "--protocol", "knn", "--format", "json")
    assert code == 0 and json.loads(out)["skipped"] == []


def test_what_the_file_name_asks_for_is_written(command, results, tmp_path):
    for options in (("-o", "t.tex"), ("-o", "t.md", "--pm"), ("-o", "t.csv", "--protocol", "knn")):
        code, out, err = command("compare", *options)
        assert code == 0 and not out, err
    assert (tmp_path / "t.tex").read_text().startswith("% \\usepackage{booktabs}")
    assert "± 1.0" in (tmp_path / "t.md").read_text()
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3
    code, out, _ = command("compare", "--intervals")
    assert code == 0
    assert "**30.0 [29.0, 31.0]" in out and "*10.0 [9.0, 11.0]" in out and "** the best" in out


def test_a_model_card_is_printed_or_added_to(command, results, tmp_path):
    code, out, err = command("compare", "--format", "model-card", "--model", "b")
    assert code == 0 and out.startswith("---\nmodel-index:\n- name: b\n") and out.rstrip().endswith("---"), err
    assert out.count("run_id:") == 2 and "value: 30" in out
    (tmp_path / "README.md").write_text("# b\n")
    code, out, err = command("compare", "--format", "model-card", "--model", "b", "-o", "README.md")
    written = (tmp_path / "README.md").read_text()
    assert code == 0 and not out and written.startswith("---\nmodel-index:") and written.endswith("# b\n"), err
    assert_one_line(
        *command("compare", "--format", "model-card"), "a model card is of one model: choose with --model a"
    )
    assert_one_line(*command("compare", "--format", "model-card", "--model", "a", "--pm"), "--pm: not of a model card")
    assert_one_line(*command("compare", "--model", "aa"), "unknown model of these records 'aa'")
    code, out, _ = command("compare", "--format", "csv", "--model", "b", "--protocol", "knn")
    assert code == 0 and len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "html"), "unknown format 'html'"),
        (("-o", "x.txt"), "say which --format"),
        (("--reference", "ours"), "the only one is published"),
        (("--intervals", "--pm"), "choose one"),
        (("--pair", "a", "b", "--format", "html"), "available: table, csv, markdown, latex, json"),
        (("--pair", "a", "b", "-o", "x.txt"), "say which --format to write: csv, markdown, latex, json"),
        (("--pair", "a", "b", "--pm", "--rows", "arch"), "--rows, --pm: of tables"),
        (("--pair", "a", "b", "--protocol", "logreg"), "unknown model, run id"),
        (("-o", "x.json"), "say which --format"),
        (("--protocol", "kmn"), "did you mean 'knn'"),
        (("--data", "cifar"), "unknown data set"),
        (("--format", "csv", "-o", "/proc/x/y.csv"), "cannot be written"),
    ],
)
def test_bad_options_are_one_clear_line(command, results, options, words):
    assert_one_line(*command("compare", *options), words)


def test_broken_records_are_named_and_left_out(command, results):
    (results / "runs" / "half.json").write_text('{"schema": 1,')
    code, out, err = command("compare")
    assert code == 0 and "half.json: left out" in err and "30.0" in out
    assert_one_line(*command("compare", "nowhere"), "no runs/ folder")


def test_explain_in_words_and_as_json(command, tmp_path):
    config = {"k": [20], "temperature": 0.07}
    for run_id, value, changes in (
        ("knn-one-1", 50.0, {"config": config, "config_hash": "1" * 64}),
        ("knn-one-2", 70.0, {"config": {**config, "temperature": 0.2}, "config_hash": "2" * 64}),
        ("knn-two-3", 50.0, {"config": config, "config_hash": "1" * 64}),
    ):
        metrics = {"top1@k20": MetricValue(value, None, None, 4, "%")}
        records.write(tmp_path / "results", record(run_id, metrics=metrics, **changes), None)
    code, out, err = command("explain", "knn-one-1", "knn-one-2")
    assert code == 0, err
    assert "cannot be compared" in out and "B - A +20.00 (%)" in out and "must agree" in out
    code, out, err = command("explain", "knn-one-1", "knn-two-3")
    assert code == 0, err
    assert "They can be compared." in out and "nothing that is recorded differs" in out
    code, out, err = command("explain", "knn-one-1", "knn-one-2", "--json")
    assert code == 0, err
    explanation = json.loads(out)
    assert explanation["comparable"] is False and explanation["difference"] == 20
    assert explanation["fields"][0]["name"] == "temperature"


def test_the_gate_says_what_it_judged_and_writes_it_for_ci(command, tmp_path):
    for model in ("a", "b"):
        run(tmp_path / "old", model, [1, 0, 1])
    run(tmp_path / "new", "a", [1, 0, 1])
    code, out, err = command("gate", "new", "--baseline", "old", "--json", "j", "--markdown", "m", "--junit", "x/y.xml")
    assert code == 4 and "vanished: b · knn" in out and "incomplete" in out and "written: x/y.xml" in err
    assert json.loads((tmp_path / "j").read_text())["exit_code"] == 4
    assert (tmp_path / "m").read_text().startswith("### dinobench gate: incomplete")
    assert ET.parse(tmp_path / "x" / "y.xml").getroot().get("errors") == "1"
    code, out, _ = command("gate", "new", "--baseline", "old", "--only", "knn-a-*")
    assert code == 0 and "vanished" not in out and "1 of 1 rows pass" in out
    code, out, _ = command("gate", "new", "--baseline", "old", "--allow-missing")
    assert code == 0 and "1 vanished" in out
    run(tmp_path / "odd", "x\n::error::y", [1, 0], run_id="odd")
    run(tmp_path / "odd", "z\r::error::y", [1, 0], run_id="gone")
    run(tmp_path / "new", "x\n::error::y", [1, 0], run_id="odd")
    code, out, _ = command("gate", "new", "--baseline", "odd")
    assert code == 4 and out.count("::error::y") == 2 and not re.search(r"^\s*::", out, re.M)
    assert_one_line(*command("gate", "new", "--baseline", "old", "--only", "c"), "unknown --only pattern")
    assert_one_line(*command("gate", "new", "--baseline", "old", "--json", "f", "--junit", "f"), "a file of its own")
    assert_one_line(*command("gate", "new", "--baseline", "old", "--junit", "/proc/x/y.xml"), "cannot be written")


RIGHT = np.arange(40) % 3 > 0


def hostile_folder(folder, seed: int, n: int) -> None:
    """Two sound runs among n mutated ones, and what no record is."""
    sound = run(folder, "sound", RIGHT)
    run(folder, "other", RIGHT[::-1])
    runs, rng = folder / "runs", random.Random(seed)
    whole = json.loads((runs / f"{sound.run_id}.json").read_text())
    for i in range(n):
        name = f"mutant-{i:04d}"
        checkpoint = {**whole["checkpoint"], "name": rng.choice(["sound", name])}
        mutant = json_mutated({**whole, "run_id": name, "checkpoint": checkpoint, "git_commit": "ab" * 20}, rng)
        (runs / f"{name}.json").write_bytes(mutant)
        os.link(folder / "items" / f"{sound.run_id}.parquet", folder / "items" / f"{name}.parquet")
    os.mkfifo(runs / "pipe.json")
    (runs / "endless.json").symlink_to("/dev/zero")
    (runs / "loop.json").symlink_to("loop.json")
    (runs / "folder.json").mkdir()
    for name in ("../x", "..", "a/b", "", "a\\b", "x" * 300, "\0"):
        (runs / f"named {name.encode().hex():.50}.json").write_text(json.dumps({**whole, "run_id": name}))
    for i, digest in enumerate(("../../x", "\0" * 64, "f" * 63, "", "F" * 64)):
        (runs / f"digest {i}.json").write_text(json.dumps({**whole, "run_id": "x", "items_sha256": digest}))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_mutated_records_stop_nobody(command, tmp_path, seed):
    results, baseline = tmp_path / "results", tmp_path / "baseline"
    hostile_folder(results, seed, 100)
    run(baseline, "sound", RIGHT)
    found, broken = records.read_all(results)
    assert len(found) + len(broken) == 102 + 4 + 7 + 5 and len(broken) > 70 and not list(tmp_path.glob("x*"))
    for arguments in (
        ["compare"], ["compare", "--format", "csv"], ["compare", "--format", "markdown", "--intervals"],
        ["compare", "--format", "latex", "--pm"], ["compare", "--rows", "protocol", "--metric", "*"],
        ["compare", "--rows", "dataset", "--reference", "published"], ["leaderboard"],
    ):  # fmt: skip
        code, out, err = command(*arguments)
        assert code == 0 and "sound" in out and "other" in out, (arguments, err[-500:])
        assert err.count("left out") >= len(broken)
    code, out, err = command("compare", "--pair", "knn-sound-digits", "knn-other-digits")
    assert code == 0, err[-500:]
    for arguments in (["gate"], ["gate", "baseline", "--baseline", "results"]):
        code, _, err = command(*arguments)
        assert code in (0, 1, 3, 4), err[-500:]
    code, _, err = command("report")
    assert code == 0 and "left out" in err and "sound" in (tmp_path / "report.html").read_text(), err[-500:]
    some = [r.run_id for r in found if r.run_id.startswith("mutant")]
    for name in [*some, *(path.stem for path, _ in broken[::20])]:
        code, _, err = command("explain", "knn-sound-digits", name, *(["--json"] if len(name) % 2 else []))
        assert code in (0, 2) and (code == 0 or err.count("\n") == 1), (name, err[-500:])
