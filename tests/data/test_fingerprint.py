"""Fingerprints follow contents, and the memory of file hashes never serves an old one."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinobench import files
from dinobench.data import fingerprint, load_dataset
from dinobench.files import cache_root
from dinobench.types import ImageClassification

NAMES = [f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "ab" for i in range(4)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SETTLED_NS", -1)  # trust files that were written this very moment


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / "set" / name)
    return tmp_path / "set"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose bytes are read for hashing."""
    paths: list[str] = []
    original = fingerprint._hash

    def noted(path: str) -> Any:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(fingerprint, "_hash", noted)
    return paths


def load(root: Path) -> ImageClassification:
    dataset = load_dataset(str(root))
    assert isinstance(dataset, ImageClassification)
    return dataset


def test_digests_are_sha256_of_the_bytes_in_order(root: Path) -> None:
    digests = fingerprint.hash_files(root, NAMES, root)
    assert [d.tobytes() for d in digests] == [hashlib.sha256((root / n).read_bytes()).digest() for n in NAMES]
    train = load(root).train
    total = hashlib.sha256()
    for name in NAMES[:8]:
        total.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
    assert train.fingerprint == total.hexdigest()


def test_follows_contents_and_names_but_neither_times_nor_place(root: Path, tmp_path: Path) -> None:
    before = load(root)
    os.utime(root / NAMES[0], (1, 1))
    assert load(root).fingerprint == before.fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert load(moved).fingerprint == before.fingerprint

    (moved / NAMES[0]).write_bytes((root / NAMES[0]).read_bytes() + b"\0")
    changed = load(moved)
    assert changed.train.fingerprint != before.train.fingerprint and changed.fingerprint != before.fingerprint
    assert changed.test.fingerprint == before.test.fingerprint
    (root / NAMES[0]).rename((root / NAMES[0]).with_name("0x.png"))
    assert load(root).train.fingerprint != before.train.fingerprint


def test_labels_and_classes_count_for_the_data_set_only(root: Path) -> None:
    listed = root / "list.csv"
    seen = []
    for labels in ("ab", "ba", "ac"):
        rows = [f"{name},{labels[name.split('/')[1] == 'b']}" for name in NAMES]
        listed.write_text("path,label\n" + "\n".join(rows))
        seen.append(load(listed))
    assert len({d.train.fingerprint for d in seen}) == 1 and len({d.fingerprint for d in seen}) == 3


def test_second_look_reads_no_file(root: Path, hashed: list[str]) -> None:
    first = load(root)
    assert len(hashed) == len(NAMES)
    assert load(root).fingerprint == first.fingerprint
    assert len(hashed) == len(NAMES)


@pytest.mark.parametrize("keep_mtime", [False, True])
def test_new_contents_of_the_same_size_are_seen(root: Path, hashed: list[str], keep_mtime: bool) -> None:
    first, path = load(root), root / NAMES[3]
    data, stat = bytearray(path.read_bytes()), path.stat()
    data[-20] ^= 1
    path.write_bytes(data)
    if keep_mtime:  # the ctime gives it away
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    hashed.clear()
    second = load(root)
    assert second.fingerprint != first.fingerprint and hashed == [str(path)]
    assert second.train.fingerprint == fingerprint.of_files(NAMES[:8], _fresh(root)[:8])


def _fresh(root: Path) -> np.ndarray:
    return np.stack([np.frombuffer(hashlib.sha256((root / n).read_bytes()).digest(), np.uint8) for n in NAMES])


def test_a_swapped_pair_is_seen(root: Path) -> None:
    first, (a, b) = load(root), (root / NAMES[0], root / NAMES[1])
    a.rename(root / "x"), b.rename(a), (root / "x").rename(b)
    assert load(root).train.fingerprint == fingerprint.of_files(NAMES[:8], _fresh(root)[:8])
    assert load(root).fingerprint != first.fingerprint


def test_files_that_just_changed_are_not_trusted(
    root: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 3_600_000_000_000)
    load(root), load(root)
    assert len(hashed) == 2 * len(NAMES)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped", "empty", "foreign"])
def test_a_damaged_memory_is_ignored_and_replaced(root: Path, hashed: list[str], damage: str) -> None:
    first = load(root)
    (stored,) = (cache_root() / "hashes").iterdir()
    data = bytearray(stored.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    if damage == "foreign":
        np.savez(stored, names=np.zeros(3, np.uint8), stats=np.zeros((1, 4)), digests=np.zeros((2, 32)))
    else:
        stored.write_bytes(
            {"garbage": b"x" * 99, "truncated": bytes(data[:200]), "empty": b""}.get(damage, bytes(data))
        )
    hashed.clear()
    assert load(root).fingerprint == first.fingerprint and len(hashed) == len(NAMES)
    hashed.clear()
    assert load(root).fingerprint == first.fingerprint and not hashed


def test_without_a_place_to_write(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)
    (tmp_path / "file").touch()
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "file"))
    assert load(root).fingerprint == first.fingerprint


