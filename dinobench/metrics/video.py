"""DAVIS scores from label maps: rows per object, their summary, and a folder of anyone's predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from dinobench.data.video import Video, VideoSet, read_object_mask
from dinobench.errors import UserError
from dinobench.metrics.segmentation import frame_scores, statistics
from dinobench.types import Metric

STATISTICS = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay")
#: All in percent; decay is the score lost from the first to the last quarter of a video, so less is better.
METRICS = (
    Metric("J&F", primary=True),
    *(Metric(name, higher_is_better=not name.endswith("decay")) for name in STATISTICS),
)


def scored_frames(video: Video) -> range:
    """The frames that count: neither the first, which is given, nor the last (DAVIS 2017, semi-supervised)."""
    return range(1, len(video) - 1)


def object_statistics(j: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Per-frame J and F, each (frames, objects), -> (objects, 6) in the order of `STATISTICS`."""
    return np.array([[*statistics(j[:, k]), *statistics(f[:, k])] for k in range(j.shape[1])])


def object_table(videos: Sequence[Video], values: np.ndarray) -> pd.DataFrame:
    """Rows of all objects of `videos` in order, (objects, 6) as `object_statistics` gives them, as fractions.

    Columns: id ("dog/1"), video, object, J&F and `STATISTICS`.
    """
    owners = [(video.name, k + 1) for video in videos for k in range(video.objects)]
    table = pd.DataFrame(np.reshape(values, (-1, len(STATISTICS))), columns=list(STATISTICS))
    table.insert(0, "J&F", (table["J_mean"] + table["F_mean"]) / 2)
    table.insert(0, "object", [k for _, k in owners])
    table.insert(0, "video", [name for name, _ in owners])
    table.insert(0, "id", [f"{name}/{k}" for name, k in owners])
    return table


def averages(table: pd.DataFrame) -> dict[str, float]:
    """Percentages averaged over objects, not videos, by metric name; a decay that no object has is left out."""
    means = {metric.name: 100 * float(table[metric.name].mean()) for metric in METRICS}
    return {name: value for name, value in means.items() if not np.isnan(value)}


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
    that is missing, damaged, in colour, of another size, or has labels above the object count.
    """
    folder = Path(predictions)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that holds a folder of PNG masks per video")
    chosen = data.select(list(videos or ()))
    for video in chosen:
        if not (folder / video.name).is_dir():
            raise UserError(f"{folder / video.name}: no such folder; add its masks or name the videos to score")
    jobs = [(video, index) for video in chosen for index in scored_frames(video)]

    def score(job: tuple[Video, int]) -> tuple[np.ndarray, np.ndarray]:
        video, index = job
        prediction = read_object_mask(folder / video.name / f"{video.names[index]}.png", video)
        return frame_scores(prediction, video.mask(index), video.objects)

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        done: Iterable[tuple[np.ndarray, np.ndarray]] = pool.map(score, jobs)
        scores = list(progress(done, "Scoring masks", len(jobs)) if progress else done)
    values, start = [], 0
    for video in chosen:
        part = scores[start : start + len(scored_frames(video))]
        start += len(part)
        values.append(object_statistics(np.array([j for j, _ in part]), np.array([f for _, f in part])))
    table = object_table(chosen, np.concatenate(values))
    return table, averages(table)


def palette() -> list[int]:
    """DAVIS's colours, which are PASCAL VOC's: bits 0, 1, 2 of the label go to the high bits of R, G, B, and so on.

    >>> palette()[:15]
    [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    """
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            if 3 * bit + channel < 8:
                set_ = (np.arange(256) >> (3 * bit + channel)) & 1
                colours[:, channel] |= (set_ << (7 - bit)).astype(np.uint8)
    return colours.ravel().tolist()


def label_png(labels: np.ndarray) -> bytes:
    """A label map (H, W) uint8 as an indexed PNG with DAVIS's palette, readable by the official scorer."""
    image = Image.fromarray(labels)
    image.putpalette(palette())
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
