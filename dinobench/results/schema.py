"""The JSON Schema of a run record, made from the types that records are read by, for programs that read them too."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from dinobench.results.comparability import FIELDS
from dinobench.results.records import SCHEMA
from dinobench.types import RunRecord

#: The dialect that the schema is written in.
DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: What 64 bits hold; JSON's integers have any length.
INTEGER = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"}, int: INTEGER, float: {"type": "number"}, bool: {"type": "boolean"},
    types.NoneType: {"type": "null"}, Any: {},
}  # fmt: skip
#: What no type says: the names of files, the form of digests, the schemas that are read.
NARROWER: dict[str, dict[str, Any]] = {
    "schema": {"type": "integer", "minimum": 1, "maximum": SCHEMA},
    "run_id": {"type": "string", "pattern": r"^(?!\.{1,2}$)[^/\\\u0000]+$", "maxLength": 200},
    "metrics": {"minProperties": 1},
    "items_sha256": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
}


def record_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of what stands in results/runs/<run_id>.json.

    Fields that it does not name are let be, as the reader does, so that records of later versions pass.
    """
    defined: dict[str, dict[str, Any]] = {}
    whole = _object(RunRecord, defined)
    for field, narrower in NARROWER.items():
        whole["properties"][field] |= narrower
    for field, meaning in FIELDS:
        if field in whole["properties"]:
            whole["properties"][field]["description"] = meaning
    words = (RunRecord.__doc__ or "").split("\n\n")[0]
    return {"$schema": DIALECT, "title": "dinobench run record", "description": words, **whole, "$defs": defined}


def _object(kind: Any, defined: dict[str, dict[str, Any]]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {
        "type": "object",
        "properties": {f.name: dict(_of(hints[f.name], defined)) for f in fields},
        "required": [f.name for f in fields if f.default is dataclasses.MISSING],
    }


def _of(hint: Any, defined: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema of a type; dataclasses go into `defined` and are referred to."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        name = getattr(hint, "__name__", "")
        if name not in defined:
            defined[name] = _object(hint, defined)
        return {"$ref": f"#/$defs/{name}"}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], defined)}
    if origin is tuple:
        items = {"type": "array", "items": _of(arguments[0], defined)}
        return items if arguments[-1] is Ellipsis else {**items, "minItems": len(arguments), "maxItems": len(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(argument, defined) for argument in arguments]}
    return PLAIN[hint]
