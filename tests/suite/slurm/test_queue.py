"""What is told of the queue, from what squeue prints: `squeue` here is a script that prints it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dinobench.errors import UserError
from dinobench.suite.slurm import queue
from dinobench.suite.slurm.queue import Job


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a command print a text and exit with a code."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(command: str, text: str, code: int = 0) -> None:
        stream = ">&2" if code else ""
        (folder / command).write_text(f"#!/bin/sh\ncat {stream} <<'END'\n{text}\nEND\nexit {code}\n")
        (folder / command).chmod(0o755)

    return make


def submitted(root: Path, *tasks: tuple[str, ...]) -> queue.Submission:
    made = queue.new(root, "a suite", [(f"group{i}", cells) for i, cells in enumerate(tasks)])
    made.write()
    return made


def test_a_suite_that_was_never_submitted_has_nothing_in_the_queue(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert queue.queued(tmp_path) == {} and list(queue.submissions(tmp_path)) == []


def test_cells_are_found_by_the_name_of_their_job_and_the_number_of_their_task(tmp_path, says):
    first, second = submitted(tmp_path, ("a", "b"), ("c",), ("d",)), submitted(tmp_path, ("e",))
    assert first.name.startswith("a-suite-") and first.name != second.name
    says(
        "squeue",
        f"12|0|{first.name}|RUNNING|n1\n12|2|{first.name}|PENDING|(Resources)\n7|N/A|{second.name}|PENDING|(Prio|rity)\n"
        f"9|0|another|RUNNING|n2\n12|99|{first.name}|PENDING|(None)",
    )
    assert queue.queued(tmp_path) == {
        "a": Job("12_0", "RUNNING", "n1"), "b": Job("12_0", "RUNNING", "n1"), "d": Job("12_2", "PENDING", "Resources"),
        "e": Job("7", "PENDING", "Prio|rity"),
    }  # fmt: skip


def test_where_slurm_does_not_answer_nothing_is_taken_for_missing(tmp_path, says, monkeypatch):
    submitted(tmp_path, ("a",))
    says("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1)
    with pytest.raises(UserError, match=r"^squeue: slurm_load_jobs error: Unable to contact .*failure\)$"):
        queue.queued(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^squeue: no such command here"):
        queue.queued(tmp_path)


def test_damaged_files_of_submissions_are_none(tmp_path):
    made = submitted(tmp_path, ("a",))
    for text in ("", "[]", '{"name": "x"}', '{"name": "x", "tasks": [3]}', "[" * 100_000):
        made.file.write_text(text)
        assert list(queue.submissions(tmp_path)) == []


def test_jobs_without_a_log_are_told_from_those_that_ran(tmp_path):
    made, single = submitted(tmp_path, ("a", "b"), ("c",)), submitted(tmp_path, ("d",))
    (made.folder / "12_0_0_log.out").write_text("")
    assert queue.never_began(tmp_path, ["a", "b"], {}) == []
    assert queue.never_began(tmp_path, ["a", "c"], {}) == [made]
    assert queue.never_began(tmp_path, ["c"], {"c": Job("12_1", "PENDING", "")}) == []
    assert queue.never_began(tmp_path, ["d", "unknown"], {}) == [single]
    (single.folder / "13_0_log.out").write_text("")
    assert queue.never_began(tmp_path, ["d"], {}) == [] and single.log(0) == single.folder / "13_0_log.out"
