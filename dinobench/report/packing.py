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
    rows = []
    for record in records:
        values = as_dict(record)
        rows.append(_json([values[n] if n in OWN else places.setdefault(_json(values[n]), len(places)) for n in names]))
    fields = _json([[name, name not in OWN] for name in names])
    return f'{{"fields":{fields},"shared":[{",".join(places)}],"records":[{",".join(rows)}]}}'


def _json(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), separators=(",", ":"), ensure_ascii=False)


def finite(tree: Any) -> Any:
    """JSON has no NaN and no infinity, which the records' files may hold: as text they can still be read."""
    if isinstance(tree, dict):
        return {str(k): finite(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(v) for v in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
