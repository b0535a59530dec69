"""ADE20k as the scene parsing challenge distributes it (Zhou et al. 2017): 150 classes, and 0 for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinobench.data import fingerprint
from dinobench.data.label_maps import Entry, LabelMapSet, from_files, numbered
from dinobench.errors import UserError

NAME = "ade20k"
SUMMARY = (
    "images/{training,validation}/*.jpg with annotations/{training,validation}/*.png, whose values are 1 to 150 and 0 "
    "for no class. Give ADEChallengeData2016. Where ADE20K_object150_train.txt and ADE20K_object150_val.txt are there, "
    "they say which images count; objectInfo150.txt names the classes. 0 is ignored and the rest is lowered by one "
    "(reduce_zero_label)."
)
CLASSES = 150
FOLDERS = {"training": "ADE20K_object150_train.txt", "validation": "ADE20K_object150_val.txt"}
ENDINGS = (".jpg", ".jpeg", ".png")


def recognises(path: Path, masks_only: bool = False) -> bool:
    """A folder with images and annotations of both parts; where only masks are asked for, validation's annotations."""
    if masks_only:
        return (path / "annotations" / "validation").is_dir()
    return all((path / kind / part).is_dir() for kind in ("images", "annotations") for part in FOLDERS)


def load(path: Path, name: str, progress: fingerprint.Progress | None = None, masks_only: bool = False) -> LabelMapSet:
    """List the images and hash them and their annotations. Raises UserError for one without the other.

    masks_only: validation's annotations, nothing to learn from.
    """
    splits = {
        part: [] if masks_only and part == "training" else _entries(path, part, listed, masks_only)
        for part, listed in FOLDERS.items()
    }
    return from_files(
        name, NAME, path, path, _class_names(path), numbered(CLASSES, reduce_zero_label=True), splits,
        progress=progress, masks_only=masks_only,
    )  # fmt: skip


def _entries(path: Path, part: str, listed: str, masks_only: bool) -> list[Entry]:
    folder = path / ("annotations" if masks_only else "images") / part
    images = {f.stem: f.name for f in folder.iterdir() if f.suffix.lower() in ENDINGS}
    stems: Sequence[str] = sorted(images)
    if (path / listed).is_file():
        lines = (path / listed).read_text(encoding="utf-8-sig", errors="replace").split("\n")
        stems = [Path(line.strip()).stem for line in lines if line.strip()]
        if missing := [stem for stem in stems if stem not in images]:
            raise UserError(f"{path / listed}: names {missing[0]!r}, which is not in {folder}")
        if len(set(stems)) < len(stems):
            twice = next(stem for i, stem in enumerate(stems) if stem in stems[:i])
            raise UserError(f"{path / listed}: {twice} is listed twice; list it once")
    if not stems:
        raise UserError(f"{folder}: no images; put those of {part} there")
    return [Entry(stem, f"images/{part}/{images[stem]}", f"annotations/{part}/{stem}.png") for stem in stems]


def _class_names(path: Path) -> tuple[str, ...]:
    """The last column of objectInfo150.txt, each name up to the first comma; numbers where the file is not there."""
    numbers = tuple(str(i) for i in range(1, CLASSES + 1))
    if not (path / "objectInfo150.txt").is_file():
        return numbers
    lines = (path / "objectInfo150.txt").read_text(encoding="utf-8-sig", errors="replace").split("\n")
    names = tuple(line.split("\t")[-1].split(",")[0].strip() for line in lines[1:] if line.strip())
    return names if len(names) == CLASSES else numbers
