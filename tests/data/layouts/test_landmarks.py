from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.landmarks import oxford

from dinobench.data import fingerprint
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
        (
            {"gnd": [{"bbx": [0, 0, 1e9, 3], "easy": [1], "hard": [], "junk": []}] * 2},
            "is not left, top, right, bottom",
        ),
        ({"gnd": [{"bbx": [0, 0, np.nan, 3], "easy": [1], "hard": [], "junk": []}] * 2}, "is not left, top, right"),
        (
            {"gnd": [{"bbx": "abcd", "easy": [1], "hard": [], "junk": []}] * 2},
            "of something else than numbers",
        ),
        ({"gnd": [{"easy": [1.5], "hard": [], "junk": []}] * 2}, "something else than numbers of images"),
        ({"gnd": [{"easy": np.array([np.nan]), "hard": [], "junk": []}] * 2}, "something else than numbers of images"),
        ({"gnd": [{"easy": ["1"], "hard": [], "junk": []}] * 2}, "something else than numbers of images"),
        ({"gnd": [{"easy": [[1]], "hard": [], "junk": []}] * 2}, "something else than numbers of images"),
        ({"gnd": [{"easy": None, "hard": [], "junk": []}] * 2}, "something else than numbers of images"),
        ({"gnd": [{"easy": [-1], "hard": [], "junk": []}] * 2}, "points at image -1 of 6"),
        ({"gnd": {"a": 1, "b": 2}}, "2 queries but no list of entries"),
        ({"imlist": [["x"]]}, "imlist is no list of images' names"),
        ({"imlist": "all_souls_000001"}, "imlist is no list of images' names"),
        ({"qimlist": ["a\nb", "c"]}, "qimlist is no list of images' names"),
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


def test_names_and_indices_in_other_containers(tmp_path):
    before = landmarks.load(oxford(tmp_path / "a"), "ox")
    content = pickle.loads((tmp_path / "a" / "roxford5k" / "gnd_roxford5k.pkl").read_bytes())
    content["imlist"] = np.array(content["imlist"])
    for entry in content["gnd"]:
        entry |= {label: np.array(entry[label], np.float32) for label in ("easy", "hard", "junk")}
        entry["easy"] = tuple(entry["easy"].tolist())
    assert landmarks.load(oxford(tmp_path / "b", **content), "ox").fingerprint == before.fingerprint


def test_an_image_with_two_files_is_asked_about(tmp_path):
    folder = oxford(tmp_path)
    (folder / "jpg" / "all_souls_000003.png").write_bytes((folder / "jpg" / "all_souls_000003.jpg").read_bytes())
    with pytest.raises(
        UserError, match=r"names all_souls_000003, which may be jpg/all_souls_000003.jpg or jpg/all_.*png"
    ):
        landmarks.load(folder, "ox")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bbx", [None, [], np.array([])])
def test_a_query_without_a_box(tmp_path, bbx):
    """Its place in the fingerprint is a number that we chose, not what the processor makes of NaN."""
    entries = [{"bbx": b, "easy": [0], "hard": [], "junk": []} for b in (bbx, [1, 2, 30.5, 40])]
    data = landmarks.load(oxford(tmp_path, gnd=entries), "ox")
    assert np.isnan(data.boxes[0]).all()
    boxes = np.array([[-(2**63)] * 4, [1000, 2000, 30500, 40000]])
    parts = [(data.database.fingerprint, np.empty(0)), (data.queries.fingerprint, boxes)]
    parts += [("", np.array(entry[label], np.int64)) for entry in entries for label in landmarks.LABELS]
    assert data.fingerprint == fingerprint.of_dataset(["2 queries"], parts)
