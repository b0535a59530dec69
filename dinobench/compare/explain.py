"""Two records side by side: what would have to change to make them comparable, or why they may differ if they are.

What decides a number comes first: settings, then the data, the weights, the seed and the precision; then what should
not decide it but can move it a little, such as library versions and the device; the commit comes last.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinobench.config import Setting, plain, settings_of
from dinobench.errors import UserError, nearest
from dinobench.registry import load
from dinobench.results.comparability import differences, key
from dinobench.results.records import read_file, read_items
from dinobench.types import RunRecord

if TYPE_CHECKING:
    import pandas as pd

#: Fields of a record in the order in which they decide, each with what it means; settings go before all of them.
FIELDS: tuple[tuple[str, str], ...] = (
    ("protocol", "what was measured"),
    ("protocol_version", "rises whenever a protocol's numbers change"),
    ("primary", "the metric that leads"),
    ("dataset_fingerprint", "of the images, their order and labels"),
    ("dataset_layout", "how the data set is laid out on disk"),
    ("dataset", "what the data set is called"),
    ("broken_images", "images that could not be read and were left out"),
    ("checkpoint.weights_digest", "of the backbone's tensors"),
    ("checkpoint.arch", "architecture"),
    ("checkpoint.heads", "attention heads"),
    ("checkpoint.patch_size", "side of a patch in pixels"),
    ("checkpoint.missing", "tensors that the file lacked"),
    ("checkpoint.unexpected", "tensors of the file that were not used"),
    ("seed", "of random weights, draws and intervals"),
    ("precision", "of the arithmetic"),
    ("versions", "of Python and the libraries that can move a number"),
    ("device", "what it ran on"),
    ("processes", "how many shared the work"),
    ("dinobench_version", "of dinobench"),
    ("checkpoint.method", "how the weights were trained"),
    ("checkpoint.key", "which network of the file"),
    ("checkpoint.epoch", "of the training"),
    ("checkpoint.format", "of the file"),
    ("checkpoint.path", "where the file was"),
    ("checkpoint.name", "what the model is called"),
    ("git_commit", "of dinobench's source"),
    ("git_dirty", "whether the source had uncommitted changes"),
)


@dataclass(frozen=True)
class Difference:
    """A field whose value is not the same. `bars` says that it is one of those that forbid to compare the two."""

    name: str
    a: Any
    b: Any
    meaning: str = ""
    bars: bool = False


@dataclass(frozen=True)
class Items:
    """Per-item scores of the metric: how many ids both have, how many of those score differently, and who is ahead."""

    shared: int
    differing: int
    a_ahead: int
    b_ahead: int
    only_a: int
    only_b: int


@dataclass(frozen=True)
class Explanation:
    """`reasons`: why the two cannot be compared, in words; empty when they can. `metric` is that of both, or empty."""

    a: RunRecord
    b: RunRecord
    reasons: tuple[str, ...]
    differences: tuple[Difference, ...]
    metric: str
    items: Items | None

    @property
    def comparable(self) -> bool:
        return not self.reasons

    @property
    def gap(self) -> float | None:
        """B's value minus A's."""
        return self.b.metrics[self.metric].value - self.a.metrics[self.metric].value if self.metric else None


def explain(a: RunRecord, b: RunRecord, scores: tuple[pd.DataFrame | None, pd.DataFrame | None] = (None, None)
            ) -> Explanation:  # fmt: skip
    """Compare two records field by field, and their per-item scores where both kept them."""
    reasons = tuple(differences(a, b))
    metric = a.primary if a.primary in b.metrics and a.protocol == b.protocol else ""
    found = (*_settings(a, b), *_fields(a, b))
    return Explanation(a, b, reasons, found, metric, _items(*scores, metric) if metric else None)


def _settings(a: RunRecord, b: RunRecord) -> list[Difference]:
    """Settings that differ, those that decide the number first; the meaning is the one that the protocol declares."""
    if a.protocol != b.protocol or a.config == b.config:
        return []  # and what importing a protocol costs is saved
    declared = _declared(a.protocol)
    found = []
    for name in dict.fromkeys([*a.config, *b.config]):
        here, there = a.config.get(name), b.config.get(name)
        if here != there:
            meaning = declared[name].doc if name in declared else ""
            found.append(Difference(name, here, there, meaning, a.config_hash != b.config_hash))
    return sorted(found, key=lambda d: not d.bars)


def _declared(protocol: str) -> dict[str, Setting]:
    """What the protocol says of each setting; nothing when it is not installed."""
    try:
        return settings_of(next(iter(load(protocol).profiles.values())))
    except UserError:
        return {}


def _fields(a: RunRecord, b: RunRecord) -> list[Difference]:
    found = []
    for name, meaning in FIELDS:
        here, there = _value(a, name), _value(b, name)
        if name == "versions":
            found += [
                Difference(f"version of {lib}", here.get(lib), there.get(lib), meaning)
                for lib in dict.fromkeys([*here, *there])
                if here.get(lib) != there.get(lib)
            ]
        elif here != there:
            found.append(Difference(name, here, there, meaning, _bars(a, b, name)))
    return found


def _value(record: RunRecord, name: str) -> Any:
    value: Any = record
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _bars(a: RunRecord, b: RunRecord, name: str) -> bool:
    """Whether the field is part of what must be equal: B with A's value would be one step nearer to A."""
    if name.startswith("checkpoint."):
        nearer = dataclasses.replace(
            b, checkpoint=dataclasses.replace(b.checkpoint, **{name.partition(".")[2]: _value(a, name)})
        )
    else:
        nearer = dataclasses.replace(b, **{name: _value(a, name)})
    return bool(key(nearer) != key(b))


