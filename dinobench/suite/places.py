"""On which line of a TOML file each of its keys stands, which the standard library's reader doesn't say.

The text must have been read by `tomllib` before: what is no TOML isn't found here.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

#: Keys from the top of the file down; tables in an array and the values of one count from 0.
Place = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TEXT = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})' r"|'''.*?'''(?:'{0,2})" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_OTHER = re.compile(r"[^,\]}#\n]+")  # numbers, dates, true and false


def places(text: str) -> dict[Place, int]:
    """The line, from 1, on which each key and each value of an array begins.

    >>> places('[models]\\nours = "a.pth"\\n[[run]]\\nseeds = [0,\\n  1]')[("run", 0, "seeds", 1)]
    5
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: dict[Place, int] = {}
        self._ends = [m.start() for m in re.finditer("\n", text)]
        self._tables: dict[Place, int] = {}  # arrays of tables, and how many are in each

    def document(self) -> None:
        table: Place = ()
        while self._skip():
            line = self._line()
            if self.text.startswith("[", self.at):
                several = self.text.startswith("[[", self.at)
                self.at += 1 + several
                keys = self._keys()
                self.at += 1 + several
                table = self._table(keys, several)
                self._note(table, line)
            else:
                self._pair(table)

    def _table(self, keys: list[str], several: bool) -> Place:
        """Where a header leads: of an array of tables, into its last one, which `several` adds."""
        path: Place = ()
        for depth, key in enumerate(keys, 1):
            path = (*path, key)
            if several and depth == len(keys):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        return path

    def _pair(self, table: Place) -> None:
        self._skip()
        line = self._line()
        path: Place = (*table, *self._keys())
        self._note(path, line)
        self.at += 1  # the equals sign
        self._value(path)

    def _value(self, path: Place) -> None:
        self._skip()
        opening = self.text[self.at]
        if opening == "[":
            self._several("]", lambda index: self._element((*path, index)))
        elif opening == "{":
            self._several("}", lambda index: self._pair(path))
        else:
            self.at = (_TEXT.match(self.text, self.at) or _OTHER.match(self.text, self.at)).end()  # type: ignore[union-attr]

    def _element(self, path: Place) -> None:
        self._note(path, self._line())
        self._value(path)

    def _several(self, closing: str, one) -> None:  # type: ignore[no-untyped-def]
        self.at += 1
        index = 0
        while self._skip() and self.text[self.at] != closing:
            one(index)
            index += 1
            self._skip()
            self.at += self.text.startswith(",", self.at)
        self.at += 1

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip()
            match = _TEXT.match(self.text, self.at)
            if match:
                keys.append(tomllib.loads(f"k = {match[0]}")["k"])
            else:
                match = _BARE_KEY.match(self.text, self.at)
                assert match is not None, "no TOML"
                keys.append(match[0])
            self.at = match.end()
            self._skip()
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _skip(self) -> bool:
        """Go on to what is neither blank nor a comment; whether there is any more."""
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at < len(self.text)

    def _line(self) -> int:
        return bisect_right(self._ends, self.at - 1) + 1

    def _note(self, path: Place, line: int) -> None:
        for depth in range(1, len(path) + 1):
            self.found.setdefault(path[:depth], line)
