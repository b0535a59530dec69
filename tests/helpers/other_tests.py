"""An ImageNet of five classes and, in their own layouts, small sets that it is scored on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dinobench.data.other_tests.imagenet_c import CORRUPTIONS

#: wnid -> ImageNet's number; the last two are in ImageNet-A and -R, the second in -R.
WNIDS = {"n01440764": 0, "n01443537": 1, "n01484850": 2, "n01498041": 6, "n01531178": 11}
COLOURS = dict(zip(WNIDS, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)], strict=True))
PER_CLASS = 6


def picture(path: Path, wnid: str, seed: int, side: int = 24, noise: int = 60) -> None:
    """An image in its class's colour, with noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dither = np.random.default_rng(seed).integers(-noise, noise + 1, (side, side, 3))
    Image.fromarray((np.array(COLOURS[wnid]) + dither).clip(0, 255).astype(np.uint8)).save(path, "PNG")


def make_imagenet(root: Path) -> Path:
    """train/ and val/, whose files are numbered as ImageNet's are, class after class."""
    for c, wnid in enumerate(WNIDS):
        for i in range(PER_CLASS):
            picture(root / "train" / wnid / f"{wnid}_{i}.JPEG", wnid, 10 * c + i)
        for i in (1, 2):
            picture(root / "val" / wnid / f"ILSVRC2012_val_{2 * c + i:08d}.JPEG", wnid, 500 + 2 * c + i)
    return root


def make_folders(root: Path, folders: Iterable[tuple[str, str]], count: int = 2, side: int = 24) -> Path:
    """`count` images of the class `wnid` in each `folder`."""
    for k, (folder, wnid) in enumerate(folders):
        for i in range(count):
            picture(root / folder / f"{i}.png", wnid, 1000 + 10 * k + i, side)
    return root


def make_v2(root: Path) -> Path:
    """Class numbers, in a folder of its own as the archive unpacks; 500 is no class of ours."""
    inner = root / "imagenetv2-matched-frequency-format-val"
    make_folders(inner, [*((str(n), w) for w, n in WNIDS.items()), ("500", "n01440764")])
    return root


def make_objectnet(root: Path) -> Path:
    """Fish are any of three classes, cups none of ours; images have a red border."""
    home = root / "objectnet-1.0"
    make_folders(home / "images", [("fish", "n01443537"), ("bird", "n01531178"), ("cup", "n01440764")])
    for file in (home / "images").rglob("*.png"):
        image = np.array(Image.open(file))
        image[[0, -1]] = image[:, [0, -1]] = (255, 0, 0)
        Image.fromarray(image).save(file)
    lines = ["coffee mug", "stingray", "goldfinch, Carduelis carduelis", "goldfish", "tench"]  # in an order of its own
    mappings = {
        "folder_to_objectnet_label.json": {"fish": "Fish", "bird": "Bird", "cup": "Cup", "nail": "Nail"},
        "objectnet_to_imagenet_1k.json": {
            "Fish": "tench; goldfish; stingray", "Bird": "goldfinch, Carduelis carduelis", "Cup": "coffee mug",
        },
        "pytorch_to_imagenet_2012_id.json": {"504": 0, "6": 1, "11": 2, "1": 3, "0": 4},
    }  # fmt: skip
    (home / "mappings").mkdir()
    for name, content in mappings.items():
        (home / "mappings" / name).write_text(json.dumps(content))
    (home / "mappings" / "imagenet_to_label_2012_v2").write_text("".join(f"{line}\n" for line in lines))
    return root


def make_corrupted(root: Path, extra: bool = False) -> Path:
    """Two classes' images under every corruption; of each corruption some levels make one class look like another."""
    for c, corruption in enumerate(CORRUPTIONS[: 19 if extra else 15]):
        folder = "noise" if corruption.endswith("noise") else "other"
        for level in range(1, 6):
            for k, wnid in enumerate(("n01440764", "n01498041")):
                at = root / folder / corruption / str(level) / wnid / f"ILSVRC2012_val_{k:08d}.JPEG"
                looks = "n01443537" if k and (c + level) % 3 == 0 else wnid
                picture(at, looks, 7 * c + 3 * level + k, side=8)
    return root
