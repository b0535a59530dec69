"""A task runs its cells one after another, and leaves of each a record or why there is none."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import threading

import pytest
import torch
from helpers.suites import Heard, killed_tasks, marks, outcome, plug_in, quick, unsound
from helpers.weights import save, shifted, vit
from PIL import Image

from dinobench import signals
from dinobench.errors import UserError
from dinobench.evaluations.kept import Kept
from dinobench.results import records
from dinobench.suite import task as tasks
from dinobench.suite.file import Compute, read
from dinobench.suite.plan import plan
from dinobench.suite.task import AGAIN, BUSY, DONE, FAILED, REFUSED, read_task, run_task, write_tasks
from dinobench.suite.work import failures
from dinobench.suite.work.failures import Kind
from dinobench.types import ComputeOptions


@pytest.fixture(autouse=True)
def plugged_in(tmp_path, monkeypatch):
    plug_in(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(tasks, "WAIT", 0.01)


def run(suite, heard=None):
    """The codes of a suite's tasks."""
    kept = Kept()
    return [run_task(path, "cpu", told=heard or Heard(), kept=kept) for path in write_tasks(plan(suite))]


def failed(suite):
    return {f.cell["settings"]["how"]: f for p in (suite.out / "failed").glob("*.json") if (f := failures.read(p))}


def test_every_cell_has_its_record_and_its_rows(tmp_path):
    suite, heard = quick(tmp_path, "out"), Heard()
    assert run(suite, heard) == [DONE] * 3
    found = outcome(suite.out)
    assert len(found) == 1 + 12 and found["leaderboard"].count("\n") == 1 + 9 * 4 + 3
    assert heard.kinds() == ["begun", "done"] * 12
    assert not (suite.out / "failed").exists() and not [*suite.out.glob("suites/quick/running/*.json")]
    heard = Heard()
    assert run(suite, heard) == [] and not heard.events  # nothing is left to do
    again = [run_task(path, "cpu", told=heard) for path in (suite.out / "suites/quick/tasks").iterdir()]
    assert (
        again == [DONE] * 3 and heard.kinds() == ["begun", "done"] * 12
    )  # whoever runs a task again finds its records
    assert outcome(suite.out) == found


def test_faults_are_tried_again_and_bad_input_is_not(tmp_path):
    suite, heard = unsound(tmp_path, "input", "fault", "once", "not"), Heard()
    assert run(suite, heard) == [FAILED]
    assert marks(tmp_path) == ["fault-0-None", "fault-1-None", "fault-2-None", "input-0-None", "not-0-None",
                               "once-0-None", "once-1-None"]  # fmt: skip
    left = failed(suite)
    assert {how: (f.kind, f.attempts) for how, f in left.items()} == {
        "input": (Kind.INPUT, 1), "fault": (Kind.FAULT, 3)
    }  # fmt: skip
    assert left["input"].message == "image 7 is broken: mend it"
    assert "ZeroDivisionError: as asked for" in left["fault"].message
    assert any("Traceback" in line for line in left["fault"].lines)
    assert len([*(suite.out / "runs").iterdir()]) == 2
    told = [(e["kind"], e["again"]) for e in heard.events if e["event"] == "failed"]
    assert sorted(told) == [("fault", False), ("fault", True), ("fault", True), ("fault", True), ("input", False)]


def test_input_alone_at_fault_is_told_by_the_code(tmp_path):
    assert run(unsound(tmp_path, "input", "not")) == [REFUSED]


def test_without_memory_it_is_tried_once_more_with_smaller_batches(tmp_path):
    suite = unsound(tmp_path, "memory", "halved")
    assert run(suite) == [FAILED]
    size = tasks.LESS[0]
    assert marks(tmp_path) == ["halved-0-None", f"halved-1-{size}", "memory-0-None", f"memory-1-{size}"]
    assert {how: f.kind for how, f in failed(suite).items()} == {"memory": Kind.MEMORY}
    assert not failed(suite)["memory"].again(retries=9)


def test_half_the_batch_gives_the_same_record(tmp_path, monkeypatch):
    suite = quick(tmp_path, "out")
    run(suite)
    real = tasks.runner.run

    def too_large(*args, compute, **options):
        if compute.batch_size is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, compute=compute, **options)

    monkeypatch.setattr(tasks.runner, "run", too_large)
    halved = quick(tmp_path, "halved")
    assert run(halved) == [DONE] * 3 and outcome(halved.out) == outcome(suite.out)


def test_a_lost_device_is_left_to_a_fresh_process(tmp_path, monkeypatch):
    def lost(*args, **options):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(tasks.runner, "run", lost)
    suite = unsound(tmp_path, "not", "once")
    assert run(suite) == [AGAIN] and [f.attempts for f in failed(suite).values()] == [1]


def test_a_signal_stops_it_in_order_and_it_goes_on(tmp_path):
    suite, heard = unsound(tmp_path, "long", "not"), Heard("begun", signal.SIGUSR1)
    with signals.handled_by(signals.interrupt):
        assert run(suite, heard) == [128 + signal.SIGUSR1]
    assert {how: (f.kind, f.attempts) for how, f in failed(suite).items()} == {"long": (Kind.STOPPED, 0)}
    assert heard.events[-1]["kind"] == "stopped" and not [*(suite.out / "runs").glob("*.json")]
    assert len(plan(suite).pending) == 2


