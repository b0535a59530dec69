"""MATLAB's files, against scipy's reader, and damaged ones, which scipy's reader does not survive."""

from __future__ import annotations

import io
import random
import zlib
from typing import Any

import numpy as np
import pytest
from helpers.imagenet import meta
from helpers.mutations import bytes_mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat

from dinobench.data.layouts.labelled import matlab
from dinobench.data.layouts.labelled.matlab import read_mat


def saved(variables: dict[str, Any], **how: Any) -> bytes:
    opened = io.BytesIO()
    savemat(opened, variables, **how)
    return opened.getvalue()


TYPES = [np.dtype(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")]


@given(
    st.sampled_from(TYPES).flatmap(
        lambda t: arrays.arrays(t, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5))
    ),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_numbers_are_scipy_s(values, compressed):
    content = saved({"x": values, "other": 1}, do_compression=compressed)
    wanted = loadmat(io.BytesIO(content))["x"]
    found = read_mat(content)["x"]
    assert found.shape == wanted.shape and np.array_equal(found, wanted, equal_nan=True)


def test_texts_cells_and_structures():
    table = np.zeros((2, 1), [("fname", "O"), ("class", "O")])
    table[:, 0] = [("00001.jpg", 3), ("é.jpg", 14)]
    content = {"cell": np.array([["Audi A"], ["BMW"]], object), "rows": table, "text": "hello", "lines": ["ab", "c"],
               "none": np.zeros((0, 1), object)}  # fmt: skip
    for compressed in (False, True):
        found = read_mat(saved(content, do_compression=compressed))
        assert found["cell"] == ["Audi A", "BMW"] and found["text"] == "hello" and found["lines"] == ["ab", "c"]
        assert [(r["fname"], r["class"].item()) for r in found["rows"]] == [("00001.jpg", 3), ("é.jpg", 14)]
        assert found["none"] == []


def test_the_devkit_s_structure():
    rows = read_mat(meta())["synsets"]
    assert [r["ILSVRC2012_ID"].item() for r in rows] == [1, 2, 3, 1001] and rows[0]["WNID"] == "n01484850"
    assert rows[3]["children"].tolist() == [[1, 2]] and rows[0]["children"].size == 0


def test_what_is_no_such_file(monkeypatch):
    sound = saved({"x": np.arange(100.0)}, do_compression=True)
    for content in (b"", b"hello" * 100, sound[:100], b"MATLAB 7.3 MAT-file" + bytes(200)):
        with pytest.raises(ValueError, match="no MAT file"):
            read_mat(content)
    for content in (sound[:180], saved({"x": np.zeros((300, 300))})[:900]):
        with pytest.raises(ValueError, match="cut short"):
            read_mat(content)
    bomb = saved({}) + b"\x0f\0\0\0"
    packed = zlib.compress(bytes(1 << 20))
    monkeypatch.setattr(matlab, "UNPACKED", 1000)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        read_mat(bomb + len(packed).to_bytes(4, "little") + packed)


def test_mutated_files_are_read_or_refused():
    table = np.zeros((2, 1), [("a", "O"), ("b", "O")])
    table[:, 0] = [("x", [1, 2]), ("y", np.array(["p", "q"], object))]
    whole, rng = saved({"t": table, "n": np.arange(9), "s": "text"}), random.Random(0)
    refused = 0
    for _ in range(2000):
        try:
            read_mat(bytes_mutated(whole, rng))
        except ValueError:
            refused += 1
    assert 200 < refused < 2000
