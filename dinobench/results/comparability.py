"""Which records may be ranked against each other: those that asked the same question of the same images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

from dinobench.errors import UserError
from dinobench.hashing import canonical_json
from dinobench.results import records
from dinobench.types import RunRecord

Key: TypeAlias = tuple[str, int, str, str, int]

#: Metrics of which less is better, by name, for records that do not say so themselves.
LOWER_IS_BETTER = ("*_decay", "*_std", "*_std@*", "*loss*", "*error*")
#: Characters of a digest that are shown.
SHOWN = 12


def key(record: RunRecord) -> Key:
    """What must be equal: protocol and version, the settings that decide, the images, and how many were left out.

    Seed and precision stay out of it: they say how well a number is known, not what it measures.
    """
    return (
        record.protocol,
        record.protocol_version,
        record.config_hash,
        record.dataset_fingerprint,
        record.broken_images,
    )


def differences(a: RunRecord, b: RunRecord) -> list[str]:
    """Why `a` and `b` are not comparable, one line each; empty exactly when their keys are equal."""
    if a.protocol != b.protocol:
        return [f"protocol: {a.protocol} and {b.protocol}"]
    found = []
    if a.protocol_version != b.protocol_version:
        found.append(f"version of {a.protocol}: {a.protocol_version} and {b.protocol_version}")
    if a.config_hash != b.config_hash:
        settings = [
            f"setting {name}: {_shown(a.config.get(name))} and {_shown(b.config.get(name))}"
            for name in dict.fromkeys([*a.config, *b.config])
            if canonical_json(a.config.get(name)) != canonical_json(b.config.get(name))
        ]
        if settings:
            found += settings
        elif a.protocol_version == b.protocol_version:
            found.append(
                f"config hash: {a.config_hash[:SHOWN]} and {b.config_hash[:SHOWN]} though the settings read alike "
                f"(dinobench {a.dinobench_version} and {b.dinobench_version})"
            )
    if a.dataset_fingerprint != b.dataset_fingerprint:
        found.append(
            f"images: {a.dataset} ({a.dataset_fingerprint[:SHOWN]}) and {b.dataset} ({b.dataset_fingerprint[:SHOWN]})"
        )
    if a.broken_images != b.broken_images:
        found.append(f"images left out because they could not be read: {a.broken_images} and {b.broken_images}")
    return found


def _shown(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else canonical_json(value)


def higher_is_better(record: RunRecord, metric: str) -> bool:
    """Whether more of `metric` is better: less is where the record or the metric's name says so."""
    return metric not in record.lower_is_better and not any(fnmatchcase(metric, p) for p in LOWER_IS_BETTER)


@dataclass(frozen=True)
class Matches:
    """Records with their counterparts, those without one, and what had to be chosen, in one line each."""

    pairs: tuple[tuple[RunRecord, RunRecord], ...]
    only_a: tuple[RunRecord, ...]
    only_b: tuple[RunRecord, ...]
    notes: tuple[str, ...] = ()


def match(a: Sequence[RunRecord], b: Sequence[RunRecord], question: Callable[[RunRecord], Hashable] = key) -> Matches:
    """Pair the records that answer one `question`: those of equal seed and precision first, then what is left alone.

    Where one side has several runs of a question, seed and precision (a model's weights change, its name stays), the
    latest counts.
    """
    pairs: list[tuple[RunRecord, RunRecord]] = []
    only_a: list[RunRecord] = []
    only_b: list[RunRecord] = []
    notes: list[str] = []
    groups: dict[Hashable, tuple[list[RunRecord], list[RunRecord]]] = defaultdict(lambda: ([], []))
    for side, found in enumerate((a, b)):
        for record in found:
            groups[question(record)][side].append(record)
    for left, right in groups.values():
        runs_a, runs_b = _latest(left, notes), _latest(right, notes)
        for how in [how for how in runs_a if how in runs_b]:
            pairs.append((runs_a.pop(how), runs_b.pop(how)))
        if len(runs_a) == len(runs_b) == 1:
            one, other = runs_a.popitem()[1], runs_b.popitem()[1]
            pairs.append((one, other))
            notes.append(
                f"{one.run_id} and {other.run_id}: seed {one.seed} and {other.seed}, "
                f"precision {one.precision} and {other.precision}"
            )
        only_a += runs_a.values()
        only_b += runs_b.values()
    return Matches(tuple(pairs), tuple(only_a), tuple(only_b), tuple(dict.fromkeys(notes)))


def _latest(found: Sequence[RunRecord], notes: list[str]) -> dict[tuple[int, str], RunRecord]:
    """The latest run of each seed and precision; what is passed over is noted."""
    chosen: dict[tuple[int, str], RunRecord] = {}
    for record in sorted(found, key=lambda r: (r.started_at, r.run_id)):
        how = record.seed, record.precision
        if how in chosen:
            notes.append(f"{chosen[how].run_id}: passed over for a later run, {record.run_id}")
        chosen[how] = record
    return chosen


def read_results(results: Path) -> tuple[list[RunRecord], list[tuple[Path, str]]]:
    """The records of a folder, and what could not be read. Raises UserError when it holds no runs at all."""
    if not (results / "runs").is_dir():
        raise UserError(f"{results}: no runs/ folder in it; `dinobench run --out {results} ...` makes one")
    found, broken = records.read_all(results)
    if not found:
        reason = f"; {len(broken)} broken, such as {broken[0][0].name}: {broken[0][1]}" if broken else ""
        raise UserError(f"{results}: holds no records{reason}; `dinobench run --out {results} ...` makes some")
    return found, broken
