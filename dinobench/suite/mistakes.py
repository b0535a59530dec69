"""What is wrong with a suite's file: every mistake at once, a line each, with its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from dinobench.errors import UserError, unknown_name
from dinobench.suite.places import Place

#: The entry of [models] that models of the command line are under.
CKPT = "--ckpt"
#: What is written between brackets at the top of a suite's file.
TABLES = ("models", "data", "train", "scales", "compute", "resources", "slurm")


class Mistakes(UserError):
    """Raised once for a file; `lines` are its mistakes in the order of the file."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class Source:
    """A suite's file as messages name it, with the lines of its keys, and the mistakes found so far.

    `lines` may come to differ from those `written`, where a scale has been merged over the rest.
    """

    def __init__(self, shown: str, lines: Mapping[Place, int]) -> None:
        self.shown, self.lines, self.written = shown, lines, lines
        self.where: dict[tuple[str, str], Place] = {}  # ("model", its name) and ("data", as --data takes it)
        self._found: dict[str, tuple[int, int]] = {}

    def line(self, place: Place) -> int:
        """The line of a key, or of what holds it where it isn't in the file."""
        return next((self.lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in self.lines), 1)

    def said(self, place: Place, message: object) -> str:
        """`message` with the place that it is about.

        >>> Source("a.toml", {("models", "x"): 3}).said(("models", "x"), "no such file")
        'a.toml:3: [models] x: no such file'
        """
        if CKPT in place:
            return f"{CKPT}: {message}"
        where = words(place)
        return f"{self.shown}:{self.line(place)}: {where}{where and ': '}{message}"

    def told(self, what: tuple[str, str], message: object) -> str:
        """`message` about a model or a data set, with the place that names it, or that of the option it is about."""
        place = self.where.get(what, ())
        options = [p for p in self.lines if place and p[:-1] == place and f"--{p[-1]}" in str(message)]
        return self.said(min(options, default=place, key=self.line), message)

    def wrong(self, place: Place, message: object) -> None:
        """Keep a mistake; the same one of several values counts once."""
        self._found.setdefault(self.said(place, message), (self.line(place), len(self._found)))

    def unknown(self, place: Place, kind: str, name: str, options: Iterable[str]) -> None:
        self.wrong(place, unknown_name(kind, name, options))

    @contextmanager
    def noting(self, place: Place) -> Iterator[None]:
        """What the block says is wrong with the user's input is a mistake at `place`."""
        try:
            yield
        except UserError as error:
            self.wrong(place, error)

    def take(self, other: Source, table: Place) -> None:
        """Keep the mistakes of another reading of the same file that stand in this table of it."""
        own = {line for place, line in self.written.items() if place[: len(table)] == table}
        self._found.update({text: at for text, at in other._found.items() if at[0] in own and text not in self._found})

    @property
    def mistakes(self) -> tuple[str, ...]:
        return tuple(sorted(self._found, key=lambda line: self._found[line]))

    def check(self) -> None:
        """Raises Mistakes where there are any."""
        if self._found:
            raise Mistakes(self.mistakes)


def words(place: Place) -> str:
    """A place as people find it in the file; tables of an array count from 1.

    >>> words(("run", 1, "set", "batch")), words(("models", "floor", 0)), words(("limit",)), words(())
    ('[[run]] 2 set.batch', '[models] floor', 'limit', '')
    """
    if len(place) < 2:
        text = "".join(map(str, place))
        return f"[{text}]" if text in TABLES else text
    first, second, *rest = place
    keys = ".".join(str(key) for key in rest if isinstance(key, str))
    if isinstance(second, int):
        return f"[[{first}]] {second + 1} {keys}".rstrip()
    return f"[{first}] {'.'.join(filter(None, (second, keys)))}"
