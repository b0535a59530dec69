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
from dinobench.results.comparability import Difference, differences, reasons
from dinobench.results.items import read_items
from dinobench.results.records import read_file
from dinobench.types import RunRecord

if TYPE_CHECKING:
    import pandas as pd


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
    metric = a.primary if a.primary in b.metrics and a.protocol == b.protocol else ""
    fields = differences(a, b)
    if any(d.setting for d in fields):  # else what importing a protocol costs is saved
        declared = _declared(a.protocol)
        fields = [
            dataclasses.replace(d, meaning=declared[d.name].doc) if d.setting and d.name in declared else d
            for d in fields
        ]
    items = _items(*scores, metric) if metric else None
    return Explanation(a, b, tuple(reasons(a, b)), tuple(fields), metric, items)


def _declared(protocol: str) -> dict[str, Setting]:
    """What the protocol says of each setting; nothing when it is not installed."""
    try:
        return settings_of(next(iter(load(protocol).profiles.values())))
    except UserError:
        return {}


def _items(a: pd.DataFrame | None, b: pd.DataFrame | None, metric: str) -> Items | None:
    if a is None or b is None or not {"id", metric} <= {*a} & {*b}:
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
        return record, read_items(path.resolve().parent.parent, record)
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
        record = read_file(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}; delete it or run it again") from error
    return record, read_items(results, record)


def to_json(explanation: Explanation, flips: Any = None) -> str:
    """The explanation for programs, without the records themselves; `flips` is what `--flip` found."""
    return json.dumps(
        {
            "a": explanation.a.run_id,
            "b": explanation.b.run_id,
            "comparable": explanation.comparable,
            "reasons": explanation.reasons,
            "metric": explanation.metric,
            "difference": explanation.gap,
            "items": None if explanation.items is None else dataclasses.asdict(explanation.items),
            "fields": [dataclasses.asdict(d) for d in explanation.differences],
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
