"""Run records: one JSON file a run, written atomically, with the per-item scores beside it.

`<results>/runs/<run_id>.json` is the truth; `<results>/items/<run_id>.parquet` holds one row per item (see `items`).
Any number of processes can write at once: each writes its own file under a temporary name and renames it.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from dinobench.errors import UserError
from dinobench.files import atomic_path, file_name, read_regular, sweep
from dinobench.results.items import BEYOND, digest_of, settle, stage
from dinobench.results.vouched import checked
from dinobench.types import CheckpointInfo, RunRecord

if TYPE_CHECKING:
    import pandas as pd

#: Bytes of a record at most: real ones take some kilobytes.
LIMIT = 16 << 20
#: Lists in lists that a setting's value may be.
DEPTH = 10
#: What may be half of a character, escaped.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
#: Characters of a run id that surely come from its names.
STEM = 60
#: Version of the record files. A reader takes every schema up to its own.
SCHEMA = 1


def to_json(record: RunRecord) -> str:
    """The record as JSON text: two-space indentation, field order of the type, full precision, final newline."""
    return json.dumps(as_dict(record), indent=2, ensure_ascii=False) + "\n"


def as_dict(record: RunRecord) -> dict[str, Any]:
    """`dataclasses.asdict` for JSON, without copies of what is inside: that takes a fifth of a millisecond a record.

    Fields that came later are left out where they stand at their defaults, so that records of runs that do without them
    read as they always did.
    """
    metrics = {name: vars(m) for name, m in record.metrics.items()}
    checkpoint = _without_later(record.checkpoint)
    if dataclasses.is_dataclass(own := checkpoint.get("input")):
        checkpoint["input"] = vars(own)
    return {**_without_later(record), "checkpoint": checkpoint, "metrics": metrics}


def _without_later(holder: Any) -> dict[str, Any]:
    kind: Any = type(holder)
    later = _later(kind)
    return {name: value for name, value in vars(holder).items() if name not in later or value != later[name]}


@functools.cache
def _later(kind: type) -> dict[str, Any]:
    """The fields that were added to a type when there were records already, and their defaults."""
    return {f.name: f.default for f in dataclasses.fields(kind) if f.metadata.get("added")}


#: What makes an object of a schema one of the next. Any change of the fields adds its step here, so that what was
#: written before still reads.
LIFTS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def from_dict(data: Any) -> RunRecord:
    """The record in a parsed JSON object. Raises ValueError when it is not one, or of a later schema."""
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise ValueError("not a run record")
    if data["schema"] > SCHEMA:
        raise ValueError(f"schema {data['schema']} is newer than this dinobench reads ({SCHEMA})")
    try:
        record: RunRecord = _reader(RunRecord)(_lifted(data), "record")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a whole run record: {error}") from error
    if reason := _impossible(record):
        raise ValueError(f"not a whole run record: {reason}")
    return record


def checkpoint_info(data: Any) -> CheckpointInfo:
    """The description of a checkpoint in a parsed JSON object. Raises ValueError, TypeError or KeyError."""
    info: CheckpointInfo = _reader(CheckpointInfo)(data, "checkpoint")
    return info


def _impossible(record: RunRecord) -> str | None:
    """What no run can have written though the types are right, or None."""
    name = record.run_id
    if re.search(r"[/\\\0]", name) or name in ("", ".", "..") or len(name.encode("utf-8", "replace")) > 200:
        return f"{name[:50]!r} is no name of a file"
    if record.primary not in record.metrics:
        return f"its primary metric {record.primary!r:.100} is not among its metrics"
    if not re.fullmatch("[0-9a-f]{64}", record.items_sha256 or "0" * 64):
        return f"items_sha256 is {record.items_sha256!r:.100}"
    for metric, m in record.metrics.items():
        if beyond := next((v for v in (m.value, m.ci_low, m.ci_high) if v and BEYOND < abs(v) < math.inf), None):
            return f"{metric!r:.100} of {beyond:g} is beyond any score"
    return None


def _lifted(data: dict[str, Any]) -> dict[str, Any]:
    """The object as the present schema has it, step by step from its own."""
    for schema in range(data["schema"], SCHEMA):
        if schema not in LIFTS:
            raise ValueError(f"schema {schema} was never in use")
        data = {**LIFTS[schema](data), "schema": schema + 1}
    return data


@cache
def _reader(hint: Any) -> Callable[[Any, str], Any]:
    """What turns a JSON value of a given name into the type `hint`, or raises TypeError or KeyError.

    Made once per type: looking at the types of every value of ten thousand records anew took most of the time.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass_reader(hint)
    if origin is dict:
        inner = _reader(arguments[1])
        return lambda value, name: {key: inner(v, f"{name}.{key}") for key, v in value.items()}
    if origin is tuple:
        inner = _reader(arguments[0])

        def several(value: Any, name: str) -> Any:
            if not isinstance(value, list):
                raise TypeError(f"{name} is {value!r:.100}")
            return tuple([inner(v, name) for v in value])

        return several
    if hint is Any:
        return _plain
    accepted = arguments if origin in (Union, UnionType) else (hint,)
    if kinds := [kind for kind in accepted if dataclasses.is_dataclass(kind)]:
        inner = _dataclass_reader(kinds[0])
        return lambda value, name: None if value is None else inner(value, name)
    exact = frozenset([*accepted, int] if float in accepted else accepted)

    def scalar(value: Any, name: str) -> Any:
        if type(value) in exact or isinstance(value, accepted):
            return _countable(value, name) if type(value) is int else value
        raise TypeError(f"{name} is {value!r:.100}")

    return scalar


