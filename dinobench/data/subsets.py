"""Parts of a split: seeded draws, those of labelled ones stratified: hold-outs and low-shot draws.

A draw depends on the labels, the seed and the share only, so that every backbone meets the same images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.types import ImageClassification, ImageSplit, TrainingImages


@dataclass(eq=False)
class Subset:
    """Some images of a split, by index; it caches and pickles like any other split.

    `relabel` says what each label becomes, where they index something that has shrunk too.
    """

    whole: ImageSplit
    indices: np.ndarray
    name: str
    relabel: np.ndarray | None = None

    @cached_property
    def ids(self) -> Sequence[str]:
        return tuple(self.whole.ids[int(i)] for i in self.indices)

    @cached_property
    def labels(self) -> np.ndarray:
        labels = self.whole.labels[self.indices]
        return labels if self.relabel is None else self.relabel[labels]

    @cached_property
    def fingerprint(self) -> str:
        chosen = np.ascontiguousarray(self.indices, np.int64).tobytes()
        return hashlib.sha256(self.whole.fingerprint.encode() + chosen).hexdigest()

    @property
    def in_memory(self) -> bool:
        return self.whole.in_memory

    @property
    def cropped(self) -> bool:
        """Whether the images have been brought to the models' size: see `data.transforms.for_split`."""
        return bool(getattr(self.whole, "cropped", False))

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image."""
        return self.whole.load(int(self.indices[index]))


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to learn from and indices held out to choose by: of every class a `fraction`, at least one of two.

    labels (n,) int64 -> (n - m,) and (m,), both ascending. A class of one image has none to spare.

    Raises UserError when nothing could be held out.
    """
    held = _per_class(labels, seed, lambda count: max(1, round(fraction * count)) if count > 1 else 0)
    if not len(held):
        raise UserError(f"{len(labels)} train images, one per class, leave none to hold out; use more images per class")
    learn = np.ones(len(labels), bool)
    learn[held] = False
    return np.flatnonzero(learn), held


def low_shot(labels: np.ndarray, seed: int, *, fraction: float = 0.0, n_per_class: int = 0) -> np.ndarray:
    """Indices of a low-shot draw, ascending: `n_per_class` images of every class (all of a smaller one), or a
    `fraction` of every class, at least one."""
    if n_per_class:
        return _per_class(labels, seed, lambda count: n_per_class)
    return _per_class(labels, seed, lambda count: max(1, round(fraction * count)))


def draw(n: int, count: int, seed: int) -> np.ndarray:
    """`count` of n indices, or all of fewer, whatever their labels: ascending."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:count])


def draw_digest(indices: np.ndarray) -> str:
    """Eight hexadecimal digits that tell two draws apart in a record."""
    return hashlib.sha256(np.ascontiguousarray(indices, np.int64).tobytes()).hexdigest()[:8]


def _per_class(labels: np.ndarray, seed: int, take: Callable[[int], int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        drawn.append(members[: take(len(members))])
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)


def of_any_images(data: ImageClassification | TrainingImages) -> ImageClassification:
    """Images that need no labels as a data set: without classes where they have none, or several at a time.

    What was no set to score on has all of its images in train, and none in test.
    """
    if isinstance(data, TrainingImages):
        none = Subset(data.train, np.zeros(0, np.int64), "test")
        told = digest(data.train.fingerprint, "without labels")
        return ImageClassification(data.name, data.layout, (), data.train, none, told, notes=data.notes)
    return data if data.verdicts is None else replace(data, classes=(), verdicts=None, val=None)
