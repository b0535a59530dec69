"""From a profile's name and `--set name=value` to the frozen Config that decides the numbers.

A Config is a frozen dataclass of settings. A setting that is a dataclass itself is a group of settings. Groups are for
those who read and write a protocol: names are unique over all groups, and hashes, records and `--set` know the flat
names alone, so that a setting can move into a group without changing what a run is called.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from dinobench.errors import UserError, unknown_name
from dinobench.hashing import canonical_json, digest
from dinobench.inputs import Channels
from dinobench.types import EvalProtocol

C = TypeVar("C")


@dataclass(frozen=True)
class Setting:
    """One setting of a Config, in whichever group: its value, its type, and what `dinobench.types.setting` says."""

    name: str
    value: Any
    type: Any
    doc: str
    source: str
    added: bool = False
    default: Any = None

    @property
    def recorded(self) -> bool:
        """Whether records and hashes hold it: not one that was added later while it stands at its default."""
        return not self.added or self.value != self.default


def settings_of(config: Any) -> dict[str, Setting]:
    """All settings of a Config by name, those of its groups among them, in the order of declaration.

    Raises ValueError when two groups have a setting of one name: a bug in the protocol.
    """
    settings: dict[str, Setting] = {}
    for setting in _walk(config):
        if setting.name in settings:
            raise ValueError(f"{type(config).__qualname__} has two settings called {setting.name}")
        settings[setting.name] = setting
    return settings


def _walk(config: Any) -> Iterator[Setting]:
    kind: Any = type(config)
    hints = _hints(kind)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _walk(value)
        else:
            said = {name: field.metadata.get(name, "") for name in ("doc", "source")}
            added = bool(field.metadata.get("added"))
            yield Setting(field.name, value, hints[field.name], **said, added=added, default=field.default)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a class's fields; reading them anew for every hash took most of a long plan's time."""
    return typing.get_type_hints(kind)


def flat(config: Any) -> dict[str, Any]:
    """The values of the recorded settings by name, without the groups: what is hashed, and what a record holds."""
    return {name: setting.value for name, setting in settings_of(config).items() if setting.recorded}


def replace_settings(config: C, /, **changes: Any) -> C:
    """A copy of a Config with some values changed, each in the group where its setting stands.

    Raises TypeError for a name that is no setting, and what the Config raises for values that make no sense.
    """
    if unknown := changes.keys() - settings_of(config).keys():
        raise TypeError(f"{type(config).__qualname__} has no setting {', '.join(sorted(unknown))}")
    return _replaced(config, changes)


def _replaced(config: Any, changes: Mapping[str, Any]) -> Any:
    new: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            new[field.name] = _replaced(value, changes)
        elif field.name in changes:
            new[field.name] = changes[field.name]
    return dataclasses.replace(config, **new)


@dataclass(frozen=True)
class Resolved:
    """A Config with the name of its profile; the name tells what was changed: `dino2021+k=10,20`."""

    profile: str
    config: Any

    @functools.cached_property
    def flat(self) -> dict[str, Any]:
        """The values as `flat` has them."""
        return flat(self.config)

    def hash(self, protocol: EvalProtocol) -> str:
        """The identity of the resolved values: rows whose hashes differ are never ranked against each other."""
        return digest(protocol.name, self.version(protocol), self.flat)

    def version(self, protocol: EvalProtocol) -> int:
        """The version of the protocol's numbers as configured: `version_of(config)` where the protocol has it."""
        of: Callable[[Any], int] = getattr(protocol, "version_of", lambda config: protocol.version)
        return of(self.config)


#: The end of the name of a profile that was run on a part of its data.
LIMITED = re.compile(r"\+limit(\d+)$")


def with_limit(resolved: Resolved, limit: int | None) -> Resolved:
    """The same called `dino2021+limit500` where only so many items of each split are used."""
    return resolved if limit is None else dataclasses.replace(resolved, profile=f"{resolved.profile}+limit{limit}")


