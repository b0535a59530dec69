"""The images of a training: found, looked at before the first step, and known again when it goes on.

The order in which images are seen follows from their places in a list. A run keeps that list beside its checkpoints,
so that it goes on with every other image in its place where one is lost.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL

from dinobench import console
from dinobench.data import fingerprint, load_dataset
from dinobench.data.decoding import BROKEN_IMAGE, decoding_threads, in_order
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts import UNLABELLED
from dinobench.errors import UserError
from dinobench.features.extraction import NAMED, load_by_id, unreadable
from dinobench.files import atomic_path, cache_root
from dinobench.pretrain import run as runs
from dinobench.pretrain.method import Method
from dinobench.pretrain.run import Run
from dinobench.runtime import Runtime
from dinobench.types import ImageClassification, ImageSplit, TrainingImages

#: The list of a run's images in its folder: names and SHA-256 of the files, in the order of their places.
LISTING = "images.npz"
#: Share of a run's images that may have been deleted since without being asked; more looks like a missing disk.
GONE = 0.1
#: Raised when an image that was readable may no longer be, or the other way round.
DECODING = 1


def load(spec: str, method: type[Method]) -> TrainingImages:
    """The images that `method` learns from. Raises UserError where there are none, or not the labels it needs."""
    found: TrainingImages | ImageClassification = load_dataset(spec, UNLABELLED, progress=console.progress)
    if isinstance(found, ImageClassification):
        found = TrainingImages(found.name, found.layout, found.classes, found.train, notes=found.notes)
    for note in found.notes:
        console.note(f"{spec}: {note}")
    if not method.labels:
        return found
    if len(found.classes) < 2:
        has = f"one class ({found.classes[0]})" if found.classes else "no labels"
        raise UserError(
            f"{spec}: has {has}, and --method {method.name} learns to tell classes apart: put images into "
            "train/<class>/ or give a table with the columns path,label; the other methods need no labels"
        )
    labelled = np.flatnonzero(found.train.labels >= 0)
    if len(labelled) < len(found.train):
        console.warn(f"{spec}: {len(found.train) - len(labelled)} images without a label are left out")
        return _part(found, labelled)
    return found


def begin(run: Run, folder: Path, runtime: Runtime, workers: int | None = None) -> tuple[Run, TrainingImages]:
    """Look at every image of a new run, and make its folder; returns the run with what it was found to learn from.

    Raises UserError that names all images which cannot be read, unless the run leaves them out.
    """
    runtime.run_on_first(lambda: runs.refuse_taken(folder))
    found = _load_on_all(run, runtime)
    broken = find_broken(found.train, runtime, workers)
    data = runtime.run_on_all(lambda: without_broken(found, run.data, broken, run.skip_broken))
    left_out = tuple(found.train.ids[row] for row in broken)
    run = dataclasses.replace(run, fingerprint=data.train.fingerprint, left_out=left_out)

    def write() -> None:
        runs.begin(folder, run)
        keep_listing(folder, data)

    runtime.run_on_first(write)
    return run, data


def go_on(
    run: Run, folder: Path, runtime: Runtime, workers: int | None = None, skip_broken: bool = False
) -> tuple[Run, TrainingImages]:
    """The images of a run that goes on (see `as_begun`), and the run with what it has lost since."""
    found = _load_on_all(run, runtime)
    broken = find_broken(found.train, runtime, workers)
    skip = skip_broken or run.skip_broken
    data, lost = runtime.run_on_all(lambda: as_begun(found, run, folder, broken, skip))
    known = run
    run = dataclasses.replace(run, lost=tuple(sorted({*run.lost, *lost})))

    def write() -> None:
        if read_listing(folder, run.fingerprint) is None and not lost:
            keep_listing(folder, data)
        if run != known:
            runs.write(folder, run)

    runtime.run_on_first(write)
    return run, data


def _load_on_all(run: Run, runtime: Runtime) -> TrainingImages:
    """Hashing a large data set is done once by the first process; the others find the sums remembered."""
    method = runs.load_method(run.method)
    first = runtime.run_on_first(lambda: load(run.data, method))
    return runtime.run_on_all(lambda: first or load(run.data, method))


def find_broken(split: ImageSplit, runtime: Runtime, workers: int | None = None) -> list[int]:
    """Rows of images that cannot be decoded, by all processes together; the same contents are looked at once."""
    if split.in_memory:
        return []
    known = runtime.broadcast(_recall(split) if runtime.rank == 0 else None)
    if known is not None:
        return known

    def readable(row: int) -> bool:
        return is_readable(split, row)

    shard = range(len(split))[runtime.shard(len(split))]
    threads = decoding_threads(workers)
    looked_at = in_order(readable, shard, threads=threads, ahead=16 * threads, overlap=True)
    told = console.progress(looked_at, f"Checking the images of {split.name}", len(shard))
    mine = [row for row, good in zip(shard, told, strict=True) if not good]
    rows = sorted(row for part in runtime.gather_objects(mine) for row in part)
    if runtime.rank == 0:
        _remember(split, rows)
    return rows


def is_readable(split: ImageSplit, row: int) -> bool:
    """Whether an image can be decoded now."""
    try:
        split.load(row)
    except BROKEN_IMAGE:
        return False
    return True


def without_broken(data: TrainingImages, spec: str, rows: Sequence[int], skip: bool) -> TrainingImages:
    """The images but for those of `rows`. Raises UserError naming those unless they may be left out (`skip`)."""
    if not rows:
        return data
    names = [data.train.ids[row] for row in rows]
    if message := unreadable(spec, names, len(data.train), skip, load_by_id(data.train)):
        raise UserError(message)
    console.warn(f"{spec}: {_some(names)} of {len(data.train):,} images cannot be read and are left out")
    return _part(data, np.setdiff1d(np.arange(len(data.train)), rows))


def keep_listing(folder: Path, data: TrainingImages) -> None:
    """Write the run's list of images; those in memory need none. Raises UserError when it cannot be written."""
    if data.digests is None:
        return
    names = np.frombuffer("\0".join(data.train.ids).encode(), np.uint8)
    try:
        with atomic_path(folder / LISTING) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, names=names, digests=data.digests)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}; choose another --out") from error


