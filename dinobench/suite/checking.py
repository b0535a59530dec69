"""From what TOML says to a `Suite`: every key, name, type and value is looked at, and every mistake noted."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from dinobench.files import file_name, user_path
from dinobench.models.spec import POOLS, parse_grid
from dinobench.registry import available
from dinobench.suite import names
from dinobench.suite.file import DEFAULT, RETRIES, Compute, Resources, Suite
from dinobench.suite.inputs import check_arch
from dinobench.suite.mistakes import CKPT, Source
from dinobench.suite.places import Place
from dinobench.suite.resources import MEMORY
from dinobench.suite.run_table import compute_of, run_of
from dinobench.suite.table import Table, said
from dinobench.suite.training.asked import TRAIN
from dinobench.suite.training.table import trainings_of
from dinobench.types import LoadOptions

#: What a name in [models] or [data] can't hold: it stands before an equals sign in `--ckpt` and `--data`.
FORBIDDEN = re.compile(r"[/\\=:\s\x00-\x1f]")
TOP = ("name", "out", "limit", "retries", "models", "data", "train", "run", "compute", "resources", "slurm", "scale",
       "scales")  # fmt: skip
#: What an entry of [models] that is a table may say: where the model is, and how it is read.
MODEL = ("path", *(field.name for field in fields(LoadOptions)))
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
    models, groups, loading = _models(top.table("models"), source)
    data = _data(top.table("data"), source)
    out = user_path(top.value("out", str, "results") or "results")
    trained = trainings_of(top.table("train"), data, os.fspath(out))
    for model, training in trained.models.items():
        place = trained.places[model]
        if _fits(model, place, source) and model in models:
            source.wrong(place, f"two models called {model!r}, of [models] too: give each a name of its own")
        models[model] = os.fspath(training.file)
        source.where["model", model] = place
        if not training.recognisable:
            loading[model] = LoadOptions(arch=training.arch)
    if CKPT not in groups:
        groups |= trained.groups
    if document.get("models", {}) == {} and document.get("train", {}) == {}:
        source.wrong(("models",), "names no model: write name = 'reference' below it, or give --ckpt")
    if document.get("run", []) == []:
        source.wrong(("run",), "no [[run]]: write [[run]] and below it protocol = 'knn'")
    compute = compute_of(top.table("compute"), Compute())
    runs = []
    for index, given in enumerate(top.value("run", list, [])):
        if not isinstance(given, dict):
            source.wrong(("run", index), f"a table is needed, not {said(given)}: write [[run]] above its keys")
        elif run := run_of(Table(given, ("run", index), source), {} if CKPT in groups else groups, data, compute):
            runs.append(run)
    retries = top.whole("retries", 0)
    return Suite(
        name=_file_name(top, name),
        path=path,
        models=models,
        data=data,
        runs=tuple(runs),
        out=out,
        resources=_resources(top.table("resources"), source),
        slurm=_slurm(top.table("slurm")),
        limit=top.whole("limit", 1),
        retries=RETRIES if retries is None else retries,
        trainings=trained.models,
        loading=loading,
        source=source,
    )


def _file_name(top: Table, default: str) -> str:
    name: str = top.value("name", str, file_name(default))
    if name != file_name(name):
        top.wrong("name", f"{name!r} is no name for a folder; write it as in {file_name(name)!r}")
    return name


def _models(table: Table, source: Source) -> tuple[dict[str, str], dict[str, tuple[str, ...]], dict[str, LoadOptions]]:
    """(references by model, models by entry, how models are read of which that is said)."""
    models: dict[str, str] = {}
    groups: dict[str, tuple[str, ...]] = {}
    loading: dict[str, LoadOptions] = {}
    for entry, given in table.given.items():
        place = (*table.place, entry)
        holder, key = (table.table(entry), "path") if isinstance(given, dict) else (table, entry)
        how = _loading(holder) if holder is not table else LoadOptions()
        values = [value for _, value in holder.several(key, str)]
        if not _fits(entry, place, source) or not values:
            continue
        found: list[tuple[str, str]] = []
        with source.noting((*holder.place, key)):
            single = isinstance(holder.given[key], str)
            found = names.models_of("" if entry == CKPT else entry, values[0] if single else values)
        for name, reference in found:
            if (other := models.get(name)) is not None:
                both = f"{other} twice" if other == reference else f"{other}, {reference}"
                source.wrong(place, f"two models called {name!r} ({both}): give each a name of its own")
            models[name] = reference
            source.where["model", name] = place
            if how != LoadOptions():
                loading[name] = how
        groups[entry] = tuple(name for name, _ in found)
    return models, groups, loading


def _loading(table: Table) -> LoadOptions:
    """How the models of an entry are read, as `dinobench run` takes it."""
    table.check(MODEL)
    if "path" not in table.given and all(key in MODEL for key in table.given):
        table.wrong("path", "is missing: write path = 'x.pth', or another reference to a model")
    if "trust_repo" in table.given:
        table.wrong("trust_repo", "lets others' code run, which a file can't allow: give --trust-repo to the command")
    table.whole("heads", 1)
    found = table.options(LoadOptions())
    if found.pool and found.pool not in POOLS:
        table.source.unknown((*table.place, "pool"), "pool", found.pool, POOLS)
    if found.grid:
        with table.source.noting((*table.place, "grid")):
            parse_grid(found.grid)
    if found.arch:
        with table.source.noting((*table.place, "arch")):
            check_arch(found.arch)
    return found


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
        if name not in (DEFAULT, TRAIN) and name not in (known := available()):
            source.unknown((*table.place, name), "protocol", name, [DEFAULT, TRAIN, *known])
            continue
        own, base = table.table(name), found[DEFAULT]
        own.check(RESOURCES)
        memory, hours = own.value("memory", str, base.memory), own.value("hours", float, base.hours)
        if "memory" in own.given and not MEMORY.fullmatch(memory):
            own.wrong("memory", f"{memory!r} is no amount of memory: write it as in '32GB'")
        if "hours" in own.given and not 0 < hours < float("inf"):
            own.wrong("hours", f"{hours}: a number above 0 is needed")
        devices, cpus = own.whole("devices", 0), own.whole("cpus", 1)
        if name == TRAIN and (devices or 0) > 1:
            own.wrong("devices", f"{devices}: a suite's trainings take one device each; there may be many at once")
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
