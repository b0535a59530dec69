"""The rows of benches as Markdown, ready to be pasted, and put into a file between its two marks."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinobench import __version__, lazy
from dinobench.errors import UserError
from dinobench.files import write_output

with lazy.imports():
    import torch

if TYPE_CHECKING:
    from dinobench.bench.measure import BenchRow

#: What stands around the table in a file that it is written into.
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
VERDICTS = {None: "", True: "met", False: "not met"}


def machine(device: str) -> str:
    """The device's name and the versions that its figures depend on."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        name = torch.cuda.get_device_name()
    else:
        name = f"{torch.get_num_threads()} threads of {_processor()}"
    cuda = f", CUDA {torch.version.cuda}" if torch.cuda.is_available() else ""
    return f"{name}, torch {torch.__version__}{cuda}, Python {platform.python_version()}, dinobench {__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def markdown(rows: Sequence[BenchRow], where: str) -> str:
    """A table as GitHub renders it, below a line that says `where` it was measured.

    >>> from dinobench.bench.measure import BenchRow
    >>> print(markdown([BenchRow("k-NN", "3 s", "2 s faiss", 1.5, "at most 2", True)], "a laptop"))
    On a laptop:
    <BLANKLINE>
    | measured | ours | limit | ratio | bar | |
    |---|---|---|---|---|---|
    | k-NN | 3 s | 2 s faiss | 1.50 | at most 2 | met |
    """
    lines = [f"On {where}:", "", "| measured | ours | limit | ratio | bar | |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row.what, row.ours, row.limit, f"{row.ratio:.2f}", row.bar, VERDICTS[row.met])
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells).rstrip() + " |")
    return "\n".join(lines)


def put(path: Path, table: str) -> None:
    """Replace what stands between the marks. Raises UserError for a file that cannot be read or has no two marks."""
    before, rest = _parts(path)
    write_output(path, f"{before}{BEGIN}\n{table}\n{END}{rest}".encode())


def _parts(path: Path) -> tuple[str, str]:
    """What stands before and after the marks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; give a Markdown file with {BEGIN} and {END}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: no {BEGIN} with {END} after it; put both where the table belongs")
    return before, after


def check(path: Path) -> None:
    """Raise what `put` would, before minutes are spent on measuring."""
    _parts(path)
