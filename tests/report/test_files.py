from __future__ import annotations

import dataclasses
import json

from helpers.reports import made
from helpers.samples import INFO

from dinobench.report import files


def test_trainings_lack_what_they_lack_and_a_broken_last_line_is_left_out(tmp_path):
    (tmp_path / "training").mkdir()
    lines = [{"epoch": e, "loss": 5.0 - e, "kl": e, "teacher_entropy": 3, "lr": float("nan"), "note": "x",
              "center_norm": e, **({"knn/teacher/top1@k20": 10 * e, "knn/student/top1@k20": e} if e % 2 else {})}
             for e in range(1, 6)]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)) + '\n[1]\n{"epoch": 6, "lo'
    (tmp_path / "training" / "dino.jsonl").write_text(text)
    (tmp_path / "training" / "empty.jsonl").write_text("")
    [found] = files.trainings(tmp_path, [])
    assert (found.name, len(found.lines), found.skipped) == ("dino", 5, 2)
    charts = files.curves(found)
    assert [(c.title, [line.name for line in c.lines]) for c in charts] == [
        ("knn top1@k20", ["teacher", "student"]),
        ("Loss", ["loss"]),
        ("Teacher entropy and KL divergence", ["teacher entropy", "kl"]),
        ("center norm", ["center norm"]),
    ]
    assert [says for *_, says in charts[0].lines[0].dots] == [f"teacher, epoch {e}: {10 * e}" for e in (1, 3, 5)]


def test_metrics_beside_a_checkpoint_that_is_still_there(tmp_path):
    runs = tmp_path / "runs" / "dino-run"
    runs.mkdir(parents=True)
    (runs / "checkpoint.pth").touch()
    (runs / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}')
    there = made("a", 1.0, run_id="a")
    there = dataclasses.replace(there, checkpoint=dataclasses.replace(INFO, path=str(runs / "checkpoint.pth")))
    gone = dataclasses.replace(there, checkpoint=dataclasses.replace(INFO, path=str(runs / ("x" * 5000))))
    assert [t.name for t in files.trainings(tmp_path, [gone, there])] == ["dino-run"]
    assert not files.trainings(tmp_path, [gone])


def test_evaluations_of_several_trainings_share_a_plot():
    one, two, three = (
        files.TrainingHistory(name, [{"epoch": e, key: e * 10.0} for e in (1, 2)])
        for name, key in (("a", "knn/teacher/top1"), ("b", "knn/teacher/top1"), ("c", "davis/teacher/J&F"))
    )
    [chart] = files.evaluation_charts([one, two, three])
    assert (chart.title, [line.name for line in chart.lines]) == ("knn teacher top1", ["a", "b"])
