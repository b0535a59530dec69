"""In-context segmentation: patches of test images take their labels from the nearest patches of training images.

Nothing is trained. (Balažević et al. 2023, arXiv 2306.01667; vpariza/open-hummingbird-eval, which `hummingbird`
reproduces, its slips among them: a deviation of .255 in the normalisation, and a score that matches predicted classes
to labelled ones though they are known and counts absent classes as 0. That score is `mIoU_released`; `mIoU` is that of
the classes as they are, over those that are there.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from dinobench import lazy
from dinobench.data.label_maps import IGNORED, LabelMapSet, LabelMapSplit, read_pair
from dinobench.errors import UserError
from dinobench.inputs import IMAGENET_MEAN, Channels, check_channels
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import torch
    from PIL import Image

    from dinobench.algorithms.incontext import attend, class_map, drawn_patches, patch_counts
    from dinobench.algorithms.semantic_result import semantic_result
    from dinobench.data.transforms import ImageTransform, for_backbone
    from dinobench.data.video import label_png
    from dinobench.features.extraction import lost_images
    from dinobench.features.patches import unit_patches
    from dinobench.metrics.semantic import areas_of, confusion, matched_miou
    from dinobench.training.augment import nearest, scene_view

HB = "vpariza/open-hummingbird-eval, hbird_eval.py"
#: Patches searched for at a time, 16 images of 512 at patch 16: one pass over the memory serves them all.
QUERIES = 2**14


@dataclass(frozen=True)
class Config:
    """What decides an in-context score."""

    size: int = setting(
        512, "side in pixels of the square that images are resized to, floored to whole patches (504 at 14)", HB
    )
    k: int = setting(30, "nearest patches of the memory whose labels count", HB)
    temperature: float = setting(0.02, "temperature of the weights softmax(cosine / temperature)", HB)
    memory: int = setting(
        10_240_000, "patches of training images kept at most, the same number of each image; 0 keeps all", HB
    )
    augment: Literal["none", "hummingbird"] = setting(
        "hummingbird", "training images as they are, or random crops of them with changed colours", HB
    )
    epochs: int = setting(2, "views of each training image with augment; without, one", f"{HB}, README's table")
    mean: Channels | None = setting(
        IMAGENET_MEAN, "mean subtracted per RGB channel, on the scale 0..1; none is a model's own", HB
    )
    std: Channels | None = setting(
        (0.229, 0.224, 0.255),
        "deviation divided by per RGB channel; .255 is the release's, for every model, none is a model's own",
        HB,
    )

    def __post_init__(self) -> None:
        for field in ("size", "k", "epochs"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)} must be at least 1")
        if self.memory < 0:
            raise ValueError(f"memory = {self.memory} is a number of patches, or 0 for all")
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")
        check_channels(self.mean, self.std)

    @property
    def views(self) -> int:
        """Views of each training image."""
        return 1 if self.augment == "none" else self.epochs


name = "incontext"
version = 1
summary = "patches take the labels of the nearest patches of training images"
data = "label_maps"
requires = frozenset({"patches"})
saves = "every test image's predicted label map as an indexed PNG, at the image's size"
profiles = {"hummingbird": Config()}


def metrics(config: Config) -> tuple[Metric, ...]:
    """mIoU and accuracies of the classes as they are, and the release's mIoU."""
    return Metric("mIoU", primary=True), Metric("mAcc"), Metric("aAcc"), Metric("mIoU_released")


