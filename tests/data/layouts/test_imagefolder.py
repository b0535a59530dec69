"""ImageFolder: torchvision's order, every way to be wrong, and how files become pixels."""

from __future__ import annotations

import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.folders import grow
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, pil_loader

from dinobench.data import load_dataset
from dinobench.data.layouts import imagefolder
from dinobench.data.layouts.imagefolder import BROKEN_IMAGE, decode
from dinobench.errors import UserError
from dinobench.types import ImageSplit

TEST_DATA = os.environ.get("DINOBENCH_TEST_DATA")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "cache"))


def assert_same_as_torchvision(split: ImageSplit, classes: tuple[str, ...], root: Path) -> None:
    theirs = ImageFolder(str(root / split.name))
    assert tuple(theirs.classes) == classes
    assert [os.path.join(root, name) for name in split.ids] == [path for path, _ in theirs.samples]
    assert split.labels.tolist() == theirs.targets


def test_order_is_torchvisions(tmp_path: Path) -> None:
    names = ["b/2.jpg", "b/10.jpg", "b/1.jpg", "B/x.png", "a c/z.jpg", "a c/deep/a.jpg", "a c/deep-er/a.jpg",
             "a c/deep/er/a.jpg", "a c/Z.jpg", "10/é.jpg", "10/e.webp", "9/x.PPM.tiff", "9/notes.txt"]  # fmt: skip
    root = grow(tmp_path / "set", *(f"{split}/{name}" for split in ("train", "val") for name in names))
    (root / "val" / "b" / "1.jpg").rename(root / "val" / "b" / "1.JPeG")
    dataset = load_dataset(str(root))
    assert dataset.layout == "imagefolder (train, val)" and dataset.classes == ("10", "9", "B", "a c", "b")
    for split in (dataset.train, dataset.test):
        assert_same_as_torchvision(split, dataset.classes, root)
    assert dataset.test.ids[-1] == "val/b/2.jpg" and dataset.test.labels.dtype == np.int64
    assert imagefolder.EXTENSIONS == IMG_EXTENSIONS


@pytest.mark.parametrize(
    ("folders", "chosen", "layout"),
    [
        (("test",), "test", "imagefolder (train, test)"),
        (("validation",), "validation", "imagefolder (train, validation)"),
        (("test", "val"), "val", "imagefolder (train, val, test ignored)"),
    ],
)
def test_which_folder_is_scored(tmp_path: Path, folders: tuple[str, ...], chosen: str, layout: str) -> None:
    grow(tmp_path / "set", *(f"{split}/{c}/1.jpg" for split in ("train", *folders) for c in "ab"))
    dataset = load_dataset(str(tmp_path / "set"))
    assert (dataset.test.name, dataset.layout) == (chosen, layout)
    assert list(dataset.test.ids) == [f"{chosen}/a/1.jpg", f"{chosen}/b/1.jpg"]


