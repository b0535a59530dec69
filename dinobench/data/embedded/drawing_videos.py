"""Short videos of the drawn things, which move, turn and pass each other, with exact masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dinobench.data.embedded.drawings import KINDS, Thing, background, paint, random_thing
from dinobench.data.embedded.shapes import grain, moved
from dinobench.data.fingerprint import of_array
from dinobench.data.video import ArrayVideo, VideoSet

NAME = "drawing-videos"
HEIGHT, WIDTH, FRAMES = 96, 128, 10
#: Things have the size that they have on a drawing of this side.
SIDE = 64
OBJECTS = (1, 2, 1, 2, 1, 2, 2, 2)


def videos(name: str = "drawings") -> VideoSet:
    """The eight videos."""
    drawn = tuple(_video(i, objects) for i, objects in enumerate(OBJECTS))
    names = [f"{video.name}/{frame}" for video in drawn for frame in video.names]
    content = np.concatenate([np.concatenate([v.pixels, v.labels[..., None]], axis=-1) for v in drawn])
    return VideoSet(name, NAME, drawn, of_array(names, content))


def _video(number: int, objects: int) -> ArrayVideo:
    rng = np.random.default_rng([2104, 14294, 10**6 + number])
    kinds = rng.permutation(len(KINDS))[:objects].tolist()
    # side by side, so that each is seen in the first frame
    things = [
        _at(random_thing(rng, kind, HEIGHT, WIDTH, SIDE), WIDTH * (2 * k + 1) / (2 * objects))
        for k, kind in enumerate(kinds)
    ]
    # towards the middle and past it, to the right in every other video and else to the left
    aside = 2 - 4 * (number % 2)
    ways = [
        ((WIDTH / 2 - t.shape.x) / (7 + k) + aside, (HEIGHT / 2 - t.shape.y) / (9 + k), 0.06 - 0.12 * k)
        for k, t in enumerate(things)
    ]
    behind = background(rng, HEIGHT, WIDTH)
    frames = []
    for _ in range(FRAMES):
        frames.append(paint(things, behind, grain(rng, HEIGHT, WIDTH) // 2))
        things = [replace(t, shape=moved(t.shape, *way, growth=1.0)) for t, way in zip(things, ways, strict=True)]
    pixels, labels = (np.stack(part) for part in zip(*frames, strict=True))
    return ArrayVideo(f"drawings-{number}", tuple(f"{i:05d}" for i in range(FRAMES)), pixels, labels)


def _at(thing: Thing, x: float) -> Thing:
    return replace(thing, shape=replace(thing.shape, x=x))
