from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.folders import grow
from helpers.mutations import bytes_mutated

from dinobench.data import load_dataset
from dinobench.errors import UserError
from dinobench.types import TrainingImages


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))


def pack(archive: Path, root: Path, **how: object) -> Path:
    with tarfile.open(archive, "w", **how) as tar:
        tar.add(root, arcname=".")
    return archive


def images(path: Path) -> TrainingImages:
    found = load_dataset(str(path), "images")
    assert isinstance(found, TrainingImages) and found.digests is not None and found.classes == ()
    return found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_of_an_archive_are_those_of_the_folder(tmp_path, form):
    deep = "a" * 90 + "/" + "b" * 60  # too long for the oldest header alone
    root = grow(tmp_path / "set", "a/1.png", "a/2.jpg", f"{deep}/é.png", "a/1.cls", "a/._1.png")
    found = images(pack(tmp_path / "set.tar", root, format=form))
    assert {i.removeprefix("set.tar/") for i in found.train.ids} == {"a/1.png", "a/2.jpg", f"{deep}/é.png"}
    for row, name in enumerate(found.train.ids):
        file = root / name.removeprefix("set.tar/")
        assert found.digests[row].tobytes() == hashlib.sha256(file.read_bytes()).digest()
        assert found.train.load(row).size == (4, 3)
    assert found.notes == ("left out for their ending: 1 file (1 .cls), such as set.tar/a/1.cls",)
    again = pickle.loads(pickle.dumps(found.train))  # as it goes to other processes
    assert np.array_equal(np.asarray(again.load(0)), np.asarray(found.train.load(0)))


def test_shards_in_the_order_of_their_names(tmp_path):
    (tmp_path / "shards").mkdir()
    for shard in "ba":
        pack(tmp_path / "shards" / f"{shard}.tar", grow(tmp_path / shard, f"{shard}.png"))
    found = images(tmp_path / "shards")
    assert found.train.ids == ("a.tar/a.png", "b.tar/b.png") and found.layout == "tar (2 archives)"


def test_hashes_are_remembered_by_the_archive(tmp_path):
    archive = pack(tmp_path / "set.tar", grow(tmp_path / "set", "1.png", "2.png"))
    os.utime(archive, (1, 1))
    first, again = images(archive), images(archive)
    assert first.train.fingerprint == again.train.fingerprint
    pack(archive, grow(tmp_path / "other", "2.png", "1.png"))
    assert images(archive).train.fingerprint != first.train.fingerprint


def compressed(path: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(path.read_bytes()))


def doubled(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("./1.png"), io.BytesIO())


FAULTS = {
    "compressed": (compressed, "no tar archive that can be read"),
    "cut": (lambda p: os.truncate(p, 700), "copy it again|no tar archive"),
    "text": (lambda p: p.write_text("hello " * 200), "no tar archive"),
    "twice": (doubled, r"two files called \./1\.png"),
    "empty": (lambda p: tarfile.open(p, "w").close(), "hold no images"),
    "pipe": (lambda p: (p.unlink(), os.mkfifo(p)), "an archive; unpack it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(tmp_path, fault):
    archive = pack(tmp_path / "set.tar", grow(tmp_path / "set", "1.png"))
    spoil, words = FAULTS[fault]
    spoil(archive)
    with pytest.raises(UserError, match=words) as error:
        load_dataset(str(archive), "images")
    assert "set.tar" in str(error.value) and "\n" not in str(error.value)


def test_mutated_archives_are_read_or_refused(tmp_path):
    whole = pack(tmp_path / "set.tar", grow(tmp_path / "set", *(f"{i}.png" for i in range(4)))).read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        (tmp_path / "set.tar").write_bytes(bytes_mutated(whole, rng))
        try:
            found = images(tmp_path / "set.tar")
        except UserError as error:
            assert "set.tar" in str(error) and "\n" not in str(error)
            continue
        assert len(found.train) <= 8
