"""Images with the boxes of their objects: what object discovery scores on, whatever layout they came in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dinobench import lazy
from dinobench.errors import UserError, unknown_name
from dinobench.hashing import digest

with lazy.imports():
    import numpy as np
    from PIL import Image

    from dinobench.data import fingerprint

#: The file of the boxes that a run found.
BOXES = "boxes.json"


@dataclass(frozen=True, eq=False)
class BoxSet:
    """Images and their objects: `boxes[i]` (K, 4) float64 x1, y1, x2, y2 of image i in pixels, as continuous sides.

    `hard[i]` (K,) bool says which of them are truncated or difficult; it is None where nothing tells. `notes` are what
    a record has to say of it. `open_image(id)` gives the RGB image or raises one of `BROKEN_IMAGE`.
    """

    name: str
    layout: str
    ids: Sequence[str]
    boxes: Sequence[np.ndarray]
    hard: Sequence[np.ndarray] | None
    open_image: Callable[[str], Image.Image]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, image_id: str) -> Image.Image:
        """The decoded RGB image."""
        return self.open_image(image_id)

    def without_hard(self) -> BoxSet:
        """Without objects that are truncated or difficult, and without images that have no others.

        Raises UserError where nothing tells them, and where none is left.
        """
        if self.hard is None:
            raise UserError(
                f"{self.name}: nothing in it says which objects are truncated or difficult; leave no_hard out"
            )
        boxes = [b[~h] for b, h in zip(self.boxes, self.hard, strict=True)]
        kept = [i for i, b in enumerate(boxes) if len(b)]
        if not kept:
            raise UserError(f"{self.name}: all of its objects are truncated or difficult; leave no_hard out")
        before, after = sum(map(len, self.boxes)), sum(map(len, boxes))
        note = (
            f"{before - after:,} of {before:,} objects are left out as truncated or difficult, and with them "
            f"{len(self) - len(kept):,} of {len(self):,} images"
        )
        return replace(
            self,
            ids=[self.ids[i] for i in kept],
            boxes=[boxes[i] for i in kept],
            hard=[np.zeros(len(boxes[i]), bool) for i in kept],
            fingerprint=digest(self.fingerprint, "without hard"),
            notes=(*self.notes, note),
        )


@dataclass(frozen=True, eq=False)
class BoxSplits:
    """A data set with boxes whose parts are read when they are asked for: `readers` by the name of the split.

    `usual` is the split that is meant where none is named; None where one has to be named.
    """

    name: str
    layout: str
    readers: Mapping[str, Callable[[], BoxSet]]
    usual: str | None
    _read: dict[str, BoxSet] = field(default_factory=dict, repr=False)

    def select(self, split: str = "", no_hard: bool = False) -> BoxSet:
        """The split of that name. Raises UserError for an unknown one, and for what is wrong in it."""
        if not split and self.usual is None:
            options = " or ".join(f"--set split={key}" for key in self.readers)
            raise UserError(f"{self.name} holds several sets: choose with {options}")
        chosen = split or str(self.usual)
        if chosen not in self.readers:
            raise unknown_name(f"split of {self.name}", chosen, list(self.readers))
        if chosen not in self._read:
            self._read[chosen] = self.readers[chosen]()
        return self._read[chosen].without_hard() if no_hard else self._read[chosen]


def with_objects(data: BoxSet) -> BoxSet:
    """Without images in which nothing is marked, on which nothing can be found; they are noted.

    Raises UserError where no image is left.
    """
    kept = [i for i, boxes in enumerate(data.boxes) if len(boxes)]
    if not kept:
        raise UserError(f"{data.name}: no object is marked in any of its {len(data):,} images")
    if len(kept) == len(data):
        return data
    bare = data.ids[next(i for i, boxes in enumerate(data.boxes) if not len(boxes))]
    note = (
        f"{len(data) - len(kept):,} of {len(data):,} images are left out because no object is marked in them, such as "
        f"{bare}"
    )
    return replace(
        data,
        ids=[data.ids[i] for i in kept],
        boxes=[data.boxes[i] for i in kept],
        hard=None if data.hard is None else [data.hard[i] for i in kept],
        notes=(*data.notes, note),
    )


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Masks (K, H, W) bool, none empty -> (K, 4) float64: the smallest box around each."""
    rows, columns = np.asarray(masks.any(axis=2)), np.asarray(masks.any(axis=1))
    first = [columns.argmax(1), rows.argmax(1)]
    last = [side.shape[1] - side[:, ::-1].argmax(1) for side in (columns, rows)]
    return np.stack([*first, *last], axis=1).astype(np.float64).reshape(-1, 4)


def identity(names: Sequence[str], digests: np.ndarray, *told: Sequence[np.ndarray]) -> str:
    """The fingerprint of image files, and of what was read of the objects of each."""
    return digest(fingerprint.of_files(names, digests), [[part.tolist() for part in each] for each in told])


def read_found(path: Path) -> dict[str, np.ndarray]:
    """Boxes (4,) float64 by image id of a boxes.json, as `run --protocol discovery --save` leaves it, or of its folder.

    Raises UserError for another file.
    """
    file = path / BOXES if path.is_dir() else path
    try:
        content = json.loads(file.read_bytes())
        boxes = {image: np.array(box, np.float64) for image, box in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: not readable as boxes by image id ({error}); give what --save left") from error
    if odd := [image for image, box in boxes.items() if box.shape != (4,) or not np.isfinite(box).all()]:
        raise UserError(f"{file}: the box of {odd[0]} is not [x1, y1, x2, y2]; give what --save left")
    return boxes
