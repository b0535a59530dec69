"""Which backbones are on the device: those of one extraction pass, or that of one protocol's run.

Of many checkpoints the others wait in the host's memory, so that a device need not hold all of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from dinobench.types import Backbone


class Residents:
    """The backbones brought to `device`. One that is asked for again while it is there isn't moved."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._here: list[Backbone] = []

    def only(self, backbones: Iterable[Backbone]) -> None:
        """Bring these, after the others that were brought have gone back to the CPU."""
        wanted = list(backbones)
        leaving = [b for b in self._here if not _among(b, wanted)]
        self._here = [b for b in self._here if _among(b, wanted)]
        for backbone in leaving:
            backbone.to("cpu")
        self.also(wanted)

    def also(self, backbones: Iterable[Backbone]) -> None:
        """Bring these to the others: for what a protocol asks of a second backbone while it works with its own."""
        for backbone in backbones:
            if not _among(backbone, self._here):
                backbone.to(self.device)
                self._here.append(backbone)


def _among(backbone: Backbone, others: Iterable[Backbone]) -> bool:
    return any(backbone is other for other in others)
