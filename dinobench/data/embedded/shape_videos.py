"""Short videos of drawn shapes that move, turn, grow and pass each other, with exact masks."""

from __future__ import annotations

import numpy as np

from dinobench.data.embedded.shapes import draw, grain, moved, scatter
from dinobench.data.fingerprint import of_array
from dinobench.data.video import ArrayVideo, VideoSet

NAME = "shape-videos"
HEIGHT, WIDTH, FRAMES = 240, 320, 10
OBJECTS = (1, 2, 2, 3)


def videos(name: str = "shapes") -> VideoSet:
    """The four videos."""
    drawn = tuple(_video(i, objects) for i, objects in enumerate(OBJECTS))
    names = [f"{video.name}/{frame}" for video in drawn for frame in video.names]
    content = np.concatenate([np.concatenate([v.pixels, v.labels[..., None]], axis=-1) for v in drawn])
    return VideoSet(name, NAME, drawn, of_array(names, content))


def _video(number: int, objects: int) -> ArrayVideo:
    rng = np.random.default_rng([2104, 1000 + number])
    shapes = scatter(rng, objects, HEIGHT, WIDTH)
    # towards the middle and past it, a little faster for each object
    steps = [
        ((WIDTH / 2 - s.x) / (6 + k), (HEIGHT / 2 - s.y) / (9 + k), 0.06 * (1 - 2 * (k % 2)), 1.02)
        for k, s in enumerate(shapes)
    ]
    frames = []
    for _ in range(FRAMES):
        frames.append(draw(shapes, HEIGHT, WIDTH, grain(rng, HEIGHT, WIDTH)))
        shapes = [moved(shape, *step) for shape, step in zip(shapes, steps, strict=True)]
    pixels, labels = (np.stack(part) for part in zip(*frames, strict=True))
    return ArrayVideo(f"shapes-{number}", tuple(f"{i:05d}" for i in range(FRAMES)), pixels, labels)
