"""DAVIS mask propagation: a video's first mask is carried through it by the nearest patches, nothing is trained.

(Jabri et al. 2020, arXiv 2006.14613; Caron et al. 2021, arXiv 2104.14294, section 4.2.2 and the released
`eval_video_segmentation.py`, which `dino2021` reproduces; scores by Pont-Tuset et al. 2017, arXiv 1704.00675.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinobench import lazy
from dinobench.data.transforms import ImageTransform, for_backbone
from dinobench.data.video import Video, VideoSet, label_png, read_prediction
from dinobench.errors import BrokenImage, UserError
from dinobench.inputs import IMAGENET_MEAN, Channels, check_channels, input_of
from dinobench.metrics.segmentation import frame_scores
from dinobench.metrics.video import METRICS, STATISTICS, averages, object_statistics, object_table, scored_frames
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import cv2
    import pandas as pd
    import torch
    from torch.nn import functional as F

    from dinobench.algorithms.label_propagation import propagate
    from dinobench.features.extraction import cut_to_multiple, forward_batches, out_of_range

DINO = "facebookresearch/dino, eval_video_segmentation.py"
#: Frames per forward pass: a CPU gains nothing from more than one, elsewhere enough to keep a GPU busy.
BATCH = 1, 8


@dataclass(frozen=True)
class Config:
    """What decides a DAVIS score."""

    short_side: int = setting(480, "pixels of the frames' shorter side, bilinear", DINO)
    multiple: int = setting(64, "number that the longer side is floored to a multiple of (854 -> 832)", DINO)
    mean: Channels | None = setting(
        IMAGENET_MEAN,
        "mean subtracted per RGB channel, on the scale 0..1; the release's for every model, none is a model's own",
        DINO,
    )
    std: Channels | None = setting(
        (0.228, 0.224, 0.225),
        "deviation divided by per RGB channel; .228 is the release's, for every model, none is a model's own",
        DINO,
    )
    context: int = setting(7, "frames before the current one to take masks from, besides the first", DINO)
    window: int = setting(12, "patches up, down, left and right in which to look for neighbours", DINO)
    top_k: int = setting(5, "nearest patches kept over the whole context, ties included", DINO)
    temperature: float = setting(0.1, "temperature T of the weights exp(cosine / T)", DINO)
    videos: tuple[str, ...] = setting((), "names of the videos to score; all when empty")

    def __post_init__(self) -> None:
        for field in ("short_side", "multiple", "top_k"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)} must be at least 1")
        if self.context < 0 or self.window < 0:
            raise ValueError(f"context = {self.context} and window = {self.window} must not be negative")
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")
        check_channels(self.mean, self.std)


name = "davis"
version = 1
summary = "a video's first mask is carried through it by the nearest patches"
data = "videos"
requires = frozenset({"patches"})
saves = "every frame's label map as an indexed PNG, by video"
profiles = {"dino2021": Config()}


def metrics(config: Config) -> tuple[Metric, ...]:
    """J&F and the mean, recall and decay of both."""
    return METRICS


def run(backbone: Backbone, data: VideoSet, config: Config, ctx: Context) -> Result:
    """Propagate through every video and score each object. Videos are shared out over the processes.

    A video of which a frame or mask cannot be read is left out as a whole, where that was allowed: without one frame
    the others could not be compared with anybody's.
    """
    videos = data.select(config.videos)
    shard = videos[ctx.shard(len(videos))]
    scores: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {video.name: [] for video in shard}

    def frames() -> Iterator[tuple[Video, int, np.ndarray]]:
        for video in shard:
            try:
                for index, labels in enumerate(label_maps(backbone, video, config, ctx)):
                    if index in scored_frames(len(video)):
                        scores[video.name].append(frame_scores(labels, video.mask(index), video.objects))
                    yield video, index, labels
            except BrokenImage:
                if not ctx.skip_broken:
                    raise
                del scores[video.name]

    def work() -> None:
        for video, index, labels in ctx.progress(frames(), "Propagating masks", sum(map(len, shard))):
            if ctx.saves:
                ctx.save(f"{video.name}/{video.names[index]}.png", label_png(labels))

    ctx.run_on_all(work)
    whole = ctx.gather(torch.tensor([video.name in scores for video in shard], dtype=torch.bool)).tolist()
    kept = [video for video, is_whole in zip(videos, whole, strict=True) if is_whole]
    ctx.left_out(f"{data.name}/{video.name}" for video in videos if video not in kept)
    if not kept:
        raise UserError(f"{data.name}: every video has frames or masks that cannot be read")
    values = [np.zeros((0, len(STATISTICS)))]
    values += [object_statistics(*map(np.array, zip(*rows, strict=True))) for rows in scores.values()]
    table = object_table(
        [(video.name, video.objects) for video in kept], ctx.gather(torch.from_numpy(np.concatenate(values))).numpy()
    )
    return Result(averages(table), table, cluster="video", notes=_of_another_input(backbone, config))


def _of_another_input(backbone: Backbone, config: Config) -> list[str]:
    """A note where the release's normalisation, which the profile fixes, is not what the model was trained on."""
    own, release = input_of(backbone.info), profiles["dino2021"]
    if own.usual or (config.mean, config.std) != (release.mean, release.std):
        return []
    return [f"normalised as the release does, though the model takes {own}; --set mean=none --set std=none takes that"]


