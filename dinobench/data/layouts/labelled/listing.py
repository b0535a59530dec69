"""Labelled images as a layout lists them, and what is made of the list: train and test, a training, or a draw."""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinobench.data import leaks
from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import FileSplit, assemble, check_classes, part
from dinobench.errors import UserError
from dinobench.types import ImageClassification, TrainingImages

#: Splits to score on, by the names that `shards.split_of` gives them: the first there is counts.
TESTS = ("val", "test")
#: What is said where there is nothing to score on, after the name of the data set.
NO_SPLIT = "draw one with @split=0.2 (a fifth of each class) after its name"


@dataclass(frozen=True)
class Listing:
    """The images of a data set, not hashed yet.

    `whole` are all of them, with labels (n,) that index `classes` and are -1 where there is none; its name and
    fingerprint say nothing yet. `parts` maps train, val, test, or "" where nothing tells, to rows (m,) of `whole`.
    `path` is what the user gave and the hashes are remembered under. `with_val` says that train and val are learnt from
    and test alone is scored on, as the field does with the set.
    """

    layout: str
    path: Path
    whole: FileSplit
    parts: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    with_val: bool = False
    report: str | None = None


@dataclass(frozen=True)
class Draw:
    """A share of each class, drawn to score on."""

    share: float
    seed: int = 0

    def __str__(self) -> str:
        return f"split={self.share:g},seed={self.seed}"


def parse_draw(share: str, seed: str) -> Draw:
    """`0.2` and `0`, as typed after `@split=` and `,seed=`. Raises UserError for what is no share or no seed."""
    try:
        draw = Draw(float(share), int(seed))
    except ValueError:
        draw = Draw(float("nan"), -1)
    if not (0 < draw.share < 1 and 0 <= draw.seed < 2**63):
        raise UserError(
            f"@split={share},seed={seed}: a share between 0 and 1 and a whole seed, as in @split=0.2,seed=0"
        )
    return draw


def classification(listing: Listing, name: str, progress: Progress | None = None) -> ImageClassification:
    """Train and test as the data set has them. Raises UserError where one is missing or has images without a label."""
    there = {split: rows for split, rows in listing.parts.items() if len(rows)}
    if "train" not in there:
        has = ", ".join(filter(None, there)) or "no split"
        raise UserError(f"{listing.path}: has {has} and no train to learn from; {NO_SPLIT}")
    tests = [split for split in (("test",) if listing.with_val else TESTS) if split in there]
    if not tests:
        raise UserError(f"{listing.path}: has train but no val or test to score on; put one beside it, or {NO_SPLIT}")
    rows = there["train"]
    val = there.get("val") if listing.with_val else None
    joined = rows if val is None else np.concatenate([rows, val])
    test = there[tests[0]]
    ignored = "".join(f", {other} ignored" for other in there if other not in ("train", tests[0]) and val is None)
    made = _made(listing, name, ("train" if val is None else "train+val", joined), (tests[0], test), progress)
    layout = f"{listing.layout} (train, {tests[0]}{ignored})"
    own = None if val is None else np.arange(len(rows), len(joined))
    return dataclasses.replace(made, layout=layout, val=own, report=listing.report)


def training(listing: Listing, name: str, progress: Progress | None = None) -> TrainingImages:
    """The images of train, or all where nothing tells them apart; labels are no need. Raises UserError for none."""
    chosen = [split for split in ("train", "") if len(listing.parts.get(split, ()))]
    if not chosen:
        raise UserError(f"{listing.path}: has {', '.join(listing.parts) or 'no images'} and no train to learn from")
    rows = listing.parts[chosen[0]]
    whole = part(listing.whole, rows, "train")
    digests = whole.hashed(listing.path, progress)
    split = part(whole, np.arange(len(whole)), "train", digests)
    classes = listing.classes if (split.labels >= 0).any() else ()
    return TrainingImages(name, f"{listing.layout} ({chosen[0] or 'all'})", classes, split, digests, listing.notes)


def divided(listing: Listing, draw: Draw, name: str, progress: Progress | None = None) -> ImageClassification:
    """Train and a test drawn from it, of a data set that has one split. Raises UserError where it has several."""
    there = [split for split, rows in listing.parts.items() if len(rows)]
    if len(there) != 1:
        raise UserError(f"{listing.path}: has {' and '.join(there)} already; leave out @split={draw.share:g}")
    rows = listing.parts[there[0]]
    _require_labels(listing, there[0] or "the set", rows)
    train, test = drawn([listing.whole.ids[row] for row in rows.tolist()], listing.whole.labels[rows], draw)
    if not len(test):
        raise UserError(f"{listing.path}: one image a class leaves none to score on; give more images a class")
    made = _made(listing, f"{name}@{draw}", ("train", rows[train]), ("test", rows[test]), progress)
    held = len(np.unique(listing.whole.labels[rows[test]]))
    alone = len(made.classes) - held
    note = (
        f"test drawn here: {draw.share:g} of each class, seed {draw.seed}, by the SHA-256 of the images' names: "
        f"{len(train):,} train, {len(test):,} test"
    ) + (f"; {alone} of {len(made.classes)} classes have one image and none in test" if alone else "")
    return dataclasses.replace(made, layout=f"{listing.layout} ({draw})", notes=(note, *made.notes))


