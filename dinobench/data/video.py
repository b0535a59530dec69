"""Videos with a label map per frame, on disk or in memory, and reading label maps without a detour through colours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

from dinobench import lazy
from dinobench.data.decoding import BROKEN_IMAGE, open_image
from dinobench.data.object_labels import VOID, check_prediction, later_labels
from dinobench.errors import BrokenImage, UserError

with lazy.imports():
    import cv2


class Video(Protocol):
    """One video: `size` is (height, width), `names` has one stem per frame, labels run from 0 to `objects`.

    `binary` says that its masks hold 0 and 255, as in DAVIS 2016, instead of labels.
    """

    @property
    def name(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def objects(self) -> int: ...

    @property
    def binary(self) -> bool: ...

    def __len__(self) -> int: ...

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        ...

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8, 0 for background and void."""
        ...


@dataclass(frozen=True)
class VideoSet:
    """Videos to propagate masks through and to score on; the fingerprint is of all frames and masks in order.

    `notes` say what of the files is not used.
    """

    name: str
    layout: str
    videos: tuple[Video, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.videos)

    def select(self, names: tuple[str, ...] | list[str]) -> tuple[Video, ...]:
        """The videos called `names`, in the data set's order, or all for none. Raises UserError for an unknown one."""
        known = [video.name for video in self.videos]
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"{self.name}: no video {unknown[0]!r}; it has {', '.join(known)}")
        return tuple(video for video in self.videos if not names or video.name in names)


@dataclass(frozen=True)
class FileVideo:
    """A video in files; `frames` is empty where only masks were asked for."""

    name: str
    names: tuple[str, ...]
    frames: tuple[str, ...]
    masks: tuple[str, ...]
    size: tuple[int, int]
    objects: int
    binary: bool

    def __len__(self) -> int:
        return len(self.names)

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, decoded by OpenCV, whose JPEG pixels the published scores rest on."""
        bgr = cv2.imread(self.frames[index], cv2.IMREAD_COLOR)
        if bgr is None:
            raise BrokenImage(f"{self.frames[index]}: not a readable image; replace the file")
        if bgr.shape[:2] != self.size:
            raise UserError(different_size(self.frames[index], bgr.shape[:2], self.size, "the first frame"))
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8 labels; those that the first mask lacks count as background.

        Raises UserError naming the file when it is damaged, of another size or its values cannot be labels.
        """
        labels = _read_sized(self.masks[index], self)
        if labels.max() > self.objects:
            later_labels(self.masks[index], labels, self.objects, self.binary)
        return _of_objects(labels, self)

    def later_labels(self, index: int) -> list[int]:
        """Labels of a frame's mask that the first one lacks. Raises UserError as `mask` does."""
        return later_labels(self.masks[index], _read_sized(self.masks[index], self), self.objects, self.binary)


@dataclass(frozen=True, eq=False)
class ArrayVideo:
    """A video in memory: `pixels` (n, H, W, 3) uint8 RGB, `labels` (n, H, W) uint8."""

    name: str
    names: tuple[str, ...]
    pixels: np.ndarray
    labels: np.ndarray
    binary: ClassVar[bool] = False

    @property
    def size(self) -> tuple[int, int]:
        return self.labels.shape[1], self.labels.shape[2]

    @property
    def objects(self) -> int:
        return int(self.labels[0].max())

    def __len__(self) -> int:
        return len(self.pixels)

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self.pixels[index]

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8 labels."""
        return self.labels[index]


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """The stored values of an indexed or grey PNG: (H, W) uint8, no colour conversion.

    Raises UserError when the file is missing, damaged or in colour.
    """
    try:
        with open_image(path) as image:
            require_labels(path, image)
            return np.asarray(image, dtype=np.uint8)
    except FileNotFoundError:
        raise BrokenImage(f"{path}: no such mask; every scored frame needs one") from None
    except BROKEN_IMAGE as error:
        raise BrokenImage(f"{path}: not a readable mask ({error}); replace the file") from error


def read_prediction(path: str | os.PathLike[str], video: Video) -> np.ndarray:
    """A mask that a method predicted for a frame of `video`: (H, W) uint8, labels 0 to `video.objects`.

    255 is the object where the video's own masks hold 0 and 255, and background elsewhere. Raises UserError naming the
    file when it is missing or damaged, its size differs from the video's or it holds what cannot be the video's labels.
    """
    labels = _read_sized(path, video)
    if labels.max() > video.objects:
        check_prediction(path, labels, video.objects, video.binary)
    return _of_objects(labels, video)


def _read_sized(path: str | os.PathLike[str], video: Video) -> np.ndarray:
    labels = read_labels(path)
    if labels.shape != video.size:
        raise UserError(different_size(path, labels.shape, video.size, f"video {video.name}"))
    return labels


def _of_objects(labels: np.ndarray, video: Video) -> np.ndarray:
    """Labels (H, W) with those beyond the video's objects as background, and 0/255 masks as 0/1."""
    if labels.max() <= video.objects:
        return labels
    void = labels == VOID
    if video.binary and np.count_nonzero(void) == np.count_nonzero(labels):
        return void.view(np.uint8)
    return np.where(labels > video.objects, np.uint8(0), labels)


def require_labels(path: object, image: Image.Image) -> None:
    """Raises UserError when the opened file holds colours."""
    if image.mode not in ("P", "L", "1"):
        raise UserError(f"{path}: a mask in mode {image.mode}, not an indexed or grey PNG; save labels, not colours")


def different_size(path: object, actual: tuple[int, ...], wanted: tuple[int, ...], of: str) -> str:
    """The message for a file of another size; sizes are (height, width)."""
    return f"{path}: {actual[1]} x {actual[0]} pixels, but {of} has {wanted[1]} x {wanted[0]}; give all one size"


def palette() -> list[int]:
    """DAVIS's colours, which are PASCAL VOC's: bits 0, 1, 2 of the label go to the high bits of R, G, B, and so on.

    >>> palette()[:15]
    [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    """
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            if 3 * bit + channel < 8:
                set_ = (np.arange(256) >> (3 * bit + channel)) & 1
                colours[:, channel] |= (set_ << (7 - bit)).astype(np.uint8)
    return colours.ravel().tolist()


def label_png(labels: np.ndarray) -> bytes:
    """A label map (H, W) uint8 as an indexed PNG with DAVIS's palette, readable by the official scorer."""
    image = Image.fromarray(labels)
    image.putpalette(palette())
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