def test_links_are_followed_and_hidden_files_are_not_images(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "train/a/.DS_Store",
                "train/a/._1.jpg", "train/.cache/1.jpg", "val/.ipynb_checkpoints/")  # fmt: skip
    grow(tmp_path / "elsewhere", "b/x.jpg", "b/y.jpg")
    (root / "val" / "b").symlink_to(tmp_path / "elsewhere" / "b", target_is_directory=True)
    (root / "train" / "a" / "2.jpg").symlink_to(tmp_path / "elsewhere" / "b" / "x.jpg")
    (root / "train" / "a" / "again").symlink_to(root / "train", target_is_directory=True)  # would never end
    (root / "val" / "a" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    dataset = load_dataset(str(root))
    assert list(dataset.train.ids) == ["train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg"]
    assert list(dataset.test.ids) == ["val/a/1.jpg", "val/a/gone.jpg", "val/b/x.jpg", "val/b/y.jpg"]
    with pytest.raises(BROKEN_IMAGE):
        dataset.test.load(1)  # a dangling link is a broken image, to be named and counted


def test_folders_of_hidden_files_are_no_classes(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", "train/a/1.jpg", "train/b/1.jpg", "train/__MACOSX/a/._1.jpg", "val/a/1.jpg")
    grow(root, "val/b/Thumbs.db", "train/.ipynb_checkpoints/1.jpg", "val/a/desktop.ini")
    dataset = load_dataset(str(root))
    assert dataset.classes == ("a", "b") and not dataset.notes


def test_files_that_are_no_images_by_their_ending_are_counted(tmp_path: Path) -> None:
    images = [f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in "ab" for i in range(2)]
    others = ["train/a/x.gif", "train/a/deep/y.JFIF", "val/b/z.jfif", "val/b/README", "val/loose.txt"]
    dataset = load_dataset(str(grow(tmp_path / "set", *images, *others)))
    assert [*dataset.train.ids, *dataset.test.ids] == images
    assert dataset.notes == (
        "left out for their ending: 5 files (2 .jfif, 1 .gif, 1 .txt, 1 no ending), such as train/a/deep/y.JFIF",
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a/1.jpg", "train/b/1.jpg"), "has train/ but no val/, validation/ or test/ to score on"),
        (("val/a/1.jpg", "val/b/1.jpg"), "has val/ but no train/ to learn from"),
        (("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg"), "val has class c that train lacks"),
        (
            ("train/a/1.jpg", "train/b/1.jpg", "train/c/", "val/c/1.jpg"),
            r"train/c: a class without images \(it is empty",
        ),
        (
            ("train/a/1.jpg", "train/b/1.gif", "val/a/1.jpg"),
            r"train/b: a class without images \(its files end in \.gif",
        ),
        (("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/x/1.heic"), r"val/b: a class .* end in \.heic\)"),
        (("train/a/1.jpg", "train/b/1.jpg", *(f"val/x{i}/1.jpg" for i in range(7))), "7 classes x0, x1, x2, x3, x4, …"),
        (("train/a/1.jpg", "val/a/1.jpg"), r"train holds one class only \(a\)"),
        (("train/1.jpg", "val/a/1.jpg"), "train: no class folders; images belong in train/<class>/"),
        (("train/", "val/a/1.jpg"), "train: no class folders"),
        (("train/a/1.jpg", "train/b/1.jpg", "val/"), "val: no class folders"),
        (("train/a/1.jpg", "train/b/1.jpg", "val/a/.x"), "val: its class folders hold no images"),
        (("train/a/1.jpg", "train/b/1.jpg", "val/b/x.txt"), r"val/b: a class without images \(its files end in \.txt"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    root = grow(tmp_path / "set", *names)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(str(root))
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="file names are text there")
def test_file_names_must_be_text(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
    (root / "val/a/1.jpg").rename(os.fsdecode(os.fsencode(root) + b"/val/a/caf\xe9.jpg"))
    with pytest.raises(UserError, match=r"b'val/a/caf\\xe9.jpg' is not UTF-8; rename it"):
        load_dataset(str(root))


def _saved(tmp_path: Path) -> list[Path]:
    """One small file of each mode that photographs and drawings come in."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
    palette = photo.quantize(16)
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.jpg": (photo, {}),
        "grey.jpg": (photo.convert("L"), {}),
        "cmyk.jpg": (photo.convert("CMYK"), {}),
        "rgba.png": (photo.convert("RGBA"), {}),
        "palette.png": (palette, {}),
        "transparent.png": (palette, {"transparency": bytes(range(0, 160, 10))}),
        "two.png": (photo.convert("1"), {}),
        "grey-alpha.png": (photo.convert("LA"), {}),
        "photo.webp": (photo, {}),
        "lab.tiff": (photo.convert("YCbCr"), {}),
    }
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
    return [tmp_path / name for name in files]


def test_pixels_are_those_of_torchvisions_loader(tmp_path: Path) -> None:
    for path in _saved(tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL on transparent palettes
            ours, theirs = decode(path), pil_loader(path)
        assert ours.mode == "RGB" and ours.tobytes() == theirs.tobytes(), path.name


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_keeps_its_contrast(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 255, 256, 30000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert np.asarray(decode(tmp_path / name))[0, :, 2].tolist() == [0, 0, 1, 117, 255]


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL on what it skips in them
def test_broken_files_raise_what_is_announced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tried = 0
    for path in _saved(tmp_path):
        whole = path.read_bytes()
        for _ in range(15):
            damaged = bytearray(whole[: rng.integers(0, len(whole))])
            if damaged:
                damaged[rng.integers(0, len(damaged))] ^= 0xFF
            path.write_bytes(damaged)
            try:
                assert decode(path).mode == "RGB"
            except BROKEN_IMAGE:
                tried += 1
    assert tried > 50
    for missing in (tmp_path / "nothing.jpg", tmp_path):
        with pytest.raises(BROKEN_IMAGE):
            decode(missing)


def test_bombs_count_as_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr("dinobench.data.decoding.MAX_PIXELS", 100)
    with pytest.raises(BROKEN_IMAGE, match="10,000 pixels, above the limit of 100; make it smaller"):
        decode(tmp_path / "x.png")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_no_file_stays_open(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
    (root / "val/a/2.jpg").write_bytes((root / "val/a/1.jpg").read_bytes()[:40])
    split = load_dataset(str(root)).test
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        split.load(0)
        with pytest.raises(BROKEN_IMAGE):
            split.load(1)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
@pytest.mark.skipif(TEST_DATA is None, reason="DINOBENCH_TEST_DATA is not set")
def test_real_folders(tmp_path: Path) -> None:
    sizes = {"cifar10_subset": (10, 10000, 2000, "test"), "imagenette112": (10, 9469, 3925, "val")}
    for archive, (n_classes, n_train, n_test, test) in sizes.items():
        with tarfile.open(Path(TEST_DATA or "") / f"{archive}.tar") as tar:
            tar.extractall(tmp_path)
        root = tmp_path / archive.removesuffix("_subset")
        dataset = load_dataset(str(root))
        assert (len(dataset.classes), len(dataset.train), len(dataset.test)) == (n_classes, n_train, n_test)
        assert dataset.test.name == test
        for split in (dataset.train, dataset.test):
            assert_same_as_torchvision(split, dataset.classes, root)
        for i in (0, 1234, -1):
            assert dataset.test.load(i).tobytes() == pil_loader(root / dataset.test.ids[i]).tobytes()


def test_images_in_train_and_test_are_noted(tmp_path: Path) -> None:
    root = grow(tmp_path / "set", "train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/dog/d.png")
    assert load_dataset(str(root), "classification").leak is None
    (root / "val/dog/d.png").write_bytes((root / "train/dog/b.png").read_bytes())
    note = load_dataset(str(root), "classification").leak
    assert note is not None and "1 of 2 test images" in note and "val/dog/d.png" in note
