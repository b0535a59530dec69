"""How far the trainings of a suite are: told by their folders, as `dinobench pretrain` leaves them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dinobench.data import UNLABELLED, check_place, load_dataset
from dinobench.errors import UserError
from dinobench.files import cache_root
from dinobench.hashing import digest
from dinobench.suite.training.asked import START, Training

#: Settings that change what a step does to the weights, and not how long it takes.
NO_MATTER = ("epochs", "lr", "min_lr", "warmup_epochs", "weight_decay", "weight_decay_end", "seed")
#: What is looked at or written meanwhile, and where; and what is compared apart.
BESIDE = frozenset({"results", "evals", "every", "eval_settings", "eval_data", "save_every", "skip_broken", "left_out",
                    "lost", "fingerprint", "data", "precision"})  # fmt: skip


@dataclass(frozen=True)
class Look:
    """`epochs` that are trained, of `total`; `seconds` that each of them took; whether the model's file is there."""

    done: bool
    epochs: int
    total: int
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A training of a plan: how far it is, how many cells wait for it, the seconds that it took or will, and why so.

    `seconds` are None where nothing tells; `basis` says where they are known from.
    """

    training: Training
    look: Look
    waiting: int
    seconds: float | None
    basis: str

    @property
    def pending(self) -> bool:
        return not self.look.done and self.waiting > 0


def look(training: Training) -> Look:
    """How far it is.

    Raises UserError where its folder holds another training, or none that can be read, and where it isn't done and its
    images aren't there.
    """
    from dinobench.pretrain import history
    from dinobench.pretrain.checkpoints import LATEST

    folder, run = Path(training.folder), training.run()
    refuse_other(training, run)
    total = int(run.config["epochs"])
    there = (folder / LATEST).exists()
    rows = history.read_metrics(folder / history.METRICS) if there else []
    epochs = int(rows[-1]["epoch"]) if rows else 0
    seconds = tuple(float(r["seconds"]) for r in rows if isinstance(r.get("seconds"), int | float))
    done = training.file.exists() if training.start else epochs >= total
    if not done:
        check_place(training.data, UNLABELLED)
    return Look(done, epochs, total, seconds)


def look_at(trainings: Mapping[str, Training]) -> dict[str, Look | UserError]:
    """The same of each, by model; an error in the place of what can't be gone on with."""
    found: dict[str, Look | UserError] = {}
    for model, training in trainings.items():
        try:
            found[model] = look(training)
        except UserError as error:
            found[model] = error
    return found


def refuse_other(training: Training, run: Any) -> None:
    """Raises UserError where the training's folder holds one that is not the same."""
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.checkpoints import LATEST

    folder = Path(training.folder)
    if not any((folder / name).exists() for name in (LATEST, START)):
        return
    earlier = runs.read(folder)
    but = BESIDE if training.precision in (None, "auto") else BESIDE - {"precision"}
    other = runs.differences(earlier, dataclasses.replace(run, precision=training.precision or ""), but)
    if earlier.data != training.data and not _same_images(training.data, earlier.fingerprint):
        other.insert(0, f"data {earlier.data}, not {training.data}")
    if other:
        raise UserError(
            f"{folder}: holds another training ({'; '.join(other)}): delete it, or give this one another name or the "
            "suite another out"
        )


def _same_images(data: str, fingerprint: str) -> bool:
    try:
        return bool(load_dataset(data, UNLABELLED).train.fingerprint == fingerprint)
    except UserError:
        return False


def planned(
    trainings: Mapping[str, Training], looks: Mapping[str, Look | UserError], waiting: Mapping[str, int]
) -> list[Planned]:
    """The trainings with their durations: of a finished one its own, else by epochs of it or of others alike."""
    found = []
    for model, training in trainings.items():
        seen = looks[model]
        if isinstance(seen, UserError) or training.start:
            continue
        if seen.done:
            found.append(Planned(training, seen, waiting[model], sum(seen.seconds), "done"))
            continue
        seconds, basis = _estimate(training, seen)
        found.append(Planned(training, seen, waiting.get(model, 0), seconds, basis))
    return found


def _estimate(training: Training, seen: Look) -> tuple[float | None, str]:
    left = seen.total - seen.epochs
    if seen.seconds:
        return left * median(seen.seconds), f"{_epochs(len(seen.seconds))} of its own"
    for name, seconds in alike(training):
        return left * median(seconds), f"{_epochs(len(seconds))} of {name}"
    return None, "unknown"


def alike(training: Training) -> Iterable[tuple[str, Sequence[float]]]:
    """(name, seconds of each epoch) of the trainings beside it whose steps take as long."""
    from dinobench.pretrain import history
    from dinobench.pretrain import run as runs

    run = training.run()
    for path in sorted(Path(training.folder).parent.glob(f"*/{runs.SETTINGS}")):
        try:
            earlier, rows = runs.read(path.parent), history.read_metrics(path.parent / history.METRICS)
        except UserError:
            continue
        seconds = [float(r["seconds"]) for r in rows if isinstance(r.get("seconds"), int | float)]
        if seconds and earlier.data == run.data and not runs.differences(earlier, run, {*BESIDE, *NO_MATTER}):
            yield path.parent.name, seconds


def lasting(training: Training) -> dict[str, object]:
    """Of its settings those that how long a step takes may hang on."""
    return {name: value for name, value in training.settings.items() if name not in NO_MATTER}


def stand_in(training: Training) -> Path:
    """A checkpoint of a training's architecture, with random weights, from the cache.

    What the trained one will be able to do is known by it, and how long runs alike took.
    """
    from dinobench.pretrain import backbones, checkpoints

    sizes = training.arch, training.image_size, training.patch_size, training.depth
    path = cache_root() / "untrained" / f"{digest(*sizes)[:20]}.pth"
    if not path.exists():
        chosen = backbones.choose(*sizes)
        checkpoints.save_untrained(path, chosen.build(0.0), training.image_size, chosen.arch)
    return path


def _epochs(n: int) -> str:
    return f"{n} epoch{'s' if n > 1 else ''}"
