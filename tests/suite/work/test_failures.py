"""What an exception says of another try, and what is kept of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dinobench.errors import BrokenImage, PluginFault, UserError
from dinobench.signals import Interrupted
from dinobench.suite.work import failures
from dinobench.suite.work.failures import Failure, Kind, kind_of, last_lines, lost_device


def caused(by):
    try:
        raise PluginFault("a plug-in failed") from by
    except PluginFault as error:
        return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("x"), Kind.INPUT), (BrokenImage("x"), Kind.INPUT), (Interrupted(15), Kind.STOPPED),
        (KeyboardInterrupt(), Kind.STOPPED), (MemoryError(), Kind.MEMORY), (caused(MemoryError()), Kind.MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Kind.MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), Kind.MEMORY),
        (RuntimeError("CUDA error: device-side assert triggered"), Kind.FAULT), (OSError(5, "I/O"), Kind.FAULT),
        (caused(ValueError("x")), Kind.FAULT), (ValueError("out of memory lane"), Kind.FAULT),
    ],
)  # fmt: skip
def test_kinds(error, kind):
    assert kind_of(error) is kind
    assert lost_device(error) == ("device-side" in str(error))


@pytest.mark.parametrize(("kind", "attempts", "again"), [
    (Kind.FAULT, 1, True), (Kind.FAULT, 2, True), (Kind.FAULT, 3, False), (Kind.INPUT, 1, False),
    (Kind.MEMORY, 1, False), (Kind.STOPPED, 9, True), (Kind.LACKS, 0, False),
])  # fmt: skip
def test_what_is_tried_again(kind, attempts, again):
    assert Failure({}, kind, "", (), attempts, "", "").again(retries=2) is again


@given(st.text(), st.lists(st.text(max_size=30), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, message, lines):
    failed = Failure({"key": "k", "tests": ["a"]}, Kind.FAULT, message, tuple(lines), 2, "host", "2024-01-01")
    path = tmp_path_factory.getbasetemp() / "failed" / "k.json"
    failures.write(path, failed)
    found = failures.read(path)
    if not any("\ud800" <= c <= "\udfff" for c in "".join([message, *lines])):
        assert found == failed
    failures.forget(path)
    failures.forget(path)
    assert failures.read(path) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "odd"}', "[" * 99_999, '{"kind": "fault", "attempts": "x"}']
)
def test_what_is_no_failure_is_none(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert failures.read(tmp_path / "x.json") is None


def test_a_failure_with_little_in_it_is_one(tmp_path):
    (tmp_path / "x.json").write_text('{"kind": "memory", "lines": ["a", "b"]}')
    found = failures.read(tmp_path / "x.json")
    assert found == Failure({}, Kind.MEMORY, "b", ("a", "b"), 1, "", "")


def test_the_last_lines_of_a_long_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {i} {'x' * 5000 * (i == 99_990)}\n" for i in range(100_000)))
    lines = last_lines(log)
    assert lines[-1] == "line 99999 " and len(lines) == failures.LINES
    assert max(map(len, lines)) <= failures.WIDTH
    assert last_lines(tmp_path / "none") == []


def test_now_and_here(tmp_path):
    failed = failures.failure({"key": "k"}, Kind.FAULT, "why", tmp_path / "none", 1)
    assert failed.host and failed.at.endswith("+00:00") and dataclasses.asdict(failed)["cell"] == {"key": "k"}
