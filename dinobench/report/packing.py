"""What a page of many runs holds compressed, so that ten thousand of them still go by mail.

The page unpacks it in the browser: the rows when it is opened, the records when a run is. `report.js` reads it.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

from dinobench.results.records import as_dict
from dinobench.types import RunRecord

#: Rows of the leaderboard, and records, that stand in the page as they are; it holds more of neither uncompressed.
PLAIN = 500
#: Fields that hardly two runs share.
OWN = ("run_id", "metrics", "started_at", "duration_s", "peak_memory_mb", "items_sha256")
#: As small as the best within a few per cent, in a third of the time.
LEVEL = 6
#: Made once: `json.dumps` makes one at every call.
_STRICT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def packed(text: str) -> str:
    """Text as base64 of gzip: the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), LEVEL, mtime=0)).decode()


def records_json(records: Sequence[RunRecord]) -> str:
    """The records as one JSON object: `fields`, `shared` and `records`.

    `fields` are pairs of a name and whether its values are shared, `records` a list a record with its values in the
    order of the fields, those of shared ones as places in `shared`.
    """
    names = list(as_dict(records[0]))
    places: dict[str, int] = {}
    texts: dict[str, int] = {}  # most shared values are texts, and are found by themselves before they are written

    def place(value: Any) -> int:
        if type(value) is not str:
            return places.setdefault(_json(value), len(places))
        if value not in texts:
            texts[value] = places.setdefault(_json(value), len(places))
        return texts[value]

    rows = []
    for record in records:
        values = as_dict(record)
        rows.append(_json([values[n] if n in OWN else place(values[n]) for n in names]))
    fields = _json([[name, name not in OWN] for name in names])
    return f'{{"fields":{fields},"shared":[{",".join(places)}],"records":[{",".join(rows)}]}}'


def _json(value: Any) -> str:
    try:
        return _STRICT.encode(value)
    except ValueError:
        return _STRICT.encode(finite(value))


def finite(tree: Any) -> Any:
    """JSON has no NaN and no infinity, which the records' files may hold: as text they can still be read."""
    if isinstance(tree, dict):
        return {str(k): finite(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(v) for v in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
