"""What lies where in archives, in archives within them, and what is remembered of it."""

from __future__ import annotations

import os
import tarfile

import pytest
from helpers.labelled import pack

from dinobench.data.tar_index import members
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")
FILES = (("a.png", b"one"), ("b/c.cls", b"two"), ("empty", b""))


@pytest.fixture
def archive(tmp_path):
    return pack(tmp_path / "x.tar", *FILES)


def contents(archive, inner=None):
    whole = archive.read_bytes()
    return [(name, whole[at : at + size]) for name, (file, at, size) in members(archive, inner=inner)]


def test_members_and_their_places(archive):
    assert contents(archive) == list(FILES)


def test_an_archive_within_an_archive(archive, tmp_path):
    outer = pack(tmp_path / "outer.tar", ("pad", b"x" * 700), ("x.tar", archive.read_bytes()))
    (_, place) = list(members(outer))[1]
    assert contents(outer, place) == list(FILES)
    with pytest.raises(UserError, match=r"outer\.tar: .*ends within|outer\.tar: no tar archive"):
        list(members(outer, inner=(place[0], place[1], 700)))


def test_links_are_named(archive):
    with tarfile.open(archive, "a") as tar:
        for name, kind in (("link", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    odd: list[str] = []
    assert len(list(members(archive, odd))) == 3 and odd == ["link", "pipe"]


def test_what_was_found_is_remembered_until_the_archive_changes(archive, monkeypatch):
    linked, again = [], []
    with tarfile.open(archive, "a") as tar:
        info = tarfile.TarInfo("link")
        info.type = tarfile.SYMTYPE
        tar.addfile(info)
    monkeypatch.setattr("dinobench.data.tar_index.settled", lambda found: True)
    first = list(members(archive, linked))
    assert next(members(archive)) == first[0], "a look at the first alone"
    with monkeypatch.context() as without:
        without.setattr(tarfile, "open", None)
        assert list(members(archive, again)) == first and again == linked == ["link"]
    pack(archive, ("other", b"1"))
    os.utime(archive, (9, 9))
    assert contents(archive) == [("other", b"1")]


def test_large_archives_and_damaged_memories_are_read_again(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("dinobench.data.tar_index.settled", lambda found: True)
    monkeypatch.setattr("dinobench.data.tar_index.REMEMBERED", 2)
    assert len(list(members(archive))) == 3 and not (tmp_path / "cache" / "archives").exists()
    monkeypatch.setattr("dinobench.data.tar_index.REMEMBERED", 3)
    list(members(archive))
    (kept,) = (tmp_path / "cache" / "archives").iterdir()
    for text in ("", "{}", "[1]", '[["a"], [], [], []]'):
        kept.write_text(text)
        assert contents(archive) == list(FILES)