def _countable(value: int, name: str) -> int:
    """An integer that a float or 64 bits can hold; JSON's have any length."""
    if not -(2**63) <= value < 2**63:
        raise TypeError(f"{name} has {len(str(value))} digits")
    return value


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """A setting's value: what JSON has, as far as programs can count and walk it."""
    if type(value) is int:
        return _countable(value, name)
    if isinstance(value, list | dict):
        if depth == DEPTH:
            raise TypeError(f"{name} is nested more than {DEPTH} deep")
        for inner in value.values() if isinstance(value, dict) else value:
            _plain(inner, name, depth + 1)
    return value


def _dataclass_reader(kind: Any) -> Callable[[Any, str], Any]:
    """Every field is of its type, and there unless it has a default; what is there besides is let be."""
    hints = get_type_hints(kind)
    readers = {f.name: _reader(hints[f.name]) for f in dataclasses.fields(kind)}
    plain = {name: _exact(hints[name]) for name in readers}
    fields = [(name, plain[name], reader) for name, reader in readers.items()]
    defaults = {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    new, checks = object.__new__, hasattr(kind, "__post_init__")

    def whole(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"{name} is {value!r:.100}")
        values: dict[str, Any] = {}  # in the order of the fields, in which records are written
        for field, exact, reader in fields:
            if field in value:
                found = value[field]
                # Most values are taken by a look at their type; an integer may be too long, and has to be looked at.
                values[field] = found if type(found) in exact else reader(found, field)
            else:
                values[field] = defaults[field]
        if checks:
            return kind(**values)
        made = new(kind)
        made.__dict__.update(values)  # a frozen dataclass sets field by field, which takes a third of the reading
        return made

    return whole


def _exact(hint: Any) -> frozenset[type]:
    """Types whose values are taken as they are."""
    accepted = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return frozenset(kind for kind in accepted if kind in (str, float, bool, type(None)))


def prepare(results: Path) -> None:
    """Make the results folder, so that one that cannot be written is found before hours of work and not after.

    Raises UserError when it cannot be made or written.
    """
    try:
        (results / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results / "runs"):  # a name of its own: many processes may start at once
            pass
    except OSError as error:
        raise _cannot_write(results, error) from error


def _cannot_write(results: Path, error: OSError) -> UserError:
    return UserError(f"{results}: cannot write results: {error.strerror or error}; choose another --out")


def write(results: Path, record: RunRecord, items: pd.DataFrame | None) -> Path:
    """Write a run into `results`; the record takes the digest of its items, and commits both with its own renaming."""
    try:
        staged = None
        if items is not None:
            staged, digest = stage(results, record.run_id, items)
            record = dataclasses.replace(record, items_sha256=digest)
        path = results / "runs" / f"{record.run_id}.json"
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(record), encoding="utf-8", newline="\n")
        if staged is not None:
            settle(results, record.run_id, staged)
        sweep(path.parent)
    except OSError as error:
        raise _cannot_write(results, error) from error
    return path


def upgrade(results: Path, record: RunRecord) -> bool:
    """Give a record without it the digest of its items, which must agree with it; whether there was one to give."""
    digest = digest_of(results, record.run_id) if record.items_sha256 is None else None
    if digest is not None:
        with atomic_path(results / "runs" / f"{record.run_id}.json") as temporary:
            upgraded = dataclasses.replace(record, items_sha256=digest)
            temporary.write_text(to_json(upgraded), encoding="utf-8", newline="\n")
    return digest is not None


def begun(results: Path, *names: str) -> bool:
    """Whether there may be records of a protocol and a model: their names begin every run id of theirs."""
    start = file_name("-".join(names))[:STEM]
    try:
        return any(entry.name.startswith(start) for entry in os.scandir(results / "runs"))
    except OSError:
        return False


def read(results: Path, run_id: str) -> RunRecord | None:
    """The record of a finished run, or None when there is none, it is broken or its items contradict it."""
    try:
        record = read_file(results / "runs" / f"{run_id}.json")
    except (OSError, ValueError):
        return None
    return record if checked(results, [record])[0] else None


def read_file(path: str | Path) -> RunRecord:
    """The record in a file. Raises OSError when it cannot be read and ValueError when it holds no whole record."""
    text = read_regular(path, LIMIT).decode("utf-8")
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply for a run record") from error
    if HALF.search(text):  # an escaped half of a character can be parsed, but never written or shown
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    return from_dict(data)


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for circles meanwhile: among a million values that have none it takes a fifth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@uncollected()
def read_all(results: Path) -> tuple[list[RunRecord], list[tuple[Path, str]]]:
    """All records of a results folder by run id, and the files that could not be read, each with the reason."""
    whole: list[RunRecord] = []
    broken: list[tuple[Path, str]] = []
    folder = results / "runs"
    names = sorted(n for n in os.listdir(folder) if n.endswith(".json") and n[0] != ".") if folder.is_dir() else []
    for name in names:
        try:
            whole.append(read_file(f"{folder}{os.sep}{name}"))
        except (OSError, ValueError) as error:
            broken.append((folder / name, str(error)))
    return whole, broken
