"""What torchvision's data set classes download, unpacked, with a few made images: root -> its files."""

from __future__ import annotations

import bz2
import csv
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers.labelled import png, write
from PIL import Image
from scipy.io import savemat

#: Images of each of three classes in train, val and test.
COUNTS = (4, 2, 3)


def rows(split: int) -> list[tuple[int, int]]:
    """(class, number) of the images of a split."""
    return [(c, i) for i in range(COUNTS[split]) for c in range(3)]


def content(split: int, c: int, i: int) -> bytes:
    return png(c, 1000 * split + 100 * c + i)


def country211(root: Path) -> None:
    for split, folder in enumerate(("train", "valid", "test")):
        for c, i in rows(split):
            write(root / "country211" / folder / ("AD", "AE", "ZW")[c] / f"{i}.jpg", content(split, c, i))


def rendered_sst2(root: Path) -> None:
    for split, folder in enumerate(("train", "valid", "test")):
        for c, i in rows(split):
            if c < 2:
                write(root / "rendered-sst2" / folder / ("negative", "positive")[c] / f"{i}.png", content(split, c, i))


def gtsrb(root: Path) -> None:
    for c, i in rows(0):
        with Image.open(io.BytesIO(content(0, c, i))) as image:
            folder = root / "gtsrb" / "GTSRB" / "Training" / f"{c:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"00000_{i:05d}.ppm")
    table = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for n, (c, i) in enumerate(rows(2)):
        with Image.open(io.BytesIO(content(2, c, i))) as image:
            folder = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{n:05d}.ppm")
        table.append(f"{n:05d}.ppm;3;3;0;0;2;2;{c}")
    write(root / "gtsrb" / "GT-final_test.csv", "\n".join([*table, ""]))


def eurosat(root: Path) -> None:
    for c, i in rows(0):
        name = ("AnnualCrop", "Forest", "River")[c]
        write(root / "eurosat" / "2750" / name / f"{name}_{i + 1}.jpg", content(0, c, i))


def caltech256(root: Path) -> None:
    for c, i in rows(0):
        name = ("001.ak47", "002.american-flag", "003.backpack")[c]
        folder = root / "caltech256" / "256_ObjectCategories" / name
        write(folder / f"{c + 1:03d}_{i + 1:04d}.jpg", content(0, c, i))


def _mnist(root: Path, name: str) -> None:
    raw = root / name / "raw"
    for split, start in ((0, "train"), (2, "t10k")):
        some = rows(split)
        pixels = np.stack([np.full((28, 28), 60 * c + 10 * i, np.uint8) for c, i in some])
        write(raw / f"{start}-images-idx3-ubyte", struct.pack(">HBBIII", 0, 8, 3, len(some), 28, 28) + pixels.tobytes())
        labels = bytes(c for c, _ in some)
        write(raw / f"{start}-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, len(some)) + labels)


def mnist(root: Path) -> None:
    _mnist(root, "MNIST")


def fashion_mnist(root: Path) -> None:
    _mnist(root, "FashionMNIST")


def kmnist(root: Path) -> None:
    _mnist(root, "KMNIST")


def usps(root: Path) -> None:
    for split, name in ((0, "usps.bz2"), (2, "usps.t.bz2")):
        lines = [f"{c + 1} " + " ".join(f"{k + 1}:{0.1 * c + 0.01 * i - 0.5:.3f}" for k in range(256))
                 for c, i in rows(split)]  # fmt: skip
        write(root / name, bz2.compress("\n".join([*lines, ""]).encode()))


def svhn(root: Path) -> None:
    for split, name in ((0, "train"), (2, "test")):
        pixels = np.stack([np.full((32, 32, 3), (60 * c, 10 * i, 9), np.uint8) for c, i in rows(split)], -1)
        labels = np.array([[10 if c == 0 else c] for c, _ in rows(split)], np.uint8)  # 10 stands for the digit 0
        root.mkdir(parents=True, exist_ok=True)
        savemat(root / f"{name}_32x32.mat", {"X": pixels, "y": labels})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    for split, name in ((0, "train"), (2, "test")):
        noise = np.random.default_rng(split).integers(0, 256, (len(rows(split)), 3, 96, 96), np.uint8)
        write(folder / f"{name}_X.bin", noise.tobytes())
        write(folder / f"{name}_y.bin", bytes(c + 1 for c, _ in rows(split)))
    write(folder / "unlabeled_X.bin", bytes(3 * 96 * 96))
    write(folder / "class_names.txt", "airplane\nbird\ncar\n")


def fer2013(root: Path) -> None:
    (root / "fer2013").mkdir(parents=True, exist_ok=True)
    with open(root / "fer2013" / "fer2013.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("emotion", "pixels", "Usage"))
        for split, usage in ((0, "Training"), (1, "PublicTest"), (2, "PrivateTest")):
            for c, i in rows(split):
                table.writerow((c, " ".join(["7"] * (48 * 48 - 1) + [str(60 * c + i)]), usage))


SETS: dict[str, Callable[[Path], None]] = {
    "Country211": country211, "RenderedSST2": rendered_sst2, "GTSRB": gtsrb, "EuroSAT": eurosat,
    "Caltech256": caltech256, "MNIST": mnist, "FashionMNIST": fashion_mnist, "KMNIST": kmnist, "USPS": usps,
    "SVHN": svhn, "STL10": stl10, "FER2013": fer2013,
}  # fmt: skip
