"""[train], looked at: what all trainings share, and a table for each with its method and what else it changes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinobench.data import UNLABELLED, check_place
from dinobench.data.embedded import EMBEDDED
from dinobench.errors import UserError, unknown_name
from dinobench.suite.places import Place
from dinobench.suite.run_table import PATH, mistyped, other_kinds, plain_value, seeds_of
from dinobench.suite.table import Table, said
from dinobench.suite.training.asked import FOLDER, Training

TEXTS = ("method", "data", "arch", "precision")
NUMBERS = ("patch_size", "image_size", "depth", "epochs", "batch", "accumulate")
SWITCHES = ("compile", "skip_broken", "start")
#: What [train] may say for all, and a training of it for itself besides.
SHARED = (*TEXTS, *NUMBERS, "set", "seeds", *SWITCHES)
OWN = (*SHARED, "like")
#: Keys that are the method's settings by another way.
SETTINGS = ("epochs", "batch")
PRECISIONS = ("32", "bf16", "auto")
#: What a key says, with its place in the file. Settings are called as under `set`, by their own names.
_Said = dict[str, tuple[Any, Place]]


@dataclass(frozen=True)
class _Values:
    """What a table says: of options, and of settings."""

    options: _Said = field(default_factory=dict)
    settings: _Said = field(default_factory=dict)

    def under(self, other: _Values) -> _Values:
        """Both, where the other one's word goes before."""
        return _Values({**self.options, **other.options}, {**self.settings, **other.settings})


@dataclass(frozen=True)
class Trained:
    """Trainings by the models that they make, these models by entry, as [[run]] may name them, and their places."""

    models: dict[str, Training] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def add(self, entry: str, model: str, training: Training, place: Place) -> None:
        """A model of the entry of [train] called so, or of its starts."""
        self.models[model], self.places[model] = training, place
        self.groups[entry] = (*self.groups.get(entry, ()), model)


def trainings_of(table: Table, data: Mapping[str, str], out: str) -> Trained:
    """What [train] asks for; what is wrong is noted. `data`: the references of [data]; `out`: the results folder."""
    own = {name for name, value in table.given.items() if isinstance(value, dict) and name != "set"}
    shared = Table({k: v for k, v in table.given.items() if k not in own}, table.place, table.source)
    tables = {name: table.table(name) for name in table.given if name in own}
    shared.check(SHARED)
    for one in tables.values():
        one.check(OWN)
    if table.given and not tables:
        table.source.wrong(table.place, "names no training: write [train.dino] and below it method = 'dino'")
    everywhere, found = _values(shared), Trained()
    values = {name: _values(one) for name, one in tables.items()}
    for name, one in tables.items():
        whole = everywhere
        for other in _chain(name, tables):
            whole = whole.under(values[other])
        base = _training(one, name, whole, data)
        seeds, starts = whole.options.get("seeds", ((0,), ()))[0], whole.options.get("start", (False, ()))[0]
        for seed in seeds:
            model = f"{name}-s{seed}" if len(seeds) > 1 else name
            made = dataclasses.replace(
                base, name=model, folder=f"{out}/{FOLDER}/{model}", settings={**base.settings, "seed": seed}
            )
            found.add(name, model, made, one.place)
            if starts:
                found.add(f"{name}-start", f"{model}-start", dataclasses.replace(made, start=True), one.place)
    return found


def _values(table: Table) -> _Values:
    options: _Said = {}
    for key in table.given:
        place = (*table.place, key)
        if key in (*TEXTS, "like"):
            if value := table.value(key, str, None):
                options[key] = value, place
        elif key in NUMBERS:
            if (value := table.whole(key, 1)) is not None and value >= 1:
                options[key] = value, place
        elif key in SWITCHES:
            options[key] = table.value(key, bool, False), place
        elif key == "seeds":
            options[key] = tuple(seed for _, seed in seeds_of(table)) or (0,), place
    settings = table.table("set")
    for name, value in settings.given.items():
        if not plain_value(value):
            settings.wrong(name, f"a value or a list of values is needed, not {said(value)}")
        elif name == "seed":
            settings.wrong(name, f"give it as seeds = [{value}], beside set")
        elif name in SETTINGS and name in options:
            settings.wrong(name, f"{name} is given beside set too: give one of them")
    own = {n: (v, (*settings.place, n)) for n, v in settings.given.items() if plain_value(v) and n != "seed"}
    own |= {name: options.pop(name) for name in SETTINGS if name in options}
    return _Values(options, own)


