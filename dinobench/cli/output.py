"""How a command's output is delivered: on screen, or to a file in the format that its name ends in."""

from __future__ import annotations

from pathlib import Path

from dinobench import console
from dinobench.errors import UserError


def format_of(asked: str | None, output: Path | None, known: list[str]) -> str:
    """The format asked for, or the one that the file's name ends in."""
    from dinobench.errors import unknown_name

    endings = {".csv": "csv", ".md": "markdown", ".markdown": "markdown", ".tex": "latex", ".json": "json"}
    if asked is not None and asked not in ("table", *known):
        raise unknown_name("format", asked, ["table", *known])
    form = asked or (endings.get(output.suffix.lower(), "table") if output else "table")
    form = form if form in known else "table"
    if output is not None and form == "table":
        raise UserError(f"-o {output}: say which --format to write: {', '.join(known)}")
    return form


def deliver(text: str, output: Path | None) -> None:
    if output is None:
        return console.text(text)
    write(output, text.encode("utf-8", "replace"))  # names may hold what is no text


def write(output: Path, content: bytes) -> None:
    """To a file, and say so."""
    from dinobench.files import write_output

    write_output(output, content)
    console.note(f"written: {output}")
