"""Hugging Face's Parquet files: which columns, splits and classes, and what is wrong in them."""

from __future__ import annotations

import json
import pickle
import random
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.labelled import CLASSES, FEATURES, IMAGE, items, parquet, table, write
from helpers.mutations import bytes_mutated

from dinobench.data import load_dataset
from dinobench.data.decoding import BROKEN_IMAGE
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    return parquet(tmp_path / "set")


def fault(root, words):
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(str(root))
    assert "\n" not in str(caught.value)


def test_rows_are_the_images_in_order(root):
    data = load_dataset(str(root))
    assert data.layout == "parquet, 3 files (train, val)" and data.classes == CLASSES and data.name == "set"
    for split, some in zip((data.train, data.test), items().values(), strict=True):
        assert split.labels.tolist() == [item.label for item in some]
        assert list(split.ids) == [f"{split.name}/{i:07d}/{item.name}" for i, item in enumerate(some)]
        again = pickle.loads(pickle.dumps(split))  # as it goes to other processes
        for i, item in enumerate(some):
            assert again.encoded(split.ids[i]) == item.content
            assert split.load(i).tobytes() == again.load(i).tobytes()
    assert load_dataset(str(root / "data")).fingerprint == data.fingerprint
    assert load_dataset(str(root / "data")).name == "set", "data is no name"


@pytest.mark.parametrize("way", ["folders", "configuration", "loose", "valid"])
def test_splits_by_the_names_of_files_or_folders(root, tmp_path, way):
    wanted = load_dataset(str(root)).fingerprint
    names = {
        "folders": ("train/0000.parquet", "train/0001.parquet", "validation/0000.parquet"),
        "configuration": (
            "default/train/0000.parquet",
            "default/train/0001.parquet",
            "default/validation/0000.parquet",
        ),
        "loose": ("plain_text/train-0.parquet", "plain_text/train-1.parquet", "plain_text/val-0.parquet"),
        "valid": ("train_9.parquet", "train_10.parquet", "dev.parquet"),
    }[way]
    for old, new in zip(sorted((root / "data").iterdir()), names, strict=True):
        write(tmp_path / "other" / new, old.read_bytes())
    assert load_dataset(str(tmp_path / "other")).fingerprint == wanted


def test_test_is_scored_on_where_there_is_no_validation(root):
    old = next((root / "data").glob("validation*"))
    old.rename(root / "data" / "test-00000-of-00001.parquet")
    assert load_dataset(str(root)).test.name == "test"
    write(
        root / "data" / "validation-00000-of-00001.parquet",
        (root / "data" / "test-00000-of-00001.parquet").read_bytes(),
    )
    data = load_dataset(str(root))
    assert data.test.name == "val" and data.layout.endswith("(train, val, test ignored)")


def test_other_columns(root, tmp_path):
    """CIFAR-100 calls them img, fine_label and coarse_label; others have bytes, and class names as texts."""
    features = {"img": {"_type": "Image"}, "fine_label": FEATURES["label"],
                "coarse_label": {"names": ["thing"], "_type": "ClassLabel"}}  # fmt: skip
    texts = {"image": {"dtype": "binary", "_type": "Value"}, "label": {"dtype": "string", "_type": "Value"}}
    for split, some in items().items():
        images = pa.array([{"bytes": i.content, "path": None} for i in some], IMAGE)
        labels = pa.array([i.label for i in some], pa.int64())
        named = pa.table({"coarse_label": labels, "fine_label": labels, "img": images})
        named = named.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        plain = pa.table({"image": pa.array([i.content for i in some], pa.large_binary()),
                          "label": [CLASSES[i.label] for i in some]})  # fmt: skip
        described = plain.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": texts}})})
        for name, content in (("named", named), ("plain", plain), ("texts", described)):
            (tmp_path / name).mkdir(exist_ok=True)
            pq.write_table(content, tmp_path / name / f"{split}.parquet")
    found = [load_dataset(str(tmp_path / name)) for name in ("named", "plain", "texts")]
    assert len({d.fingerprint for d in found}) == 1 and found[0].classes == CLASSES
    assert found[0].train.ids[1] == "train/0000001"
    assert np.array_equal(found[0].train.labels, load_dataset(str(root)).train.labels)


