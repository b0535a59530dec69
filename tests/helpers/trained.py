"""A suite that trains small models in moments, on images of its own."""

from __future__ import annotations

from pathlib import Path

from helpers.images import write_images

from dinobench.suite.file import Suite, read

#: Two trainings and the start of one of them, on 32 images; k-NN on these and 8 others.
TEXT = """\
[data]
images = "photos"
[train]
data = "images"
arch = "vit_w32"
depth = 1
patch_size = 8
image_size = 8
epochs = 2
batch = 16
set = { warmup_epochs = 1 }
[train.dino]
method = "dino"
start = true
set = { out_dim = 8, hidden_dim = 8, bottleneck_dim = 8, local_crops = 0 }
[train.byol]
method = "byol"
set = { hidden = 8, out = 8 }
[[run]]
protocol = "knn"
set = { resize = 8, crop = 8, k = [1, 5] }
"""


def photos(folder: Path) -> Path:
    """Class folders of small images, 32 to train on and 8 to score."""
    for split, each in (("train", 16), ("val", 4)):
        for i, name in enumerate("ab"):
            write_images(folder / "photos" / split / name, [f"{n}.png" for n in range(each)], 12, seed=each + i)
    return folder / "photos"


def trained(folder: Path, text: str = TEXT, out: str = "results", **options: object) -> Suite:
    """The suite of a text in a folder, which is the one that is worked in, with its images."""
    if not (folder / "photos").exists():
        photos(folder)
    (folder / "t.toml").write_text(text)
    return read("t.toml", out=out, **options)  # type: ignore[arg-type]
