"""What `save_to_disk` writes: images read from their places in the Arrow files, and what is wrong in them."""

from __future__ import annotations

import json
import os
import pickle
import random
from contextlib import suppress

import pyarrow as pa
import pytest
from helpers.labelled import CLASSES, FEATURES, IMAGE, items, parquet, save_to_disk, saved, table, write
from helpers.mutations import bytes_mutated, json_mutated

from dinobench.data import load_dataset
from dinobench.data.decoding import BROKEN_IMAGE
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    return saved(tmp_path / "set")


def fault(root, words):
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(str(root))
    assert "\n" not in str(caught.value)


def test_images_are_read_from_their_places(root, tmp_path):
    data = load_dataset(str(root))
    assert data.layout == "save_to_disk (train, val)" and data.classes == CLASSES
    for split, some in zip((data.train, data.test), items().values(), strict=True):
        assert split.labels.tolist() == [item.label for item in some]
        again = pickle.loads(pickle.dumps(split))
        for i, item in enumerate(some):
            file, offset, size = split.places[split.ids[i]]
            assert (root / file).read_bytes()[offset : offset + size] == item.content
            assert again.load(i).size == (3, 3)
    assert data.fingerprint == load_dataset(str(parquet(tmp_path / "parquet"))).fingerprint, "the same set in two files"


def test_large_columns_without_paths(tmp_path, root):
    for folder, some in zip(("train", "validation"), items().values(), strict=True):
        images = pa.array([{"bytes": i.content} for i in some], pa.struct([("bytes", pa.large_binary())]))
        plain = pa.table({"image": images, "label": pa.array([i.label for i in some], pa.int32())})
        save_to_disk(tmp_path / "other" / folder, plain)
    write(tmp_path / "other" / "dataset_dict.json", (root / "dataset_dict.json").read_bytes())
    data = load_dataset(str(tmp_path / "other"))
    assert data.train.ids[3] == "train/0000003" and data.test.load(11).size == (3, 3)


def test_one_split_is_divided_on_request_or_pretrained_on(root):
    fault(root / "train", "no split and no train to learn from; draw one with @split=0.2")
    data = load_dataset(f"{root / 'train'}@split=0.5")
    assert (len(data.train), len(data.test)) == (9, 9) and data.test.load(8).size == (3, 3)
    assert len(load_dataset(str(root / "validation"), "images").train) == 12


def test_rows_without_an_image_are_broken(root):
    rows = [{"bytes": i.content, "path": i.name} for i in items()["val"]]
    rows[1], rows[7] = {"bytes": None, "path": "lost.png"}, None
    labels = pa.array([i.label for i in items()["val"]], pa.int64())
    save_to_disk(root / "validation", pa.table({"image": pa.array(rows, IMAGE), "label": labels}))
    data = load_dataset(str(root))
    assert data.test.ids[1] == "val/0000001/lost.png"
    for row in (1, 7):
        with pytest.raises(OSError, match="an empty file"):
            data.test.load(row)
    assert data.test.load(2).size == (3, 3)


def state(**changes):
    def spoil(root):
        file = root / "validation" / "state.json"
        write(file, json.dumps({**json.loads(file.read_text()), **changes}))

    return spoil


def compressed(root):
    content = table(items()["val"])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    file = root / "validation" / "data-00000-of-00002.arrow"
    with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_stream(opened, content.schema, options=options) as stream:
        stream.write_table(content)


def piped(root):
    (root / "validation" / "data-00000-of-00002.arrow").unlink()
    os.mkfifo(root / "validation" / "data-00000-of-00002.arrow")


FAULTS = {
    "no state": (lambda r: (r / "train" / "state.json").unlink(), "state.json: cannot be read: No such file"),
    "no info": (lambda r: (r / "train" / "dataset_info.json").unlink(), "dataset_info.json: cannot be read"),
    "no data": (lambda r: (r / "train" / "data-00001-of-00002.arrow").unlink(), "data-00001-of-00002.arrow: .*No such"),
    "elsewhere": (state(_data_files=[{"filename": "../../x.arrow"}]), "names no data files in this folder"),
    "absolute": (state(_data_files=[{"filename": "/etc/passwd"}]), "names no data files in this folder"),
    "no files": (state(_data_files=[]), "names no data files in this folder"),
    "numbers": (state(_data_files=[1]), "names no data files in this folder"),
    "twice": (state(_data_files=[{"filename": "data-00000-of-00002.arrow"}] * 2), "names a data file twice"),
    "index": (state(_indices_data_files=[{"filename": "indices.arrow"}]), r"save it with flatten_indices\(\)"),
    "splits": (lambda r: write(r / "dataset_dict.json", '{"splits": ["train", "../x"]}'), "names no splits"),
    "no dict": (lambda r: write(r / "dataset_dict.json", "["), "description of the columns is damaged"),
    "two vals": (lambda r: write(r / "dataset_dict.json", '{"splits": ["train", "val", "dev"]}'), "could be one"),
    "compressed": (compressed, "compressed, or not in one piece"),
    "cut": (lambda r: os.truncate(r / "train" / "data-00000-of-00002.arrow", 700), "no Arrow file that can be read"),
    "empty": (lambda r: os.truncate(r / "train" / "data-00000-of-00002.arrow", 0), "no Arrow file that can be read"),
    "pipe": (piped, "a named pipe, not a file"),
    "other": (lambda r: write(r / "validation" / "dataset_info.json", json.dumps({"features": {}})),
              "other columns or classes"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_line(root, name):
    spoil, words = FAULTS[name]
    spoil(root)
    fault(root, words)


def test_mutated_files_are_read_or_refused(root):
    file = root / "validation" / "data-00000-of-00002.arrow"
    whole, rng = file.read_bytes(), random.Random(0)
    for _ in range(150):
        file.write_bytes(bytes_mutated(whole, rng))
        try:
            data = load_dataset(str(root))
        except UserError as error:
            assert str(root) in str(error) and "\n" not in str(error)
            continue
        for i in range(len(data.test)):
            with suppress(*BROKEN_IMAGE):
                data.test.load(i)


@pytest.mark.parametrize("name", ["validation/state.json", "validation/dataset_info.json", "dataset_dict.json"])
def test_mutated_descriptions_are_read_or_refused(root, name):
    known, rng = json.loads((root / name).read_text()), random.Random(1)
    for _ in range(60):
        (root / name).write_bytes(json_mutated(known, rng))
        try:
            load_dataset(str(root))
        except UserError as error:
            assert str(root) in str(error) and "\n" not in str(error)


def test_features_of_another_kind_are_no_labels(root):
    for split in ("train", "validation"):
        write(root / split / "dataset_info.json", json.dumps({"features": {"image": FEATURES["image"]}}))
    assert load_dataset(str(root)).classes == ("0", "1", "2"), "numbers are called so"
