"""Run records: one JSON file a run, written atomically, with the per-item scores beside it.

`<results>/runs/<run_id>.json` is the truth; `<results>/items/<run_id>.parquet` holds one row per item. Any number of
processes can write at once: each writes its own file under a temporary name and renames it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from dinobench.types import RunRecord, UserError

if TYPE_CHECKING:
    import pandas as pd

#: Of the JSON files. A reader takes every schema up to its own.
SCHEMA = 1


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; results are for sharing
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(record: RunRecord) -> str:
    """The record as JSON text: two-space indentation, field order of the type, full precision, final newline."""
    return json.dumps(dataclasses.asdict(record), indent=2, ensure_ascii=False) + "\n"


def from_dict(data: dict[str, Any]) -> RunRecord:
    """The record in a parsed JSON object. Raises ValueError when it is not one, or of a later schema."""
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise ValueError("not a run record")
    if data["schema"] > SCHEMA:
        raise ValueError(f"schema {data['schema']} is newer than this dinobench reads ({SCHEMA})")
    try:
        return _built(RunRecord, data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a whole run record: {error}") from error


def _built(kind: Any, data: dict[str, Any]) -> Any:
    """The dataclass `kind` from its JSON object: every field is of its type, and there unless it has a default."""
    return kind(
        **{name: _checked(data[name], hint, name) for name, hint, required in _fields(kind) if required or name in data}
    )


@cache
def _fields(kind: Any) -> list[tuple[str, Any, bool]]:
    """(name, type, whether it has no default) of a dataclass's fields."""
    hints = get_type_hints(kind)
    return [(f.name, hints[f.name], f.default is dataclasses.MISSING) for f in dataclasses.fields(kind)]


def _checked(value: Any, hint: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _built(hint, value)
    if origin is dict:
        return {key: _checked(v, arguments[1], f"{name}.{key}") for key, v in value.items()}
    if origin is tuple:
        return tuple(_checked(v, arguments[0], name) for v in value)
    accepted = arguments if origin in (Union, UnionType) else (hint,)
    if hint is Any or (float in accepted and type(value) is int) or isinstance(value, accepted):
        return value
    raise TypeError(f"{name} is {value!r}")


def prepare(results: Path) -> None:
    """Make the results folder, so that one that cannot be written is found before hours of work and not after.

    Raises UserError when it cannot be made or written.
    """
    try:
        with atomic_path(results / "runs" / ".writable"):
            pass
        (results / "runs" / ".writable").unlink()
    except OSError as error:
        raise _cannot_write(results, error) from error


def _cannot_write(results: Path, error: OSError) -> UserError:
    return UserError(f"{results}: cannot write results: {error.strerror or error}; choose another --out")


def write(results: Path, record: RunRecord, items: pd.DataFrame | None) -> Path:
    """Write a run into `results`: the items first, so that a record never lacks what it points to."""
    try:
        if items is not None:
            with atomic_path(results / "items" / f"{record.run_id}.parquet") as temporary:
                items.to_parquet(temporary, index=False)
        path = results / "runs" / f"{record.run_id}.json"
        with atomic_path(path) as temporary:
            temporary.write_text(to_json(record), encoding="utf-8", newline="\n")
    except OSError as error:
        raise _cannot_write(results, error) from error
    return path


def read(results: Path, run_id: str) -> RunRecord | None:
    """The record of a finished run, or None when there is none or it is broken."""
    path = results / "runs" / f"{run_id}.json"
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def read_items(results: Path, run_id: str) -> pd.DataFrame | None:
    """The per-item scores of a run, or None when it kept none."""
    import pandas as pd

    path = results / "items" / f"{run_id}.parquet"
    return pd.read_parquet(path) if path.exists() else None


def read_all(results: Path) -> tuple[list[RunRecord], list[tuple[Path, str]]]:
    """All records of a results folder by run id, and the files that could not be read, each with the reason."""
    found: list[RunRecord] = []
    broken: list[tuple[Path, str]] = []
    for path in sorted((results / "runs").glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            found.append(from_dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            broken.append((path, str(error)))
    return found, broken
