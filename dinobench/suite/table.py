"""A table of a suite's file: its values by key where they are of the right type, and a note where they aren't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from dinobench.suite.mistakes import Source
from dinobench.suite.places import Place

D = TypeVar("D")

#: What messages call the types that TOML has.
KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dict: "a table",
    list: "a list",
    bool: "true or false",
}


def said(value: Any) -> str:
    """A value with its type, as messages say it.

    >>> said("a"), said(3), said(True), said([1])
    ("the text 'a'", 'the whole number 3', 'true', 'a list')
    """
    if isinstance(value, bool):
        return str(value).lower()
    words = KINDS.get(type(value), "a date or time")
    return words if isinstance(value, dict | list) else f"{words.replace('a ', 'the ', 1)} {value!r}"


@dataclass(frozen=True)
class Table:
    """A table with its place in the file."""

    given: Mapping[str, Any]
    place: Place
    source: Source

    def check(self, known: Iterable[str]) -> None:
        """Note every key that isn't known."""
        options = list(known)
        for key in self.given:
            if key not in options:
                self.source.unknown((*self.place, key), "key", key, options)

    def value(self, key: str, kind: type, default: Any) -> Any:
        """The value of a key where it is of the type `kind`; `default` where it isn't, which is noted, or isn't there.

        A whole number is a number too.
        """
        value = self.given.get(key, default)
        if key not in self.given or type(value) is kind or (kind is float and type(value) is int):
            return value
        self.wrong(key, f"{KINDS[kind]} is needed, not {said(value)}")
        return default

    def whole(self, key: str, least: int) -> int | None:
        """A whole number of at least `least`, or None where there is none."""
        value: int | None = self.value(key, int, None)
        if value is not None and value < least:
            self.wrong(key, f"{value} is below {least}, the least that it can be")
        return value

    def table(self, key: str) -> Table:
        """The table under a key, empty where there is none."""
        return Table(self.value(key, dict, {}), (*self.place, key), self.source)

    def options(self, base: D) -> D:
        """`base`, a dataclass, with the fields that the table has keys for, of each field's type."""
        changes: dict[str, Any] = {}
        for name, hint in get_type_hints(type(base)).items():
            if name in self.given:
                kind = next(k for k in (*get_args(hint), hint) if k is not NoneType)
                changes[name] = self.value(name, kind, getattr(base, name))
                if changes[name] == "":
                    self.wrong(name, "an empty text: say something, or leave the key out")
        return replace(base, **changes)  # type: ignore[type-var]

    def several(self, key: str, kind: type, single: bool = True) -> list[tuple[Place, Any]]:
        """The values of a list, each with its place, or the one value where `single` allows that."""
        if key not in self.given:
            return []
        given, place = self.given[key], (*self.place, key)
        if single and type(given) is kind:
            return [(place, given)]
        if type(given) is not list:
            one = f"{KINDS[kind]} or a list of them" if single else "a list, as in [0, 1, 2],"
            self.wrong(key, f"{one} is needed, not {said(given)}")
            return []
        if not given:
            self.wrong(key, "an empty list: name something, or leave the key out")
        good: list[tuple[Place, Any]] = []
        for index, value in enumerate(given):
            if type(value) is not kind:
                self.source.wrong((*place, index), f"{KINDS[kind]} is needed, not {said(value)}")
            elif value in [other for _, other in good]:
                self.source.wrong((*place, index), f"{value!r} is in the list twice")
            else:
                good.append(((*place, index), value))
        return good

    def wrong(self, key: str, message: object) -> None:
        self.source.wrong((*self.place, key), message)
