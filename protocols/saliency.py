"""Unsupervised saliency: TokenCut's foreground, patch by patch, against the annotated one.

(Wang et al. 2022, arXiv 2202.11539, section 4.3; YangtaoWANG95/TokenCut at fed52cd,
`unsupervised_saliency_detection`.) The bilateral solver that can follow makes the mask soft: IoU and accuracy are then
of what is above .5, Fβ is that of the threshold that is best over all images.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, Input, for_backbone
from dinobench.errors import UserError
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image

    from dinobench.algorithms.bilateral_solver import Bandwidths, bilateral_solver
    from dinobench.algorithms.object_discovery import tokencut
    from dinobench.data.masks import MaskSet
    from dinobench.data.video import label_png
    from dinobench.features.extraction import forward_batches, lost_images, out_of_range
    from dinobench.metrics.saliency import Saliency, saliency_scores, soft_scores, thresholds

TOKENCUT = "Wang et al. 2022 (arXiv 2202.11539)"
SOLVER = "YangtaoWANG95/TokenCut, README and get_saliency.py"
#: Images per forward pass on a CPU, which gains nothing from more, and elsewhere.
BATCH = 2, 16


@dataclass(frozen=True)
class Config:
    """What decides a saliency score."""

    tau: float = setting(0.2, "cosine above which two patches are joined", TOKENCUT)
    solver: Literal["none", "bilateral"] = setting(
        "none", "whether masks are fitted to the image's colours by the bilateral solver", TOKENCUT, added=True
    )
    sigma_spatial: float = setting(16.0, "the solver's bandwidth in pixels", SOLVER, added=True)
    sigma_luma: float = setting(16.0, "the solver's bandwidth in luma, of 255", SOLVER, added=True)
    sigma_chroma: float = setting(8.0, "the solver's bandwidth in chroma, of 255", SOLVER, added=True)
    input: Input = field(default_factory=Input)

    def __post_init__(self) -> None:
        if not -1 <= self.tau < 1:
            raise ValueError(f"tau = {self.tau} is a cosine, from -1 to below 1")
        for sigma in ("sigma_spatial", "sigma_luma", "sigma_chroma"):
            if getattr(self, sigma) < 1:
                raise ValueError(f"{sigma} = {getattr(self, sigma)} must be at least 1")


name = "saliency"
version = 1
summary = "an image's foreground, found without labels, against the annotated one"
data = "masks"
requires = frozenset({"keys"})
saves = "every image's foreground as an indexed PNG of 0 and 1, by image id"
profiles = {"tokencut": Config(), "tokencut-bs": replace(Config(), solver="bilateral")}


def metrics(config: Config) -> tuple[Metric, ...]:
    """The release's three: maximal Fβ (β² = .3), IoU and the share of pixels that are right."""
    return Metric("iou", primary=True), Metric("accuracy"), Metric("max_f")


def run(backbone: Backbone, data: MaskSet, config: Config, ctx: Context) -> Result:
    """One forward pass an image, one cut of the graph over its patches, one mask at the image's size.

    What is annotated is everything marked as an object; void pixels count as background.
    """
    ids = data.ids("classes")
    indices = range(len(ids))[ctx.shard(len(ids))]
    patch = backbone.patch_size or 1
    broken: list[int] = []
    bandwidths = Bandwidths(config.sigma_spatial, config.sigma_luma, config.sigma_chroma)
    plain = ImageTransform(None, None, "lanczos", config.input.mean, config.input.std)
    transform = for_backbone(plain, backbone)

    def load(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image, masks = data.load(ids[index]), data.masks(ids[index], "classes")
        truth = np.asarray(masks.masks.any(axis=0))
        if truth.shape != (image.height, image.width):
            raise UserError(f"{data.name}: image and mask of {ids[index]} differ in size; give both one size")
        if masks.void is not None:
            truth = truth & ~masks.void
        grid = grid_of(truth.shape, patch)
        pixels = transform(image.resize((grid[1] * patch, grid[0] * patch), Image.Resampling.LANCZOS))
        return pixels, truth, np.asarray(image)

    def forward(loaded: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> torch.Tensor:
        x = transform.normalise(torch.from_numpy(np.stack([pixels for pixels, _, _ in loaded])).to(ctx.device))
        return backbone.keys(x).transpose(1, 2).flatten(2)  # heads side by side

    def work() -> np.ndarray:
        rows = []
        passes = forward_batches(
            ctx, indices, load, forward, batch=BATCH, key=lambda loaded: loaded[0].shape, broken=broken,
            watch=lambda loaded: ctx.progress(loaded, "Cutting out foregrounds", len(indices)),
        )  # fmt: skip
        for batch, loaded, keys in passes:
            for index, (pixels, truth, image), features in zip(batch, loaded, keys, strict=True):
                if not features.isfinite().all():
                    raise out_of_range(backbone, [ids[index]])
                grid = pixels.shape[1] // patch, pixels.shape[2] // patch
                mask = upsampled(tokencut(features, grid, config.tau).mask, truth.shape)
                if config.solver == "none":
                    rows.append([index, *saliency_scores(mask, truth)])
                else:
                    soft = bilateral_solver(image, mask, bandwidths)
                    iou, accuracy, f = soft_scores(soft, truth)
                    rows.append([index, iou, accuracy, *f])
                    mask = soft > 0.5
                if ctx.saves:
                    ctx.save(f"{ids[index]}.png", label_png(mask.astype(np.uint8)))
        return np.array(rows) if rows else np.zeros(0)  # torch.cat passes over an empty shard

    table = ctx.gather(torch.from_numpy(ctx.run_on_all(work))).numpy()
    lost_images(data.name, ids, broken, lambda i: (data.load(ids[i]), data.masks(ids[i], "classes")), ctx)
    table = table[np.argsort(table[:, 0])]
    best = int(table[:, 3:].mean(axis=0).argmax())
    items = pd.DataFrame({"id": [ids[int(i)] for i in table[:, 0]]})
    for score, column in zip(Saliency._fields, (1, 2, 3 + best), strict=True):
        items[score] = table[:, column]
    result = Result({score: 100 * float(items[score].mean()) for score in Saliency._fields}, items)
    if config.solver != "none":
        result.notes.append(
            f"max_f is F of masks above {thresholds()[best]:.3f}, the best threshold over all images; its interval is "
            "of that threshold"
        )
    return result


def grid_of(size: tuple[int, ...], patch: int) -> tuple[int, int]:
    """(height, width) -> (rows, columns) of the nearest multiples of a patch, halves to the even one, at least one.

    >>> grid_of((366, 500), 16), grid_of((40, 56), 16)
    ((23, 31), (2, 4))
    """
    rows, columns = (max(1, round(side / patch)) for side in size)
    return rows, columns


def upsampled(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A mask (rows, columns) at another size (H, W), by the nearest patch whose corner is not beyond."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, mask.shape, strict=True))
    return mask[rows][:, columns]
