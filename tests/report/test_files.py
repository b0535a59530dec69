from __future__ import annotations

import dataclasses
import json
import os
import random
import struct
import zlib
from io import BytesIO

from helpers.mutations import bytes_mutated
from helpers.reports import made
from helpers.samples import INFO
from PIL import Image

from dinobench.report import files


def test_trainings_lack_what_they_lack_and_a_broken_last_line_is_left_out(tmp_path):
    (tmp_path / "training").mkdir()
    lines = [{"epoch": e, "loss": 5.0 - e, "kl": e, "teacher_entropy": 3, "lr": float("nan"), "note": "x",
              "center_norm": e, **({"knn/teacher/top1@k20": 10 * e, "knn/student/top1@k20": e} if e % 2 else {})}
             for e in range(1, 6)]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)) + '\n[1]\n{"epoch": 6, "lo'
    (tmp_path / "training" / "dino.jsonl").write_text(text)
    (tmp_path / "training" / "empty.jsonl").write_text("")
    [found], _ = files.trainings(tmp_path, [])
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
    assert [t.name for t in files.trainings(tmp_path, [gone, there])[0]] == ["dino-run"]
    assert files.trainings(tmp_path, [gone]) == ([], [])


def test_evaluations_of_several_trainings_share_a_plot():
    one, two, three = (
        files.TrainingHistory(name, [{"epoch": e, key: e * 10.0} for e in (1, 2)])
        for name, key in (("a", "knn/teacher/top1"), ("b", "knn/teacher/top1"), ("c", "davis/teacher/J&F"))
    )
    [chart] = files.evaluation_charts([one, two, three])
    assert (chart.title, [line.name for line in chart.lines]) == ("knn teacher top1", ["a", "b"])


def test_hostile_histories_are_named_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "VALUES", 1_000)
    folder = tmp_path / "training"
    folder.mkdir()
    good = '{"epoch": 1, "loss": 2.5}\n'
    hostile = {
        "deep": "[" * 100_000, "deep value": '{"epoch": 1, "loss": ' + "[" * 900 + "]" * 900 + "}",
        "digits": '{"epoch": 1, "loss": ' + "9" * 400 + "}", "more digits": '{"epoch": ' + "9" * 5000 + "}",
        "words": '{"epoch": "one", "loss": "low"}', "nothing": "", "list": "[1, 2]", "nan": '{"loss": NaN}',
        "huge": '{"loss": 1e308, "lr": -1e308}', "other lines": good + "[" * 100_000 + "\n" + good,
        "good": good,
    }  # fmt: skip
    for name, text in hostile.items():
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "binary.jsonl").write_bytes(bytes(range(256)) * 100)
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "folder.jsonl").mkdir()
    (folder / "endless.jsonl").symlink_to("/dev/zero")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "many.jsonl").write_text(json.dumps({f"a/{i}/b": 1.0 for i in range(1_001)}))
    found, left_out = files.trainings(tmp_path, [])
    assert {t.name: t.skipped for t in found} == {"good": 0, "other lines": 1}
    assert len(left_out) == len(hostile) + 6 - 2 and any(x.startswith("pipe.jsonl: a named pipe") for x in left_out)
    for t in found:
        assert files.curves(t)


def test_hostile_pictures_are_named_and_left_out(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture = BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    content = picture.getvalue()
    (folder / "good.png").write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "half.png").write_bytes(content[:30])
    (folder / "empty.png").write_bytes(b"")
    (folder / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for side in (10_000, 20_000, 2**31 - 1):
        head = struct.pack(">II", side, side) + content[24:29]
        crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
        (folder / f"huge {side}.png").write_bytes(content[:16] + head + crc + content[33:])
    rng = random.Random(0)
    for i in range(200):
        (folder / f"mutated {i}.gif").write_bytes(bytes_mutated(content, rng))
    kept, left_out = files.pictures(tmp_path, [], 10**6)
    assert {p.name for p in kept if "mutated" not in p.name} == {"good.png"}
    assert len(kept) + len(left_out) == 210 and not any("\n" in line for line in left_out)
    assert any(line.startswith("pipe.png: cannot be read (a named pipe, not a file") for line in left_out)
