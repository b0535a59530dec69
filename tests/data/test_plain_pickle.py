"""Pickles of plain data: what Python wrote comes back, and nothing that a file says is called, believed or paid for."""

from __future__ import annotations

import os
import pickle
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.mutants import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dinobench.data.plain_pickle import DamagedPickle, ForeignName, read_plain

TYPES = ["?", "i1", "u1", "<i2", ">i4", "<u4", "<i8", ">f4", "<f8", "f2", "<U5", "S3"]
leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.frozensets(st.text(max_size=3), max_size=3)
    | st.sampled_from(TYPES).flatmap(lambda t: arrays(np.dtype(t), array_shapes(min_dims=0, min_side=0, max_side=4)))
)  # fmt: skip
plain = st.recursive(
    leaves, lambda v: st.lists(v, max_size=4) | st.tuples(v, v) | st.dictionaries(st.text() | st.integers(0, 9), v)
)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[k], v) for k, v in expected.items())
    return bool(found == expected) and isinstance(found, bool) == isinstance(expected, bool)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "x.pkl"


@settings(max_examples=80, deadline=None)
@given(value=plain, protocol=st.integers(0, 5))
def test_what_python_wrote_comes_back(file: Path, value: Any, protocol: int) -> None:
    shared = [value, value, {"again": value}]
    file.write_bytes(pickle.dumps(shared, protocol))
    assert same(read_plain(file), shared)


@pytest.mark.parametrize("protocol", range(6))
def test_scalars_and_arrays_in_columns_and_of_objects(file: Path, protocol: int) -> None:
    columns = np.asfortranarray(np.arange(6).reshape(2, 3))
    value = [np.int64(-3), np.float32(0.5), np.bool_(True), columns, bytearray(b"x"), np.array([1, "x", [2]], object)]
    file.write_bytes(pickle.dumps(value, protocol))
    found = read_plain(file)
    assert found[:3] == [-3, 0.5, True] and (found[3] == value[3]).all() and found[4] == b"x"
    assert found[5] == [1, "x", [2]]


# What Python 2 and NumPy 1 write for {"data": array([[0, 1, 128], [254, 255, 39]], uint8)}
PYTHON2 = {
    2: b"\x80\x02}q\x01U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
       b"\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
       b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x80\xfe\xff\x27tbs.",
    0: b"(dp1\nS'data'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntS'b'\ntRp5\n(I1\n"
       b"(I2\nI3\ntcnumpy\ndtype\np6\n(S'u1'\nI0\nI1\ntRp7\n(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\n"
       b"S\"\\x00\\x01\\x80\\xfe\\xff'\"\ntbs.",
}  # fmt: skip


@pytest.mark.parametrize("protocol", PYTHON2)
def test_pickles_of_python_2(file: Path, protocol: int) -> None:
    file.write_bytes(PYTHON2[protocol])
    content = read_plain(file)
    assert content["data"].dtype == np.uint8 and content["data"].tolist() == [[0, 1, 128], [254, 255, 39]]


