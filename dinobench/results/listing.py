"""A results folder read whole: its records, each beside its items, and what cannot be believed, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dinobench.errors import UserError
from dinobench.results.records import read_all
from dinobench.results.vouched import checked
from dinobench.types import RunRecord


def require_runs(results: Path) -> None:
    """Raises UserError when there is no folder of runs."""
    if not (results / "runs").is_dir():
        raise UserError(f"{results}: no runs/ folder in it; `dinobench run --out {results} ...` makes one")


def read_folder(
    results: Path,
    *,
    afresh: bool = False,
    progress: Callable[[Sequence[RunRecord]], Iterable[RunRecord]] = iter,
) -> tuple[list[RunRecord], list[tuple[Path, str]]]:
    """The records of a folder by run id, and the files of those that are broken or contradicted by their items.

    What was checked before is believed while the files stay the same, unless all is to be read `afresh`; `progress`
    wraps the reading of items.
    """
    whole, broken = read_all(results)
    sound, contradicted = checked(results, whole, afresh=afresh, progress=progress)
    return sound, sorted([*broken, *contradicted])