def _chain(name: str, tables: Mapping[str, Table]) -> list[str]:
    """The trainings that one inherits from, the farthest first, and itself."""
    chain = [name]
    while "like" in (table := tables[chain[-1]]).given:
        like = table.value("like", str, "")
        if like not in tables:
            if like:
                others = [other for other in tables if other != name]
                table.source.unknown((*table.place, "like"), "training of [train]", like, others)
            break
        if like in chain:
            table.wrong("like", f"{like} inherits from {name} itself")
            break
        chain.append(like)
    return chain[::-1]


def _training(table: Table, name: str, values: _Values, data: Mapping[str, str]) -> Training:
    """The training without folder and seed. What is wrong is noted, and where something is, it isn't to be used."""
    from dinobench.pretrain import run as runs

    options = {key: value for key, (value, _) in values.options.items() if key not in ("like", "seeds", "start")}
    for key, remedy in (("method", "'dino'; `dinobench list methods` shows all"), ("data", "a path, or 'digits'")):
        if key not in options and not {key, "like"} & table.given.keys():  # told of what it inherits from
            table.wrong(key, f"is missing: write {key} = {remedy}")
    if "method" in options:
        place = values.options["method"][1]
        with table.source.noting(place):
            _check_settings(table, runs.load_method(options["method"]), values.settings)
    if (precision := options.get("precision", "32")) not in PRECISIONS:
        table.source.unknown(values.options["precision"][1], "precision", precision, PRECISIONS)
    settings = {key: value for key, (value, _) in values.settings.items()}
    options |= {"method": options.get("method", ""), "data": _target(table, values, data)}
    training = Training(name, "", **options, settings=settings)
    return dataclasses.replace(training, recognisable=_recognisable(table, values, training))


def _check_settings(table: Table, method: Any, settings: _Said) -> None:
    """Each is tried alone, so that a message has its place, and then all together."""
    good = {}
    for name, (value, place) in settings.items():
        if error := _refusal(method, {name: value}):
            table.source.wrong(place, error)
        else:
            good[name] = value
    if error := _refusal(method, good):
        table.source.wrong((*table.place, "set"), error)


def _refusal(method: Any, settings: Mapping[str, Any]) -> str:
    from dinobench.pretrain import run as runs

    try:
        return mistyped(runs.configure(method, dict(settings)), settings, method.name)
    except UserError as error:
        return str(error)


def _recognisable(table: Table, values: _Values, training: Training) -> bool:
    """Whether checkpoints tell the architecture. One that is none, or not of these sizes, is noted."""
    from dinobench.pretrain import backbones

    try:
        sizes = training.image_size, training.patch_size, training.depth
        return backbones.choose(training.arch, *sizes).recognisable
    except UserError as error:
        message = re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda option: option[1].replace("-", "_"), str(error))
        named = [key for key in ("image_size", "patch_size", "depth", "arch") if key in values.options]
        first = next((key for key in named if key in message), next(iter(named), ""))
        table.source.wrong(values.options[first][1] if first else table.place, message)
        return True


def _target(table: Table, values: _Values, data: Mapping[str, str]) -> str:
    """The path or the embedded set that the training's data are."""
    if "data" not in values.options:
        return ""
    name, place = values.options["data"]
    target, embedded = data.get(name, name), EMBEDDED.get(UNLABELLED, {})
    if PATH.search(target) or target in embedded:
        return target
    if name in data:
        if other := other_kinds(target):
            table.source.wrong(place, f"{target} is an embedded set of {other}, which are not trained on; of images "
                                      f"there are {', '.join(embedded)}")  # fmt: skip
        return target
    try:
        check_place(name, UNLABELLED)
    except UserError:
        unknown = unknown_name("data set", name, [*data, *embedded])
        table.source.wrong(place, f"{unknown}; it's no file or folder, here or under DINOBENCH_DATA, either")
    return target
