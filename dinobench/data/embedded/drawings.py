"""Drawings of ten kinds of things, which differ in outline and surface and in nothing else: classes that pixels do not
tell apart, with exact masks.

A thing's place, size, turn and colours and what lies behind it are random; all hues are alike, and only lightness tells
a thing from what lies behind. Comparisons, whole numbers and rounded turns only, so that every machine draws the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from dinobench.data.boxes import BoxSet, BoxSplits, boxes_of_masks
from dinobench.data.embedded.shapes import KINDS as OUTLINES
from dinobench.data.embedded.shapes import Shape, grain
from dinobench.data.fingerprint import of_array
from dinobench.data.image_split import array_split, from_arrays
from dinobench.data.masks import Masks, from_labels
from dinobench.types import ImageClassification

NAME = "drawings"
SIDE, TRAIN, TEST = 48, 2000, 500
#: Outline and surface of every kind.
KINDS = (
    ("disc", "rings"), ("disc", "dots"), ("square", "checks"), ("square", "bricks"), ("triangle", "stripes"),
    ("triangle", "net"), ("cross", "blotches"), ("cross", "zigzag"), ("ring", "rays"), ("ring", "plain"),
)  # fmt: skip
#: Half the period of a surface, and a thing's radius, in hundredths of the side that drawings have: (least, below).
PERIOD, RADIUS = (7, 10), (36, 46)
#: Lightness of a thing's two colours: (least, below); what lies behind has `MIDDLE`.
LIGHT, DARK, MIDDLE = (185, 216), (40, 71), 128
#: Rec. 601 in thousandths.
LUMA = np.array([299, 587, 114])

# From along and across a thing in half periods, and a number of its own, to where the lighter of its colours shows.
SURFACES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "rings": lambda s, t, own: np.floor(np.sqrt(s * s + t * t)) % 2 < 1,
    "dots": lambda s, t, own: (s % 2 - 1) ** 2 + (t % 2 - 1) ** 2 < 0.4,
    "checks": lambda s, t, own: (np.floor(s) + np.floor(t)) % 2 < 1,
    "bricks": lambda s, t, own: (t % 1.6 < 0.4) | ((s + 1.3 * (np.floor(t / 1.6) % 2)) % 2.6 < 0.4),
    "stripes": lambda s, t, own: s % 2 < 1,
    "net": lambda s, t, own: (s % 2 < 0.5) | (t % 2 < 0.5),
    "blotches": lambda s, t, own: _mixed(np.floor(s), np.floor(t), own) % 2 < 1,
    "zigzag": lambda s, t, own: (s + np.abs(t % 4 - 2)) % 2 < 1,
    "rays": lambda s, t, own: (s * t > 0) ^ (np.abs(s) > np.abs(t)),
    "plain": lambda s, t, own: np.zeros(s.shape, bool),
}


@dataclass(frozen=True)
class Thing:
    """Where and how large (`shape`), of which kind, in which two colours (3,); `period` in pixels, `own` a number."""

    shape: Shape
    kind: int
    light: np.ndarray
    dark: np.ndarray
    period: float
    own: int


def paint(things: Sequence[Thing], behind: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Things before a background (H, W, 3) int -> (image (H, W, 3) uint8, labels (H, W) uint8, 1 for the first)."""
    height, width = behind.shape[:2]
    image, labels = behind.copy(), np.zeros((height, width), np.uint8)
    for label, thing in enumerate(things, 1):
        inside = thing.shape.inside(height, width)
        u, v = thing.shape.frame(height, width)
        scale = thing.shape.radius / thing.period
        shown = SURFACES[KINDS[thing.kind][1]](u * scale, v * scale, thing.own)
        image[inside] = np.where(shown[inside, None], thing.light, thing.dark)
        labels[inside] = label
    return np.clip(image + noise[..., None], 0, 255).astype(np.uint8), labels


def drawings(name: str = NAME) -> ImageClassification:
    """2,000 drawings to learn from and 500 to score on, as many of every kind."""
    train, test = (
        array_split(split, pixels, _ids(split, len(pixels)), kinds)
        for split, (pixels, _, kinds) in (("train", _kept(0, TRAIN)), ("test", _kept(TRAIN, TEST)))
    )
    return from_arrays(name, NAME, [" of ".join(reversed(kind)) for kind in KINDS], train, test)


