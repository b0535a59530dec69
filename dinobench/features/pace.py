"""How fast images went through backbones on this machine, kept for whoever plans the next extraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dinobench.files import keep, recall
from dinobench.hashing import digest
from dinobench.types import ImageSplit

KIND = "pace"


@dataclass(frozen=True)
class Pace:
    """Images a second, decoding included, of all processes together, and the device."""

    per_second: float
    device: str


def remember(arch: str, split: ImageSplit, transform: Any, done: int, seconds: float, device: str) -> None:
    """Keep how long the features of `done` images of a split took, cut out by `transform`."""
    if done and seconds > 0:
        keep(KIND, _key(arch, split, transform), {"images": done, "seconds": seconds, "device": device})


def recalled(arch: str, split: ImageSplit, transform: Any) -> Pace | None:
    """The latest pace of an architecture with these very images, or None."""
    stored = recall(KIND, _key(arch, split, transform))
    try:
        return Pace(stored["images"] / stored["seconds"], str(stored["device"]))
    except (TypeError, KeyError, ZeroDivisionError):
        return None


def _key(arch: str, split: ImageSplit, transform: Any) -> str:
    return digest(arch, split.fingerprint, type(transform).__name__, transform)
