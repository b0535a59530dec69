"""DAVIS 2016 and 2017: videos with an annotated mask per frame (davischallenge.org)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.decoding import BROKEN_IMAGE, decoding_threads, in_order, open_image
from dinobench.data.object_labels import objects_of
from dinobench.data.video import FileVideo, VideoSet, different_size, read_labels, require_labels
from dinobench.errors import BrokenImage, UserError

NAME = "davis"
SUMMARY = (
    "JPEGImages/480p/<video>/*.jpg and Annotations/480p/<video>/*.png, listed in ImageSets/2017/val.txt or "
    "ImageSets/2016/val.txt. 2017 goes first; without either list all annotated videos count. Masks are indexed PNGs "
    "with a label per object (2017; 255 is void) or 0/255 with one object (2016); labels are those of the first mask. "
    "`dinobench score davis` needs no frames."
)
LISTS = ("ImageSets/2017/val.txt", "ImageSets/2016/val.txt", "ImageSets/480p/val.txt")  # the last: 2016's own release
FRAME_ENDINGS = (".jpg", ".jpeg", ".png")


def recognises(path: Path, masks_only: bool = False) -> bool:
    """A folder with annotations in 480p and, unless only they are asked for, frames."""
    return (masks_only or (path / "JPEGImages" / "480p").is_dir()) and (path / "Annotations" / "480p").is_dir()


def load(path: Path, name: str, progress: fingerprint.Progress | None = None, masks_only: bool = False) -> VideoSet:
    """Check all files' names, sizes and modes; pixels are read later. Raises UserError naming the file at fault.

    masks_only: the frames are not looked at and need not be there.
    """
    names, listed = _video_names(path)
    videos = tuple(_video(path, video, masks_only) for video in names)
    notes = _later_objects(videos, progress)
    files = [Path(f).relative_to(path).as_posix() for v in videos for f in (*v.frames, *v.masks)]
    digests = fingerprint.hash_files(path, files, path, progress)
    return VideoSet(name, f"{NAME} ({listed})", videos, fingerprint.of_files(files, digests), notes)


def _video_names(path: Path) -> tuple[list[str], str]:
    """Names in the list's order, and what listed them."""
    for listed in LISTS:
        if (path / listed).is_file():
            lines = (path / listed).read_text(encoding="utf-8-sig", errors="replace").split("\n")
            # DAVIS 2016's own lists pair a frame with its mask on each line; the folder is the video
            entries = [line.split()[0] for line in lines if line.strip()]
            names = list(dict.fromkeys(entry.split("/")[-2] if "/" in entry else entry for entry in entries))
            if not names:
                raise UserError(f"{path / listed}: empty; list one video per line")
            return names, listed
    names = sorted(folder.name for folder in (path / "Annotations" / "480p").iterdir() if folder.is_dir())
    if not names:
        raise UserError(f"{path / 'Annotations' / '480p'}: no video folders; put one per video there")
    return names, "all annotated videos"


def _video(path: Path, name: str, masks_only: bool) -> FileVideo:
    masks = _by_stem(path / "Annotations" / "480p" / name, (".png",))
    frames = masks if masks_only else _by_stem(path / "JPEGImages" / "480p" / name, FRAME_ENDINGS)
    stems = sorted(frames)
    _check_names(stems, frames, masks, path / "Annotations" / "480p" / name)
    size = _size(frames[stems[0]])
    for stem in stems:
        for file in (frames[stem], masks[stem]):
            if (other := _size(file, is_mask=file is masks[stem])) != size:
                raise UserError(different_size(file, other, size, f"the first frame of {name}"))
    objects, binary = objects_of(masks[stems[0]], read_labels(masks[stems[0]]))
    return FileVideo(
        name,
        tuple(stems),
        () if masks_only else tuple(str(frames[stem]) for stem in stems),
        tuple(str(masks[stem]) for stem in stems),
        size,
        objects,
        binary,
    )


def _later_objects(videos: Sequence[FileVideo], progress: fingerprint.Progress | None) -> tuple[str, ...]:
    """Look at the values of all masks before anything is scored; a note on each video with objects that come in later.

    Like the official scorer, which counts the first mask's objects only. Masks that cannot be read are left to the run,
    which may leave their videos out.
    """

    def later(place: tuple[FileVideo, int]) -> list[int]:
        video, index = place
        try:
            return video.later_labels(index)
        except BrokenImage:
            return []

    places = [(video, index) for video in videos for index in range(1, len(video))]
    threads = decoding_threads(None)
    checked: Iterable[list[int]] = in_order(later, places, threads=threads, ahead=4 * threads, overlap=True)
    if progress:
        checked = progress(checked, "Checking masks", len(places))
    extra: dict[str, dict[int, str]] = {}
    for (video, index), labels in zip(places, checked, strict=True):
        for label in labels:
            extra.setdefault(video.name, {}).setdefault(label, video.names[index])
    return tuple(
        f"{name}: label {', '.join(map(str, firsts))} first appears after the first mask ({min(firsts.values())}.png) "
        "and is not scored, as in the official scorer"
        for name, firsts in extra.items()
    )


def _by_stem(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; add the video or take it off the list")
    return {
        file.stem: file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in endings and not file.name.startswith(".")
    }


def _check_names(stems: list[str], frames: dict[str, Path], masks: dict[str, Path], folder: Path) -> None:
    """Every frame has its mask and every mask its frame, with no hole in the numbering."""
    if len(stems) < 3:
        raise UserError(
            f"{folder}: {len(stems)} frame(s); scoring leaves out the first and the last, so it needs three"
        )
    if stems[0] not in masks:
        raise UserError(f"{folder / stems[0]}.png: the first mask is absent, so there is nothing to propagate")
    if lacking := [stem for stem in stems if stem not in masks]:
        raise UserError(f"{folder / lacking[0]}.png: missing, though the frame is there; add the mask")
    if lacking := sorted(set(masks) - set(frames)):
        raise UserError(f"{frames[stems[0]].parent / lacking[0]}.jpg: missing, though its mask is there; add the frame")
    if not all(stem.isdigit() for stem in stems):
        return
    numbers = [int(stem) for stem in stems]
    steps = np.diff(numbers)
    if (holes := np.flatnonzero(steps != steps.min())).size:
        hole = numbers[int(holes[0])] + int(steps.min())
        raise UserError(f"{frames[stems[0]].parent}: frame {hole:0{len(stems[0])}d} is missing; add it and its mask")


def _size(file: Path, is_mask: bool = False) -> tuple[int, int]:
    """(height, width) from the header, which also tells a mask of colours."""
    try:
        with open_image(file) as image:
            if is_mask:
                require_labels(file, image)
            return image.height, image.width
    except BROKEN_IMAGE as error:
        raise UserError(f"{file}: not a readable image ({error}); replace the file") from error
