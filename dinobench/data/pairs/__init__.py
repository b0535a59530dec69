"""Pairs of images in which the same points are known: keypoints, and surfaces before calibrated cameras."""

from __future__ import annotations

from typing import Protocol


class PairSet(Protocol):
    """What sets of pairs and of views have in common; the fingerprint is of images and annotations.

    One may have `notes`, texts for the record about what is left out.
    """

    @property
    def name(self) -> str: ...
    @property
    def layout(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
