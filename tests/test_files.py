from __future__ import annotations

import os

import pytest

from dinobench.files import atomic_path, open_regular


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