def test_a_group_is_run_by_one_process_at_a_time(tmp_path):
    suite, codes = quick(tmp_path, "out"), []
    (path, *_) = write_tasks(plan(suite))

    def begun(event):
        if not codes:
            other = threading.Thread(target=lambda: codes.append(run_task(path, "cpu")))
            other.start()
            other.join()

    assert run_task(path, "cpu", told=begun) == DONE and codes == [BUSY]


def test_what_a_model_lacks_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.runner, "run", lambda *args, **options: [])
    suite, heard = unsound(tmp_path, "not"), Heard()
    assert run(suite, heard) == [DONE] and heard.kinds() == ["begun", "not applicable"]
    assert [str(c.state) for c in plan(suite).cells] == ["not applicable"]


def test_paths_mean_what_they_meant_where_they_were_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = quick(tmp_path, "out")
    (tmp_path / "elsewhere").mkdir()
    (path, *_) = write_tasks(plan(suite))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_task(path, "cpu") == DONE
    assert read_task(path).folder == str(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{}]}', "[" * 100_000])
def test_what_is_no_task_is_one_line(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match=r"t\.json: not a task"):
        read_task(tmp_path / "t.json")


def test_models_are_read_and_cells_computed_as_the_file_says(tmp_path, monkeypatch):
    network, seen = vit(width=64, depth=1, patch=8, image=16), []
    save({"student": network, "teacher": shifted(network)}, tmp_path / "x.pth")
    text = """
    models.student = { path = "x.pth", key = "student", pool = "mean" }
    models.teacher = { path = "x.pth", key = "teacher" }
    compute = { precision = "bf16", batch_size = 50, workers = 1, no_cache = true }
    [[run]]
    protocol = "knn"
    set = { resize = 16, crop = 16, k = 5 }
    limit = 100
    """
    (tmp_path / "s.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    real = tasks.runner.run

    def watched(*args, compute, **options):
        seen.append(compute)
        return real(*args, compute=compute, **options)

    monkeypatch.setattr(tasks.runner, "run", watched)
    suite = read("s.toml")
    assert run(suite) == [DONE] * 2
    assert seen == [ComputeOptions(device="cpu", precision="bf16", batch_size=50, workers=1, cache=False)] * 2
    found = plan(suite)
    assert [c.state.value for c in found.cells] == ["done"] * 2
    made = [records.read(suite.out, *cell.run_ids) for cell in found.cells]
    assert [(r.checkpoint.key, r.checkpoint.pool, r.precision) for r in made] == [
        ("student", "mean", "bf16"), ("teacher", None, "bf16"),
    ]  # fmt: skip


def test_half_of_what_the_file_asks_for_is_tried_without_memory(tmp_path):
    suite = unsound(tmp_path, "memory")
    suite = dataclasses.replace(
        suite, runs=tuple(dataclasses.replace(r, compute=Compute(batch_size=6)) for r in suite.runs)
    )
    assert run(suite) == [FAILED] and marks(tmp_path) == ["memory-0-6", "memory-1-3"]


def test_broken_images_are_left_out_where_the_file_says_so(tmp_path, monkeypatch):
    for i, name in enumerate(f"{split}/{c}/{n}.png" for split in ("train", "val") for c in "ab" for n in range(3)):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (9 * i, 0, 0)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "val" / "a" / "0.png").write_bytes(b"broken")
    text = '[models]\nm = "pixels:2"\n[[run]]\nprotocol = "knn"\ndata = "photos"\nset = { k = 1 }\n'
    (tmp_path / "s.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert run(read("s.toml")) == [REFUSED]
    (tmp_path / "s.toml").write_text(text + "compute = { skip_broken = true }\n")
    suite = read("s.toml")
    assert run(suite) == [DONE]
    assert [c.state.value for c in plan(suite).cells] == ["done"]
    (record,) = records.read_all(suite.out)[0]
    assert record.broken_images == 1


def test_a_task_of_before_is_read(tmp_path):
    (path, *_) = write_tasks(plan(unsound(tmp_path, "not")))
    held = json.loads(path.read_text())
    before = {**held, "cells": [{k: v for k, v in c.items() if k not in ("loading", "compute")} for c in held["cells"]]}
    found = read_task(path)
    path.write_text(json.dumps(before))
    assert read_task(path) == found


def test_a_folder_that_cannot_be_written_is_told_first(tmp_path):
    suite = unsound(tmp_path, "not")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        write_tasks(plan(suite))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX")
def test_killed_at_random_moments_no_record_differs_and_none_is_lost(tmp_path):
    whole, torn, rng = quick(tmp_path, "whole"), quick(tmp_path, "torn"), random.Random(0)
    run(whole)
    kills, within = 0, 1.0
    while kills < 20:
        if killed_tasks(torn, rng, within):
            kills += 1
        else:  # all was done before: anew, in less time
            shutil.rmtree(torn.out)
            within /= 2
    run(torn)
    assert outcome(torn.out) == outcome(whole.out)
    assert json.dumps(plan(torn).count()) == '{"done": 12}'
