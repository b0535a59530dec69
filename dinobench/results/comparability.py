"""Which records may be ranked against each other: those that asked the same question of the same images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

from dinobench.config import limit_of
from dinobench.errors import UserError
from dinobench.hashing import canonical_json
from dinobench.results.listing import read_folder, require_runs
from dinobench.types import RunRecord

Key: TypeAlias = tuple[str, int, str, str, int]

#: Metrics of which less is better, by name, for records that do not say so themselves.
LOWER_IS_BETTER = ("*_decay", "*_std", "*_std@*", "*loss*", "*error*")
#: Characters of a digest that are shown.
SHOWN = 12


#: Fields of a record in the order in which they decide, each with what it means; settings go before all of them.
FIELDS: tuple[tuple[str, str], ...] = (
    ("protocol", "what was measured"),
    ("protocol_version", "rises whenever a protocol's numbers change"),
    ("primary", "the metric that leads"),
    ("dataset_fingerprint", "digest of the images, their order and labels"),
    ("dataset_layout", "how the data set is laid out on disk"),
    ("dataset", "what the data set is called"),
    ("broken_images", "images that could not be read and were left out"),
    ("checkpoint.weights_digest", "digest of the backbone's tensors"),
    ("checkpoint.arch", "architecture"),
    ("checkpoint.heads", "attention heads"),
    ("checkpoint.patch_size", "side of a patch in pixels"),
    ("checkpoint.missing", "tensors that the file lacked"),
    ("checkpoint.unexpected", "tensors of the file that were not used"),
    ("checkpoint.input.mean", "what the model's pixels are less, on the scale 0..1; none: ImageNet's"),
    ("checkpoint.input.std", "what they are divided by; none: ImageNet's"),
    ("checkpoint.pool", "what of the network is the feature; none: CLS of a ViT, the average of a ConvNet"),
    ("seed", "seed of random weights, draws and intervals"),
    ("precision", "precision of the arithmetic"),
    ("versions", "versions of Python and the libraries that can move a number"),
    ("device", "what it ran on"),
    ("processes", "how many shared the work"),
    ("dinobench_version", "version of dinobench"),
    ("checkpoint.method", "how the weights were trained"),
    ("checkpoint.key", "which network of the file"),
    ("checkpoint.epoch", "epoch of the training"),
    ("checkpoint.format", "format of the file"),
    ("checkpoint.input.origin", "where the model's input is known from"),
    ("checkpoint.path", "where the file was"),
    ("checkpoint.name", "what the model is called"),
    ("git_commit", "commit of dinobench's source"),
    ("git_dirty", "whether the source had uncommitted changes"),
)
#: Those of them that are part of a record's `key`, beside its settings.
BARS = ("protocol", "protocol_version", "dataset_fingerprint", "broken_images")


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


@dataclass(frozen=True)
class Difference:
    """A field, or a setting, whose value is not the same. `bars`: it is one of those that forbid to compare the two."""

    name: str
    a: Any
    b: Any
    meaning: str = ""
    bars: bool = False
    setting: bool = False


def differences(a: RunRecord, b: RunRecord) -> list[Difference]:
    """All in which two records differ: settings first, those that decide the number before others, then fields.

    Settings are left out where the protocols differ; their meaning is the protocol's to tell.
    """
    settings = []
    if a.protocol == b.protocol:
        decide = a.config_hash != b.config_hash
        for name in dict.fromkeys([*a.config, *b.config]):
            here, there = a.config.get(name), b.config.get(name)
            if canonical_json(here) != canonical_json(there):
                settings.append(Difference(name, here, there, bars=decide, setting=True))
    fields = []
    for name, meaning in FIELDS:
        here, there = _value(a, name), _value(b, name)
        if name == "versions":
            fields += [
                Difference(f"version of {lib}", here.get(lib), there.get(lib), meaning)
                for lib in dict.fromkeys([*here, *there])
                if here.get(lib) != there.get(lib)
            ]
        elif here != there:
            fields.append(Difference(name, here, there, meaning, bars=name in BARS))
    return [*settings, *fields]


def reasons(a: RunRecord, b: RunRecord) -> list[str]:
    """Why `a` and `b` are not comparable, one line each; empty exactly when their keys are equal."""
    if a.protocol != b.protocol:
        return [f"protocol: {a.protocol} and {b.protocol}"]
    barring = [d for d in differences(a, b) if d.bars]
    settings = [f"setting {d.name}: {_shown(d.a)} and {_shown(d.b)}" for d in barring if d.setting]
    if not settings and a.config_hash != b.config_hash and a.protocol_version == b.protocol_version:
        settings = [
            f"config hash: {a.config_hash[:SHOWN]} and {b.config_hash[:SHOWN]} though the settings read alike "
            f"(dinobench {a.dinobench_version} and {b.dinobench_version})"
        ]
    lines = {
        "protocol_version": f"version of {a.protocol}: {a.protocol_version} and {b.protocol_version}",
        "dataset_fingerprint": f"images: {_images(a)} and {_images(b)}",
        "broken_images": f"images left out because they could not be read: {a.broken_images} and {b.broken_images}",
    }
    fields = [d.name for d in barring if not d.setting]
    first, others = [n for n in fields if n == "protocol_version"], [n for n in fields if n != "protocol_version"]
    return [*(lines[n] for n in first), *settings, *(lines[n] for n in others)]


def _images(record: RunRecord) -> str:
    """A data set with its digest, and how much of it was used."""
    limit = limit_of(record.profile)
    part = "" if limit is None else f", {limit:,} items of each split"
    return f"{record.dataset} ({record.dataset_fingerprint[:SHOWN]}{part})"


def _value(record: RunRecord, name: str) -> Any:
    value: Any = record
    for part in name.split("."):
        value = None if value is None else getattr(value, part)
    return value


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
    for side, records_of_side in enumerate((a, b)):
        for record in records_of_side:
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


def _latest(runs: Sequence[RunRecord], notes: list[str]) -> dict[tuple[int, str], RunRecord]:
    """The latest run of each seed and precision; what is passed over is noted."""
    chosen: dict[tuple[int, str], RunRecord] = {}
    for record in sorted(runs, key=lambda r: (r.started_at, r.run_id)):
        how = record.seed, record.precision
        if how in chosen:
            notes.append(f"{chosen[how].run_id}: passed over for a later run, {record.run_id}")
        chosen[how] = record
    return chosen


def read_records(results: Path) -> tuple[list[RunRecord], list[tuple[Path, str]]]:
    """The records of a folder, and what could not be read. Raises UserError when it holds no runs at all."""
    require_runs(results)
    whole, broken = read_folder(results)
    if not whole:
        reason = f"; {len(broken)} broken, such as {broken[0][0].name}: {broken[0][1]}" if broken else ""
        raise UserError(f"{results}: holds no records{reason}; `dinobench run --out {results} ...` makes some")
    return whole, broken