def array(
    shape: bytes,
    kind: bytes,
    content: bytes,
    state: bytes = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
) -> bytes:
    """A pickled array with parts of one's choice."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
        + b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R" + state + b"\x89" + content + b"tb."
    )  # fmt: skip


HUGE = (2**62).to_bytes(8, "little")
HOSTILE = {
    "eight bytes as a pointer": array(b"K\x01\x85", b"U\x02O8", b"U\x08AAAAAAAA"),
    "objects that are not there": array(b"K\x09\x85", b"U\x02O8", b"]"),
    "more shape than bytes": array(b"J\xff\xff\xff\x7f\x85", b"U\x02f8", b"U\x08AAAAAAAA"),
    "fewer": array(b"K\x00\x85", b"U\x02f8", b"U\x08AAAAAAAA"),
    "negative": array(b"J\xff\xff\xff\xff\x85", b"U\x02f8", b"U\x00"),
    "a shape that overflows to nothing": array(b"\x8a\x08" + b"\x00" * 7 + b"\x40K\x04\x86", b"U\x02u1", b"U\x00"),
    "a huge empty one": array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fK\x00\x87", b"U\x02f8", b"U\x00"),
    "a type of structures": array(b"K\x01\x85", b"U\x02V8", b"U\x08AAAAAAAA"),
    "a type with fields": array(b"K\x01\x85", b"U\x02u1", b"U\x01A", b"(K\x03U\x01|NU\x01x}K\x01K\x01K\x00tb"),
    "a type without size": array(b"K\x01\x85", b"U\x02S0", b"U\x00"),
    "a type of an array": array(b"K\x01\x85", b"U\x06(9,)i8", b"U\x48" + b"A" * 72),
    "dates": array(b"K\x01\x85", b"U\x02M8", b"U\x08AAAAAAAA"),
    "truth beyond one": array(b"K\x01\x85", b"U\x02b1", b"U\x01A"),
    "an array with another state": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
                                   b"J\xff\xff\xff\x7f\x85U\x01b\x87R(K\x00tb.",
    "bytes by number": b"\x80\x03cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "bytes of a claimed length": b"\x80\x04\x8e" + HUGE + b"x.",
    "text of a claimed length": b"\x80\x04\x8d" + HUGE + b"x.",
    "an array of bytes of a claimed length": b"\x80\x05\x96" + HUGE + b"x.",
    "a frame of a claimed length": b"\x80\x04\x95" + HUGE + b"N",
    "a memo of a claimed size": b"\x80\x02Nr\xff\xff\xff\xff" + b"\x30" * 9 + b".",
    "a number of a claimed length": b"\x80\x02\x8b\xff\xff\xff\x7fx.",
    "a number of many digits": b"L" + b"9" * 4000 + b"L\n.",
    "a negative length": b"T\xff\xff\xff\xffx.",
    "copies of copies": b"\x80\x02X\x00\x04\x00\x00" + b"x" * 1024 + b"q\x00"
                        + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 100_000 + b".",
    "a deep tuple as a key": b"}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "a tuple of itself twice as a key": b"}K\x01" + b"2\x86" * 200 + b"Ns.",
    "a deep tuple in a set": b"\x80\x04\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.",
    "the state of a name": b"\x80\x02cnumpy\nndarray\n}U\x01xK\x01sb.",
    "the state of a list": b"\x80\x02](K\x01tb.",
    "a call of a text": b"\x80\x02U\x01x)R.",
    "a persistent object": b"Px\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"(icollections\nOrderedDict\n.",
    "a new object": b"\x80\x02c__builtin__\nbytes\n)\x81.",
    "a buffer from elsewhere": b"\x80\x05\x97.",
    "no end": b"\x80\x02]",
    "nothing": b"",
    "a stack with nothing on it": b"\x80\x02a.",
    "marks without end": b"(" * 100_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_within_bounds(file: Path, case: str) -> None:
    file.write_bytes(HOSTILE[case])
    tracemalloc.start()
    try:
        with pytest.raises(DamagedPickle) as caught:
            read_plain(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert peak < 1_000_000 + 220 * len(HOSTILE[case])


@pytest.mark.parametrize(
    "name",
    ["os\nsystem", "builtins\neval", "__builtin__\ngetattr", "numpy\nload", "numpy\nmemmap",
     "numpy.core.multiarray\narray", "builtins\nlist", "builtins\nint", "builtins\nrange",
     "numpy.core.multiarray\nfromfile", "_codecs\ndecode",
     "numpy.core.numeric\n__dict__", "copyreg\n_reconstructor", "dinobench.data.plain_pickle\n_Machine"],
)  # fmt: skip
def test_names_are_refused_before_they_are_called(file: Path, name: str) -> None:
    for asked in (
        f"c{name}\n)R.".encode(),
        b"\x80\x04" + b"".join(b"\x8c%c%b" % (len(p), p.encode()) for p in name.split("\n")) + b"\x93)R.",
    ):
        file.write_bytes(asked)
        with pytest.raises(ForeignName, match=name.replace("\n", r"\.")):
            read_plain(file)


def test_containers_that_hold_themselves(file: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    file.write_bytes(pickle.dumps(loop))
    found = read_plain(file)
    assert found[0] is found


def test_pipes_and_large_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a named pipe"):
        read_plain(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as large:
        large.truncate(10**12)  # takes no room on the disk
    with pytest.raises(DamagedPickle, match="more than 200,000,000 bytes"):
        read_plain(tmp_path / "large")


@pytest.mark.parametrize("seed", range(2))
def test_damaged_pickles_are_plain_data_or_refused(file: Path, seed: int) -> None:
    rng = random.Random(seed)
    value = {"data": np.arange(12).reshape(3, 4), "labels": [1, 2, 300], "names": ["a", "ü"], "one": np.float32(2)}
    value["more"] = (None, 1.5, b"x" * 9)
    sound = [pickle.dumps(value, protocol) for protocol in range(6)]
    read = 0
    for _ in range(1000):
        file.write_bytes(damaged(rng.choice(sound), rng))
        try:
            found = read_plain(file)
        except (DamagedPickle, ForeignName) as error:
            assert "\n" not in str(error)
            continue
        read += 1
        pending, seen = [found], set()
        while pending:
            node = pending.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, dict | list | tuple | set):
                pending += [*node, *node.values()] if isinstance(node, dict) else node
            elif isinstance(node, np.ndarray):
                assert node.dtype.kind in "biufSU" and np.asarray(node).tobytes() is not None
    assert 20 < read < 950
