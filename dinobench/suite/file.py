"""A suite's file, read and checked: which models, with which protocols, on which data.

Paths and globs in it are read like those of every command: from the folder that the command is typed in, so that
records name files as their user does and no disk of theirs.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinobench.errors import UserError, nearest
from dinobench.files import read_regular, user_path
from dinobench.suite import builtin
from dinobench.suite.mistakes import CKPT, Mistakes, Source
from dinobench.suite.places import places
from dinobench.suite.training.asked import Training
from dinobench.types import ComputeOptions, LoadOptions

#: Bytes of a suite's file at most.
LIMIT = 1 << 20
#: The table of [resources] that stands for protocols without one.
DEFAULT = "default"
#: How often what failed is tried again, unless the file says.
RETRIES = 2


@dataclass(frozen=True)
class Compute:
    """How cells are computed, under the names that `dinobench run` has for it.

    `precision` and `skip_broken` alone can move a number. On which devices it is, whoever runs the suite says.
    """

    precision: str = "32"
    skip_broken: bool = False
    batch_size: int | None = None
    workers: int | None = None
    ram_cache: float | None = None
    no_cache: bool = False

    def on(self, where: ComputeOptions) -> ComputeOptions:
        """The options of a run there, whose own batch size goes before this one."""
        return dataclasses.replace(
            where, precision=self.precision, batch_size=where.batch_size or self.batch_size, workers=self.workers,
            ram_gb=self.ram_cache, cache=where.cache and not self.no_cache,
        )  # fmt: skip


@dataclass(frozen=True)
class RunSpec:
    """A table of [[run]]: one protocol, with every profile, seed, model and data set that it names.

    A profile None is the protocol's first. `models` are names of `Suite.models`, and `data` names of `Suite.data`,
    embedded sets or paths; empty stands for all of them. `limit` overrides the suite's, and `compute` has what the
    suite says wherever the run says nothing.
    """

    protocol: str
    profiles: tuple[str | None, ...] = (None,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    data: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    limit: int | None = None
    compute: Compute = field(default_factory=Compute)


@dataclass(frozen=True)
class Resources:
    """What a task asks a cluster for: devices, CPU cores for all of them, memory such as "32GB", hours."""

    devices: int = 1
    cpus: int = 8
    memory: str = "32GB"
    hours: float = 4.0


@dataclass(frozen=True)
class Suite:
    """What a file asks for. `models` and `data` are references by name; `resources` by protocol, and "default".

    `loading` is how models are read, by name, of those that the file says it of.
    `path` is None for a built-in suite, `out` the results folder, `limit` the images of every split at most, `retries`
    how often what failed is tried again. `trainings` make the models of these names, as `scale` has it where the file
    has [scales]. `source` says where in the file things stand.
    """

    name: str
    path: Path | None
    models: Mapping[str, str]
    data: Mapping[str, str]
    runs: tuple[RunSpec, ...]
    out: Path = Path("results")
    resources: Mapping[str, Resources] = field(default_factory=lambda: {DEFAULT: Resources()})
    slurm: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    retries: int = RETRIES
    trainings: Mapping[str, Training] = field(default_factory=dict)
    scale: str = ""
    loading: Mapping[str, LoadOptions] = field(default_factory=dict)
    source: Source = field(default_factory=lambda: Source("suite", {}), compare=False, repr=False)

    def resources_of(self, protocol: str) -> Resources:
        """What a task of a protocol asks for."""
        return self.resources.get(protocol) or self.resources.get(DEFAULT) or Resources()

    def models_of(self, run: RunSpec) -> dict[str, str]:
        """The models of a run, by name."""
        return {name: self.models[name] for name in run.models or self.models}

    def loading_of(self, model: str) -> LoadOptions:
        """How the model of that name is read."""
        return self.loading.get(model, LoadOptions())

    def data_of(self, run: RunSpec) -> list[str]:
        """The data sets of a run as `--data` takes them."""
        return [self.spec_of(name) for name in run.data or self.data]

    def missing(self, what: tuple[str, str], target: str, error: UserError) -> str:
        """What is said of a model or a data set (see `Source.where`) that can't be read: a line with its place.

        It helps who has put the file beside what it names, and typed the command elsewhere.
        """
        folder = self.path.parent if self.path else Path()
        beside = not target.startswith(("/", "~")) and not os.path.exists(target) and os.path.exists(folder / target)
        remedy = f"; it is in {folder}, and paths start from the folder you are in: run the command there"
        return self.source.told(what, f"{error}{remedy if beside else ''}")

    def spec_of(self, name: str) -> str:
        """A data set of a run as `--data` takes it: `name=path` for one of [data], others as they are."""
        target = self.data.get(name, name)
        return target if target == name else f"{name}={target}"


def read(
    reference: str | Path,
    *,
    ckpt: Sequence[str] = (),
    out: str | Path | None = None,
    limit: int | None = None,
    scale: str | None = None,
    trust_repo: bool = False,
) -> Suite:
    """The suite in a file, or the built-in one of that name, checked as far as can be without reading weights or data.

    `ckpt` are references, as `--ckpt` takes them, in the place of all of the file's models, trained ones among them;
    `out`, `limit` and `scale` go before what the file says. `trust_repo` lets `torchhub:` run the code of repositories,
    which a file can't allow.

    Raises UserError where there is no such file, and Mistakes, a line each, for all that is wrong in it.
    """
    from dinobench.suite import checking, scales

    text, path, shown = source_text(reference)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Mistakes([f"{shown}:{_syntax(str(error), text)}"]) from None
    except RecursionError:
        raise Mistakes([f"{shown}:1: nested too deeply for a suite"]) from None
    source = Source(shown, places(text))
    given: dict[str, Any] = {"models": {CKPT: list(ckpt)}, "train": {}} if ckpt else {}
    if out is not None:
        given["out"] = os.fspath(user_path(out))
    whole, chosen = scales.applied(document, source, scale)
    name = path.stem if path else str(reference)
    suite = checking.suite_of({**whole, **given}, source, name, path)
    for other, probe, table in scales.others(document, source, chosen):
        checking.suite_of({**other, **given}, probe, name, path)
        source.take(probe, (scales.TABLE, table))
    source.check()
    changes: dict[str, Any] = {"scale": chosen}
    if limit is not None:
        if limit < 1:
            raise UserError(f"--limit {limit}: 1 image or more")
        changes["limit"] = limit
        changes["runs"] = tuple(dataclasses.replace(run, limit=None) for run in suite.runs)
    if trust_repo:
        changes["loading"] = {m: dataclasses.replace(suite.loading_of(m), trust_repo=True) for m in suite.models}
    return dataclasses.replace(suite, **changes)


def source_text(reference: str | Path) -> tuple[str, Path | None, str]:
    """The text of a suite, its path (None for a built-in one), and what messages call it.

    A built-in name goes before a file of that name; write ./quick for the file. Raises UserError where neither is.
    """
    name = str(reference)
    if name in (known := builtin.names()):
        return builtin.text_of(name), None, name
    path = user_path(name)
    try:
        return read_regular(path, LIMIT).decode("utf-8-sig"), path, name
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise Mistakes([f"{name}:{line}: not UTF-8 text, which a TOML file is"]) from None
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError):
            raise UserError(f"{name}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
        hint = nearest(name, [*known, *_beside(path)], cutoff=0.5)
        built_in = ", ".join(known)
        raise UserError(f"{name}: no such file{hint and f' ({hint})'}; the built-in suites are {built_in}") from None


def _beside(path: Path) -> list[str]:
    try:
        return [str(other) for other in path.parent.glob("*.toml")]
    except (OSError, ValueError):
        return []


def _syntax(message: str, text: str) -> str:
    """The line, and what tomllib says is wrong there."""
    words, _, where = message.partition(" (at ")
    line, _, column = where.rstrip(")").removeprefix("line ").partition(", column ")
    if not line.isdecimal():
        line, column = str(text.count("\n") + 1), ""
    return f"{line}: not TOML: {words[:1].lower()}{words[1:]}{column and f' in column {column}'}"
