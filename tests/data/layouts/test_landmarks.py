from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from helpers.landmarks import oxford

from dinobench.data.layouts import landmarks
from dinobench.errors import UserError


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_of_every_protocol(tmp_path, protocol):
    data = landmarks.load(oxford(tmp_path, protocol=protocol), "ox")
    assert data.truth[0]["easy"].tolist() == [0, 1] and data.truth[1]["junk"].shape == (0,)
    assert data.boxes[1].tolist() == [0, 0, 40, 60]


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/dinobench-was-here",)


def test_pickles_run_no_code(tmp_path):
    folder = oxford(tmp_path, imlist=[Evil()])
    with pytest.raises(UserError, match=r"gnd_roxford5k.pkl: the pickle asks for (posix|nt).system"):
        landmarks.load(folder, "ox")
    assert not Path("/tmp/dinobench-was-here").exists()
    for payload in (b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n.", b"c__builtin__\ngetattr\n."):
        (folder / "gnd_roxford5k.pkl").write_bytes(payload)
        with pytest.raises(UserError, match="not data; refused"):
            landmarks.load(folder, "ox")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gnd": [{"ok": [1], "good": []}] * 2}, "lacks easy, hard or junk"),
        ({"gnd": []}, "2 queries but 0 entries"),
        ({"imlist": ["gone"]}, r"names gone, but there is no .*jpg.gone.jpg"),
        ({"gnd": [{"easy": [6], "hard": [], "junk": []}] * 2}, "points at image 6 of 6"),
        ({"gnd": [{"bbx": [9, 9, 3, 3], "easy": [1], "hard": [], "junk": []}] * 2}, "is not left, top, right, bottom"),
    ],
)
def test_ground_truths_that_do_not_fit(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        landmarks.load(oxford(tmp_path, **changes), "ox")


def test_damaged_pickle(tmp_path):
    folder = oxford(tmp_path)
    file = folder / "gnd_roxford5k.pkl"
    for content in (file.read_bytes()[:50], b"", b"hello", pickle.dumps([1, 2])):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"gnd_roxford5k\.pkl: not a"):
            landmarks.load(folder, "ox")
