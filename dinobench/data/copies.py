"""Edited copies of any folder of photos, in the layout of INRIA Copydays, to score copy detection on one's own images.

OUT/original/000000.jpg       photo number 0; the first four digits name it, as in Copydays
OUT/strong/000001.jpg …       its strongly edited copies
OUT/jpegqual/3/000000.jpg …   the photo at JPEG quality 3, and so on
OUT/crops/80/000000.jpg …     with 80 % of the surface cut away, and so on
OUT/manifest.json             what was done to each
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dinobench.data.decoding import BROKEN_IMAGE, open_image
from dinobench.data.edits import EDITS, crop_share, edited
from dinobench.errors import UserError
from dinobench.files import atomic_folder

#: Copydays' own JPEG qualities and cropped shares of the surface, in % (Douze et al. 2009, section 4).
JPEG_QUALITIES = (3, 5, 8, 10, 15, 20, 30, 50, 75)
CROPS = (10, 15, 20, 30, 40, 50, 60, 70, 80)
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def make_copies(
    photos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    seed: int = 0,
    *,
    strong: int = 2,
    jpeg_qualities: Sequence[int] = JPEG_QUALITIES,
    crops: Sequence[int] = CROPS,
    progress: Callable[..., Iterator[Any]] | None = None,
) -> dict[str, Any]:
    """Write the copies of every image under `photos` into the new folder `out` and return the manifest.

    The same photos and seed give the same files; a photo's edits depend on its place in the sorted list and on its
    name. Each of the `strong` copies of a photo passes through two or three of `edits.EDITS`, the first of them in
    rotation so that all kinds occur. The manifest's "copies" list {file, original, source, edits: [{edit, …}]}.

    What was sorted out is counted under "left_out", by ending or by reason.

    Raises UserError when there are no photos or more than four digits can number, when some cannot be read, and when
    `out` holds files already.
    """
    root, target = Path(photos), Path(os.path.realpath(out))
    sources, left_out = find_photos(root)
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{out} exists already: name a new or empty folder for the copies")
    if target == Path.cwd() or os.path.ismount(target):  # which no other folder can take the place of
        raise UserError(f"{out} is in use as the current folder or a disk's: name a new folder for the copies")
    if not 0 <= strong <= 99:
        raise UserError(f"strong = {strong}: between 0 and 99 strong copies of a photo can be named")
    watched: Callable[..., Iterable[Any]] = progress or (lambda items, description, total: items)
    blocks = ["original", *(f"jpegqual/{q}" for q in jpeg_qualities), *(f"crops/{c}" for c in crops)]
    with atomic_folder(target) as partial, _threads() as pool:
        why = pool.map(_why_unreadable, sources)
        unreadable = [w for w in watched(why, "Looking through photos", len(sources)) if w]
        if unreadable:
            raise UserError(_told(unreadable, len(sources)))
        for block in [*blocks, "strong"] if strong else blocks:
            (partial / block).mkdir(parents=True)

        def work(index: int) -> list[dict[str, Any]]:
            return _copies_of(sources, index, root, partial, seed, strong, jpeg_qualities, crops)

        done = watched(pool.map(work, range(len(sources))), "Making copies", len(sources))
        copies = [row for rows in done for row in rows]
        text = json.dumps(
            {"seed": seed, "photos": root.name, "originals": len(sources), "left_out": left_out, "copies": copies},
            indent=1,
        )
        (partial / "manifest.json").write_text(text + "\n", encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more once the block has ended, by an interruption too."""
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def find_photos(root: Path) -> tuple[list[Path], dict[str, int]]:
    """The image files below `root`, sorted by their path within it, and how many files are none, by ending or reason.

    What is hidden, or lies in a hidden folder, is left out: among it are other calls' unfinished folders.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder of photos")
    photos: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in root.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            if not path.is_dir():
                left_out["hidden"] += 1
        elif path.is_dir():
            if path.is_symlink():
                left_out["links to folders"] += 1  # which are not followed
        elif path.suffix.lower() not in EXTENSIONS:
            left_out[path.suffix.lower() or "without ending"] += 1
        elif path.is_file() or not path.exists():  # a link to nothing is a photo that cannot be read
            photos.append(path)
        else:
            left_out["pipes or devices"] += 1
    photos.sort(key=lambda path: path.relative_to(root).as_posix())
    if not photos:
        found = f"; left out: {left_out_words(left_out)}" if left_out else ""
        raise UserError(f"{root} holds no photos ({', '.join(sorted(EXTENSIONS))}){found}")
    if len(photos) > 10_000:
        raise UserError(f"{root} holds {len(photos):,} photos: Copydays' four digits can name 10,000, pick a part")
    return photos, dict(sorted(left_out.items()))


def left_out_words(left_out: Mapping[str, int]) -> str:
    """What was sorted out, in words.

    >>> left_out_words({".gif": 2, "hidden": 1})
    '2 .gif, 1 hidden'
    """
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))


def _why_unreadable(path: Path) -> str:
    try:
        _read(path)
    except UserError as error:
        return str(error)
    return ""


def _told(unreadable: Sequence[str], photos: int, shown: int = 5) -> str:
    if len(unreadable) == 1:
        return f"{unreadable[0]}: remove or replace it"
    more = f"; and {len(unreadable) - shown:,} more" if len(unreadable) > shown else ""
    listed = "; ".join(unreadable[:shown])
    return f"{len(unreadable):,} of {photos:,} photos cannot be read; remove or replace them: {listed}{more}"


def _copies_of(
    sources: Sequence[Path],
    index: int,
    root: Path,
    out: Path,
    seed: int,
    strong: int,
    jpeg_qualities: Sequence[int],
    crops: Sequence[int],
) -> list[dict[str, Any]]:
    source = sources[index].relative_to(root).as_posix()
    rng = np.random.default_rng([seed, index, zlib.crc32(os.fsencode(source))])
    photo = _read(sources[index])
    name = f"{index:04d}00.jpg"
    rows: list[dict[str, Any]] = []

    def write(file: str, image: Image.Image, quality: int, edits: list[dict[str, Any]]) -> None:
        image.save(out / file, "JPEG", quality=quality)
        rows.append({"file": file, "original": f"original/{name}", "source": source, "edits": edits})

    write(f"original/{name}", photo, 95, [])
    for q in jpeg_qualities:
        write(f"jpegqual/{q}/{name}", photo, q, [{"edit": "jpeg", "quality": q}])
    for c in crops:
        write(f"crops/{c}/{name}", crop_share(photo, c / 100), 95, [{"edit": "crop", "removed": c / 100}])
    kinds = list(EDITS)
    for number in range(1, strong + 1):
        other = int(rng.integers(0, max(1, len(sources) - 1)))  # any photo but this one, where there is another
        other_path = sources[(index + 1 + other) % len(sources)]
        first = kinds[(index * strong + number - 1) % len(kinds)]
        image, edits = edited(photo, _read(other_path), rng, first)
        for edit in edits:
            if edit["edit"] == "picture":
                edit["other"] = other_path.relative_to(root).as_posix()
        write(f"strong/{index:04d}{number:02d}.jpg", image, 90, edits)
    return rows


def _read(path: Path) -> Image.Image:
    try:
        with open_image(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except BROKEN_IMAGE as error:
        raise UserError(f"{path} cannot be read as an image ({error})") from error
