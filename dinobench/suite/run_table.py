"""A table of [[run]], looked at: its protocol with profiles and settings, and the models and data that it names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from dinobench.config import resolve_config, settings_of
from dinobench.data import check_place
from dinobench.data.embedded import EMBEDDED
from dinobench.errors import UserError, unknown_name
from dinobench.registry import load
from dinobench.runtime import PRECISIONS
from dinobench.suite.file import Compute, RunSpec
from dinobench.suite.places import Place
from dinobench.suite.table import Table, said
from dinobench.types import EvalProtocol

KEYS = ("protocol", "profile", "set", "seeds", "data", "models", "tests", "limit", "compute")
#: What is surely meant as a path, so that it may lie on another machine's disk.
PATH = re.compile(r"[/\\~]|^\.")
LARGEST_SEED = 2**63 - 1


def run_of(
    table: Table, groups: Mapping[str, Sequence[str]], data: Mapping[str, str], compute: Compute
) -> RunSpec | None:
    """What a table asks for; None where its protocol isn't known, and the rest of it can't be looked at.

    `groups`: the models of each entry of [models]; a run that names some may name an entry or one of its models.
    `data`: the references of [data]. `compute`: what the suite says of it.
    """
    table.check(KEYS)
    name = table.value("protocol", str, "")
    if not name:
        if "protocol" not in table.given or table.given["protocol"] == "":
            table.wrong("protocol", "is missing: write protocol = 'knn'; `dinobench list` shows all")
        return None
    try:
        protocol = load(name)
    except UserError as error:
        table.wrong("protocol", error)
        return None
    profiles = tuple(value for _, value in _known_profiles(table, protocol)) or (None,)
    return RunSpec(
        protocol=name,
        profiles=profiles,
        settings=_settings(table.table("set"), protocol, profiles),
        seeds=tuple(value for _, value in seeds_of(table)) or (0,),
        data=_data(table, protocol, data),
        models=_models(table, groups),
        tests=_tests(table, protocol),
        limit=table.whole("limit", 1),
        compute=compute_of(table.table("compute"), compute),
    )


def compute_of(table: Table, base: Compute) -> Compute:
    """What a table says of how to compute, and `base` where it says nothing."""
    table.check(field.name for field in fields(Compute))
    for name in ("batch_size", "workers"):
        table.whole(name, 1)
    found = table.options(base)
    if "precision" in table.given and found.precision == "auto":
        table.wrong("precision", "auto is what a machine is faster in, and a cell is the same on all: say which it is")
    elif "precision" in table.given and found.precision not in PRECISIONS:
        table.source.unknown((*table.place, "precision"), "precision", found.precision, PRECISIONS)
    if "ram_cache" in table.given and not 0 <= (found.ram_cache or 0.0) < math.inf:
        table.wrong("ram_cache", f"{found.ram_cache}: a number of GB from 0 on is needed")
    return found


def _known_profiles(table: Table, protocol: EvalProtocol) -> Iterator[tuple[Place, str]]:
    for place, profile in table.several("profile", str):
        if profile in protocol.profiles:
            yield place, profile
        else:
            table.source.unknown(place, f"profile of {protocol.name}", profile, protocol.profiles)


def _settings(table: Table, protocol: EvalProtocol, profiles: Sequence[str | None]) -> dict[str, Any]:
    """The settings that were changed. Each is tried alone, so that a message has its place, and then all together."""
    good: dict[str, Any] = {}
    for name, value in table.given.items():
        if not plain_value(value):
            table.wrong(name, f"a value or a list of values is needed, not {said(value)}")
            continue
        errors = list(dict.fromkeys(filter(None, (_refusal(protocol, p, {name: value}) for p in profiles))))
        named = [str(error) for error in errors if not _together(error, protocol, name)]
        for error in named:
            table.wrong(name, error)
        if not named:
            good[name] = value
    for error in dict.fromkeys(filter(None, (_refusal(protocol, p, good) for p in profiles))):
        place = table.place if len(good) > 1 else (*table.place, *good)
        table.source.wrong(place, error)
    return good


def _refusal(protocol: EvalProtocol, profile: str | None, settings: Mapping[str, Any]) -> str:
    try:
        changed = resolve_config(protocol, profile, settings)
    except UserError as error:
        return str(error)
    return mistyped(changed.config, settings, protocol.name)


def mistyped(config: Any, settings: Mapping[str, Any], whose: str) -> str:
    """true where a number is wanted: Python takes it for 1, and nobody means that."""
    declared = settings_of(config)
    for name, value in settings.items():
        given = value if isinstance(value, list) else [value]
        taken = declared[name].value if isinstance(declared[name].value, tuple) else (declared[name].value,)
        if any(isinstance(v, bool) for v in given) and not any(isinstance(v, bool) for v in taken):
            return f"{whose} setting {name} is no switch: {said(True)} and false are not for it"
    return ""


def _together(error: str, protocol: EvalProtocol, name: str) -> bool:
    """Whether a setting was refused for what it is beside others, which may be changed as well."""
    return not error.startswith((f"unknown setting of {protocol.name}", f"unknown value of {protocol.name} setting",
                                 f"{protocol.name} setting {name} "))  # fmt: skip


def plain_value(value: Any) -> bool:
    """Whether it is what a setting can be."""
    scalars = (str, int, float, bool)
    return isinstance(value, scalars) or (isinstance(value, list) and all(isinstance(v, scalars) for v in value))


def seeds_of(table: Table) -> Iterator[tuple[Place, int]]:
    """The seeds that a table gives, each with its place."""
    for place, seed in table.several("seeds", int, single=False):
        if 0 <= seed <= LARGEST_SEED:
            yield place, seed
        else:
            table.source.wrong(place, f"{seed}: a whole number from 0 to 2^63 - 1 is needed")


def _models(table: Table, groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names of models, those of entries put in their entries' places; all where the run names none."""
    every = {name: (name,) for members in groups.values() for name in members}
    chosen: dict[str, None] = {}
    for place, name in table.several("models", str) if groups else ():
        if name in groups or name in every:
            chosen.update(dict.fromkeys(groups[name] if name in groups else every[name]))
        else:
            table.source.unknown(place, "model of [models]", name, [*dict.fromkeys((*groups, *every))])
    return tuple(chosen)


