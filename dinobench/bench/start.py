"""CPU seconds of commands that have little to do, beside the bare interpreter: nobody waits for a library in vain."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dinobench import console
from dinobench.bench.measure import BenchRow
from dinobench.bench.records import fill
from dinobench.errors import UserError

#: Records of the folder that tables and the page are made of.
RECORDS = 100
#: Seconds that a file must be at rest before what was learnt of it is believed.
REST = 2.1
RUN = ("run", "--protocol", "knn", "--ckpt", "pixels:2", "--set", "resize=8", "--set", "crop=8", "--out", "finished")


def start(repeats: int = 3) -> list[BenchRow]:
    """The least CPU seconds, user and system, of fresh processes run in turn. Raises UserError where one fails."""
    listings = [("list", what) for what in ("protocols", "profiles", "layouts", "knn")]
    refused = [
        ("run", "--protocol", "knnn", "--ckpt", "pixels"), ("run", "--protocol", "knn", "--ckpt", "nowhere.pth"),
        ("inspect", "nowhere.pth"),
    ]  # fmt: skip
    tables = [("compare", "many"), ("leaderboard", "many"), ("gate", "many", "--baseline", "many"), ("check", "many")]
    slower = [RUN, ("report", "many", "-o", "page.html")]
    commands = [(c, 0.6) for c in (("--help",), *listings, *refused, *tables)] + [(c, 1.5) for c in slower]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fill(folder / "many", RECORDS)
        for command in (RUN, *tables[:2]):
            _seconds(folder, command)
            time.sleep(REST)
        for command, _ in commands:
            _seconds(folder, command)
        least = [float("inf")] * len(commands)
        bare = float("inf")
        for _ in console.progress(range(repeats), "Measuring", repeats):
            bare = min(bare, _cpu(folder, [sys.executable, "-c", "pass"]))
            least = [min(a, _seconds(folder, c)) for a, (c, _) in zip(least, commands, strict=True)]
    return [
        BenchRow(
            f"dinobench {' '.join(command[:4])}", f"{seconds:.2f} s", f"{bare:.2f} s bare Python", seconds / bare,
            f"at most {bar} s", seconds <= bar,
        )
        for (command, bar), seconds in zip(commands, least, strict=True)
    ]  # fmt: skip


def _seconds(folder: Path, command: Sequence[str]) -> float:
    return _cpu(folder, [sys.executable, "-m", "dinobench", *command])


def _cpu(folder: Path, line: Sequence[str]) -> float:
    """CPU seconds of a process, and of those that it started. Raises UserError where it fails by its own fault."""
    environment = {**os.environ, "DINOBENCH_CACHE": str(folder / "cache"), "PYTHONPYCACHEPREFIX": str(folder / "pyc")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its modules compiled
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 2):
        raise UserError(f"{' '.join(line)}: ends with {done.returncode}: {done.stderr.strip()[-200:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
