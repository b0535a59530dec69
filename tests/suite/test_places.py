"""Every key of a TOML file is found on its line, however it is written."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinobench.suite.places import places

WRITTEN = '''\
# a comment with [brackets] = "and more"
top = 1
"quoted key" = 'its'
dotted.key."a.b" = """
two lines
""" # behind it
[table]
list = [ # begins here
  1, 2,
  # nothing
  "]", { inner = [3,
    4] },
]
when = 1979-05-27 07:32:00
[[run]]
x = { a = 1, b.c = 2 }
[run.deeper]
y = \'\'\'
# no comment
\'\'\'
[[run]]
z = """a"b\\""""
last = -inf
'''


def test_keys_and_values_have_their_lines():
    tomllib.loads(WRITTEN)
    found = places(WRITTEN)
    assert found["top",] == 2 and found["quoted key",] == 3
    assert found["dotted", "key", "a.b"] == 4 and found["table",] == 7
    assert [found["table", "list", i] for i in range(4)] == [9, 9, 11, 11]
    assert found["table", "list", 3, "inner", 1] == 12 and found["table", "when"] == 14
    assert found["run", 0] == 15 and found["run", 0, "x", "b", "c"] == 16
    assert found["run", 0, "deeper"] == 17 and found["run", 0, "deeper", "y"] == 18
    assert found["run", 1] == 21 and found["run", 1, "z"] == 22 and found["run", 1, "last"] == 23


def walked(value, place=()):
    """Every place in what tomllib read."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*place, key)
        yield from walked(inner, (*place, key))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_all_that_is_read_has_a_place(newline):
    text = WRITTEN.replace("\n", newline)
    assert set(places(text)) == set(walked(tomllib.loads(text)))


KEYS = st.text("ab-_1", min_size=1, max_size=3) | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]))
BARE = set("ab-_1")
SCALARS = st.integers(-9, 9) | st.booleans() | st.text(st.characters(codec="utf-8"), max_size=5)


def key(text):
    return text if text and set(text) <= BARE else quoted(text)


def quoted(text):
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def written(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key(k)} = {written(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[\n" + "".join(f"  {written(v)}, # [\n" for v in value) + "]"
    return str(value).lower() if isinstance(value, bool) else quoted(value) if isinstance(value, str) else str(value)


VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner.filter(lambda v: not isinstance(v, list)), max_size=2)
    ),
    max_leaves=6,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_what_is_written_is_found_where_it_was_written(table, runs):
    lines = ["[table]", *(f"{key(k)} = {written(v)}" for k, v in table.items())]
    for run in runs:
        lines += ["[[run]] # x", *(f"{key(k)} = {written(v)}" for k, v in run.items())]
    text = "\n".join(lines)
    if any("\n" in inner for k, v in [*table.items()] for inner in [written(v)] if isinstance(v, dict)):
        return  # an inline table of TOML 1.0 has no line breaks
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = places(text)
    assert set(found) == set(walked(document))
    for k in table:
        line = text.split("\n")[found["table", k] - 1]
        assert line.startswith(f"{key(k)} = ")
