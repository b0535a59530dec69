"""A mask made smooth within regions of one colour and sharp at their borders: the fast bilateral solver.

(Barron and Poole 2016, arXiv 1511.03296, with the settings and the order of operations of
`unsupervised_saliency_detection/bilateral_solver.py` of YangtaoWANG95/TokenCut at fed52cd.) Pixels that are near each
other and alike in colour share a vertex of a grid of five dimensions, in which the problem is solved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, dia_array, diags_array
from scipy.sparse.linalg import cg

#: Rows of luma and the two chroma channels from RGB, and what is added so that none is below 0 (JPEG's YCbCr).
YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
YUV_OFFSET = np.array([0.0, 128.0, 128.0])
#: Weight of smoothness, trust in the mask, least diagonal of the preconditioner, and where the iteration ends; all the
#: release's.
SMOOTHNESS, CONFIDENCE, LEAST_DIAGONAL, TOLERANCE, ITERATIONS = 256.0, 0.999, 1e-5, 1e-5, 25
#: Rounds in which the grid's blur is made to keep sums (Barron and Poole 2016, algorithm 1).
BALANCING = 10


class Bandwidths(NamedTuple):
    """How far pixels of one vertex may be apart: in pixels, in luma and in chroma of 0..255."""

    spatial: float = 16.0
    luma: float = 16.0
    chroma: float = 8.0


RELEASED = Bandwidths()


class Grid(NamedTuple):
    """The vertices of an image's pixels: `splat` (vertices, pixels) of ones, and `blur` (vertices, vertices), in which
    a vertex counts 10 times and its neighbours along each of the five axes once.
    """

    splat: csr_array
    blur: csr_array


def bilateral_solver(image: np.ndarray, mask: np.ndarray, bandwidths: Bandwidths = RELEASED) -> np.ndarray:
    """Image (H, W, 3) uint8 and its mask (H, W) of 0..1 -> (H, W) float64, which may go a little beyond 0..1.

    Conjugate gradients from a mean over each vertex; as released they end after 25 steps, solved or not.
    """
    grid = grid_of(image, bandwidths)
    target, weight = mask.astype(np.float64).ravel(), np.full(mask.size, CONFIDENCE)
    scale, mass = _balanced(grid)
    smooth = diags_array(mass) - diags_array(scale) @ grid.blur @ diags_array(scale)
    weights, sums = grid.splat @ weight, grid.splat @ (target * weight)
    matrix = csr_array(SMOOTHNESS * smooth + diags_array(weights))
    preconditioner: dia_array = diags_array(1 / np.maximum(matrix.diagonal(), LEAST_DIAGONAL))
    vertices, _ = cg(matrix, sums, x0=sums / weights, rtol=TOLERANCE, atol=0.0, maxiter=ITERATIONS, M=preconditioner)
    solved: np.ndarray = (grid.splat.T @ vertices).reshape(mask.shape)
    return solved


def grid_of(image: np.ndarray, bandwidths: Bandwidths) -> Grid:
    """The grid of an image (H, W, 3) uint8; vertices are numbered by the place along the axes, chroma last."""
    height, width = image.shape[:2]
    yuv = image.astype(np.float64) @ YUV.T + YUV_OFFSET
    rows, columns = np.mgrid[:height, :width]
    scaled = [columns / bandwidths.spatial, rows / bandwidths.spatial, yuv[..., 0] / bandwidths.luma]
    scaled += [yuv[..., channel] / bandwidths.chroma for channel in (1, 2)]
    places = np.stack([axis.astype(np.int64).ravel() for axis in scaled])  # (5, pixels), none below 0
    sides = places.max(axis=1) + 3  # room for a neighbour on either side, so that none gets another's number
    steps = np.cumprod(np.append(1, sides[:-1]))
    numbers, vertex = np.unique(steps @ (places + 1), return_inverse=True)
    count, pixels = len(numbers), vertex.size
    splat = csr_array((np.ones(pixels), (vertex.ravel(), np.arange(pixels))), shape=(count, pixels))
    blur = csr_array(2.0 * len(steps) * diags_array(np.ones(count)))
    for step in (*steps, *-steps):
        at = np.searchsorted(numbers, numbers + step).clip(0, count - 1)
        found = np.flatnonzero(numbers[at] == numbers + step)
        blur = blur + csr_array((np.ones(len(found)), (found, at[found])), shape=(count, count))
    return Grid(splat, csr_array(blur))


def _balanced(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the vertices with which the blur nearly keeps their masses, and the masses that it keeps exactly."""
    pixels = grid.splat.sum(axis=1)
    scale = np.ones(len(pixels))
    for _ in range(BALANCING):
        scale = np.sqrt(scale * pixels / (grid.blur @ scale))
    return scale, scale * (grid.blur @ scale)
