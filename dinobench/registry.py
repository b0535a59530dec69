"""Finding protocols by name through entry points: built-in ones and third parties' alike.

Listing names imports nothing. A plug-in is somebody else's code: it may raise anything when it is imported, be
incomplete or of wrong types, and fail while it runs. Each of these names the distribution it came from, and none of
them stands in the way of the other plug-ins.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from importlib.metadata import EntryPoint, distributions, entry_points
from itertools import dropwhile
from types import TracebackType
from typing import Any

from dinobench import console
from dinobench.config import settings_of
from dinobench.data.layouts import KINDS
from dinobench.errors import PluginFault, UserError, unknown_name
from dinobench.hashing import canonical_json
from dinobench.types import EvalProtocol, Metric

GROUP, METHODS = "dinobench.protocols", "dinobench.methods"
#: What a backbone may be able to give.
CAPABILITIES = frozenset({"features", "layers", "patches", "attention", "keys", "map"})


def provider(entry: EntryPoint) -> str:
    """The distribution an entry point comes from, as 'name version'."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def available(group: str = GROUP) -> dict[str, list[EntryPoint]]:
    """Names and who provides each, without importing any of them; more than one provider is a conflict."""
    entries: dict[str, list[EntryPoint]] = {}
    for entry in _entry_points(group):
        if entry not in entries.setdefault(entry.name, []):
            entries[entry.name].append(entry)
    return dict(sorted(entries.items()))


def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Those of a group; where a distribution's cannot be read, those of all others."""
    return _installed(group, tuple((folder, _changed(folder)) for folder in sys.path))


def _changed(folder: str) -> int:
    """When something came into a folder or left it, in nanoseconds; 0 where it is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


@functools.cache
def _installed(group: str, path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Of the distributions on Python's `path` as it is: reading them takes as long as importing what one names."""
    try:
        return tuple(entry_points(group=group))
    except Exception:  # whatever the parser makes of a damaged file
        found: list[EntryPoint] = []
        for distribution in distributions():
            try:
                found += distribution.entry_points.select(group=group)
            except Exception as error:
                _warn_once(f"{distribution.name}: left out, its entry points cannot be read: {said(error)}")
        return tuple(found)


@functools.cache
def _warn_once(message: str) -> None:
    console.warn(message)


def check_name(kind: str, name: str, group: str = GROUP) -> None:
    """Raises UserError for a name that nothing is known by; imports nothing."""
    if name not in (names := available(group)):
        raise unknown_name(kind, name, list(names))


def find(kind: str, name: str, group: str) -> Any:
    """What the entry point `name` of a group stands for, imported; `kind` is what messages call it.

    Raises UserError when it is unknown, provided twice or broken.
    """
    check_name(kind, name, group)
    entries = available(group)
    if len(entries[name]) > 1:
        raise UserError(
            f"{kind} {name!r} is provided by {' and '.join(provider(e) for e in entries[name])}: uninstall one of them"
        )
    entry = entries[name][0]
    try:
        return entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a module that ends the program is a broken one
        raise UserError(f"{kind} {name!r} of {provider(entry)} cannot be imported: {said(error)}") from error


def refuse(kind: str, name: str, group: str, faults: Iterator[str]) -> None:
    """Raises UserError, which names the distribution, for the first of the faults that a check finds."""
    try:
        fault = next(faults, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # looking at a plug-in can run its code
        fault = f"looking at it raised {said(error)}"
    if fault is not None:
        raise UserError(f"{kind} {name!r} of {provider(available(group)[name][0])} cannot be used: {fault}")


def load(name: str, group: str = GROUP) -> EvalProtocol:
    """The protocol called `name`. Raises UserError when unknown, provided twice, broken, incomplete or mistyped."""
    protocol: EvalProtocol = find("protocol", name, group)
    refuse("protocol", name, group, _faults(protocol, name))
    return protocol


def metrics_of(protocol: EvalProtocol, config: Any) -> tuple[Metric, ...]:
    """What the protocol says it measures. Raises PluginFault where a third party's says no such thing."""
    with answering("protocol", protocol.name):
        metrics = tuple(protocol.metrics(config))
        if not metrics or not all(isinstance(m, Metric) for m in metrics):
            raise TypeError(f"metrics returned {metrics!r}, not one or more dinobench.types.Metric")
    return metrics


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


#: The fields of a protocol, each with what it must be. Those of `OPTIONAL` need not be there.
REQUIRED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_text, "a text"),
    "version": (_whole, "a whole number"),
    "summary": (_text, "a text"),
    "data": (lambda value: _text(value) and value in KINDS, f"one of {', '.join(KINDS)}"),
    "requires": (
        lambda value: isinstance(value, AbstractSet) and value <= CAPABILITIES,
        f"a set of {', '.join(sorted(CAPABILITIES))}",
    ),
    "profiles": (lambda value: isinstance(value, Mapping) and len(value) > 0, "a mapping of names to Configs"),
    "metrics": (callable, "a function"),
    "run": (callable, "a function"),
}
OPTIONAL: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "requests": (callable, "a function"),
    "select_data": (callable, "a function"),
    "version_of": (callable, "a function"),
    "saves": (lambda value: isinstance(value, str), "a text"),
}


