"""Points of one surface looked for on another by their features, and which two views are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from dinobench.algorithms.correspondence import unique_matches
from dinobench.data.pairs.views import View
from dinobench.metrics.correspondence import relative_pose, rotation_degrees


def match_surfaces(
    maps: tuple[torch.Tensor, torch.Tensor], xyz: tuple[torch.Tensor, torch.Tensor], count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps (D, h, w) and points (H, W, 3) of two views -> points (n, 3) of both, and weights (n,), largest first.

    Maps are upsampled bicubically to the points' grid; points with z above 0 take part, and the `count` whose nearest
    neighbour stands out most are given (mbanani/probe3d, evals/utils/correspondence.py). None where the second view has
    fewer than two points.
    """
    features = [
        F.interpolate(one[None], size=points.shape[:2], mode="bicubic")[0].permute(1, 2, 0)[points[..., 2] > 0]
        for one, points in zip(maps, xyz, strict=True)
    ]
    first, second = (points[points[..., 2] > 0] for points in xyz)
    if len(second) < 2:
        return first[:0], second[:0], features[0][:0, 0]
    index, nearest, weights = unique_matches(features[0], features[1], count)
    return first[index], second[nearest], weights


def partners(views: Sequence[View], widest: float, seed: int) -> list[int | None]:
    """To each view another of its object, turned by more than 0 and at most `widest` degrees; None where there is none.

    Drawn by torch's multinomial, one view after the other from one seed (mbanani/probe3d, evals/datasets/navi.py). In
    the release objects and photos come in the order of the file system, and a photo may be drawn as its own partner
    where rounding turns it; here neither.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int | None] = []
    for i, view in enumerate(views):
        same = [j for j, other in enumerate(views) if other.object == view.object]
        turns = [rotation_degrees(relative_pose(views[j].pose, view.pose)) if j != i else 0.0 for j in same]
        weights = torch.tensor([float(0 < turn <= widest) for turn in turns])
        drawn = int(torch.multinomial(weights, 1, generator=generator)) if weights.any() else None
        chosen.append(None if drawn is None else same[drawn])
    return chosen
