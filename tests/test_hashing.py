from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dinobench.hashing import canonical_json, digest

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain_json)
def test_canonical_text_is_json_of_the_value(value):
    assert json.loads(canonical_json(value)) == value
    assert digest(value) == digest(json.loads(canonical_json(value)))


@given(st.dictionaries(st.text(), st.integers(), min_size=2, max_size=5))
def test_the_order_of_keys_is_nothing(mapping):
    assert digest(mapping) == digest(dict(reversed(mapping.items())))


def test_dataclasses_tuples_and_several_parts():
    @dataclass(frozen=True)
    class Config:
        k: tuple[int, ...] = (1, 2)

    assert canonical_json(Config()) == '{"k":[1,2]}'
    assert digest("ab", "c") != digest("a", "bc") and digest(1) != digest("1")
    assert len(digest()) == 64
