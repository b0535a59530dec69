from __future__ import annotations

from helpers.runs import run
from helpers.samples import record
from hypothesis import given
from hypothesis import strategies as st

from dinobench.results import comparability


def test_matching_prefers_the_seed_and_the_latest_run(tmp_path):
    made = {
        (model, seed, day): run(
            tmp_path, model, [1, 0], run_id=f"{model}{seed}{day}", seed=seed, started_at=f"2026-01-{day}T00:00:00"
        )
        for model, seed, day in (("a", 0, 10), ("a", 0, 11), ("a", 1, 10), ("b", 1, 10), ("b", 0, 10))
    }
    found = comparability.match(
        [r for (m, *_), r in made.items() if m == "a"], [r for (m, *_), r in made.items() if m == "b"]
    )
    assert {(x.run_id, y.run_id) for x, y in found.pairs} == {("a011", "b010"), ("a110", "b110")}
    assert any("passed over" in note for note in found.notes)


#: Changes of a record, and whether they forbid to compare it with the unchanged one.
CHANGES = {
    "protocol": ({"protocol": "linear"}, True),
    "protocol_version": ({"protocol_version": 7}, True),
    "setting": ({"config_hash": "e" * 64, "config": {"k": [10]}}, True),
    "images": ({"dataset_fingerprint": "e" * 64}, True),
    "broken": ({"broken_images": 2}, True),
    "seed": ({"seed": 3}, False),
    "precision": ({"precision": "bf16"}, False),
    "device": ({"device": "cuda"}, False),
}


@given(st.sets(st.sampled_from(sorted(CHANGES))), st.sets(st.sampled_from(sorted(CHANGES))))
def test_there_are_reasons_exactly_where_keys_differ(first, second):
    a, b = (record(**{k: v for name in names for k, v in CHANGES[name][0].items()}) for names in (first, second))
    differ = any(CHANGES[name][1] for name in first ^ second)
    assert bool(comparability.reasons(a, b)) == (comparability.key(a) != comparability.key(b)) == differ
    assert bool(comparability.differences(a, b)) == (first != second)
