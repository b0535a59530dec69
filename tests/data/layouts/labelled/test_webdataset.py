"""WebDataset's shards: keys, labels and their order, and archives that are not what they should be."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
from contextlib import suppress

import pytest
from helpers.labelled import CLASSES, as_cls, clip_benchmark, items, pack, png, shard, webdataset, write
from helpers.mutations import bytes_mutated

from dinobench.data import load_dataset
from dinobench.data.decoding import BROKEN_IMAGE
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    return webdataset(tmp_path / "set")


def fault(root, words):
    with pytest.raises(UserError, match=words) as caught:
        load_dataset(str(root))
    assert "\n" not in str(caught.value)


def test_images_in_the_order_of_shards_and_members(root, tmp_path):
    data = load_dataset(str(root))
    assert data.layout == "webdataset, 4 shards (train, val)" and data.classes == CLASSES and not data.notes
    for split, some in zip((data.train, data.test), items().values(), strict=True):
        assert split.labels.tolist() == [item.label for item in some]
        again = pickle.loads(pickle.dumps(split))
        assert [again.load(i).tobytes() for i in range(len(some))] == [
            split.load(i).tobytes() for i in range(len(some))
        ]
    assert data.train.ids[9] == "insects-train-000001.tar/00000000.png"
    other = load_dataset(str(clip_benchmark(tmp_path / "clip")))
    assert other.train.labels.tolist() == data.train.labels.tolist() and other.classes == CLASSES
    assert [i.split("/")[1] for i in other.test.ids[::2]] == [f"{i}.tar" for i in range(6)]
    assert other.train.ids[2].startswith("train/1.tar/") and other.test.name == "test"


def test_classes_without_names_are_in_numeric_order(tmp_path):
    for split, shift in (("train", 0), ("val", 50)):
        some = [(f"{i}.{kind}", png(i, i + shift) if kind == "png" else str(i).encode())
                for i in (10, 9, 2) for kind in ("png", "cls")]  # fmt: skip
        pack(tmp_path / "set" / f"{split}.tar", *some)
    data = load_dataset(str(tmp_path / "set"))
    assert data.classes == ("2", "9", "10") and data.train.labels.tolist() == [2, 1, 0]


def test_what_else_a_sample_holds_is_counted(root):
    pack(root / "insects-val-000001.tar",
         ("deep/a.b.png", png(0, 7)), ("deep/a.cls", b"1\n"), ("deep/a.json", b'{"label": 2}'),
         ("deep/a.txt", b"a caption"), ("deep/a.pyd", b"cos\nsystem\n(S'x'\ntR."), ("deep/._a.png", b""))  # fmt: skip
    data = load_dataset(str(root))
    assert data.test.ids[9:] == ("insects-val-000001.tar/deep/a.b.png",) and data.test.labels[9] == 1, ".cls goes first"
    assert data.notes == (
        "left out for their ending: 2 files (1 .txt, 1 .pyd), such as insects-val-000001.tar/deep/a.txt",
    )


def test_one_archive_is_divided_on_request_or_pretrained_on(root, tmp_path):
    alone = tmp_path / "insects.tar"
    shard(alone, items()["train"], as_cls)
    fault(alone, "no split and no train to learn from; draw one with @split=0.2")
    data = load_dataset(f"{alone}@split=0.34")
    assert data.name == "insects@split=0.34,seed=0" and (len(data.train), len(data.test)) == (12, 6)
    found = load_dataset(str(alone), "images")
    assert found.layout == "tar (1 archive)" and len(found.train) == 18, "as before, whatever its labels are"
    assert load_dataset(str(root), "images").layout == "webdataset, 4 shards (train)"


def test_archives_beside_class_folders_are_no_matter(root, tmp_path):
    from helpers.labelled import folders

    made = folders(tmp_path / "plain")
    before = load_dataset(str(made))
    for name in ("train.tar", "val.tar", "train/ant.tar"):
        write(made / name, (root / "insects-val-000000.tar").read_bytes())
    data = load_dataset(str(made))
    assert data.fingerprint == before.fingerprint and data.layout == "imagefolder (train, val)"
    assert load_dataset(str(made), "images").layout == "images (train)"


SAMPLE = (("a.png", png(0, 1)), ("a.cls", b"0"))


def linked(root, name="x.png", kind=tarfile.SYMTYPE):
    with tarfile.open(root / "insects-val-000001.tar", "a") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)


def packed(*members):
    return lambda root: pack(root / "insects-val-000001.tar", *members)


def claiming(root):
    with tarfile.open(root / "insects-val-000001.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = 8 << 33
        tar.fileobj.write(info.tobuf())
        tar.fileobj.write(bytes(1024))


FAULTS = {
    "link": (linked, "'x.png' is a link or device, not a file"),
    "hard link": (lambda r: linked(r, kind=tarfile.LNKTYPE), "'x.png' is a link or device"),
    "device": (lambda r: linked(r, kind=tarfile.CHRTYPE), "'x.png' is a link or device"),
    "absolute": (packed(("/etc/a.png", png(0, 1))), "'/etc/a.png' leads out of the archive"),
    "upwards": (packed(("x/../../a.png", png(0, 1))), "leads out of the archive"),
    "huge": (claiming, "ends within 'a.png'; copy it again"),
    "huge label": (packed(SAMPLE[0], ("a.json", b" " * (2 << 20))), "a label of 2,097,152 bytes; 1,048,576 are the"),
    "twice": (packed(*SAMPLE, *SAMPLE), "holds two files called a.png"),
    "two images": (packed(*SAMPLE, ("a.jpg", png(0, 2))), "a.png and a.jpg are both the image of a; keep one"),
    "no label": (packed(*SAMPLE, ("b.png", png(0, 2))), "1 of 11 images of val have no label, such as .*tar/b.png"),
    "words": (packed(SAMPLE[0], ("a.cls", b"ant")), r"a.cls: no label \(a whole number\)"),
    "no json": (packed(SAMPLE[0], ("a.json", b"{")), r"a.json: no label \(JSON with one of label, cls"),
    "odd json": (packed(SAMPLE[0], ("a.json", b'{"label": [1]}')), r"a.json: no label"),
    "true": (packed(SAMPLE[0], ("a.json", b'{"label": true}')), r"a.json: no label"),
    "mixed": (packed(SAMPLE[0], ("a.json", b'{"label": "ant"}')), "neither all whole numbers nor all texts"),
    "foreign": (packed(SAMPLE[0], ("a.cls", b"7")), "label 7 has no name: 3 classes are named"),
    "deep": (packed(SAMPLE[0], ("a.json", b"[" * 100_000)), r"a.json: no label"),
    "names": (lambda r: write(r / "classnames.txt", b"\xff"), "classnames.txt: cannot be read"),
    "name twice": (lambda r: write(r / "classnames.txt", "ant\nbee\nant\n"), "two classes are called 'ant'"),
    "gone": (lambda r: [f.unlink() for f in r.glob("*val*")], "has train but no val or test to score on"),
    "compressed": (lambda r: write(r / "insects-val-000001.tar", b"\x1f\x8b" + bytes(600)), "no tar archive"),
    "shifted": (lambda r: [f.unlink() for f in r.glob("*train-000001*")],
                "val has class cow that train lacks"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_line(root, name):
    spoil, words = FAULTS[name]
    spoil(root)
    fault(root, words)


def test_a_tar_without_labels_says_what_to_do(tmp_path):
    fault(
        pack(tmp_path / "x.tar", ("ant/a.png", png(0, 1))), "no labels beside them .* unpack archives of class folders"
    )
    fault(pack(tmp_path / "y.tar", ("a.cls", b"1")), "its archives hold no images")


def test_mutated_archives_are_read_or_refused(root):
    file = root / "insects-val-000000.tar"
    whole, rng = file.read_bytes(), random.Random(0)
    for _ in range(80):
        file.write_bytes(bytes_mutated(whole, rng))
        try:
            data = load_dataset(str(root))
        except UserError as error:
            assert str(root) in str(error) and "\n" not in str(error)
            continue
        for i in range(len(data.test)):
            with suppress(*BROKEN_IMAGE):
                data.test.load(i)


def test_members_of_every_tar_format(root):
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(root / "insects-val-000001.tar", "w", format=form) as tar:
            for name, content in ((f"{'d' * 90}/é{'x' * 60}.png", png(0, 1)), (f"{'d' * 90}/é{'x' * 60}.cls", b"2")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        data = load_dataset(str(root))
        assert data.test.labels[9] == 2 and data.test.load(9).size == (3, 3)
    assert json.dumps(data.test.ids)
