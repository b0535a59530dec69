from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.fakes import FakeBackbone, FakeSplit
from helpers.kills import killed_at_every_step
from helpers.requests import CLS, Stop, expected, stop_after

from dinobench.errors import UserError
from dinobench.features.cache import Entry, listing, prune
from dinobench.features.service import FeatureService


def finished(service, split) -> Entry:
    service().get(FakeBackbone(), split, CLS)
    return service().entry(FakeBackbone(), split, CLS)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 0xFF
    path.write_bytes(data)


DAMAGE = {
    "array truncated": lambda f: truncate(f / "cls.npy"),
    "array flipped": lambda f: flip(f / "cls.npy"),
    "array empty": lambda f: (f / "cls.npy").write_bytes(b""),
    "array gone": lambda f: (f / "cls.npy").unlink(),
    "array of another shape": lambda f: np.save(f / "cls.npy", np.zeros((3, 1, 3), np.float32)),
    "state truncated": lambda f: truncate(f / "state.npy"),
    "state flipped": lambda f: flip(f / "state.npy"),
    "state gone": lambda f: (f / "state.npy").unlink(),
    "sums broken": lambda f: (f / "complete.json").write_text('{"sha256": {"cls"'),
    "sums of nothing": lambda f: (f / "complete.json").write_text('{"sha256": {}}'),
    "sums no object": lambda f: (f / "complete.json").write_text("[]"),
    "never finished": lambda f: (f / "complete.json").unlink(),
    "state truncated, never finished": lambda f: (truncate(f / "state.npy"), (f / "complete.json").unlink()),
    "array truncated, never finished": lambda f: (truncate(f / "cls.npy"), (f / "complete.json").unlink()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_never_served(service, damage):
    split = FakeSplit(10)
    entry = finished(service, split)
    DAMAGE[damage](entry.folder)
    assert not entry.complete()
    found = service().get(FakeBackbone(), split, CLS)
    np.testing.assert_allclose(found.cls[:, 0], expected(split), atol=1e-5)
    assert entry.complete()


def test_a_cache_that_cannot_be_written_is_one_clear_line(cpu, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the feature cache: .*DINOBENCH_CACHE.*--no-cache"):
        FeatureService(cpu, tmp_path / "file" / "x").get(FakeBackbone(), FakeSplit(3), CLS)


def test_a_full_disk_is_told_before_the_work_begins(service, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    backbone = FakeBackbone()
    with pytest.raises(UserError, match="No space left on device; free some space"):
        service().get(backbone, FakeSplit(3), CLS)
    assert backbone.images == 0


def test_a_file_system_that_cannot_reserve_space_is_no_fault(service, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    assert len(service().get(FakeBackbone(), FakeSplit(3), CLS).kept) == 3


def test_listing_and_pruning(service, tmp_path):
    root = service().root
    assert listing(root) == [] and prune(root) == (0, 0)
    service().get(FakeBackbone(name="one"), FakeSplit(10), CLS)
    with pytest.raises(Stop):
        service().get(FakeBackbone(stop_after(0), name="two", weights_digest="2"), FakeSplit(10), CLS)
    (root / "ab" / "not-an-entry").mkdir(parents=True)
    found = {e.label["model"]: e for e in listing(root)}
    assert found["one"].complete and not found["two"].complete
    assert found["one"].label["images"] == "test" and found["one"].bytes > 10 * 3 * 4
    assert json.loads((found["one"].folder / "entry.json").read_text())["identity"]["count"] == 10
    assert prune(root, older_than=time.time() - 3600) == (0, 0)
    assert prune(root)[0] == 2 and listing(root) == []


def test_pruning_leaves_an_entry_that_is_being_filled(service):
    entry = finished(service, FakeSplit(10))
    from dinobench.features.cache import locked

    with locked([entry]):
        code = f"import pathlib, dinobench.features.cache as c; print(c.prune(pathlib.Path({str(entry.root)!r})))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.strip() == "(0, 0)"
    assert entry.complete()


def test_pruning_leaves_an_entry_that_a_run_has_still_to_read(service, tmp_path):
    running = service()
    running.prepare([(FakeBackbone(), FakeSplit(10), CLS)])
    code = f"import pathlib, dinobench.features.cache as c; print(c.prune(pathlib.Path({str(running.root)!r})))"
    beside = [sys.executable, "-c", code]
    assert subprocess.run(beside, capture_output=True, text=True, check=True).stdout.strip() == "(0, 0)"
    np.testing.assert_allclose(running.get(FakeBackbone(), FakeSplit(10), CLS).cls[:, 0], expected(FakeSplit(10)), 1e-4)
    del running
    assert subprocess.run(beside, capture_output=True, text=True, check=True).stdout.startswith("(1, ")
    assert not list((tmp_path / "features").rglob("*.used")) and not list((tmp_path / "features").rglob("*.lock"))


WRONG = 5.0  # what damaged rows hold


def damaged(folder: Path) -> None:
    """A finished entry whose rows were damaged since."""
    array = np.load(folder / "cls.npy", mmap_mode="r+")
    array[3:] = WRONG
    array.flush()


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "damaged"])
def test_killed_while_filling(cpu, tmp_path, before):
    split = FakeSplit(6)

    def fill(folder, backbone=None):
        return FeatureService(cpu, folder, batch_size=4, workers=1).get(backbone or FakeBackbone(), split, CLS)

    def prepare(folder):
        if before == "damaged":
            fill(folder)
            damaged(FeatureService(cpu, folder).entry(FakeBackbone(), split, CLS).folder)

    def check(folder, step):
        prune(folder, older_than=0.0)  # nothing is so old
        np.testing.assert_allclose(fill(folder).cls[:, 0], expected(split), atol=1e-5, err_msg=str(step))
        again = FakeBackbone()
        np.testing.assert_allclose(fill(folder, again).cls[:, 0], expected(split), atol=1e-5)
        assert again.images == 0 and len(listing(folder)) == 1
        prune(folder)
        assert not list(folder.glob("*/*")), step

    assert killed_at_every_step(prepare, fill, check, tmp_path / "caches") > 10


@pytest.mark.slow
def test_killed_while_pruning(cpu, tmp_path):
    splits = FakeSplit(6), FakeSplit(5)

    def fill(folder, split, backbone=None):
        return FeatureService(cpu, folder, batch_size=4, workers=1).get(backbone or FakeBackbone(), split, CLS)

    def prepare(folder):
        for split in splits:
            fill(folder, split)

    left = set()

    def check(folder, step):
        whole = [e.complete for e in listing(folder)]
        assert all(whole), step
        left.add(len(whole))
        for split in splits:
            np.testing.assert_allclose(fill(folder, split).cls[:, 0], expected(split), atol=1e-5, err_msg=str(step))
        prune(folder)
        assert not list(folder.glob("*/*")), step

    assert killed_at_every_step(prepare, prune, check, tmp_path / "caches") > 5 and left == {0, 1, 2}
