"""ImageNet's trees as its owners, torchvision and Kaggle leave them, with the images of `helpers.labelled`."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from helpers.labelled import Item, items, pack, write
from scipy.io import savemat

WNIDS = ("n01440764", "n01443537", "n01484850")
#: The devkit's numbers of the classes are in another order than the wnids.
IDS = {WNIDS[0]: 2, WNIDS[1]: 3, WNIDS[2]: 1}
KIT = "ILSVRC2012_devkit_t12"


def val() -> list[tuple[str, Item]]:
    """Names and items, the classes mixed as in the real set."""
    some = [items()["val"][i] for i in np.random.default_rng(0).permutation(12)]
    return [(f"ILSVRC2012_val_{i:08d}.JPEG", item) for i, item in enumerate(some, 1)]


def train(root: Path) -> None:
    for i, item in enumerate(items()["train"]):
        write(root / "train" / WNIDS[item.label] / f"{WNIDS[item.label]}_{i}.JPEG", item.content)


def flat_val(root: Path) -> None:
    for name, item in val():
        write(root / "val" / name, item.content)


def truth_lines() -> str:
    return "".join(f"{IDS[WNIDS[item.label]]}\n" for _, item in val())


def meta() -> bytes:
    """meta.mat with the fields of the devkit; an inner node of the hierarchy comes after the leaves."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
              "num_train_images")  # fmt: skip
    rows = sorted((number, wnid) for wnid, number in IDS.items())
    rows += [(1001, "n00001740")]
    synsets = np.zeros((len(rows), 1), [(f, "O") for f in fields])
    for row, (number, wnid) in zip(synsets[:, 0], rows, strict=True):
        children = [1, 2] if number > 1000 else []
        values = (number, wnid, f"{wnid}, thing", "a thing", len(children), children, 0, 1300)
        for field, value in zip(fields, values, strict=True):
            row[field] = value
    opened = io.BytesIO()
    savemat(opened, {"synsets": synsets})
    return opened.getvalue()


def kit(root: Path) -> None:
    write(root / KIT / "data" / "meta.mat", meta())
    write(root / KIT / "data" / "ILSVRC2012_validation_ground_truth.txt", truth_lines())
    write(root / KIT / "readme.txt", "This is the documentation of the ILSVRC2012 Development Kit.")


def packed_kit(root: Path) -> None:
    kit(root / "unpacked")
    with tarfile.open(root / f"{KIT}.tar.gz", "w:gz") as tar:
        tar.add(root / "unpacked" / KIT, KIT)


def meta_bin(root: Path) -> None:
    """As `torchvision.datasets.imagenet.parse_devkit_archive` saves it."""
    root.mkdir(parents=True, exist_ok=True)
    torch.save(({w: (w, "thing") for w in WNIDS}, [WNIDS[item.label] for _, item in val()]), root / "meta.bin")


def devkit(root: Path) -> Path:
    train(root)
    flat_val(root)
    kit(root)
    return root


def kaggle(root: Path) -> Path:
    home = root / "ILSVRC" / "Data" / "CLS-LOC"
    train(home)
    flat_val(home)
    write(home / "test" / "ILSVRC2012_test_00000001.JPEG", b"")
    rows = [f"{name.removesuffix('.JPEG')},{WNIDS[item.label]} 1 2 3 4 {WNIDS[item.label]} 5 6 7 8 "
            for name, item in reversed(val())]  # fmt: skip
    write(root / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows, ""]))
    return root


def tars(root: Path) -> Path:
    """As downloaded: an archive of the classes' archives, one of val's images, one of the devkit."""
    inner = []
    for c, wnid in enumerate(WNIDS):
        own = [(f"{wnid}_{i}.JPEG", item.content) for i, item in enumerate(items()["train"]) if item.label == c]
        inner.append((f"{wnid}.tar", pack(root.parent / "inner.tar", *own).read_bytes()))
    pack(root / "ILSVRC2012_img_train.tar", *inner)
    pack(root / "ILSVRC2012_img_val.tar", *reversed([(name, item.content) for name, item in val()]))
    packed_kit(root)
    return root