def label_maps(backbone: Backbone, video: Video, config: Config, ctx: Context) -> Iterator[np.ndarray]:
    """The label map (H, W) uint8 of every frame at the video's size; the first is the given mask itself."""
    first = video.mask(0)
    yield first
    patch = backbone.patch_size or 1
    grids = features(backbone, video, config, ctx)
    height, width = network_size(*video.size, config)
    grid = (height // patch, width // patch)
    soft = propagate(
        grids,
        first_masks(first, grid).to(ctx.device),
        context=config.context,
        window=config.window,
        top_k=config.top_k,
        temperature=config.temperature,
    )
    for masks in soft:
        yield labels_of(masks, patch, video.size)


def features(backbone: Backbone, video: Video, config: Config, ctx: Context) -> Iterator[torch.Tensor]:
    """Every frame's patch features (H, W, D) after the last block's norm, a few frames per forward pass.

    Raises BrokenImage for the first frame that cannot be read.
    """
    patch = backbone.patch_size or 1
    config = for_backbone(config, backbone)
    broken: list[int] = []

    def load(index: int) -> torch.Tensor:
        return network_input(video.frame(index), config)

    def forward(frames: list[torch.Tensor]) -> torch.Tensor:
        # The reference's patch embedding never sees what is beyond the last whole patch.
        x = cut_to_multiple(torch.stack(frames).to(ctx.device), patch)
        [(_, patches)] = backbone.layers(x, 1)
        return patches.unflatten(1, (x.shape[-2] // patch, x.shape[-1] // patch)).float()

    for batch, _, grids in forward_batches(ctx, range(len(video)), load, forward, batch=BATCH, broken=broken):
        if not grids.isfinite().all():
            raise out_of_range(backbone, [f"{video.name}/{video.names[index]}" for index in batch])
        if not broken:
            yield from grids
    if broken:
        video.frame(broken[0])  # which says what is wrong with it


def network_size(height: int, width: int, config: Config) -> tuple[int, int]:
    """(height, width) of the frames that the backbone sees.

    >>> network_size(480, 854, Config()), network_size(1080, 608, Config())
    ((480, 832), (832, 480))
    """
    longer = config.short_side * max(height, width) / min(height, width)
    longer = int(longer // config.multiple * config.multiple)
    return (longer, config.short_side) if height > width else (config.short_side, longer)


def network_input(frame: np.ndarray, config: Config) -> torch.Tensor:
    """An RGB frame (H, W, 3) uint8 -> (3, h, w) float32, resized on 8 bits by OpenCV and normalised."""
    height, width = network_size(frame.shape[0], frame.shape[1], config)
    resized = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
    return ImageTransform(mean=config.mean, std=config.std).normalise(pixels)


def first_masks(labels: np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """The first mask (H, W) uint8, brought to the patch grid by PIL's nearest, as one-hot (C, rows, columns) float32.

    There are as many channels as the highest label found on the grid, plus one: an object that falls between the
    patches is lost from the start.
    """
    small = np.asarray(Image.fromarray(labels).resize((grid[1], grid[0]), Image.Resampling.NEAREST))
    return F.one_hot(torch.from_numpy(small.astype(np.int64))).permute(2, 0, 1).float()


def labels_of(masks: torch.Tensor, patch: int, size: tuple[int, int]) -> np.ndarray:
    """Soft masks on the grid (C, rows, columns) -> labels (H, W) uint8 at `size`.

    Upsampled bilinearly, each channel stretched to 0..1 where it has anything, the largest wins.
    """
    full = F.interpolate(masks[None], scale_factor=patch, mode="bilinear", align_corners=False)[0]
    low, high = full.amin((1, 2), keepdim=True), full.amax((1, 2), keepdim=True)
    # 0 / 0 of a constant channel is NaN in the release, and its argmax takes NaN for the largest
    stretched = torch.where(high > low, (full - low) / (high - low), math.inf)
    full = torch.where(high > 0, stretched, full)
    best, winner = full[0], torch.zeros(full.shape[1:], dtype=torch.uint8, device=full.device)
    for channel in range(1, len(full)):  # an argmax over the first dimension takes 30 times as long on a CPU
        winner.masked_fill_(full[channel] > best, channel)
        best = torch.maximum(best, full[channel])
    labels = winner.cpu().numpy()
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _check_ends(folder: Path, video: Video) -> None:
    """Where frames are not looked at, only the predictions can tell that the first or the last annotation is lost."""
    numbers = [file.stem for file in folder.glob("*.png") if file.stem.isdigit()]
    beyond = sorted(s for s in numbers if not video.names[0] <= s <= video.names[-1] and len(s) == len(video.names[0]))
    if beyond and all(name.isdigit() for name in video.names):
        raise UserError(
            f"{folder / beyond[0]}.png: of a frame outside the annotations, {video.names[0]} to {video.names[-1]}; add "
            "its annotation or take the mask away"
        )


def score_folder(
    predictions: str | Path,
    data: VideoSet,
    videos: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[..., Iterator[Any]] | None = None,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Scores of `predictions`/<video>/<frame>.png: (rows per object as fractions, summary in percent).

    All videos of `data` unless named; frames are scored in `workers` threads (all cores by default; decoding and OpenCV
    leave Python's lock). An object without a pixel in a prediction is empty. Raises UserError naming the first file
    that is missing, damaged, in colour, of another size, of no annotated frame, or whose values cannot be labels.
    """
    folder = Path(predictions)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds a folder of PNG masks per video")
    chosen = data.select(list(videos or ()))
    for video in chosen:
        if not (folder / video.name).is_dir():
            raise UserError(f"{folder / video.name}: no such folder; add its masks or name the videos to score")
        _check_ends(folder / video.name, video)
    jobs = [(video, index) for video in chosen for index in scored_frames(len(video))]

    def score(job: tuple[Video, int]) -> tuple[np.ndarray, np.ndarray]:
        video, index = job
        prediction = read_prediction(folder / video.name / f"{video.names[index]}.png", video)
        return frame_scores(prediction, video.mask(index), video.objects)

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        done: Iterable[tuple[np.ndarray, np.ndarray]] = pool.map(score, jobs)
        scores = list(progress(done, "Scoring masks", len(jobs)) if progress else done)
    values, start = [], 0
    for video in chosen:
        part = scores[start : start + len(scored_frames(len(video)))]
        start += len(part)
        values.append(object_statistics(np.array([j for j, _ in part]), np.array([f for _, f in part])))
    table = object_table([(video.name, video.objects) for video in chosen], np.concatenate(values))
    return table, averages(table)
