"""KITTI's raw drives with projected laser depth (Geiger et al. 2013), split as by Eigen et al. (arXiv 1406.2283)."""

from __future__ import annotations

from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.depth_maps import Convention, DepthSet, from_lists

NAME = "kitti"
SUMMARY = (
    "kitti_eigen_train.txt and kitti_eigen_test.txt, lines of `image depth focal`, beside input/<date>/<drive>/… and "
    "gt_depth/<drive>/…. Depth is a 16-bit PNG of 256 to the metre, 0 where unknown; a depth of `None` leaves an image "
    "out. Images and depth are cut to their lowest 352 rows and middle 1216 columns first; scored within .001 and 80 m "
    "in Garg's crop of that."
)
LISTS = ("kitti_eigen_train.txt", "kitti_eigen_test.txt")
#: zhyever/Monocular-Depth-Estimation-Toolbox, `depth/datasets/kitti.py` and its KITTI configs.
CONVENTION = Convention(80.0, crop="garg", train_crop=(352, 704), brightness=0.1, scale=256)
#: KITTI's benchmark crop (height, width): KBCrop and `eval_kb_crop` there.
FRAME = 352, 1216
#: Which folder of `input/<date>/<drive>/image_02/data/<frame>.png` is the drive, whose frames are alike.
DRIVE = 2


def recognises(path: Path) -> bool:
    """A folder with both lists."""
    return all((path / file).is_file() for file in LISTS)


def load(path: Path, name: str, progress: fingerprint.Progress | None = None) -> DepthSet:
    """Read the lists and hash what they name. Raises UserError for a list at fault or a missing file."""
    folders = "input", "gt_depth"
    return from_lists(path, name, NAME, LISTS, folders, CONVENTION, progress, frame=FRAME, cluster_level=DRIVE)
