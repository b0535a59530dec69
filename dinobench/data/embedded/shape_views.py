"""Drawn balls seen from all sides, with the depth and the camera of every view: data for the protocol navi."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dinobench.data.embedded.shapes import COLORS, NAME
from dinobench.data.pairs.views import View
from dinobench.hashing import digest

SIDE, FOCAL = 192, 300.0  # pixels
RADIUS, AWAY = 0.1, 0.5  # metres: of the ball, and from the camera to its centre
BALLS, VIEWS = 3, 12
#: Degrees that each view is turned by against the last, about an axis that differs by ball.
STEP = 17
#: Squares of colour along each coordinate of the ball.
SQUARES = 9


@dataclass(frozen=True, eq=False)
class ShapeViews:
    """Views of balls, drawn when they are asked for."""

    name: str
    layout: str
    views: tuple[View, ...]
    fingerprint: str

    def load(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The RGB picture, and depth (H, W) float32 in metres, 0 beside the ball."""
        view = self.views[index]
        ray = (np.arange(SIDE) + 0.5 - SIDE / 2) / FOCAL
        x, y = np.meshgrid(ray, ray)
        # of d (x, y, 1), at distance RADIUS from the centre (0, 0, AWAY), the nearer one
        square, half = x * x + y * y + 1, AWAY
        root = half * half - square * (AWAY**2 - RADIUS**2)
        depth = np.where(root > 0, (half - np.sqrt(np.maximum(root, 0))) / square, 0)
        points = np.stack([depth * x, depth * y, depth], axis=-1) - view.pose[:3, 3]
        own = points @ view.pose[:3, :3] / RADIUS  # the ball's own coordinates, of unit length on it
        ball = int(view.object.rpartition("_")[2])
        cell = np.floor((own + 1) * SQUARES / 2).astype(np.int64)
        mixed = (cell * (73, 179, 283)).sum(axis=-1) * 2654435761 + ball * 40503
        shade = (mixed >> 7) % 5 * 12
        pixels = np.where((depth > 0)[..., None], COLORS[(mixed >> 11) % len(COLORS)] - shade[..., None], 96)
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), depth.astype(np.float32)


def views(name: str = NAME) -> ShapeViews:
    """Twelve views of each of three balls."""
    found = []
    for ball in range(BALLS):
        axis = np.array([math.cos(ball), 1.0, math.sin(ball)])
        for number in range(VIEWS):
            pose = np.eye(4)
            pose[:3, :3] = _turn(axis / np.linalg.norm(axis), math.radians(STEP * number))
            pose[2, 3] = AWAY
            found.append(View(f"ball_{ball}/{number:02d}", f"ball_{ball}", pose, FOCAL, SIDE))
    constants = (SIDE, FOCAL, RADIUS, AWAY, BALLS, VIEWS, STEP, SQUARES, COLORS.tolist())
    return ShapeViews(name, NAME, tuple(found), digest("balls", 1, *constants))


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3): by an angle in radians about a unit axis (3,) (Rodrigues 1840)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
