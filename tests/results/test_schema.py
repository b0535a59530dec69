from __future__ import annotations

import json
import random

import jsonschema
import pytest
from helpers.mutations import json_mutated
from helpers.paths import ROOT
from helpers.samples import record

from dinobench.results import records
from dinobench.results.schema import record_schema

FILES = sorted((ROOT / "results" / "runs").glob("*.json"))


@pytest.fixture(scope="module")
def validator():
    kind = jsonschema.Draft202012Validator
    kind.check_schema(record_schema())
    return kind(record_schema())


def test_every_committed_record_is_of_the_schema(validator):
    assert len(FILES) > 50
    for file in FILES:
        validator.validate(json.loads(file.read_text(encoding="utf-8")))
    validator.validate(json.loads(records.to_json(record())))


def test_the_schema_says_what_the_types_say():
    schema = record_schema()
    assert schema["properties"]["metrics"]["additionalProperties"] == {"$ref": "#/$defs/MetricValue"}
    assert "items_sha256" not in schema["required"] and "run_id" in schema["required"]
    assert schema["$defs"]["CheckpointInfo"]["properties"]["epoch"]["anyOf"][1] == {"type": "null"}
    assert schema["properties"]["seed"]["description"] == "seed of random weights, draws and intervals"
    assert json.loads(json.dumps(schema)) == schema


def differs_by_design(data):
    """What JSON Schema cannot say, or the reader need not: it takes true for 1, and looks at names and at depth."""
    text = json.dumps(data)
    metrics, primary = data.get("metrics"), data.get("primary")
    return (
        (isinstance(metrics, dict) and isinstance(primary, str) and primary not in metrics)
        or "true" in text
        or "false" in text
        or "[[" in text
        or '{"a": {"a": {"a"' in text
        or "\\ud" in text
        or "e+308" in text
        or len(str(data.get("run_id"))) > 60
    )


def whole_floats(value):
    if isinstance(value, dict | list):
        return any(map(whole_floats, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


@pytest.mark.parametrize("seed", range(4))
def test_what_the_reader_refuses_the_schema_refuses(validator, seed):
    """On damaged records both come to one verdict, wherever a schema can say what is wrong."""
    rng = random.Random(seed)
    sound = json.loads(records.to_json(record(items_sha256="a" * 64, git_dirty=None)))
    refused = agreed = 0
    for _ in range(400):
        try:
            data = json.loads(json_mutated(sound, rng))
        except (ValueError, RecursionError):
            continue
        if not isinstance(data, dict) or differs_by_design(data):
            continue
        try:
            records.from_dict(data)
            read = True
        except ValueError:
            read = False
        passes = validator.is_valid(data)
        if whole_floats(data) and passes != read:
            continue  # 1.0 is an integer to JSON Schema
        assert passes == read, json.dumps(data)[:2000]
        refused, agreed = refused + (not read), agreed + 1
    assert refused > 50 and agreed - refused > 10


def test_the_command_prints_it():
    from dinobench.cli.display import runs

    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.console, "text", printed.append)
        runs.schema()
    assert json.loads(printed[0]) == record_schema()