def _faults(protocol: Any, name: str) -> Iterator[str]:
    lacking = [field for field in REQUIRED if not hasattr(protocol, field)]
    if lacking:
        yield f"it lacks {', '.join(lacking)}"
    for field, (fits, words) in {**REQUIRED, **OPTIONAL}.items():
        if hasattr(protocol, field) and not fits(value := getattr(protocol, field)):
            yield f"{field} is {shortened(value)}, not {words}"
    if protocol.name != name:  # records would name a protocol that is another one or none
        yield f"its entry point calls it {name!r}, its own name is {protocol.name!r}"
    settings: dict[str, Any] = {}
    for profile, config in protocol.profiles.items():
        if not _text(profile):
            yield f"profile {shortened(profile)} is not named by a text"
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            yield f"profile {profile!r} is {shortened(config)}, not a dataclass's instance"
        yield from config_faults(config, f"profile {profile!r}")
        values = settings_of(config)
        if values.keys() != (settings := settings or values).keys():
            yield f"profile {profile!r} has other settings than the first one"
        if hasattr(protocol, "version_of") and not _whole(version := protocol.version_of(config)):
            yield f"version_of gives {shortened(version)} for profile {profile!r}, not a whole number"


def config_faults(config: Any, what: str) -> Iterator[str]:
    """What keeps a dataclass's instance from being a Config; `what` is what messages call it."""
    kind = type(config)
    if "__dataclass_fields__" not in vars(kind) and vars(kind).get("__annotations__"):
        yield f"{what}: {kind.__qualname__} has settings of its own and lacks @dataclass"
    try:
        canonical_json({name: setting.value for name, setting in settings_of(config).items()})
    except (TypeError, ValueError, NameError) as error:
        yield f"the settings of {what} cannot be read: {said(error)}"


@contextmanager
def answering(kind: str, name: str, group: str = GROUP, own_code: bool = False) -> Iterator[None]:
    """What goes wrong in the block is laid at the door of the plug-in that it calls; built-in ones are our own.

    What is the user's to mend passes as it is, and so does what the machine refused (OSError, MemoryError) to code of
    dinobench that the plug-in called. `own_code`: only what has passed through the plug-in's own modules counts.
    Raises PluginFault.
    """
    try:
        yield
    except (KeyboardInterrupt, UserError, PluginFault):
        raise
    except BaseException as error:  # SystemExit too, which would end the command without a word
        entry = next(iter(available(group).get(name, [])), None)
        if entry is None or _package(entry.module) == "dinobench":
            raise
        called = [*dropwhile(lambda package: package == "dinobench", map(_package, _modules(error.__traceback__)))]
        if own_code and _package(entry.module) not in called:
            raise
        if isinstance(error, OSError | MemoryError) and "dinobench" in called:
            raise
        raise PluginFault(f"{kind} {name!r} of {provider(entry)} failed: {said(error)}") from error


def _package(module: str) -> str:
    return module.partition(".")[0]


def _modules(traceback: TracebackType | None) -> Iterator[str]:
    """The modules that an exception came through, from the outermost one inwards."""
    while traceback is not None:
        yield str(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next


def said(error: BaseException) -> str:
    """An exception in one line, with its type; its own words are somebody else's code."""
    try:
        words = " ".join(str(error).split())
    except Exception:
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def shortened(value: Any, limit: int = 60) -> str:
    """A value with its type in a few words."""
    text = " ".join(repr(value).split())
    return f"{text[:limit] + '…' if len(text) > limit else text} ({type(value).__name__})"
