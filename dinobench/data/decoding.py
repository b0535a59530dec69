"""Decoding images: what can be read, by how many threads, kept in how much memory."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# What PIL raises on a damaged file, by format: UnidentifiedImageError is an OSError, broken PNG chunks give
# SyntaxError, TIFF tags struct.error, TypeError or KeyError, and so on.
BROKEN_IMAGE: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode(path: str | os.PathLike[str]) -> Image.Image:
    """The file as an RGB image at full resolution, converted as torchvision's `pil_loader` does.

    16-bit grey is the exception: its high byte is taken, where Pillow's conversion would cut all above 255 to white.
    Raises one of `BROKEN_IMAGE` when the file is missing or damaged; the file is closed in any case.
    """
    with open(path, "rb") as file, Image.open(file) as image:
        if 0 in image.size:
            raise OSError(f"{path}: image without pixels")
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # "I" in older Pillows
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def usable_cpus() -> int:
    """Cores this process may run on, which in a container or a job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoding_threads(chosen: int | None) -> int:
    """Threads that decode images: as many as the user chose, else one per usable core up to 16."""
    return chosen or min(16, usable_cpus())


#: Of the machine's memory, for decoded images, unless the caller says otherwise.
RAM_SHARE = 0.25


def ram_budget(chosen: int | None, processes: int) -> int:
    """Bytes of decoded images that one of `processes` may keep: as chosen, or its part of RAM_SHARE of the memory."""
    return int(RAM_SHARE * memory_bytes() / processes) if chosen is None else chosen


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or a container's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or the word max
        return total
