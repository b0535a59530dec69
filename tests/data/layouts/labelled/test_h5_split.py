"""PatchCamelyon's HDF5 files, against torchvision's class."""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter

import numpy as np
import pytest
from torchvision.datasets import PCAM

from dinobench.data import load_dataset
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")
COUNTS = {"train": 6, "valid": 4, "test": 5}


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="h5py reads PCAM's files; pip install h5py")


@pytest.fixture
def root(tmp_path, h5py):
    (tmp_path / "pcam").mkdir()
    for seed, (split, count) in enumerate(COUNTS.items()):
        start = tmp_path / "pcam" / f"camelyonpatch_level_2_split_{split}"
        with h5py.File(f"{start}_x.h5", "w") as file:
            file["x"] = np.random.default_rng(seed).integers(0, 256, (count, 96, 96, 3), np.uint8)
        with h5py.File(f"{start}_y.h5", "w") as file:
            file["y"] = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
    return tmp_path


def test_images_and_labels_are_the_class_s(root):
    data = load_dataset(f"torchvision:PCAM:{root}")
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("pcam", ("no tumour", "tumour"), 10, 5)
    assert data.val.tolist() == [6, 7, 8, 9] and data.layout == "torchvision PCAM (train, test)"
    for split, parts in ((data.train, ("train", "val")), (data.test, ("test",))):
        wanted = Counter((image.tobytes(), label) for part in parts for image, label in PCAM(str(root), split=part))
        again = pickle.loads(pickle.dumps(split))
        assert Counter((again.load(i).tobytes(), int(c)) for i, c in enumerate(split.labels)) == wanted
    assert len(load_dataset(f"torchvision:PCAM:{root}", "images").digests) == 10
    start = root / "pcam" / "camelyonpatch_level_2_split_test_x.h5"
    content = bytearray(start.read_bytes())
    content[-1] ^= 1
    start.write_bytes(content)
    assert load_dataset(f"torchvision:PCAM:{root}").fingerprint != data.fingerprint


def test_faults_are_one_line(root, h5py):
    def fault(words):
        with pytest.raises(UserError, match=words) as caught:
            load_dataset(f"torchvision:PCAM:{root}")
        assert "\n" not in str(caught.value)

    images, labels = (root / "pcam" / f"camelyonpatch_level_2_split_test_{which}.h5" for which in "xy")
    with h5py.File(labels, "w") as file:
        file["y"] = np.zeros((4, 1, 1, 1), np.uint8)
    fault("split_test_x.h5: no RGB images with a label each")
    with h5py.File(labels, "w") as file:
        file["z"] = np.zeros(4)
    fault("split_test_y.h5: cannot be read")
    images.write_bytes(b"no HDF5")
    labels.unlink()
    fault("split_test_y.h5: cannot be read")
    os.mkfifo(labels)
    fault("split_test_y.h5: cannot be read .a named pipe")


def test_without_h5py_the_remedy_is_told(tmp_path, monkeypatch):
    (tmp_path / "pcam").mkdir()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="PCAM's files are HDF5; pip install h5py"):
        load_dataset(f"torchvision:PCAM:{tmp_path}")
