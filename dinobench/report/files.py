"""What lies beside the records of a results folder for the report: training curves and pictures."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from dinobench.files import read_regular
from dinobench.report.svg import Chart, Point, Series, chart
from dinobench.results.items import BEYOND
from dinobench.types import RunRecord

#: What belongs into one plot, in the order of the plots; a training lacks what its method does not have.
PANELS = (
    ("Loss", ("loss",)),
    ("Teacher entropy and KL divergence", ("teacher_entropy", "teacher_mean_entropy", "kl")),
    ("Effective rank of the features", ("teacher_effective_rank", "student_effective_rank")),
    ("Standard deviation of the features", ("teacher_feature_std", "student_feature_std")),
    ("Learning rate", ("lr",)),
    ("Teacher momentum", ("momentum",)),
    ("Gradient norm", ("grad_norm",)),
    ("Images per second", ("images_per_s",)),
)
#: Numbers in a training's history that are drawn at most: a thousand epochs of forty metrics have 40,000.
VALUES = 1_000_000
#: Curves of one training, or of all together, that are drawn at most.
CURVES = 60
#: Pixels of a picture at most: a browser decodes all pictures of a page.
PIXELS = 50_000_000
#: Where a line of metrics stands, which is no metric itself.
POSITIONS = ("epoch", "step", "images")
#: What a record's own picture may be: drawn by every browser, and free of scripts, unlike SVG.
FORMATS = {"PNG": "image/png", "GIF": "image/gif", "JPEG": "image/jpeg"}
SUFFIXES = (".png", ".gif", ".jpg", ".jpeg")


@dataclass(frozen=True)
class TrainingHistory:
    """A training's metrics, a mapping a line; `skipped` lines could not be read, as the last one of a crashed run."""

    name: str
    lines: list[dict[str, float]]
    skipped: int = 0


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI; `rows` are the places of the records it belongs to."""

    name: str
    caption: str
    uri: str
    width: int
    height: int
    rows: tuple[int, ...]


def trainings(results: Path, records: Sequence[RunRecord]) -> tuple[list[TrainingHistory], list[str]]:
    """From `<results>/training/*.jsonl`, and `metrics.jsonl` beside the checkpoints that are still where they were.

    Returns them, and a line on each file of `training/` left out.
    """
    from dinobench.pretrain.history import METRICS, TRAININGS

    files = {path.stem: path for path in sorted((results / TRAININGS).glob("*.jsonl")) if path.name[0] != "."}
    listed = set(files)
    for path in sorted({r.checkpoint.path for r in records if r.checkpoint.sha256}):
        metrics = Path(path).parent / METRICS
        if _is_file(Path(path)) and _is_file(metrics):
            files.setdefault(metrics.resolve().parent.name, metrics)
    histories, left_out = [], []
    for name, path in files.items():
        try:
            histories.append(_training(name, path))
        except (OSError, ValueError) as error:
            if name in listed:
                left_out.append(f"{path.name}: {getattr(error, 'strerror', None) or error}")
    return histories, left_out


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or with a zero byte
        return False


def _training(name: str, path: Path) -> TrainingHistory:
    """Raises OSError when the file cannot be read and ValueError when no number stands in it."""
    from dinobench.pretrain.history import parse_metrics, read_content

    rows, unreadable = parse_metrics(read_content(path))
    lines = [{str(k): float(v) for k, v in row.items() if _is_number(v)} for row in rows]
    if not any(key not in POSITIONS for line in lines for key in line):
        raise ValueError("no line with a number to draw")
    if sum(map(len, lines)) > VALUES:
        raise ValueError(f"more than {VALUES:,} numbers")
    return TrainingHistory(name, lines, len(unreadable))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= BEYOND


def curves(training: TrainingHistory) -> list[Chart]:
    """The plots of one training: evaluations first, then what PANELS names, then whatever else was logged."""
    keys = dict.fromkeys(k for line in training.lines for k in line if k not in POSITIONS)
    evaluations: dict[str, list[str]] = {}
    for key in keys:
        if "/" in key:
            protocol, *_, metric = key.split("/")
            evaluations.setdefault(f"{protocol} {metric}", []).append(key)
    known = {key for _, names in PANELS for key in names}
    other = [(k.replace("_", " "), (k,)) for k in keys if k not in known and "/" not in k]
    panels = [(title, tuple(names)) for title, names in evaluations.items()] + [*PANELS, *other]
    drawn = (_curve(training, title, [n for n in names if n in keys]) for title, names in panels)
    return list(islice(filter(None, drawn), CURVES))


def _curve(training: TrainingHistory, title: str, keys: Sequence[str]) -> Chart | None:
    label, points = "", {}
    keys = sorted(keys, key=lambda k: "student" in k)  # the teacher first: one colour for it in all plots
    for key in keys:
        label, points[key] = course(training, key)
    series = [Series(_short(key), points[key], tone) for tone, key in enumerate(keys)]
    return chart(title, series, label, "")


def _short(key: str) -> str:
    """The network of `knn/teacher/top1@k20` or `teacher_feature_std`, else the key in words."""
    if "/" in key:
        return " ".join(key.split("/")[1:-1]) or key
    network = key.split("_")[0]
    return network if network in ("student", "teacher") and not key.endswith("_entropy") else key.replace("_", " ")


def course(training: TrainingHistory, key: str) -> tuple[str, list[Point]]:
    """A metric over epochs, or over steps or lines where a training does not tell epochs."""
    position = next((p for p in POSITIONS if all(p in line for line in training.lines if key in line)), "line")
    return position, [
        Point(line.get(position, float(i)), line[key]) for i, line in enumerate(training.lines) if key in line
    ]


def evaluation_charts(histories: Sequence[TrainingHistory]) -> list[Chart]:
    """One plot for every evaluation that at least two trainings were given, a line a training."""
    keys = dict.fromkeys(k for t in histories for line in t.lines for k in line if "/" in k)
    charts: list[Chart | None] = []
    for key in keys:
        if len(charts) == CURVES:
            break
        having = [t for t in histories if any(key in line for line in t.lines)]
        if len(having) > 1:
            courses = [course(t, key) for t in having]
            series = [Series(t.name, points, i) for i, (t, (_, points)) in enumerate(zip(having, courses, strict=True))]
            charts.append(chart(key.replace("/", " "), series, courses[0][0], ""))
    return [c for c in charts if c]


def pictures(results: Path, records: Sequence[RunRecord], limit: int) -> tuple[list[Picture], list[str]]:
    """The pictures in `<results>/pictures/`, and a line on each file left out; `limit` is of their bytes in all."""
    kept: list[Picture] = []
    left_out: list[str] = []
    room = limit
    folder = results / "pictures"
    for path in sorted(p for p in folder.rglob("*") if not p.name.startswith(".") and not _is_folder(p)):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() not in SUFFIXES:
            left_out.append(f"{name}: not a PNG, GIF or JPEG")
            continue
        try:
            size = path.stat().st_size
            if size > room:
                left_out.append(f"{name}: {size / 1e6:.1f} MB, over the limit of {limit / 1e6:g} MB in all")
                continue
            kept.append(_picture(path, name, room, records))
        except OSError as error:
            left_out.append(f"{name}: cannot be read ({error.strerror or error})")
        except Exception as error:  # PIL raises many kinds for a broken header
            left_out.append(f"{name}: cannot be read ({error or type(error).__name__})")
        else:
            room -= size
    return kept, left_out


def _picture(path: Path, name: str, room: int, records: Sequence[RunRecord]) -> Picture:
    from dinobench.data.decoding import open_image

    content = read_regular(path, room)
    with warnings.catch_warnings(action="ignore"), open_image(BytesIO(content), tuple(FORMATS)) as image:
        kind, (width, height) = image.format or "", image.size
    if kind not in FORMATS:
        raise ValueError(f"it is {kind}")
    if width * height > PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels, above the limit of {PIXELS:,}")
    prefix, rows = owner(path.stem, records)
    rest = " ".join(path.stem[len(prefix) :].replace("_", " ").replace("-", " ").split())
    uri = f"data:{FORMATS[kind]};base64,{base64.b64encode(content).decode()}"
    return Picture(name, " · ".join(filter(None, (prefix, rest))), uri, width, height, rows)


def owner(stem: str, records: Sequence[RunRecord]) -> tuple[str, tuple[int, ...]]:
    """The run id or model name that a file's name begins with, the longest, and the places of its records."""
    for names in ([r.run_id for r in records], [r.checkpoint.name for r in records]):
        if prefix := max(filter(None, (n for n in names if _begins(stem, n))), key=len, default=""):
            return prefix, tuple(i for i, n in enumerate(names) if n == prefix)
    return "", ()


def _begins(stem: str, name: str) -> bool:
    rest = stem.removeprefix(name)
    return stem.startswith(name) and not rest[:1].isalnum()


def named(lines: Iterable[str], most: int = 20) -> list[str]:
    """The first few lines, and how many more there are."""
    rows = list(lines)
    return rows if len(rows) <= most else [*rows[:most], f"and {len(rows) - most:,} more"]
