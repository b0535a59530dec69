"""Which training images a step sees: a pure function of seed and step, so that any step can be resumed at."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Order:
    """Batches over n images. `steps` = 0: an epoch is one pass, its last batch smaller; else an epoch is that many
    full batches of an endless row of passes."""

    n: int
    batch: int
    seed: int
    steps: int = 0
    _pass: tuple[int, np.ndarray] | None = field(default=None, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        return self.steps or -(-self.n // self.batch)

    def __call__(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a step of an epoch, (b,) indices below n, and the number (b,) of the pass each belongs to."""
        if self.steps:
            first = (epoch * self.steps + step) * self.batch
            at = np.arange(first, first + self.batch)
        else:
            first = epoch * self.n + step * self.batch
            at = np.arange(first, min(first + self.batch, (epoch + 1) * self.n))
        passes, places = np.divmod(at, self.n)
        images = np.empty(len(at), np.int64)
        for number in np.unique(passes):
            members = passes == number
            images[members] = self._permutation(int(number))[places[members]]
        return images, passes

    def _permutation(self, number: int) -> np.ndarray:
        if self._pass is None or self._pass[0] != number:
            self._pass = number, np.random.default_rng((self.seed, number)).permutation(self.n)
        return self._pass[1]


@dataclass
class RepeatedOrder(Order):
    """Full batches, the images that are left at an epoch's end being left out; fewer images than a batch are one.

    Each image comes `repeats` times running, augmented anew each time, and an epoch has n images still (Hoffer et al.
    2019, arXiv 1901.09335; repeated augmentation in DeiT, arXiv 2012.12877).
    """

    repeats: int = 1

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.n // self.batch)

    def __call__(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a step, and for each a number that no other view of that image has."""
        at = np.arange(step * self.batch, min((step + 1) * self.batch, self.n))
        return self._permutation(epoch)[at // self.repeats], epoch * self.repeats + at % self.repeats
