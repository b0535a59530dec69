"""`--limit N`: the same N items of every split on every machine, of every kind of data set there is.

Which items stay follows from their names and N alone (`by_turns`): classes, categories and objects give theirs by
turns, so that all of them stay as long as N reaches. What is left has another fingerprint than the whole, even where
nothing had to go, so that its scores are never ranked with those of the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from dinobench.data.boxes import BoxSet, BoxSplits
from dinobench.data.depth_maps import DepthSet
from dinobench.data.label_maps import LabelMapSet
from dinobench.data.layouts import ANY_IMAGES, UNLABELLED
from dinobench.data.layouts.copydays import SIDE, Copies, assemble
from dinobench.data.layouts.landmarks import LABELS, LabelledImages, Landmarks, LandmarkSets
from dinobench.data.limits.by_turns import by_turns
from dinobench.data.limits.parts import DepthPart, LabelMapPart, MaskPart, PairPart, ViewPart
from dinobench.data.masks import MaskSet
from dinobench.data.other_tests.imagenet_c import CELL
from dinobench.data.pairs.keypoints import KeypointSet
from dinobench.data.pairs.views import ViewSet
from dinobench.data.subsets import Subset
from dinobench.data.video import VideoSet
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.types import ImageClassification, ImageSplit, TrainingImages

#: Raised when other items stay for the same N.
VERSION = 1

#: What is left of a data set, and of how many items of what: (kept, before, "images of train").
Cut = tuple[Any, list[tuple[int, int, str]]]


def limited(data: Any, kind: str, n: int) -> Any:
    """At most `n` items of each split of a data set of `kind`, as protocols name it in `data`.

    Items are images, videos, pairs or views; of a retrieval set each query keeps a positive as long as `n` reaches, of
    copies the copies of the originals that stay are kept. Raises UserError where a kind cannot be cut and where nothing
    to score on would be left.
    """
    if isinstance(data, BoxSplits):  # of which none has been chosen
        readers = {split: partial(_read_limited, reader, kind, n) for split, reader in data.readers.items()}
        return dataclasses.replace(data, readers=readers, _read={})
    identity = digest(data.fingerprint, "limit", VERSION, n)
    if isinstance(data, LandmarkSets):
        sets = {key: limited(one, kind, n) for key, one in data.sets.items()}
        return dataclasses.replace(data, sets=sets, fingerprint=identity)
    if kind not in CUTS:
        raise UserError(
            f"--limit {n}: data sets of kind {kind!r}, as {data.name} is, cannot be cut; leave --limit out (it cuts "
            f"{', '.join(CUTS)})"
        )
    part, told = CUTS[kind](data, n)
    counts = ", ".join(f"{kept:,} of {before:,} {what}" for kept, before, what in told)
    notes = (*getattr(data, "notes", ()), f"--limit {n}: {counts} are used, chosen by the digests of their names")
    return dataclasses.replace(part, fingerprint=identity, notes=notes)


def _read_limited(read: Callable[[], BoxSet], kind: str, n: int) -> BoxSet:
    part: BoxSet = limited(read(), kind, n)
    return part


def _subset(split: ImageSplit, rows: np.ndarray) -> ImageSplit:
    """These rows of a split; itself where that is all, whose features may be there already."""
    return split if len(rows) == len(split) else Subset(split, rows, split.name)


def _classification(data: ImageClassification, n: int) -> Cut:
    """Train, its validation images and test, each by turns from every class."""
    train, test, labels = data.train, data.test, data.train.labels
    apart = np.zeros(len(train), bool)
    if data.val is not None:
        apart[data.val] = True
    rows = [part[by_turns(_of(train.ids, part), n, labels[part])] for part in map(np.flatnonzero, (~apart, apart))]
    kept = np.sort(np.concatenate(rows))
    left = np.unique(labels[kept])
    answers = test.labels[:, None] if data.answers is None else data.answers
    scored = np.arange(len(test))
    told = [(len(kept), len(train), f"images of {train.name}")]
    if len(left) < len(np.unique(labels)):  # no image of the others can be right
        scored = np.flatnonzero(np.isin(answers, left).any(axis=1))
        told.append((len(left), len(np.unique(labels)), "classes"))
    if not len(scored):
        raise UserError(
            f"--limit {n}: leaves {data.name} {len(left)} of {len(np.unique(labels)):,} classes to learn from, and no "
            f"test image is of one of them; use --limit {len(np.unique(labels))} or more"
        )
    groups = test.labels[scored]
    if data.report == "mCE":
        groups = _cells(data, n)[scored]
    chosen = scored[by_turns(_of(test.ids, scored), n, groups)]
    told.append((len(chosen), len(test), f"images of {test.name}"))
    return dataclasses.replace(
        data, train=_subset(train, kept), test=_subset(test, chosen),
        leak=data.leak and f"before --limit: {data.leak}",
        answers=None if data.answers is None else data.answers[chosen],
        val=None if data.val is None else np.flatnonzero(apart[kept]),
        verdicts=None if data.verdicts is None else (data.verdicts[0][kept], data.verdicts[1][chosen]),
    ), told  # fmt: skip


def _cells(data: ImageClassification, n: int) -> np.ndarray:
    """The corruption and level of each test image, by turns of which mCE keeps all that it is over."""
    found = [CELL.search(name) for name in data.test.ids]
    cells = np.array(["/".join(match.groups()[:2]) if match else "" for match in found])
    if n < (needed := len(np.unique(cells))):
        raise UserError(f"--limit {n}: mCE is over {needed} corruptions and levels; use --limit {needed} or more")
    return cells


def _of(ids: Sequence[str], rows: np.ndarray) -> list[str]:
    return [ids[row] for row in rows.tolist()]


def _training_images(data: TrainingImages | ImageClassification, n: int) -> Cut:
    """By turns from every class, or all alike where the images have no labels."""
    if isinstance(data, ImageClassification):
        return _classification(data, n)
    rows = by_turns(data.train.ids, n, data.train.labels)
    digests = None if data.digests is None else data.digests[rows]
    part = dataclasses.replace(data, train=_subset(data.train, rows), digests=digests)
    return part, [(len(rows), len(data.train), f"images of {data.train.name}")]


def _mapped(part: type[LabelMapPart | DepthPart], data: LabelMapSet | DepthSet, n: int) -> Cut:
    """Images that have a map each; in which of them which class is, is not known before all are read."""
    splits = {side: getattr(data, side) for side in ("train", "test")}
    rows = {side: by_turns(split.ids, n) for side, split in splits.items()}
    parts: dict[str, Any] = {side: part(split, rows[side]) for side, split in splits.items()}
    told = [(len(rows[side]), len(split), f"images of {split.name}") for side, split in splits.items()]
    return dataclasses.replace(data, **parts), told


def _videos(data: VideoSet, n: int) -> Cut:
    rows = by_turns([video.name for video in data.videos], n)
    part = dataclasses.replace(data, videos=tuple(data.videos[row] for row in rows.tolist()))
    return part, [(len(rows), len(data), "videos")]


def _masks(data: MaskSet, n: int) -> Cut:
    """Of each kind of mask; of one that the set has none of it still says so itself."""
    listed, told = {}, []
    for kind in ("instances", "classes"):
        try:
            ids = data.ids(kind)
        except UserError:
            continue
        listed[kind] = tuple(_of(ids, by_turns(ids, n)))
        told.append((len(listed[kind]), len(ids), f"images with masks of {kind}"))
    return MaskPart(data, listed, data.name, data.layout, data.fingerprint), told


def _boxes(data: BoxSet, n: int) -> Cut:
    rows = by_turns(data.ids, n).tolist()
    part = dataclasses.replace(
        data, ids=[data.ids[row] for row in rows], boxes=[data.boxes[row] for row in rows],
        hard=None if data.hard is None else [data.hard[row] for row in rows],
    )  # fmt: skip
    return part, [(len(rows), len(data), "images")]


def _keypoints(data: KeypointSet, n: int) -> Cut:
    """Pairs, by turns from every category."""
    rows = by_turns([pair.id for pair in data.pairs], n, np.array([pair.category for pair in data.pairs]))
    pairs = tuple(data.pairs[row] for row in rows.tolist())
    return PairPart(data, pairs, data.name, data.layout, data.fingerprint), [(len(rows), len(data.pairs), "pairs")]


def _views(data: ViewSet, n: int) -> Cut:
    """Views, by turns from every object; the first two of one come together, since a view alone has no partner."""
    rows = by_turns([view.id for view in data.views], n, np.array([view.object for view in data.views]), together=2)
    views = tuple(data.views[row] for row in rows.tolist())
    part = ViewPart(data, tuple(rows.tolist()), views, data.name, data.layout, data.fingerprint)
    return part, [(len(rows), len(data.views), "views")]


def _copies(data: Copies, n: int) -> Cut:
    """Originals with all copies of theirs, and of the images beside them as many."""
    kept = by_turns(data.originals.ids, n)
    place = np.full(len(data.originals), -1)
    place[kept] = np.arange(len(kept))
    told = [(len(kept), len(data.originals), "originals")]
    blocks = []
    for block in data.blocks:
        rows = np.flatnonzero(place[block.labels] >= 0)
        blocks.append(Subset(block, rows, block.name, relabel=place))
        told.append((len(rows), len(block), f"images of {block.name}"))
    sides: dict[str, Any] = {}
    for side in SIDE:
        if (split := getattr(data, side)) is not None:
            rows = by_turns(split.ids, n)
            sides[side] = _subset(split, rows)
            told.append((len(rows), len(split), side))
    originals = Subset(data.originals, kept, data.originals.name, relabel=place)
    beside = sides.get("distractors"), sides.get("whitening")
    part = assemble(data.name, data.layout.split(" (")[0], originals, tuple(blocks), *beside, data.notes)
    return dataclasses.replace(part, sides=data.sides), told


def _landmarks(data: Landmarks | LabelledImages, n: int) -> Cut:
    """Queries, then of the database first a positive of each of them, then whatever their names' digests say.

    Labelled images, which are each other's queries, by turns from every class, the first two of one together.
    """
    if isinstance(data, LabelledImages):
        rows = by_turns(data.images.ids, n, data.images.labels, together=2)
        told = [(len(rows), len(data.images), "images")]
        return dataclasses.replace(data, images=_subset(data.images, rows)), told
    asked = by_turns(data.queries.ids, n)
    ids = data.database.ids
    needed = set()
    for query in asked.tolist():
        positives = np.concatenate([data.truth[query][label] for label in LABELS[:2]])
        if len(positives):
            needed.add(int(positives[by_turns(_of(ids, positives), 1)[0]]))
    first = np.array(sorted(needed), np.int64)
    first = first[by_turns(_of(ids, first), n)]
    rest = np.setdiff1d(np.arange(len(ids)), first)
    kept = np.sort(np.concatenate([first, rest[by_turns(_of(ids, rest), n - len(first))]]))
    place = np.full(len(ids), -1)
    place[kept] = np.arange(len(kept))
    truth = tuple({label: _moved(rows, place) for label, rows in data.truth[q].items()} for q in asked.tolist())
    part = dataclasses.replace(
        data, database=_subset(data.database, kept), queries=_subset(data.queries, asked), boxes=data.boxes[asked],
        truth=truth,
    )  # fmt: skip
    told = [(len(asked), len(data.queries), "queries"), (len(kept), len(ids), "images of the database")]
    return part, told


def _moved(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Rows of the whole database as rows of its part; those that went are left out."""
    moved: np.ndarray = place[rows]
    return moved[moved >= 0]


#: What cuts a data set of each kind; whatever it leaves the fingerprint and the notes of is given new ones.
CUTS: Mapping[str, Callable[[Any, int], Cut]] = {
    "classification": _classification,
    UNLABELLED: _training_images,
    ANY_IMAGES: _training_images,
    "copies": _copies,
    "videos": _videos,
    "masks": _masks,
    "boxes": _boxes,
    "depth": partial(_mapped, DepthPart),
    "landmarks": _landmarks,
    "keypoints": _keypoints,
    "navi": _views,
    "label_maps": partial(_mapped, LabelMapPart),
}
