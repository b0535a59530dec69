from __future__ import annotations

import io
import pickle
import random
import warnings

import pytest
from helpers.damage import pickle_ops
from helpers.pickles import START, call, name, number, text
from torch import _weights_only_unpickler as torchs

from dinobench.models.inert_pickle import Node, Rejected, Unknown, run

PLAIN = {
    "a": [1, 2.5, "text", None, True, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "b": {3: {"x": [], "y": {}}, "long": 1 << 200, "shared": [[7]] * 2},
    "c": [300, 70_000, -1, "é", False],
}


def plain(value):
    """Nodes as the containers that they stand for."""
    if not isinstance(value, Node):
        return value
    items = [plain(item) for item in value.items]
    if value.kind == "dict":
        return dict(zip(items[::2], items[1::2], strict=True))
    return {"list": list, "tuple": tuple, "set": set}[value.kind](items)


def test_plain_values_are_what_they_are():
    content = pickle.dumps(PLAIN, 2)
    built = run(content)
    assert plain(built.value) == PLAIN and built.end == len(content)
    assert plain(run(b"??" + content, 2).value) == PLAIN


def test_edited_pickles_mean_what_they_mean_to_torch():
    """The same stack machine: what torch's accepts, ours reads alike, so that nothing goes past the screening."""
    rng, accepted = random.Random(0), 0
    for attempt in range(1500):
        content = pickle_ops(pickle.dumps(PLAIN, 2), rng)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = torchs.load(io.BytesIO(content), encoding="utf-8")
        except Exception:
            continue
        try:
            found = plain(run(content).value)
        except RecursionError:  # a container that contains itself, which the screening refuses
            continue
        assert repr(found) == repr(expected), attempt
        accepted += 1
    assert accepted > 100


def test_calls_are_noted_and_never_made():
    built = run(START + call("os.system", text("exit 1")) + b".")
    assert (built.value.kind, built.value.name, built.value.items) == ("call", "os.system", ["exit 1"])
    built = run(START + name("collections.OrderedDict") + b")R" + text("a") + number(-3) + b"s.")
    assert (built.value.kind, built.value.items) == ("dict", ["a", -3])


def test_what_nothing_refers_to_is_kept_for_the_screening():
    built = run(START + call("os.system", text("exit 1")) + b"].")
    assert built.value.kind == "list" and [n.name for n in built.nodes if n.kind == "call"] == ["os.system"]


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"\x80\x02", b"\x80\x02.", b"\x80\x02h\x07.", b"\x80\x02K\1a.", b"X\xff"]
)
def test_damaged_ones_are_rejected(content):
    with pytest.raises(Rejected, match="truncated or damaged"):
        run(content)


def test_opcodes_that_torch_lacks_are_unknown():
    for protocol in (0, 3, 4, 5):
        with pytest.raises(Unknown):
            run(pickle.dumps([b"abc"], protocol))