def drawn(ids: Sequence[str], labels: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Indices to learn from and to score on, both ascending; the same on every machine, whatever their order.

    Of a class of n images round(share x n) are scored on, at least one and at most n - 1, and none of a lone one:
    those whose SHA-256 of seed and name comes first. A name is a relative path; letters with accents count as one sign,
    though some file systems keep two.
    """
    keys = [hashlib.sha256(f"{draw.seed}\n{unicodedata.normalize('NFC', i)}".encode()).digest() for i in ids]
    chosen = np.zeros(len(ids), bool)
    order = sorted(range(len(ids)), key=keys.__getitem__)
    by_class = labels[order]
    for label in np.unique(labels):
        members = np.asarray(order)[by_class == label]
        chosen[members[: min(len(members) - 1, max(1, int(draw.share * len(members) + 0.5)))]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def numbered(
    values: Sequence[int | str | None], names: Sequence[str] | None, where: object
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels (n,) int64 with -1 for none, classes) of labels as files have them: numbers, or names of classes.

    `names` are those of the classes 0, 1, …; without them numbers are classes called so, in numeric order, and texts in
    that of their letters. Raises UserError for numbers without a name and for two classes of one name.
    """
    kinds = {type(v) for v in values if v is not None}
    if odd := kinds - {int, str}:
        raise UserError(f"{where}: labels are {odd.pop().__name__} and neither numbers nor names of classes")
    if len(kinds) > 1:
        raise UserError(f"{where}: labels are neither all whole numbers nor all texts")
    if names is not None and kinds != {str}:
        if len(set(names)) < len(names):
            twice = next(n for i, n in enumerate(names) if n in names[:i])
            raise UserError(f"{where}: two classes are called {twice!r}; name each once")
        labels = np.fromiter((-1 if v is None else min(max(int(v), -1), 2**62) for v in values), np.int64, len(values))
        if len(labels) and labels.max() >= len(names):
            raise UserError(f"{where}: label {labels.max()} has no name: {len(names)} classes are named, from 0 on")
        return labels, tuple(names)
    present: set[Any] = {v for v in values if v is not None and (isinstance(v, str) or v >= 0)}
    known = sorted(present)
    index = {v: i for i, v in enumerate(known)}
    return np.fromiter((index.get(v, -1) for v in values), np.int64, len(values)), tuple(map(str, known))


def _require_labels(listing: Listing, split: str, rows: np.ndarray) -> None:
    lost = rows[listing.whole.labels[rows] < 0]
    if len(lost):
        raise UserError(
            f"{listing.path}: {len(lost):,} of {len(rows):,} images of {split} have no label, such as "
            f"{listing.whole.ids[int(lost[0])]}; images without labels are for `dinobench pretrain`"
        )


def _made(
    listing: Listing,
    name: str,
    train: tuple[str, np.ndarray],
    test: tuple[str, np.ndarray],
    progress: Progress | None,
) -> ImageClassification:
    for split, rows in (train, test):
        _require_labels(listing, split, rows)
    rows = np.concatenate([train[1], test[1]])
    used = np.unique(listing.whole.labels[rows])
    classes = [listing.classes[c] for c in used.tolist()]
    notes = listing.notes
    if absent := [c for c in listing.classes if c not in set(classes)]:
        notes += (f"left out: {len(absent)} of {len(listing.classes)} classes without images, such as {absent[0]}",)
    labelled = dataclasses.replace(listing.whole, labels=np.searchsorted(used, listing.whole.labels))
    of_train, of_test = ({classes[c] for c in np.unique(labelled.labels[r]).tolist()} for r in (train[1], test[1]))
    check_classes(listing.path, sorted(of_train), of_test, test[0])
    whole = part(labelled, rows, "")
    digests = whole.hashed(listing.path, progress)
    cut = len(train[1])
    ours = part(whole, np.arange(cut), train[0], digests[:cut])
    theirs = part(whole, np.arange(cut, len(rows)), test[0], digests[cut:])
    leak = leaks.note(theirs.ids, leaks.leaked(digests[:cut], digests[cut:]))
    return assemble(name, listing.layout, classes, ours, theirs, leak, notes)
