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
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dinobench.data.decoding import BROKEN_IMAGE, open_image
from dinobench.data.edits import EDITS, crop_share, edited
from dinobench.errors import UserError

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

    Raises UserError when there are no photos or more than four digits can number, when one cannot be read, and when
    `out` holds files already.
    """
    root, target = Path(photos), Path(out)
    sources = find_photos(root)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already: name a new or empty folder for the copies")
    if not 0 <= strong <= 99:
        raise UserError(f"strong = {strong}: between 0 and 99 strong copies of a photo can be named")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # never a half-made folder at OUT
    blocks = ["original", *(f"jpegqual/{q}" for q in jpeg_qualities), *(f"crops/{c}" for c in crops)]
    for block in [*blocks, "strong"] if strong else blocks:
        (partial / block).mkdir(parents=True)

    def work(index: int) -> list[dict[str, Any]]:
        return _copies_of(sources, index, root, partial, seed, strong, jpeg_qualities, crops)

    try:
        copies: list[dict[str, Any]] = []
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            done: Any = pool.map(work, range(len(sources)))
            for rows in progress(done, "Making copies", len(sources)) if progress else done:
                copies += rows
        text = json.dumps({"seed": seed, "photos": root.name, "originals": len(sources), "copies": copies}, indent=1)
        (partial / "manifest.json").write_text(text + "\n", encoding="utf-8")
        if target.exists():
            target.rmdir()
        partial.chmod(0o755)  # mkdtemp's folders are private
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def find_photos(root: Path) -> list[Path]:
    """The image files below `root`, sorted by their path within it."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder of photos")
    photos = sorted(
        (p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()),
        key=lambda p: p.relative_to(root).as_posix(),
    )
    if not photos:
        raise UserError(f"{root} holds no photos ({', '.join(sorted(EXTENSIONS))})")
    if len(photos) > 10_000:
        raise UserError(f"{root} holds {len(photos):,} photos: Copydays' four digits can name 10,000, pick a part")
    return photos


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
    rng = np.random.default_rng([seed, index, zlib.crc32(source.encode())])
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
        raise UserError(f"{path} cannot be read as an image ({error}): remove or replace it") from error