def read_listing(folder: Path, identity: str) -> tuple[list[str], np.ndarray] | None:
    """(names, digests (n, 32)) of the list that has this fingerprint; None where there is none."""
    try:
        with np.load(folder / LISTING, allow_pickle=False) as stored:
            names, digests = stored["names"].tobytes().decode().split("\0"), stored["digests"]
        if digests.shape == (len(names), 32) and fingerprint.of_files(names, digests) == identity:
            return names, digests
    except Exception:  # damaged in whatever way: as if it were not there
        return None
    return None


def as_begun(
    data: TrainingImages, run: Run, folder: Path, broken: Sequence[int], skip: bool
) -> tuple[TrainingImages, list[str]]:
    """(the images of a run that goes on, each in its place, names of those lost); for them the next one stands in.

    `broken` are the rows of `data` that cannot be read. Deleted images are left out with a warning, damaged ones with
    `skip`. Raises UserError where they may not be, and where images have changed or come in since the run began.
    """
    if data.digests is None or (not broken and data.train.fingerprint == run.fingerprint):
        if data.train.fingerprint != run.fingerprint:
            raise UserError(_other_images(run, folder))
        return data, []
    listing = read_listing(folder, run.fingerprint)
    if listing is None and data.train.fingerprint == run.fingerprint:
        listing = list(data.train.ids), data.digests
    if listing is None:
        raise UserError(_other_images(run, folder))
    names, digests = listing
    row_of = {name: row for row, name in enumerate(data.train.ids)}
    rows = np.array([row_of.get(name, -1) for name in names])
    damaged = np.isin(rows, np.asarray(broken, int)) & (rows >= 0)
    same = (data.digests[rows] == digests).all(axis=1)
    changed = [names[i] for i in np.flatnonzero((rows >= 0) & ~damaged & ~same)]
    if other := changed + sorted(row_of.keys() - set(names) - set(run.left_out)):
        raise UserError(f"{_other_images(run, folder)}: {_some(other)} changed or came in since")
    gone = [names[i] for i in np.flatnonzero(rows < 0)]
    if not skip:
        remedy = f"or go on without with `dinobench pretrain --resume {folder} --skip-broken`"
        if damaged.any():
            bad = [names[i] for i in np.flatnonzero(damaged)]
            raise UserError(f"{run.data}: {_some(bad)} cannot be read any more; put back the file, {remedy}")
        if len(gone) > max(1, GONE * len(names)):
            raise UserError(f"{run.data}: {_some(gone)} of {len(names):,} images are gone; put them back, {remedy}")
    lost = damaged | (rows < 0)
    if not lost.any():
        return _part(data, rows, run.fingerprint), []
    if lost.all():
        raise UserError(f"{run.data}: none of the {len(names):,} images of {folder} is there and can be read")
    words = [names[i] for i in np.flatnonzero(lost)]
    console.warn(
        f"{run.data}: {_some(words)} of {len(names):,} images cannot be read any more; others take their place"
    )
    kept = np.flatnonzero(~lost)
    stand_ins = rows[kept[np.searchsorted(kept, np.arange(len(names))) % len(kept)]]
    return _part(data, stand_ins, run.fingerprint), words


def _other_images(run: Run, folder: Path) -> str:
    return f"{run.data}: not the images that {folder} was trained on; a resumed run needs the same"


def _some(names: Sequence[str]) -> str:
    """`a.jpg`, or `7 (a.jpg, b.jpg, c.jpg, d.jpg, e.jpg and 2 more)`."""
    if len(names) == 1:
        return f"1 ({names[0]})"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names):,} ({', '.join(names[:NAMED])}{more})"


def _part(data: TrainingImages, rows: np.ndarray, identity: str | None = None) -> TrainingImages:
    """Some images of files, in this order."""
    assert isinstance(data.train, FileSplit) and data.digests is not None
    ids = tuple(data.train.ids[row] for row in rows.tolist())
    digests = data.digests[rows]
    split = dataclasses.replace(
        data.train, ids=ids, labels=data.train.labels[rows], fingerprint=identity or fingerprint.of_files(ids, digests)
    )
    return dataclasses.replace(data, train=split, digests=digests)


def _verdict_file(split: ImageSplit) -> Path:
    return cache_root() / "checked" / f"{split.fingerprint[:32]}-{PIL.__version__}-v{DECODING}.json"


def _recall(split: ImageSplit) -> list[int] | None:
    with suppress(OSError, ValueError):
        rows = json.loads(_verdict_file(split).read_text())
        if isinstance(rows, list) and all(isinstance(row, int) and 0 <= row < len(split) for row in rows):
            return rows
    return None


def _remember(split: ImageSplit, rows: Iterable[int]) -> None:
    with suppress(OSError), atomic_path(_verdict_file(split)) as temporary:
        temporary.write_text(json.dumps(list(rows)))
