"""Decoding images: what can be read, by how many threads ahead of its use, kept in how much memory.

Every loop over images stands on `in_order`: the feature service, the dense protocols, the loaders of trainings and of
pretraining. PIL lets go of Python's lock, so up to some number threads do what other loaders need processes for.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import struct
import sys
import threading
import time
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from PIL import Image

from dinobench.errors import BrokenImage, UserError
from dinobench.files import open_regular
from dinobench.types import ImageSplit

S = TypeVar("S")
T = TypeVar("T")

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
#: Pillow's names of the formats that the endings of image files stand for (jpg and jpeg, png, ppm and pgm, bmp, tif and
#: tiff, webp). Whatever else Pillow could open stays closed, whatever it is called: EPS would start Ghostscript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
#: Pixels of the largest image that is decoded: twice Pillow's MAX_IMAGE_PIXELS, where it refuses too.
MAX_PIXELS = 178_956_970

# Pillow warns from half of its limit on; there is one limit here, and the message for what lies above it names it.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# It also logs what is wrong with a file, which unhandled ends on stderr, before it raises what ends in a message.
logging.getLogger("PIL").addHandler(logging.NullHandler())
#: Pixels from which on threads decode one image at a time: each takes four to eight bytes a pixel meanwhile.
LARGE = 1 << 25
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def open_image(source: str | os.PathLike[str] | BinaryIO, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The image in a file of one of `formats`, its header read and its pixels not yet; the one place that opens images.

    Raises one of `BROKEN_IMAGE` when the file is missing or damaged, is no regular file or has more than `MAX_PIXELS`;
    so it does for whatever Pillow raises inside the block. The file is closed in any case.
    """
    file = open_regular(source) if isinstance(source, str | os.PathLike) else source
    try:
        with _opened(file, formats) as image:
            pixels = image.width * image.height
            if not pixels:
                raise OSError("image without pixels")
            if pixels > MAX_PIXELS:
                raise Image.DecompressionBombError(too_many_pixels(pixels))
            yield image
    except (UserError, *BROKEN_IMAGE):  # type: ignore[misc]
        raise
    except Exception as error:  # its decoders are many, and damaged bytes make them raise nearly anything
        raise OSError(f"damaged ({type(error).__name__}: {error})") from error
    finally:
        if file is not source:
            file.close()


def _opened(file: BinaryIO, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(file, formats=formats)
    except Image.UnidentifiedImageError:
        if not file.seek(0, os.SEEK_END):
            raise Image.UnidentifiedImageError("an empty file") from None
        raise Image.UnidentifiedImageError(f"not an image in {', '.join(formats[:-1])} or {formats[-1]}") from None
    except Image.DecompressionBombError as error:  # which names no side, but the number of pixels
        found = re.search(r"\d+", str(error))
        raise Image.DecompressionBombError(too_many_pixels(int(found[0]) if found else 0)) from None


def too_many_pixels(pixels: int) -> str:
    """What to say of an image above the limit."""
    return f"{pixels:,} pixels, above the limit of {MAX_PIXELS:,}; make it smaller"


def why_unreadable(look: Callable[[], object]) -> str:
    """Why an image cannot be read, found by trying once more: a phrase for a message, or "" where it can be now."""
    try:
        look()
    except (BrokenImage, *BROKEN_IMAGE) as error:  # type: ignore[misc]
        return " ".join(str(getattr(error, "strerror", None) or error).split())
    return ""


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) from the header. Raises one of `BROKEN_IMAGE`."""
    with open_image(path) as image:
        return image.size


def decode(path: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """The file, by path or opened, as an RGB image at full resolution, converted as torchvision's `pil_loader` does.

    16-bit grey is the exception: its high byte is taken, where Pillow's conversion would cut all above 255 to white.
    Raises one of `BROKEN_IMAGE` when the file is missing or damaged; the file is closed in any case.
    """
    with open_image(path) as image, _turn(image):
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # "I" in older Pillows
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.mode == "RGB":  # converting would copy it
            image.load()
            return image
        return image.convert("RGB")


@contextmanager
def _turn(image: Image.Image) -> Iterator[None]:
    """While a large image is decoded, no other large one is."""
    with _ONE_AT_A_TIME if image.width * image.height > LARGE else nullcontext():
        yield


def usable_cpus() -> int:
    """Cores this process may run on, which in a container or a job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: Threads that decode at most: what more of them would bring ends at Python's lock, beyond it processes serve.
MOST_THREADS = 16


