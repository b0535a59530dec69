"""NAVI: points of an object's surface are found again in another photo of it, scored in space by its aligned scan.

(Jampani et al. 2023, arXiv 2306.09109; El Banani et al. 2024, arXiv 2404.08636, evaluate_navi_correspondence.py of
mbanani/probe3d, which `probe3d` follows.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input, for_backbone
from dinobench.errors import UserError
from dinobench.metrics.correspondence import ROTATION_BINS, relative_pose, rotation_degrees, space_errors
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch

    from dinobench.algorithms.surface_matching import match_surfaces, partners
    from dinobench.data.pairs.views import Surface, ViewSet, surface
    from dinobench.features.extraction import centre_padded, forward_batches, lost_images, out_of_range
    from dinobench.features.maps import comes_normed, maps_of

PROBE3D = "mbanani/probe3d, evaluate_navi_correspondence.py"
DATA = "mbanani/probe3d, evals/datasets/navi.py"
#: Pairs per forward pass on a CPU and elsewhere.
BATCH = 1, 8
Pair = tuple[int, int]


@dataclass(frozen=True)
class Config:
    """What decides a score on NAVI."""

    size: int = setting(512, "side in pixels of the square around the object", DATA)
    reduction: int = setting(4, "one in so many pixels, along each side, is a point to match", PROBE3D)
    points: int = setting(1000, "points of a pair that count: those whose nearest neighbour stands out most", PROBE3D)
    layer: int = setting(-1, "block that features come from, 0 the first, -1 the last", "mbanani/probe3d, evals/models")
    norm: bool = setting(False, "whether features are taken after the final norm", "mbanani/probe3d, evals/models")
    metres: tuple[float, ...] = setting((0.01, 0.02, 0.05), "distances in space below which a point is found", PROBE3D)
    pixels: tuple[float, ...] = setting((5.0, 25.0, 50.0), "distances in the image below which it is", PROBE3D)
    binned: float = setting(
        0.02, "the distance in metres that recall by rotation is of, and that stands first", PROBE3D
    )
    every: int = setting(4, "one in so many views is looked from", DATA)
    widest: float = setting(120.0, "degrees that its partner may be turned by", DATA)
    draw: int = setting(8, "seed of the partners' draw", DATA)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        for name in ("size", "reduction", "points", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.binned not in self.metres:
            raise ValueError(
                f"binned = {self.binned:g} must be one of metres = {','.join(f'{m:g}' for m in self.metres)}"
            )
        if min(*self.metres, *self.pixels, self.widest) <= 0:
            raise ValueError("metres, pixels and widest must be above 0")


name = "navi"
version = 1
summary = "an object's surface found again in another photo of it, scored in space"
data = "navi"
requires = frozenset({"map"})
profiles = {"probe3d": Config()}
BINS = tuple(f"{low}-{high}" for low, high in pairwise(ROTATION_BINS))


def metrics(config: Config) -> tuple[Metric, ...]:
    """Recall at each distance, in space and in the image, and by the rotation between the views."""
    first = f"recall_3d@{config.binned:g}"
    names = [first, *(f"recall_3d@{m:g}" for m in config.metres), *(f"recall_2d@{p:g}" for p in config.pixels)]
    names += [f"{first}_{degrees}" for degrees in BINS]
    return tuple(Metric(one, primary=one == first) for one in dict.fromkeys(names))


def run(backbone: Backbone, data: ViewSet, config: Config, ctx: Context) -> Result:
    """Both views of every pair go through the backbone, and their surfaces are matched by its features."""
    drawn = list(enumerate(partners(data.views, config.widest, config.draw)))[:: config.every]
    pairs = [(i, j) for i, j in drawn if j is not None]
    own = pairs[ctx.shard(len(pairs))]
    broken: list[Pair] = []

    def work() -> np.ndarray:
        rows = [np.zeros((0, 3 + len(config.metres) + len(config.pixels)))]
        passes = forward_batches(
            ctx, own, lambda pair: both(data, pair, config), lambda loaded: maps(backbone, loaded, config, ctx),
            batch=BATCH, broken=broken, watch=lambda loaded: ctx.progress(loaded, "Matching surfaces", len(own)),
        )  # fmt: skip
        for batch, loaded, found in passes:
            if not found.isfinite().all():
                raise out_of_range(backbone, [data.views[i].id for pair in batch for i in pair])
            rows += [
                score_pair(data, pair, surfaces, found[2 * k : 2 * k + 2], config)
                for k, (pair, surfaces) in enumerate(zip(batch, loaded, strict=True))
            ]
        return np.concatenate(rows)

    table = ctx.gather(torch.from_numpy(ctx.run_on_all(work))).numpy()
    ids = [f"{data.views[i].id} with {data.views[j].id}" for i, j in pairs]
    lost = [pairs.index(pair) for pair in broken]
    lost_images(data.name, ids, lost, lambda pair: [data.load(index) for index in pairs[pair]], ctx)
    result = score(data, table[np.lexsort(table.T[1::-1])], config)
    if alone := len(drawn) - len(pairs):
        result.notes.append(f"{alone} views have no partner within {config.widest:g} degrees and count for nothing")
    result.notes.append("objects and views in the order of their names, the release's in that of its file system")
    if comes_normed(backbone, config.norm):
        result.notes.append(f"a {backbone.info.arch} has no blocks of one grid: its last map, as it comes")
    return result


def both(data: ViewSet, pair: Pair, config: Config) -> tuple[Surface, Surface]:
    """The two views of a pair, as squares."""
    first, second = (surface(*data.load(index), data.views[index], config.size) for index in pair)
    return first, second


def maps(backbone: Backbone, loaded: list[tuple[Surface, Surface]], config: Config, ctx: Context) -> torch.Tensor:
    """(2 * pairs, D, h, w): the first and the second view of each pair in turn.

    Zeros around the square make whole patches, and the map is taken for the square's, as released.
    """
    transform = for_backbone(ImageTransform(mean=config.input.mean, std=config.input.std), backbone)
    pixels = torch.stack([torch.from_numpy(view.pixels) for pair in loaded for view in pair])
    x = centre_padded(transform.normalise(pixels.to(ctx.device)), backbone.size_multiple)
    parts = x.split(ctx.batch_size or len(x))
    return torch.cat([maps_of(backbone, part, config.layer, config.norm) for part in parts])


def score_pair(
    data: ViewSet, pair: Pair, surfaces: tuple[Surface, Surface], found: torch.Tensor, config: Config
) -> np.ndarray:
    """(1, 3 + distances): the two views, the degrees between them, and the shares of points within each distance.

    NaN where there is no point to match.
    """
    grids = [torch.from_numpy(one.xyz[:: config.reduction, :: config.reduction].copy()).to(found) for one in surfaces]
    here, there, _ = match_surfaces((found[0], found[1]), (grids[0], grids[1]), config.points)
    pose = relative_pose(*(data.views[index].pose for index in pair))
    seen, taken = (one.double().cpu().numpy() for one in (here, there))
    metres, pixels = space_errors(seen, taken, pose, surfaces[1].focal)
    errors = [metres < m for m in config.metres] + [pixels < p for p in config.pixels]
    return np.array([[*pair, rotation_degrees(pose), *(one.mean() if len(one) else np.nan for one in errors)]])


def score(data: ViewSet, table: np.ndarray, config: Config) -> Result:
    """Rows of pairs -> the result; pairs of one object are resampled together.

    A pair counts as a whole; in the release all have as many points, so that it makes no difference there.
    """
    whole = ~np.isnan(table[:, 3])
    if not whole.any():
        raise UserError(f"{data.name}: no pair of views has points to match; check depth and cameras")
    notes = [f"{int((~whole).sum())} pairs have no point to match and count for nothing"] if not whole.all() else []
    table = table[whole]
    views = [data.views[int(index)] for index in table[:, 0]]
    items = pd.DataFrame({"id": [view.id for view in views], "object": [view.object for view in views]})
    items["partner"] = [data.views[int(index)].id for index in table[:, 1]]
    items["degrees"] = table[:, 2]
    names = [f"recall_3d@{m:g}" for m in config.metres] + [f"recall_2d@{p:g}" for p in config.pixels]
    for column, metric in enumerate(names, 3):
        items[metric] = table[:, column]
    first = f"recall_3d@{config.binned:g}"
    for degrees, (low, high) in zip(BINS, pairwise(ROTATION_BINS), strict=True):
        if (inside := items["degrees"].between(low, high, inclusive="left")).any():
            items[f"{first}_{degrees}"] = items[first].where(inside)
            names.append(f"{first}_{degrees}")
    return Result({metric: 100 * float(items[metric].mean()) for metric in names}, items, cluster="object", notes=notes)
