from __future__ import annotations

import json
import math

from helpers.reports import made
from helpers.samples import record

from dinobench.report.packing import packed, records_json
from dinobench.results import records
from dinobench.types import MetricValue


def test_records_come_out_as_they_went_in():
    odd = record(
        "odd", notes=("«", "\u2028", "</script>"), metrics={"top1@k20": MetricValue(math.nan, None, None, 0, "%")}
    )
    several = [made("a", 1.0), made("b", 2.0), made("a", 3.0, dataset="other"), odd]
    whole = json.loads(records_json(several), parse_constant=lambda name: 1 / 0)
    shared, fields = whole["shared"], whole["fields"]
    back = [
        {name: shared[value] if among else value for (name, among), value in zip(fields, row, strict=True)}
        for row in whole["records"]
    ]
    assert back[:3] == [json.loads(records.to_json(r)) for r in several[:3]]
    assert back[3]["metrics"]["top1@k20"]["value"] == "nan" and back[3]["notes"] == list(odd.notes)


def test_the_same_text_gives_the_same_bytes():
    assert packed("rows" * 1000) == packed("rows" * 1000) and len(packed("rows" * 1000)) < 100
