"""Small retrieval sets held in memory, cut from the two photos that come with scikit-learn (a temple, a flower).

Real pixels, nothing downloaded, the same every time; enough to see copy detection and retrieval at work in seconds,
not enough to rank backbones by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.decoding import decode
from dinobench.data.edits import EDITS, crop_share, edited, recompress
from dinobench.data.embedded.installed import sample
from dinobench.data.image_split import ArraySplit
from dinobench.data.layouts import copydays, landmarks

NAME = "tiles"
COLUMNS, ROWS = 4, 3  # tiles per photo, of 160 x 142 pixels
#: The first edit of each strong copy, in rotation.
STRONG_KINDS = ("flip", "crop", "blur", "noise", "colour", "text", "picture", "border", "grey", "screen", "rotate")


def copies(name: str = NAME) -> copydays.Copies:
    """24 tiles as originals; of each a strong copy and one at JPEG quality 3."""
    tiles = [tile for _, _, tile in _tiles()]
    names = [f"{i:04d}" for i in range(len(tiles))]
    index = np.arange(len(tiles))
    strong = []
    for i, tile in enumerate(tiles):
        other = tiles[(i + 7) % len(tiles)]
        strong.append(edited(tile, other, np.random.default_rng(i), STRONG_KINDS[i % len(STRONG_KINDS)])[0])
    pressed = [recompress(tile, 3) for tile in tiles]
    original = _split("original", tiles, [f"original/{n}00" for n in names], index)
    blocks = (
        _split("strong", strong, [f"strong/{n}01" for n in names], index),
        _split("jpegqual/3", pressed, [f"jpegqual/3/{n}00" for n in names], index),
    )
    return copydays.assemble(name, NAME, original, blocks, None, None)


def places(name: str = NAME) -> landmarks.Landmarks:
    """Twelve tiles as places: a query showing each in its surroundings, and six views of it in the database.

    Three views are easy (compression, colour, a slight crop), two hard (a slant, a screen's look), and one is a sliver
    of the place that says too little: junk.
    """
    queries: list[Image.Image] = []
    views: list[Image.Image] = []
    boxes, truth = [], []
    for index, (photo, box, tile) in enumerate(list(_tiles())[::2]):
        rng = np.random.default_rng(1000 + index)
        left, top, right, bottom = box
        around = (max(0, left - 40), max(0, top - 40), min(photo.width, right + 40), min(photo.height, bottom + 40))
        queries.append(photo.crop(around))
        boxes.append([left - around[0], top - around[1], right - around[0], bottom - around[1]])
        first = len(views)
        views += [recompress(tile, 12), EDITS["colour"](tile, rng, tile)[0], crop_share(tile, 0.3)]
        views += [EDITS["perspective"](tile, rng, tile)[0], EDITS["screen"](tile, rng, tile)[0]]
        views += [crop_share(tile, 0.93, 0, 0)]
        easy, hard, junk = np.split(np.arange(first, len(views)), [3, 5])
        truth.append({"easy": easy, "hard": hard, "junk": junk})
    database = _split("database", views, [f"view/{i:03d}" for i in range(len(views))])
    asked = _split("queries", queries, [f"query/{i:03d}" for i in range(len(queries))])
    return landmarks.assemble(name, NAME, NAME, database, asked, np.array(boxes, dtype=float), tuple(truth))


def _tiles() -> Iterator[tuple[Image.Image, tuple[int, int, int, int], Image.Image]]:
    """(photo, box, tile) of both photos, row by row."""
    for photo in _photos():
        width, height = photo.width // COLUMNS, photo.height // ROWS
        for row in range(ROWS):
            for column in range(COLUMNS):
                box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
                yield photo, box, photo.crop(box)


def _photos() -> list[Image.Image]:
    """The photos of `sklearn.datasets.load_sample_images`, in its order."""
    try:
        return [decode(sample(f"images/{name}.jpg")) for name in ("china", "flower")]
    except OSError:  # it may keep them elsewhere one day
        from sklearn.datasets import load_sample_images

        return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def _split(
    name: str, images: Sequence[Image.Image], ids: Sequence[str], labels: np.ndarray | None = None
) -> ArraySplit:
    arrays = tuple(np.asarray(image.convert("RGB")) for image in images)
    digests = np.stack([np.frombuffer(_hash(array), np.uint8) for array in arrays])
    kinds = np.full(len(ids), -1) if labels is None else labels
    return ArraySplit(name, arrays, tuple(ids), kinds.astype(np.int64), fingerprint.of_files(ids, digests))


def _hash(array: np.ndarray) -> bytes:
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).digest()
