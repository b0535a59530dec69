"""The suites that come with the package, a file each."""

from __future__ import annotations

from importlib import resources


def names() -> list[str]:
    """What they are called, in the order of the alphabet."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def text_of(name: str) -> str:
    """A suite's file as it is."""
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def summary_of(name: str) -> str:
    """The comment that its file begins with."""
    lines = []
    for line in text_of(name).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _folder() -> resources.abc.Traversable:
    return resources.files(__package__)