def test_one_file_is_divided_on_request_or_pretrained_on(root, tmp_path):
    file = root / "data" / "train-00000-of-00002.parquet"
    alone = write(tmp_path / "insects.parquet", file.read_bytes())
    fault(alone, "no split and no train to learn from; draw one with @split=0.2")
    data = load_dataset(f"{alone}@split=0.3")
    assert data.name == "insects@split=0.3,seed=0" and (len(data.train), len(data.test)) == (7, 3)
    assert data.test.load(0).size == (3, 3) and data.classes == ("ant", "bee")
    assert data.notes[1] == "left out: 1 of 3 classes without images, such as cow"
    assert len(load_dataset(str(alone), "images").train) == 10


def test_images_without_labels_are_for_pretraining(root):
    for file in (root / "data").iterdir():
        pq.write_table(pq.read_table(file).drop_columns(["label"]), file)
    fault(root, "18 of 18 images of train have no label, .* `dinobench pretrain`")
    found = load_dataset(str(root), "images")
    assert found.classes == () and set(found.train.labels) == {-1} and found.layout == "parquet, 3 files (train)"


def rewrite(change, split="validation"):
    def spoil(root):
        (file,) = (root / "data").glob(f"{split}-00000*")
        pq.write_table(change(pq.read_table(file)), file)

    return spoil


def relabelled(values):
    return rewrite(lambda t: t.set_column(1, t.schema.field("label"), pa.array(values(len(t)), pa.int64())))


FAULTS = {
    "lost": (lambda r: (r / "data" / "train-00001-of-00002.parquet").unlink(),
             r"1 of 2 files are missing, such as data/train-00001-of-00002; download"),
    "cut": (lambda r: next((r / "data").glob("train-00000*")).write_bytes(b"PAR1"), "no Parquet file that can be read"),
    "html": (lambda r: next((r / "data").glob("val*")).write_text("<html>" * 20), "no Parquet file that can be read"),
    "pointer": (lambda r: next((r / "data").glob("val*")).write_text("version https://git-lfs.github.com/spec/v1\n"),
                "no Parquet file that can be read"),
    "two sets": (lambda r: write(r / "more" / "test.parquet", b""), r"holds several data sets \(data, more\)"),
    "null label": (relabelled(lambda n: [None] * n), "12 of 12 images of val have no label, such as val/0000000"),
    "hidden label": (relabelled(lambda n: [-1] * n), "12 of 12 images of val have no label"),
    "foreign label": (relabelled(lambda n: [3] * n), "label 3 has no name: 3 classes are named"),
    "measures": (lambda r: [rewrite(lambda t: t.set_column(1, "label", pa.array([0.5] * len(t))), name)(r)
                            for name in ("train", "validation")], "other columns|labels are float and neither"),
    "no image": (rewrite(lambda t: t.drop_columns(["image"])), "no column of images among label"),
    "other names": (rewrite(lambda t: t.replace_schema_metadata({"huggingface": "{}"})),
                    "other columns or classes than the files before it"),
    "no features": (rewrite(lambda t: t.replace_schema_metadata({"huggingface": "{"})), "description .* is damaged"),
    "odd features": (rewrite(lambda t: t.replace_schema_metadata({"huggingface": '{"info": [1]}'})),
                     "description .* is damaged|is no list"),
    "paths": (rewrite(lambda t: t.set_column(0, "image", pa.array(
        [{"bytes": None, "path": "x.png"}] * len(t), pa.struct([("bytes", pa.null()), ("path", pa.string())])))),
        "image holds paths and no images"),
    "no train": (lambda r: [f.unlink() for f in (r / "data").glob("train*")], "has val and no train to learn from"),
    "no test": (lambda r: next((r / "data").glob("val*")).unlink(), "has train but no val or test to score on"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_line(root, name):
    spoil, words = FAULTS[name]
    spoil(root)
    fault(root, words)


def test_classes_called_alike_are_refused(tmp_path):
    features = {**FEATURES, "label": {"names": ["ant", "bee", "ant"], "_type": "ClassLabel"}}
    for split, some in items().items():
        write(tmp_path / "set" / f"{split}.parquet", b"")
        pq.write_table(table(some, features), tmp_path / "set" / f"{split}.parquet")
    fault(tmp_path / "set", "two classes are called 'ant'")


def test_mutated_files_are_read_or_refused(root):
    (file,) = (root / "data").glob("validation-*")
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
