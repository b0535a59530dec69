"""DAVIS mask propagation: a video's first mask is carried through it by the nearest patches, nothing is trained.

(Jabri et al. 2020, arXiv 2006.14613; Caron et al. 2021, arXiv 2104.14294, section 4.2.2 and the released
`eval_video_segmentation.py`, which `dino2021` reproduces; Siméoni et al. 2025, arXiv 2508.10104, whose released
notebook `dinov3` reproduces; scores by Pont-Tuset et al. 2017, arXiv 1704.00675.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dinobench import lazy
from dinobench.errors import BrokenImage, UserError
from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD, Channels, check_channels, input_of
from dinobench.metrics.video import METRICS, STATISTICS, averages, object_statistics, object_table, scored_frames
from dinobench.types import Backbone, Context, Metric, Result, setting

with lazy.imports():
    import numpy as np
    import pandas as pd
    import torch

    from dinobench.algorithms.label_propagation import propagate
    from dinobench.algorithms.soft_masks import first_masks, labels_of, nearest_labels_of
    from dinobench.data.video import Video, VideoSet, label_png, read_prediction
    from dinobench.features.frames import FrameInput, frame_grids
    from dinobench.metrics.segmentation import frame_scores

DINO = "facebookresearch/dino, eval_video_segmentation.py"
DINOV3 = "facebookresearch/dinov3, notebooks/segmentation_tracking.ipynb"


@dataclass(frozen=True)
class Config:
    """What decides a DAVIS score."""

    short_side: int = setting(480, "pixels of the frames' shorter side", DINO)
    multiple: int = setting(64, "number that sides are brought to a multiple of, as `rounding` says", DINO)
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
    rounding: Literal["down", "up"] = setting(
        "down",
        "down: the longer side to `multiple` (854 -> 832); up: both sides, to `multiple` and to whole patches",
        DINO,
        added=True,
    )
    interpolation: Literal["bilinear", "bicubic"] = setting(
        "bilinear", "how frames are resized: bilinear by OpenCV, or bicubic by PIL, which filters", DINO, added=True
    )
    window_shape: Literal["square", "circle"] = setting(
        "square", "patches looked at: `window` in each direction, or within that distance", DINO, added=True
    )
    first_mask: Literal["pil", "nearest-exact"] = setting(
        "pil", "how the first mask comes to the patch grid: PIL's nearest, or torch's nearest-exact", DINO, added=True
    )
    upsampling: Literal["bilinear", "nearest"] = setting(
        "bilinear", "how soft masks are brought to the frames' size", DINO, added=True
    )

    def __post_init__(self) -> None:
        for field in ("short_side", "multiple", "top_k"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} = {getattr(self, field)} must be at least 1")
        if self.context < 0 or self.window < 0:
            raise ValueError(f"context = {self.context} and window = {self.window} must not be negative")
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} must be above 0")
        check_channels(self.mean, self.std)

    def view(self) -> FrameInput:
        """How frames come to the backbone."""
        return FrameInput(self.short_side, self.multiple, self.rounding, self.interpolation, self.mean, self.std)


name = "davis"
version = 1
summary = "a video's first mask is carried through it by the nearest patches"
data = "videos"
requires = frozenset({"patches"})
saves = "every frame's label map as an indexed PNG, by video"
profiles = {
    "dino2021": Config(),
    "dinov3": Config(
        short_side=960, multiple=1, rounding="up", interpolation="bicubic", std=IMAGENET_STD, temperature=0.2,
        window_shape="circle", first_mask="nearest-exact", upsampling="nearest",
    ),
}  # fmt: skip


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
    own = input_of(backbone.info)
    if own.usual or (config.mean, config.std) not in [(release.mean, release.std) for release in profiles.values()]:
        return []
    return [f"normalised as the release does, though the model takes {own}; --set mean=none --set std=none takes that"]


def label_maps(backbone: Backbone, video: Video, config: Config, ctx: Context) -> Iterator[np.ndarray]:
    """The label map (H, W) uint8 of every frame at the video's size; the first is the given mask itself."""
    first, view = video.mask(0), config.view()
    yield first
    soft = propagate(
        frame_grids(backbone, video, view, ctx),
        first_masks(first, view.grid(video.size, backbone), config.first_mask).to(ctx.device),
        context=config.context,
        window=config.window,
        circle=config.window_shape == "circle",
        top_k=config.top_k,
        temperature=config.temperature,
    )
    patch, bilinear = backbone.patch_size or 1, config.upsampling == "bilinear"
    for masks in soft:
        yield labels_of(masks, patch, video.size) if bilinear else nearest_labels_of(masks, video.size)


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
