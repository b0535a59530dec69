from __future__ import annotations

import os
import time

import pytest

from dinobench import files
from dinobench.errors import UserError
from dinobench.files import atomic_folder, atomic_path, check_output, open_regular, writable_folder, write_output


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_only_regular_files_are_opened_and_none_is_waited_for(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    reasons = {"pipe": "a named pipe, not a file", "loop": "symbolic links", "no": "No such", "": "a folder"}
    for name, reason in (*reasons.items(), ("/dev/zero", "a device, not a file")):
        with pytest.raises(OSError, match=reason):
            open_regular(tmp_path / name)


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    before = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda *_, **__: before)
    with pytest.raises(OSError, match="a named pipe, not a file"):
        open_regular(tmp_path / "pipe")


def test_what_cannot_be_written_is_found_before_the_work_and_nothing_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    before = sorted(tmp_path.rglob("*"))
    for name in ("folder", "pipe", "null", "file/below", "n" * 300):
        for write in (check_output, lambda path: write_output(path, b"new")):
            with pytest.raises(UserError, match=r"cannot be written: "):
                write(tmp_path / name)
    for name in ("file", "file/below", "n" * 300):
        with pytest.raises(UserError, match=r"cannot be written: .*; choose another folder"):
            writable_folder(tmp_path / name)
    check_output(tmp_path / "file")
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "old"
    check_output(tmp_path / "new" / "file")
    writable_folder(tmp_path / "new" / "er")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["er"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "[folder]"
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_folder(path) as partial:
            (partial / "half").write_text("")
            raise error
        assert not list(tmp_path.iterdir())
    path.mkdir()
    dead = tmp_path / ".[folder].dead.partial"
    (dead / "deep").mkdir(parents=True)
    other = tmp_path / ".[folder]2.other.partial"
    other.mkdir()
    with pytest.raises(OSError), atomic_folder(path) as partial:
        assert not dead.exists() and other.exists()
        with atomic_folder(path) as second:  # as another process would, which is the first to end
            assert second != partial and partial.is_dir()
            (second / "file").write_text("whole")
    assert sorted(tmp_path.iterdir()) == [other, path] and (path / "file").read_text() == "whole"


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: cannot be written: not a regular file"):
        files.write_output(tmp_path / "pipe", b"x")
    assert not (tmp_path / "pipe").is_file() and len(list(tmp_path.iterdir())) == 1


def test_only_old_temporary_files_are_swept(tmp_path):
    for name, age in ((".a.x.tmp", 7200), (".b.x.tmp", 60), ("c.tmp", 7200), (".d", 7200)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    files.sweep(tmp_path)
    files.sweep(tmp_path / "nowhere")
    assert {p.name for p in tmp_path.iterdir()} == {".b.x.tmp", "c.tmp", ".d"}


@pytest.mark.parametrize("path", ["~\0", "~\0/x"])
def test_a_home_that_no_system_has_is_refused_in_one_line(path):
    with pytest.raises(UserError, match="NUL") as refused:
        files.user_path(path)
    assert "\0" not in str(refused.value)