def _items(a: pd.DataFrame | None, b: pd.DataFrame | None, metric: str) -> Items | None:
    if a is None or b is None or metric not in a or metric not in b:
        return None
    one, other = (frame.drop_duplicates("id").set_index("id")[metric].astype(float) for frame in (a, b))
    shared = one.index.intersection(other.index)
    gap = (other.loc[shared] - one.loc[shared]).fillna(0)
    ahead_a, ahead_b = int((gap < 0).sum()), int((gap > 0).sum())
    return Items(len(shared), ahead_a + ahead_b, ahead_a, ahead_b, len(one) - len(shared), len(other) - len(shared))


def find(results: Path, run: str) -> tuple[RunRecord, pd.DataFrame | None]:
    """The record that `run` names, with its per-item scores: a run id, the beginning of one, or a record's file.

    Raises UserError when there is none, it is broken, or several begin so.
    """
    path = Path(run)
    if path.suffix == ".json" and path.is_file():
        try:
            record = read_file(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {error}; give a file of a results folder's runs/") from error
        return record, read_items(path.resolve().parent.parent, path.stem)
    if not (results / "runs").is_dir():
        raise UserError(f"{results}: no runs/ folder in it; name the results folder with --results")
    names = sorted(p.stem for p in (results / "runs").glob("*.json") if p.name[0] != ".")
    matching = [run] if run in names else [n for n in names if n.startswith(run)]
    if not matching:
        hint = nearest(run, names)
        raise UserError(f"unknown run {run!r}: {hint + ' ' if hint else ''}{results}/runs has {len(names):,} records")
    if len(matching) > 1:
        raise UserError(f"run {run!r} is the beginning of {len(matching)} runs: {', '.join(matching[:5])}; type more")
    file = results / "runs" / f"{matching[0]}.json"
    try:
        return read_file(file), read_items(results, matching[0])
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}; delete it or run it again") from error


def to_json(found: Explanation, flips: Any = None) -> str:
    """The explanation for programs, without the records themselves; `flips` is what `--flip` found."""
    return json.dumps(
        {
            "a": found.a.run_id,
            "b": found.b.run_id,
            "comparable": found.comparable,
            "reasons": found.reasons,
            "metric": found.metric,
            "difference": found.gap,
            "items": None if found.items is None else dataclasses.asdict(found.items),
            "fields": [dataclasses.asdict(d) for d in found.differences],
            **({} if flips is None else {"flips": dataclasses.asdict(flips)}),
        },
        indent=2,
        ensure_ascii=False,
    )


def written(value: Any) -> str:
    """A field's value in one line, long digests shortened.

    >>> written([10, 20]), written(None), written("a" * 64)
    ('10,20', 'none', 'aaaaaaaaaaaa')
    """
    if isinstance(value, list | tuple):
        return plain(tuple(value))
    text = plain(value)
    return text[:12] if len(text) in (40, 64) and all(c in "0123456789abcdef" for c in text) else text
