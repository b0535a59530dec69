"""The points of one image looked for in another's feature map, as three programs do it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dinobench.algorithms.correspondence import aligned_vectors, best_patches, best_pixels, pixel_vectors
from dinobench.data.pairs.keypoints import PointPair
from dinobench.data.pairs.square import SquareInput
from dinobench.metrics.correspondence import longer_side


class Matches(NamedTuple):
    """Of one pair's points: where they were found (K, 2) in the target's pixels, and how far from the truth (K,).

    Distances are in longer sides of the target's box; `centred` is that of the best patch's centre, where the point is
    its corner, else the same.
    """

    points: np.ndarray
    ratios: np.ndarray
    centred: np.ndarray


def match(pair: PointPair, source: torch.Tensor, target: torch.Tensor, square: SquareInput, multiple: int) -> Matches:
    """Look for the pair's points in the target's map (D, h, w); how the images became squares says by which program.

    Squashed ones are matched by pixels, centred ones by patches, those padded in a corner by patches' corners, where
    maps are of the square with zeros around it up to a `multiple` of pixels.
    """
    return {"squash": _by_pixels, "centre": _by_patches, "corner": _by_corners}[square.fit](
        pair, source, target, square, multiple
    )


def _by_pixels(pair: PointPair, source: torch.Tensor, target: torch.Tensor, square: SquareInput, _: int) -> Matches:
    """Tsingularity/dift, eval_spair.py: maps are upsampled to the images, and the best pixel is the point."""
    (width, height), (target_width, target_height) = pair.source_size, pair.target_size
    queries = pixel_vectors(source, torch.from_numpy(pair.source_points), (height, width))
    found = best_pixels(queries, target, (target_height, target_width)).cpu().numpy().astype(np.float64)
    ratios = np.linalg.norm(found - pair.target_points, axis=1) / longer_side(pair.target_box)
    return Matches(found, ratios, ratios)


def _by_patches(pair: PointPair, source: torch.Tensor, target: torch.Tensor, square: SquareInput, _: int) -> Matches:
    """Junyi42/sd-dino, pck_spair_pascal.py: from the patch that the point lies in to the centre of the best one."""
    grid = _grid(target)
    points, truth = _placed(pair, square)
    # a point in the last half pixel of a side may be rounded into a patch beyond it, which the release takes elsewhere
    column, row = np.clip(points * grid / square.size, 0, grid - 1).astype(int).T
    found = (best_patches(source[:, row, column].T, target).cpu().numpy() + 0.5) * square.size / grid - 0.5
    ratios = np.linalg.norm(found - truth, axis=1) / _threshold(pair, square)
    return Matches(square.original(found, pair.target_size), ratios, ratios)


def _by_corners(
    pair: PointPair, source: torch.Tensor, target: torch.Tensor, square: SquareInput, multiple: int
) -> Matches:
    """mbanani/probe3d, evaluate_spair_correspondence.py, which takes the map for one of the square without its padding.

    Points are whole pixels of the square, cut off; the centres of the best patches are where they are.
    """
    side, grid = square.size, _grid(target)
    points, truth = (np.trunc(one) for one in _placed(pair, square))
    queries = aligned_vectors(source, torch.from_numpy(points / side).float())
    best = best_patches(queries, target).cpu().numpy()
    padded = -(-side // multiple) * multiple
    corners, centres = best / grid * side, (best + 0.5) * padded / grid - (padded - side) // 2
    ratios, centred = (np.linalg.norm(one - truth, axis=1) / _threshold(pair, square) for one in (corners, centres))
    return Matches(square.original(corners, pair.target_size), ratios, centred)


def _grid(target: torch.Tensor) -> np.ndarray:
    """(2,) columns and rows of a map (D, h, w)."""
    return np.array([target.shape[2], target.shape[1]])


def _placed(pair: PointPair, square: SquareInput) -> tuple[np.ndarray, np.ndarray]:
    """The pair's points (K, 2) in the squares of their images."""
    return square.placed(pair.source_points, pair.source_size), square.placed(pair.target_points, pair.target_size)


def _threshold(pair: PointPair, square: SquareInput) -> float:
    """The longer side of the target's box in pixels of the square."""
    return longer_side(pair.target_box) * square.size / max(pair.target_size)
