"""How long cells may take: as long as earlier runs of the same protocol, architecture and images took.

A record's duration is the protocol's own. Features that aren't cached have to be extracted before, at the pace at which
that went before on this machine. Where one of the two isn't known the whole is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from dinobench.evaluations import Evaluation
from dinobench.features import pace
from dinobench.types import ImageSplit, RunRecord

UNKNOWN = "unknown"
#: What makes two runs last alike: protocol, its configuration, images, architecture, precision.
_Alike = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Wanted:
    """Features that a cell wants: of a split's images, cut out by `transform`, by a backbone of this architecture.

    `key` is their entry's in the cache, and `complete` whether they are there.
    """

    key: str
    complete: bool
    arch: str
    split: ImageSplit
    transform: object


class Estimates:
    """Durations of the records of a results folder. Features that several cells want are counted with the first."""

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self._known: dict[_Alike, list[RunRecord]] = {}
        self._counted: set[str] = set()
        self._hashes: dict[tuple[str, str], str] = {}
        for r in records:
            alike = r.protocol, r.config_hash, r.dataset_fingerprint, r.checkpoint.arch, r.precision
            self._known.setdefault(alike, []).append(r)

    def of(self, evaluations: Sequence[Evaluation], lacking: Sequence[Wanted]) -> tuple[float | None, str]:
        """(seconds, where that is known from) of evaluations that come after one another; None where it isn't."""
        found = [self._alike(evaluation) for evaluation in evaluations]
        todo = [wanted for wanted in lacking if wanted.key not in self._counted]
        self._counted.update(wanted.key for wanted in todo)
        paces = [pace.recalled(wanted.arch, wanted.split, wanted.transform) for wanted in todo]
        if not evaluations or not all(found) or None in paces:
            return None, UNKNOWN
        own = sum(median(r.duration_s for r in records) for records in found)
        extraction = sum(len(w.split) / p.per_second for w, p in zip(todo, paces, strict=True) if p is not None)
        count = min(map(len, found))
        devices = {r.device for records in found for r in records} | {p.device for p in paces if p is not None}
        basis = f"{count} earlier record{'s' if count > 1 else ''} ({', '.join(sorted(devices))})"
        return own + extraction, basis + (", features as timed before" if todo else "")

    def _alike(self, evaluation: Evaluation) -> list[RunRecord]:
        """Records of the same, those of the device of the latest of them."""
        named = evaluation.protocol.name, evaluation.resolved.profile
        if named not in self._hashes:
            self._hashes[named] = evaluation.resolved.hash(evaluation.protocol)
        images, arch = evaluation.data.fingerprint, evaluation.backbone.info.arch
        alike = named[0], self._hashes[named], images, arch, evaluation.precision
        records = self._known.get(alike, [])
        if not records:
            return []
        latest = max(records, key=lambda r: r.started_at)
        return [r for r in records if (r.device, r.processes) == (latest.device, latest.processes)]
