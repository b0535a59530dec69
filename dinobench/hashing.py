"""One identity for one content: of values, as canonical JSON, and of files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """One text for one value: JSON with sorted keys, dataclasses as objects, tuples as lists.

    >>> canonical_json({"b": (1, 2), "a": 0.07})
    '{"a":0.07,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=dataclasses.asdict)


def digest(*parts: Any) -> str:
    """SHA-256 (hex) of the canonical texts of `parts`: the identity of configs, requests and cache entries.

    >>> digest({"k": 20}) == digest({"k": 20}) != digest({"k": 10})
    True
    """
    return hashlib.sha256("\n".join(canonical_json(p) for p in parts).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes. Raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