def test_what_was_hashed_before_an_interrupt_is_kept(
    root: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(iterable: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        assert total == len(NAMES)
        for i, item in enumerate(iterable):
            if description == "hashing files" and i == 5:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(fingerprint, "CHUNK", 1)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(str(root), progress=interrupted)
    hashed.clear()
    load(root)
    assert hashed == [os.path.join(root, name) for name in NAMES[5:]]


KILLED = """
    import os, sys
    from pathlib import Path
    from dinobench import files
    from dinobench.data import fingerprint

    files.SETTLED_NS, fingerprint.CHUNK, fingerprint.KEEP_SECONDS, fingerprint.THREADS = -1, 1, 0.0, 1
    original, hashed = fingerprint._hash, []

    def noted(path):
        hashed.append(path)
        if len(hashed) > 12:
            os.kill(os.getpid(), 9)
        return original(path)

    fingerprint._hash = noted
    fingerprint.hash_files(Path(sys.argv[1]), sys.argv[2:], Path(sys.argv[1]))
"""


def test_a_killed_run_loses_what_it_was_at(root: Path, hashed: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(root), *NAMES])
    assert done.returncode == -signal.SIGKILL
    parts = list((cache_root() / "hashes").glob("*.npz"))
    assert parts
    fresh = fingerprint.hash_files(root, NAMES, root)
    assert len(hashed) == len(NAMES) - len(parts) and hashed == [str(root / n) for n in NAMES[len(parts) :]]
    assert (fresh == _fresh(root)).all()
    (whole,) = (cache_root() / "hashes").glob("*.npz")
    assert whole not in parts
    hashed.clear()
    assert (fingerprint.hash_files(root, NAMES, root) == fresh).all() and not hashed


def test_no_more_tasks_wait_than_are_soon_begun(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million paths and futures would be a gigabyte."""
    monkeypatch.setattr(fingerprint, "CHUNK", 1)
    monkeypatch.setattr(fingerprint, "THREADS", 1)
    taken: list[int] = []
    found = fingerprint._mapped(str, lambda row: taken.append(row) or str(row), range(100_000))
    assert next(found).results == ["0"]
    time.sleep(0.05)
    assert len(taken) <= 6
    found.close()


def test_progress_sees_every_file_once(root: Path) -> None:
    seen: list[tuple[str, int, int, str]] = []

    def progress(iterable: Iterable[Any], description: str, total: int) -> list[Any]:
        items = list(iterable)
        seen.append((description, sum(item.n for item in items), total, items[-1].says))
        return items

    load_dataset(str(root), progress=progress)
    size = f"{sum((root / name).stat().st_size for name in NAMES) / 1e6:.1f} MB"
    assert seen == [("checking files", 16, 16, ""), ("hashing files", 16, 16, f"{size} of {size}")]


def test_unreadable_files_are_left_for_the_loader_to_count(root: Path, hashed: list[str]) -> None:
    (root / NAMES[0]).unlink()
    digests = fingerprint.hash_files(root, NAMES, root)
    assert not digests[0].any() and digests[1:].any(axis=1).all()
    assert str(root / NAMES[0]) not in hashed


def test_pipes_devices_and_endless_links_are_not_read(root: Path, hashed: list[str]) -> None:
    """Whoever loads them finds that they are no images; hashing them would wait, or go on, for ever."""
    for name, make in zip(
        NAMES, (os.mkfifo, lambda p: p.symlink_to(p.name), lambda p: p.symlink_to("/dev/zero")), strict=False
    ):
        (root / name).unlink()
        make(root / name)
    digests = fingerprint.hash_files(root, NAMES, root)
    assert not digests[:3].any() and digests[3:].any(axis=1).all()
    assert len(hashed) == len(NAMES) - 3
    assert fingerprint._hash(str(root / NAMES[0]))[1:] == (bytes(32), False)  # should it become one after the look


def test_racing_writers_do_no_harm(root: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: load(root).fingerprint, range(12)))
    assert len(found) == 1
    assert [path.suffix for path in (cache_root() / "hashes").iterdir()] == [".npz"]


def test_arrays_by_content_type_and_shape() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    ids = ("x/0", "x/1")
    others = [array + 1, array.reshape(2, 4, 3), array.astype(np.int8)]
    assert len({fingerprint.of_array(ids, a) for a in (array, *others)}) == 4
    assert fingerprint.of_array(ids, np.asfortranarray(array)) == fingerprint.of_array(ids, array)
    assert fingerprint.of_array(("x/0", "x/2"), array) != fingerprint.of_array(ids, array)


def test_cache_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("DINOBENCH_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "dinobench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_root() == tmp_path / ".cache" / "dinobench"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_root() == tmp_path / "Library" / "Caches" / "dinobench"