@dataclass(frozen=True, eq=False)
class DrawingMasks:
    """The test drawings with the mask of the thing on each: `pixels` (n, S, S, 3), `labels` (n, S, S) uint8."""

    name: str
    layout: str
    pixels: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray
    fingerprint: str

    def ids(self, kind: str) -> Sequence[str]:
        """One name per drawing, whatever the kind of masks."""
        return _ids("test", len(self.pixels))

    def load(self, image_id: str) -> Image.Image:
        """The RGB image."""
        return Image.fromarray(self.pixels[_number(image_id)])

    def masks(self, image_id: str, kind: str) -> Masks:
        """The thing's mask, called by its kind where classes are asked for."""
        i = _number(image_id)
        return from_labels(self.labels[i] * np.uint8(1 if kind == "instances" else 1 + self.kinds[i]))


def masks(name: str = NAME) -> DrawingMasks:
    """The 500 test drawings."""
    pixels, labels, kinds = _kept(TRAIN, TEST)
    content = np.concatenate([pixels, labels[..., None]], axis=-1)
    return DrawingMasks(name, NAME, pixels, labels, kinds, of_array([f"kind {k}" for k in kinds], content))


def boxes(name: str = NAME) -> BoxSplits:
    """The drawings of `masks`, with the box around each thing."""
    return BoxSplits(name, NAME, {"all": partial(_boxed, name)}, "all")


def _boxed(name: str) -> BoxSet:
    drawn = masks(name)
    ids = drawn.ids("instances")
    found = [boxes_of_masks(drawn.masks(i, "instances").masks) for i in ids]
    return BoxSet(name, NAME, ids, found, None, drawn.load, drawn.fingerprint)


@cache
def _kept(first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`draw`, once in a process; nobody writes into what is kept."""
    parts = draw(first, count)
    for part in parts:
        part.setflags(write=False)
    return parts


def draw(first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drawings (n, S, S, 3) and labels (n, S, S) uint8, 1 on the thing, and its kind (n,), from number `first` on."""
    pixels, labels = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty((count, SIDE, SIDE), np.uint8)
    kinds = np.arange(count) % len(KINDS)
    for i, kind in enumerate(kinds.tolist()):
        rng = np.random.default_rng([2104, 14294, first + i])
        thing = random_thing(rng, kind, SIDE, SIDE, SIDE)
        pixels[i], labels[i] = paint([thing], background(rng, SIDE, SIDE), grain(rng, SIDE, SIDE) // 2)
    return pixels, labels, kinds


def random_thing(rng: np.random.Generator, kind: int, height: int, width: int, side: int) -> Thing:
    """A thing of the size that it has on a drawing of this side, as good as whole, in an image of height and width."""
    radius = side * int(rng.integers(*RADIUS)) / 100
    y, x = (float(rng.integers(round(0.8 * radius), round(n - 0.8 * radius) + 1)) for n in (height, width))
    outline, surface = KINDS[kind]
    shape = Shape(OUTLINES.index(outline), 0, x, y, radius, int(rng.integers(0, 126)) / 20)
    light, dark = tint(rng, int(rng.integers(*LIGHT)), 80), tint(rng, int(rng.integers(*DARK)), 70)
    if surface == "plain" and rng.integers(2):
        dark = light
    return Thing(shape, kind, light, dark, side * int(rng.integers(*PERIOD)) / 100, int(rng.integers(1, 1000)))


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) int: from one colour to another across, and two to four discs of a colour near."""
    rows, columns = np.mgrid[:height, :width]
    one, other = tint(rng, MIDDLE, 110), tint(rng, MIDDLE, 110)
    down, along = rng.integers(-8, 9, 2)
    ramp = (down * rows * 64 // height + along * columns * 64 // width)[..., None]
    image = one + (other - one) * (ramp - ramp.min()) // max(1, int(np.ptp(ramp)))
    for _ in range(int(rng.integers(2, 5))):
        y, x, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(4, 10)
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        image[disc] += tint(rng, int(rng.integers(-12, 13)), 40)
    return image


def tint(rng: np.random.Generator, lightness: int, spread: int) -> np.ndarray:
    """(3,) int: a random hue of this lightness; channels lie about `spread` around it, and may leave 0..255."""
    rgb = rng.integers(-spread, spread + 1, 3)
    return rgb + lightness - int(rgb @ LUMA) // 1000


def _mixed(i: np.ndarray, j: np.ndarray, own: int) -> np.ndarray:
    """A number that looks random for every pair of whole ones."""
    key = (i.astype(np.int64) * 73856093) ^ (j.astype(np.int64) * 19349663) ^ (own * 83492791)
    return ((key * 2654435761) & 0xFFFFFFFF) >> 15


def _ids(split: str, count: int) -> tuple[str, ...]:
    return tuple(f"{split}/{i:04d}" for i in range(count))


def _number(image_id: str) -> int:
    return int(image_id.rsplit("/", 1)[1])