def limit_of(profile: str) -> int | None:
    """How many items of each split a profile of this name was run on, or None for all.

    >>> limit_of("dino2021+k=10,20+limit500"), limit_of("dino2021")
    (500, None)
    """
    found = LIMITED.search(profile)
    return int(found[1]) if found else None


def resolve_config(protocol: EvalProtocol, profile: str | None, settings: Mapping[str, Any]) -> Resolved:
    """The profile (the protocol's first when None) with `settings` changed; texts are parsed by the field's type.

    Raises UserError for an unknown profile or setting and for a value that does not fit.
    """
    name = profile or next(iter(protocol.profiles))
    if name not in protocol.profiles:
        raise unknown_name(f"profile of {protocol.name}", name, list(protocol.profiles))
    base = protocol.profiles[name]
    declared = settings_of(base)
    changed: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in declared:
            raise unknown_name(f"setting of {protocol.name}", key, list(declared))
        parsed = parse(value, declared[key].type, f"{protocol.name} setting {key}")
        if parsed != declared[key].value:
            changed[key] = parsed
    try:
        config = replace_settings(base, **changed)
    except ValueError as error:
        raise UserError(f"{protocol.name}: {error}") from error
    return Resolved("+".join([name, *(f"{k}={plain(changed[k])}" for k in sorted(changed))]), config)


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """What `--set name=value` was given, by name. Raises UserError for one that is not of that form.

    >>> parse_settings(["k=10,20", "temperature=0.07"])
    {'k': '10,20', 'temperature': '0.07'}
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--set {pair}: write it as name=value; `dinobench list profiles` shows the names")
        settings[name.strip()] = value
    return settings


def plain(value: Any) -> str:
    """A value as it is typed after `--set name=`.

    >>> plain((10, 20)), plain(0.07), plain(None), plain(())
    ('10,20', '0.07', 'none', 'none')
    """
    if isinstance(value, tuple):
        return ",".join(plain(v) for v in value) or "none"
    if isinstance(value, str):
        return value
    return canonical_json(value).replace("null", "none")


def parse(value: Any, hint: Any, what: str) -> Any:
    """`value`, a text or already of the type, as the type `hint`. Raises UserError naming `what`.

    >>> parse("10,20", tuple[int, ...], "k"), parse("0.07", float, "T"), parse("off", bool, "flip")
    ((10, 20), 0.07, False)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return parse(value, next(a for a in arguments if a is not type(None)), what)
    if origin is Literal:
        chosen = [a for a in arguments if str(a) == str(value)]
        if not chosen:
            raise unknown_name(f"value of {what}", str(value), [str(a) for a in arguments])
        return chosen[0]
    if origin is tuple and value == "none" and arguments[-1] is Ellipsis:
        return ()
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        if arguments[-1] is not Ellipsis:
            if len(parts) != len(arguments):
                each = ", one per RGB channel" if hint == Channels else ""
                example = ",".join(["0.5"] * len(arguments))
                raise UserError(f"{what} takes {len(arguments)} numbers{each}, as in {example}, not {value!r}")
            return tuple(parse(p, kind, what) for p, kind in zip(parts, arguments, strict=True))
        parts = [p for p in parts if p != ""]
        if not parts:
            raise UserError(f"{what} needs at least one value, as in 10,20")
        return tuple(parse(p, arguments[0], what) for p in parts)
    if hint is bool:
        text = str(value).strip().lower()
        if text in ("1", "true", "on", "yes"):
            return True
        if text in ("0", "false", "off", "no"):
            return False
        raise UserError(f"{what} is on or off, not {value!r}")
    if hint is str:
        return str(value)
    try:
        if hint is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        parsed = hint(value.strip() if isinstance(value, str) else value)
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise ValueError
        return parsed
    except (TypeError, ValueError):
        raise UserError(f"{what} is {'a whole number' if hint is int else 'a number'}, not {value!r}") from None