def decoding_threads(chosen: int | None) -> int:
    """Threads that decode images: as many as the user chose, else one per usable core up to `MOST_THREADS`."""
    return chosen or min(MOST_THREADS, usable_cpus())


def in_order(
    work: Callable[[S], T], items: Iterable[S], *, threads: int, ahead: int, overlap: bool, start: Any = None
) -> Generator[T, None, None]:
    """`work` of every item by `threads`, in the items' order, with at most `ahead` results waiting.

    With `overlap` the threads go on while the caller uses a result; without, they rest, which is right where the caller
    computes on the same cores: threads that decode take them from under the ones that multiply, and both wait.
    `start()` is called in each thread before its first item. What `work` raises is raised here.
    """
    with ThreadPoolExecutor(threads, initializer=start) as pool:
        yield from _results(pool, work, items, ahead, overlap)


def in_order_apart(
    work: Callable[[S], T], items: Iterable[S], *, processes: int, ahead: int
) -> Generator[T, None, None]:
    """`in_order` with `overlap` by processes, which share no lock; what `work` keeps is lost with them.

    They are forks of this one, so that `work` may be anything; its items and results are pickled. Linux alone can fork
    beside threads safely enough, as torch's loader does there; elsewhere threads serve.
    Raises UserError where the system ended one of them.
    """
    if not sys.platform.startswith("linux"):
        yield from in_order(work, items, threads=min(processes, MOST_THREADS), ahead=ahead, overlap=True)
        return
    pending = iter(items)
    lumps = iter(lambda: list(islice(pending, LUMP)), [])
    context, at_once = multiprocessing.get_context("fork"), max(2 * processes, ahead // LUMP)
    try:
        with ProcessPoolExecutor(processes, context, _Apart.begin, (work, os.getpid())) as pool:
            for results in _results(pool, _Apart.lump, lumps, at_once, overlap=True):
                yield from results
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {processes} processes that decode images was ended by the system, for want of memory perhaps; "
            f"choose fewer with --workers"
        ) from error


#: Items that a process is handed at a time: handing over takes as long as decoding a small image.
LUMP = 8


class _Apart:
    """What runs in a process that decodes."""

    work: Callable[[Any], Any]

    @classmethod
    def begin(cls, work: Callable[[Any], Any], parent: int) -> None:
        cls.work = work
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent ends the others
        for number in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
            signal.signal(getattr(signal, number), signal.SIG_DFL)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)  # its pool of threads is not in a fork, which would wait for it for ever
        threading.Thread(target=cls.watch, args=(parent,), daemon=True).start()

    @staticmethod
    def watch(parent: int) -> None:
        """End with a parent that was killed: its pipes, which all processes hold, do not tell."""
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    @classmethod
    def lump(cls, items: list[Any]) -> list[Any]:
        return [cls.work(item) for item in items]


def _results(
    pool: Executor, work: Callable[[S], T], items: Iterable[S], ahead: int, overlap: bool
) -> Generator[T, None, None]:
    waiting: deque[Future[T]] = deque()
    pending = iter(items)
    try:
        while True:
            waiting.extend(pool.submit(work, item) for item in islice(pending, ahead - len(waiting)))
            if not waiting:
                return
            if overlap:
                yield waiting.popleft().result()
                continue
            wait(waiting)
            while waiting:
                yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class ImageCache(Generic[T]):
    """The images of a split in the form that a loop wants them, kept in memory as far as `ram_bytes` allow.

    `form(image)` is what is kept: an array or tensor, of which `nbytes` count. Threads may ask at once.
    """

    def __init__(self, split: ImageSplit, form: Callable[[Image.Image], T], ram_bytes: int) -> None:
        self.split, self.form = split, form
        self.room = ram_bytes
        self._kept: dict[int, T] = {}
        self._lock = threading.Lock()
        self._busy: dict[int, threading.Lock] = {}

    def get(self, row: int) -> T:
        """The image of a row, from memory where it was kept. Raises one of `BROKEN_IMAGE`."""
        if self.split.in_memory:
            return self.form(self.split.load(row))
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        with self._lock:
            busy = self._busy.setdefault(row, threading.Lock())
        with busy:  # a thread that wants the same image at the same time waits for it instead of decoding it too
            kept = self._kept.get(row)
            if kept is not None:
                return kept
            pixels = self.form(self.split.load(row))
            size: int = pixels.nbytes  # type: ignore[attr-defined]
            with self._lock:
                self._busy.pop(row, None)
                if size <= self.room:
                    self.room -= size
                    self._kept[row] = pixels
        return pixels


#: Share of the machine's memory for decoded images, unless the caller says otherwise.
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
