"""Which records agree with their items, as far as that was checked before and the files are still the same.

A record is vouched for by its own scores and the digest that it names, together with the size, times and inode of the
file of its items. `dinobench check` reads all afresh. What follows from items alone, such as a paired test, is
remembered by their digests and believed while the records that name them are vouched for.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dinobench.files import Signature, cache_root, keep, recall, settled, signature_of
from dinobench.hashing import digest
from dinobench.results.items import contradiction, names_of
from dinobench.types import RunRecord

#: Records whose items a listing reads; beyond, it takes longer than the listing, and `dinobench check` does it.
LIMIT = 1000
CHECKED, FACTS = "checked", "facts"


def checked(
    results: Path,
    records: Sequence[RunRecord],
    *,
    afresh: bool = False,
    progress: Callable[[Sequence[RunRecord]], Iterable[RunRecord]] = iter,
) -> tuple[list[RunRecord], list[tuple[Path, str]]]:
    """(the records whose items agree with them, the files of the others, each with the reason).

    Those that were not checked before are taken as they are where they are more than `LIMIT`, unless all are to be
    read `afresh`; `progress` wraps the reading.
    """
    known = _known(results)
    unread: list[RunRecord] = []
    doubted: dict[int, str] = {}
    there = _names(results)
    for record in records:
        if there is not None and there.isdisjoint(names_of(record)):
            continue
        found = signature_of(_items(results, record))
        if found is None and record.items_sha256 and (reason := contradiction(results, record)):
            doubted[id(record)] = reason  # its items still lie under the name that they had before it was written
        elif found is not None and (afresh or known.get(record.run_id) != [_claims(record), *found]):
            unread.append(record)
    new: dict[str, Any] = {}
    for record in progress(unread) if afresh or len(unread) <= LIMIT else ():
        found = signature_of(_items(results, record))
        if reason := contradiction(results, record):
            doubted[id(record)] = reason
        elif found is not None and settled(found):
            new[record.run_id] = [_claims(record), *found]
    if any(known.get(run_id) != entry for run_id, entry in new.items()):
        known.update(new)
        keep(CHECKED, _place(results), known)
    broken = [(results / "runs" / f"{r.run_id}.json", doubted[id(r)]) for r in records if id(r) in doubted]
    return [r for r in records if id(r) not in doubted], broken


class Facts:
    """What was found in items, by `of`; `keep` remembers what is new."""

    def __init__(self, results: Path) -> None:
        stored = recall(FACTS, _place(results))
        self.results, self.known = results, _known(results)
        self.files = set(os.listdir(items)) if (items := results / "items").is_dir() else set()
        self.stored: dict[str, Any] = stored if isinstance(stored, dict) else {}
        self.new: dict[str, Any] = {}

    def of(self, runs: Sequence[RunRecord], what: str, find: Callable[[], Any]) -> Any:
        """`find()`, a JSON value that follows from the items of `runs` and from `what` alone; or as remembered.

        None where one of them has no file of items.
        """
        if not all(f"{r.run_id}.parquet" in self.files for r in runs):
            return None
        known = self.known
        if not all(_vouched(self.results, r, known) for r in runs):
            return find()
        items = [[r.run_id, r.items_sha256 or known[r.run_id]] for r in runs]  # old records name no digest
        key = digest(what, items, _code())[:24]
        if key in self.stored:
            return self.stored[key]
        self.stored[key] = self.new[key] = find()
        return self.stored[key]

    def keep(self) -> None:
        if self.new:
            keep(FACTS, _place(self.results), self.stored)
            self.new = {}


def _vouched(results: Path, record: RunRecord, known: dict[str, Any]) -> bool:
    entry = known.get(record.run_id)
    found: Signature | None = signature_of(_items(results, record)) if entry else None
    return found is not None and entry == [_claims(record), *found]


def _items(results: Path, record: RunRecord) -> str:
    """`items.path_of` as text, which costs a tenth."""
    return f"{results}{os.sep}items{os.sep}{record.run_id}.parquet"


def _names(results: Path) -> set[str] | None:
    """What lies beside the items, in one look where a look for each file takes ten times as long; None if unreadable.

    Whatever a record that was read before names lies there by now.
    """
    try:
        return set(os.listdir(results / "items"))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError:
        return None


def _claims(record: RunRecord) -> str:
    """Of all in a record that its items can contradict."""
    scores = [(name, m.value, m.unit) for name, m in record.metrics.items()]
    return hashlib.blake2b(repr((record.items_sha256, scores)).encode("utf-8", "replace"), digest_size=12).hexdigest()


def _known(results: Path) -> dict[str, Any]:
    return _remembered(cache_root(), _place(results))


@functools.lru_cache(maxsize=8)
def _remembered(root: Path, place: str) -> dict[str, Any]:
    """Run ids and what was true of record and file when they were found to agree."""
    stored = recall(CHECKED, place)
    return stored if isinstance(stored, dict) else {}


def _place(results: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(results))).hexdigest()[:32]


@functools.cache
def _code() -> list[Any]:
    """The state of our modules that find anything in items."""
    here = Path(__file__).parent.parent
    folders = ("compare", "results", "stats")
    return [signature_of(source) for folder in folders for source in sorted((here / folder).glob("*.py"))]
