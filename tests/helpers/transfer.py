"""Small transfer sets in the layouts of their archives: three classes, told apart by their colours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

COLOURS = [(250, 30, 30), (30, 250, 30), (30, 30, 250)]
#: Split -> images of each class.
COUNTS = {"train": 4, "val": 2, "test": 3}


def picture(path: Path, c: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dither = np.random.default_rng(seed).integers(-60, 61, (12, 12, 3))
    Image.fromarray((np.array(COLOURS[c]) + dither).clip(0, 255).astype(np.uint8)).save(path, "PNG")


def images(root: Path, name: Callable[[int, int], str]) -> dict[str, list[tuple[int, int, str]]]:
    """Split -> (class, number from 1, name) of pictures at `root/name(class, number)`, written."""
    splits: dict[str, list[tuple[int, int, str]]] = {}
    number = 0
    for split, count in COUNTS.items():
        for c in range(3):
            for _ in range(count):
                number += 1
                picture(root / name(c, number), c, number)
                splits.setdefault(split, []).append((c, number, name(c, number)))
    return splits


def lines(file: Path, *words: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{word}\n" for word in words))


def food101(root: Path) -> Path:
    home = root / "food-101"
    splits = images(home, lambda c, n: f"images/dish{c}/{n}.jpg")
    for file, names in (("train", ("train", "val")), ("test", ("test",))):
        content: dict[str, list[str]] = {}
        for c, n, _ in (i for name in names for i in splits[name]):
            content.setdefault(f"dish{c}", []).append(f"dish{c}/{n}")
        lines(home / "meta" / f"{file}.json", json.dumps(content))
    return root


def dtd(root: Path) -> Path:
    for split, some in images(root, lambda c, n: f"images/knit{c}/knit{c}_{n:04d}.jpg").items():
        lines(root / "labels" / f"{split}1.txt", *(name.removeprefix("images/") for _, _, name in some))
        lines(root / "labels" / f"{split}2.txt", "other/other_0001.jpg")
    return root


def sun397(root: Path) -> Path:
    splits = images(root, lambda c, n: f"a/hall{c}/{'indoor/' * (c == 1)}sun_{n}.jpg")
    for file, names in (("Training", ("train", "val")), ("Testing", ("test",))):
        lines(root / "Partitions" / f"{file}_01.txt", *(f"/{i[2]}" for name in names for i in splits[name]))
    return root


def aircraft(root: Path) -> Path:
    home = root / "fgvc-aircraft-2013b"
    lines(home / "data" / "variants.txt", *(f"Boeing 70{c} (old)" for c in range(3)))
    for split, some in images(home, lambda c, n: f"data/images/{n:07d}.jpg").items():
        lines(home / "data" / f"images_variant_{split}.txt", *(f"{n:07d} Boeing 70{c} (old)" for c, n, _ in some))
    return root


def pets(root: Path) -> Path:
    splits = images(root, lambda c, n: f"images/great_cat{c}_{n}.jpg")
    for file, names in (("trainval", ("train", "val")), ("test", ("test",))):
        some = [i for name in names for i in splits[name]]
        lines(root / "annotations" / f"{file}.txt", *(f"great_cat{c}_{n} {c + 1} 1 1" for c, n, _ in some))
    return root


def flowers102(root: Path) -> Path:
    home = root / "flowers-102"
    splits = images(home, lambda c, n: f"jpg/image_{n:05d}.jpg")
    classes = {n: c + 1 for some in splits.values() for c, n, _ in some}
    savemat(home / "imagelabels.mat", {"labels": np.array([[classes[n] for n in sorted(classes)]], np.uint8)})
    keys = {"train": "trnid", "val": "valid", "test": "tstid"}
    savemat(home / "setid.mat", {key: np.array([[n for _, n, _ in splits[split]]]) for split, key in keys.items()})
    return root


def cub200(root: Path) -> Path:
    splits = images(root, lambda c, n: f"images/00{c + 1}.Bird/bird_{n}.jpg")
    every = [(split, *i) for split, some in splits.items() for i in some]
    lines(root / "images.txt", *(f"{n} {name.removeprefix('images/')}" for _, _, n, name in every))
    lines(root / "image_class_labels.txt", *(f"{n} {c + 1}" for _, c, n, _ in every))
    lines(root / "train_test_split.txt", *(f"{n} {int(split != 'test')}" for split, _, n, _ in every))
    return root


def cars(root: Path) -> Path:
    home = root / "stanford_cars"
    splits = images(home, lambda c, n: f"cars_{'test' if n > 18 else 'train'}/{n:05d}.jpg")
    (home / "devkit").mkdir()
    savemat(home / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi A", "BMW B", "Car C"], object)})
    kind = [("class", "O"), ("fname", "O")]
    for file, names in (("devkit/cars_train_annos", ("train", "val")), ("cars_test_annos_withlabels", ("test",))):
        rows = [(c + 1, Path(name).name) for split in names for c, _, name in splits[split]]
        savemat(home / f"{file}.mat", {"annotations": np.array([rows], kind)})
    return root


def caltech101(root: Path) -> Path:
    for c, name in enumerate(("ant", "BACKGROUND_Google", "yin_yang")):
        for i in range(33 + c):
            picture(root / "101_ObjectCategories" / name / f"image_{i + 1:04d}.jpg", c, 100 * c + i)
    return root


SETS = {f.__name__: f for f in (food101, dtd, sun397, aircraft, pets, flowers102, cub200, cars, caltech101)}