class Views(NamedTuple):
    """How a backbone's patches and a data set's classes come together: `size` pixels are whole patches.

    Void is background where the set has that class, as released; else it is one more class, `void`, that a patch may
    take its label from and that is right nowhere.
    """

    size: int
    patch: int
    classes: int
    void: int
    transform: ImageTransform

    @property
    def channels(self) -> int:
        return max(self.classes, self.void + 1)

    @property
    def patches(self) -> int:
        return (self.size // self.patch) ** 2


def views_of(backbone: Backbone, data: LabelMapSet, config: Config) -> Views:
    """Raises UserError where the size is less than a patch."""
    patch = backbone.patch_size or 1
    size = config.size // patch * patch
    if not size:
        raise UserError(f"incontext: size = {config.size} is less than a patch of {backbone.info.name}, {patch} pixels")
    classes = len(data.classes)
    void = classes if data.background is None else data.background
    transform = for_backbone(ImageTransform((size, size), None, "bilinear", config.mean, config.std), backbone)
    return Views(size, patch, classes, void, transform)


def run(backbone: Backbone, data: LabelMapSet, config: Config, ctx: Context) -> Result:
    """Fill the memory, search it for every patch of the test images and score their label maps."""
    views = views_of(backbone, data, config)
    memory, labels = remember(backbone, data.train, views, config, ctx)
    if config.k > len(memory):
        raise UserError(f"incontext: k = {config.k}, but the memory has {len(memory):,} patches only; lower k")
    indices = range(len(data.test))[ctx.shard(len(data.test))]
    broken: list[int] = []
    areas = np.zeros((len(indices), 3, views.channels), np.int64)
    total = np.zeros((1, views.channels, views.channels), np.int64)

    def work() -> None:
        for index, predicted, truth, shape in predictions(
            backbone, data.test, indices, memory, labels, views, config, ctx, broken
        ):
            counted = confusion(predicted, truth, views.channels)
            areas[index - indices.start] = areas_of(counted)
            total[0] += counted
            if ctx.saves:
                full = np.asarray(Image.fromarray(predicted).resize(shape[::-1], Image.Resampling.NEAREST))
                shown = np.where(full < views.classes, full, IGNORED).astype(np.uint8)
                ctx.save(f"{data.test.ids[index]}.png", label_png(shown))

    ctx.run_on_all(work)
    lost = lost_images(data.test.name, data.test.ids, broken, partial(read_pair, data.test), ctx)
    found = np.delete(ctx.gather(torch.from_numpy(areas)).numpy(), lost, axis=0)[..., : views.classes]
    if not found[:, 2].any():
        raise UserError(f"{data.name}: no labelled pixel in its {len(found)} test images, so there is nothing to score")
    result = semantic_result(np.delete(np.array(data.test.ids, object), lost).tolist(), found)
    counted = ctx.gather(torch.from_numpy(total)).numpy().sum(axis=0)
    result.metrics["mIoU_released"] = 100 * matched_miou(counted[: views.classes])
    result.notes.append(f"memory: {len(memory):,} patches of images of {views.size} x {views.size} pixels")
    if views.size != config.size:
        result.notes.append(f"size = {config.size}: images are resized to {views.size}, which is whole patches")
    if data.background is None and labels[:, views.void].any():
        result.notes.append("unlabelled pixels of training images are a class of their own, which is right nowhere")
    return result


def remember(
    backbone: Backbone, split: LabelMapSplit, views: Views, config: Config, ctx: Context
) -> tuple[torch.Tensor, torch.Tensor]:
    """The memory: unit features (M, D) float32 and pixels of each class (M, channels) int16 of patches of `split`.

    Raises UserError for a memory of less than a patch per view, and for images that cannot be read.
    """
    count = len(split) * config.views
    keep = min(views.patches, config.memory // count) if config.memory else views.patches
    if not keep:
        raise UserError(f"incontext: memory = {config.memory:,} is less than one patch for each of {count:,} views")
    indices = range(count)[ctx.shard(count)]
    broken: list[int] = []
    memory = torch.empty(len(indices) * keep, backbone.embed_dim)
    labels = torch.empty(len(indices) * keep, views.channels, dtype=torch.int16)

    def load(item: int) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        view, index = divmod(item, len(split))
        image, truth = read_pair(split, index)
        rng = np.random.default_rng([ctx.seed, view, index])
        if config.augment == "hummingbird":
            pixels, small = scene_view(image, truth, views.size, rng)
        else:
            pixels, small = views.transform(image), nearest(truth, views.size)
        counts = patch_counts(np.where(small == IGNORED, views.void, small), views.patch, views.channels)
        chosen = drawn_patches(counts, keep, rng)
        return pixels, (chosen, counts[chosen])

    def work() -> int:
        filled = 0
        for items, drawn, patches in unit_patches(
            backbone, indices, load, views.transform, ctx, "Filling the memory",
            lambda item: split.ids[item % len(split)], broken,
        ):  # fmt: skip
            chosen, counts = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
            rows = slice(filled, filled := filled + len(items) * keep)
            picked = chosen.to(patches.device)[..., None].expand(-1, -1, patches.shape[-1])
            memory[rows] = patches.gather(1, picked).flatten(0, 1).cpu()
            labels[rows] = counts.flatten(0, 1).to(torch.int16)
        return filled

    filled = ctx.run_on_all(work)
    lost_images(split.name, split.ids, [item % len(split) for item in broken], partial(read_pair, split), ctx)
    return ctx.gather(memory[:filled]), ctx.gather(labels[:filled])


def predictions(
    backbone: Backbone,
    split: LabelMapSplit,
    indices: Sequence[int],
    memory: torch.Tensor,
    labels: torch.Tensor,
    views: Views,
    config: Config,
    ctx: Context,
    broken: list[int],
) -> Iterator[tuple[int, np.ndarray, np.ndarray, tuple[int, int]]]:
    """Of every image (its index, predicted (size, size) uint8, labels of that size, (height, width) of the image)."""

    def load(index: int) -> tuple[np.ndarray, tuple[np.ndarray, tuple[int, int]]]:
        image, truth = read_pair(split, index)
        return views.transform(image), (nearest(truth, views.size), (image.height, image.width))

    waiting: list[tuple[int, tuple[np.ndarray, tuple[int, int]], torch.Tensor]] = []

    def answered() -> Iterator[tuple[int, np.ndarray, np.ndarray, tuple[int, int]]]:
        queries = torch.cat([patches for *_, patches in waiting])
        soft = attend(queries, memory, labels, config.k, config.temperature, normalise=False, device=ctx.device)
        for (index, (truth, shape), _), own in zip(waiting, soft.split(views.patches), strict=True):
            yield index, class_map(own.to(ctx.device), views.size), truth, shape
        waiting.clear()

    for batch, beside, patches in unit_patches(
        backbone, indices, load, views.transform, ctx, "Labelling patches", lambda index: split.ids[index], broken
    ):
        waiting += zip(batch, beside, patches.cpu(), strict=True)
        if len(waiting) * views.patches >= QUERIES:
            yield from answered()
    if waiting:
        yield from answered()
