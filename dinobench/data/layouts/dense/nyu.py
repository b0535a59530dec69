"""NYU Depth v2 (Silberman et al. 2012) as monocular depth is trained and scored on it since BTS (arXiv 1907.10326)."""

from __future__ import annotations

from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.depth_maps import Convention, DepthSet, from_lists

NAME = "nyu"
SUMMARY = (
    "nyu_train.txt and nyu_test.txt, lines of `image depth focal`, beside the folders of the scenes. Depth is a 16-bit "
    "PNG in millimetres, 0 where unknown; a depth of `None` leaves the image out. Scored within .001 and 10 m in "
    "Eigen's crop."
)
LISTS = ("nyu_train.txt", "nyu_test.txt")
#: zhyever/Monocular-Depth-Estimation-Toolbox, `depth/datasets/nyu.py`; facebookresearch/dinov3, `config-nyu.yaml`.
CONVENTION = Convention(10.0, crop="nyu", border="nyu", train_crop=(416, 544), brightness=0.25, scale=1000)


def recognises(path: Path) -> bool:
    """A folder with both lists."""
    return all((path / file).is_file() for file in LISTS)


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> DepthSet:
    """Read the lists and hash what they name. Raises UserError for a list at fault or a missing file."""
    return from_lists(path, name, NAME, LISTS, ("", ""), CONVENTION, progress)