def _data(table: Table, protocol: EvalProtocol, data: Mapping[str, str]) -> tuple[str, ...]:
    embedded = EMBEDDED.get(protocol.data, {})
    if "data" not in table.given:
        if data:
            return ()
        if "digits" in embedded:
            return ("digits",)
        there = f", or an embedded set: {', '.join(embedded)}" if embedded else ""
        table.wrong("data", f"is missing: {protocol.name} scores {protocol.data}; give a path{there}")
    chosen = []
    for place, name in table.several("data", str):
        target = data.get(name, name)
        if name not in data:
            table.source.where.setdefault(("data", name), place)
        if PATH.search(target) or target in embedded:
            chosen.append(name)
        elif name in data:
            chosen.append(name)
            if other := other_kinds(target):
                table.source.wrong(place, f"{target} is an embedded set of {other}, and {protocol.name} scores "
                                          f"{protocol.data}{_instead(embedded)}")  # fmt: skip
        else:
            try:
                check_place(name, protocol.data)
                chosen.append(name)
            except UserError:
                known = [*data, *embedded]
                table.source.wrong(place, f"{unknown_name('data set', name, known)}; it's no file or folder, here or "
                                          "under DINOBENCH_DATA, either")  # fmt: skip
    return tuple(chosen)


def other_kinds(target: str) -> str:
    """The kinds of data of which a target is an embedded set, but for images to train on."""
    return ", ".join(kind for kind, sets in EMBEDDED.items() if target in sets and kind != "images")


def _instead(embedded: Mapping[str, Any]) -> str:
    return f"; of those there are {', '.join(embedded)}" if embedded else ""


def _tests(table: Table, protocol: EvalProtocol) -> tuple[str, ...]:
    from dinobench.data.other_tests import split_spec

    good = []
    for place, test in table.several("tests", str):
        with table.source.noting(place):
            split_spec(test)
            good.append(test)
    if good and not getattr(protocol, "other_tests", False):
        table.wrong("tests", f"{protocol.name} scores data's own test images alone; others, such as knn, can")
    return tuple(good)
