"""From what TOML says to a `Suite`: every key, name, type and value is looked at, and every mistake noted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinobench.files import file_name, user_path
from dinobench.registry import available
from dinobench.suite import names
from dinobench.suite.file import DEFAULT, RETRIES, Resources, Suite
from dinobench.suite.mistakes import CKPT, Source
from dinobench.suite.places import Place
from dinobench.suite.resources import MEMORY
from dinobench.suite.run_table import run_of
from dinobench.suite.table import Table, said

#: What a name in [models] or [data] can't hold: it stands before an equals sign in `--ckpt` and `--data`.
FORBIDDEN = re.compile(r"[/\\=:\s\x00-\x1f]")
TOP = ("name", "out", "limit", "retries", "models", "data", "run", "resources", "slurm")
RESOURCES = ("devices", "cpus", "memory", "hours")
#: What [slurm] may say: sbatch's options by submitit's names, `at_once` array tasks, `setup` lines of shell before
#: each, and in `options` whatever else sbatch takes.
SLURM: dict[str, type] = {
    "partition": str, "account": str, "qos": str, "constraint": str, "reservation": str, "nodelist": str,
    "exclude": str, "comment": str, "mail_type": str, "mail_user": str, "gres": str, "at_once": int, "setup": list,
    "options": dict,
}  # fmt: skip


def suite_of(document: Mapping[str, Any], source: Source, name: str, path: Path | None) -> Suite:
    """The suite; what is wrong is noted in `source`, and where something is, the suite isn't to be used.

    Where the models came from the command line, runs that choose among the file's take all of them.
    """
    top = Table(document, (), source)
    top.check(TOP)
    models, groups = _models(top.table("models"), source)
    data = _data(top.table("data"), source)
    if document.get("models", {}) == {}:
        source.wrong(("models",), "names no model: write name = 'reference' below it, or give --ckpt")
    if document.get("run", []) == []:
        source.wrong(("run",), "no [[run]]: write [[run]] and below it protocol = 'knn'")
    runs = []
    for index, given in enumerate(top.value("run", list, [])):
        if not isinstance(given, dict):
            source.wrong(("run", index), f"a table is needed, not {said(given)}: write [[run]] above its keys")
        elif run := run_of(Table(given, ("run", index), source), {} if CKPT in groups else groups, data):
            runs.append(run)
    retries = top.whole("retries", 0)
    return Suite(
        name=_file_name(top, name),
        path=path,
        models=models,
        data=data,
        runs=tuple(runs),
        out=user_path(top.value("out", str, "results") or "results"),
        resources=_resources(top.table("resources"), source),
        slurm=_slurm(top.table("slurm")),
        limit=top.whole("limit", 1),
        retries=RETRIES if retries is None else retries,
        source=source,
    )


def _file_name(top: Table, default: str) -> str:
    name: str = top.value("name", str, file_name(default))
    if name != file_name(name):
        top.wrong("name", f"{name!r} is no name for a folder; write it as in {file_name(name)!r}")
    return name


def _models(table: Table, source: Source) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """(references by model, models by entry)."""
    models: dict[str, str] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for entry, given in table.given.items():
        place = (*table.place, entry)
        values = [value for _, value in table.several(entry, str)]
        if not _fits(entry, place, source) or not values:
            continue
        found: list[tuple[str, str]] = []
        with source.noting(place):
            found = names.models_of("" if entry == CKPT else entry, values[0] if isinstance(given, str) else values)
        for name, reference in found:
            if (other := models.get(name)) is not None:
                both = f"{other} twice" if other == reference else f"{other}, {reference}"
                source.wrong(place, f"two models called {name!r} ({both}): give each a name of its own")
            models[name] = reference
            source.where["model", name] = place
        groups[entry] = tuple(name for name, _ in found)
    return models, groups


def _data(table: Table, source: Source) -> dict[str, str]:
    data = {}
    for name in table.given:
        target = table.value(name, str, None)
        if target is not None and not target.strip():
            table.wrong(name, "names nothing: give a path, or an embedded set such as digits")
        elif _fits(name, (*table.place, name), source) and target:
            data[name] = target
            source.where["data", name if name == target else f"{name}={target}"] = (*table.place, name)
    return data


def _fits(name: str, place: Place, source: Source) -> bool:
    if name == CKPT or (name and not FORBIDDEN.search(name)):
        return True
    source.wrong(place, f"{name!r} is no name for tables and records: no slash, colon, equals sign or space")
    return False


def _resources(table: Table, source: Source) -> dict[str, Resources]:
    """What is asked for by default, and by protocol where the file says so."""
    found = {DEFAULT: Resources()}
    for name in sorted(table.given, key=lambda name: name != DEFAULT):
        if name != DEFAULT and name not in (known := available()):
            source.unknown((*table.place, name), "protocol", name, [DEFAULT, *known])
            continue
        own, base = table.table(name), found[DEFAULT]
        own.check(RESOURCES)
        memory, hours = own.value("memory", str, base.memory), own.value("hours", float, base.hours)
        if "memory" in own.given and not MEMORY.fullmatch(memory):
            own.wrong("memory", f"{memory!r} is no amount of memory: write it as in '32GB'")
        if "hours" in own.given and not 0 < hours < float("inf"):
            own.wrong("hours", f"{hours}: a number above 0 is needed")
        devices, cpus = own.whole("devices", 0), own.whole("cpus", 1)
        found[name] = Resources(
            base.devices if devices is None else devices, base.cpus if cpus is None else cpus, memory, float(hours)
        )
    return found


def _slurm(table: Table) -> dict[str, Any]:
    table.check(SLURM)
    given = {key: table.value(key, kind, None) for key, kind in SLURM.items() if key in table.given}
    if "at_once" in given:
        table.whole("at_once", 1)
    if "setup" in given:
        table.several("setup", str, single=False)
    return given
