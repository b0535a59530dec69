"""Which values an object mask may hold: objects are numbered 1, 2, ... without a gap, and 255 belongs to nothing.

A mask with smoothed edges, or one that went through JPEG, holds dozens of values that nobody drew; scored as they are,
each becomes an object and the number means nothing. So values are looked at before anything is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinobench.errors import UserError

#: In an indexed mask: belongs to nothing; in a mask of 0 and 255: the object.
VOID = 255
#: More values than this are looked at for being areas: DAVIS has ten objects at most in a video.
MANY = 10
#: Share of 255's pixels below which labels beside it are the remains of an edge.
REMAINS = 0.05


def objects_of(path: object, labels: np.ndarray) -> tuple[int, bool]:
    """(number of objects, whether it is a mask of 0 and 255) of a video's first mask (H, W) uint8.

    Raises UserError naming the mask when it is empty or its values are no numbering of objects.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    values, void = _values(counts), int(counts[VOID])
    if not values and not void:
        raise UserError(f"{path}: the first mask is empty, so there is no object to follow")
    if not values:
        return 1, True
    if sum(counts[v] for v in values) < REMAINS * void or (len(values) > MANY and not _areas(labels, values)):
        raise UserError(_smoothed(path, values))
    if len(values) != values[-1]:
        raise UserError(
            f"{path}: {_listed('label', values)}, not numbered from 1 without a gap; "
            "give the objects the labels 1, 2, ..., or 0 and 255 where there is one"
        )
    return len(values), False


def later_labels(path: object, labels: np.ndarray, objects: int, binary: bool) -> list[int]:
    """Labels of a later mask (H, W) uint8 that the first one lacks: objects that come in later, which nobody scores.

    Raises UserError naming the mask when its values cannot be objects.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    values = _values(counts)
    extra = [v for v in values if v > objects]
    if (binary and values) or len(extra) > MANY:
        raise UserError(_smoothed(path, values))
    return extra


def check_prediction(path: object, labels: np.ndarray, objects: int, binary: bool) -> None:
    """Raises UserError naming a predicted mask (H, W) uint8 that cannot have been meant for `objects` objects."""
    counts = np.bincount(labels.ravel(), minlength=256)
    values = _values(counts)
    extra = [v for v in values if v > objects]
    if len(extra) > MANY:
        raise UserError(_smoothed(path, values))
    if extra:
        raise UserError(
            f"{path}: {_listed('label', extra)}, but the video has {objects} object(s) in its first mask; "
            "save the labels of the first mask"
        )
    if counts[VOID] and not values and not binary:
        raise UserError(
            f"{path}: only 0 and 255, where 255 belongs to nothing, but the video's objects are labelled "
            f"{'1' if objects == 1 else f'1 to {objects}'}; save a label per object"
        )


def _values(counts: np.ndarray) -> list[int]:
    values: list[int] = np.flatnonzero(counts).tolist()
    return [v for v in values if v not in (0, VOID)]


def _areas(labels: np.ndarray, values: Sequence[int]) -> bool:
    """Whether most values have a pixel whose four neighbours are alike, as areas do and levels along an edge do not."""
    inner = labels[1:-1, 1:-1]
    same = (inner == labels[:-2, 1:-1]) & (inner == labels[2:, 1:-1])
    same &= (inner == labels[1:-1, :-2]) & (inner == labels[1:-1, 2:])
    return 2 * len(set(np.unique(inner[same]).tolist()) & set(values)) > len(values)


def _smoothed(path: object, values: Sequence[int]) -> str:
    return (
        f"{path}: {_listed('value', values)} between 0 and 255: smoothed or JPEG-compressed edges are no labels; "
        "threshold the mask at 128 (0 and 255), or save one label per object as PNG without smoothing"
    )


def _listed(what: str, values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
    return f"{what} {shown}" if len(values) == 1 else f"{len(values)} {what}s {shown}"
