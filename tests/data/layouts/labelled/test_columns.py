"""Columns of images and labels: which of several counts, and what rows are called."""

from __future__ import annotations

import pyarrow as pa
import pytest
from helpers.labelled import FEATURES, IMAGE

from dinobench.data.layouts.labelled.columns import Columns, columns_of, features_of, row_ids, row_of
from dinobench.errors import UserError

NUMBER = pa.int64()


@pytest.mark.parametrize(
    ("fields", "features", "wanted"),
    [
        ({"image": IMAGE, "label": NUMBER}, FEATURES, ("image", "bytes", "path", "label", ("ant", "bee", "cow"))),
        ({"image": IMAGE, "label": NUMBER}, {}, ("image", "bytes", "path", "label", None)),
        ({"jpg": pa.binary(), "cls": NUMBER}, {}, ("jpg", "", None, "cls", None)),
        ({"scan": IMAGE, "text": pa.string()}, {}, ("scan", "bytes", "path", None, None)),
        ({"image": IMAGE, "mask": IMAGE}, {"mask": {"_type": "Image"}, "image": {"_type": "Image"}},
         ("image", "bytes", "path", None, None)),
        ({"image": IMAGE, "label": NUMBER, "kind": NUMBER}, {"kind": {"_type": "ClassLabel", "names": ["a"]}},
         ("image", "bytes", "path", "kind", ("a",))),
        ({"image": IMAGE, "fine_label": NUMBER, "label": pa.string()}, {}, ("image", "bytes", "path", "label", None)),
    ],
)  # fmt: skip
def test_which_columns_count(fields, features, wanted):
    assert columns_of(pa.schema(list(fields.items())), features, "x") == Columns(*wanted)


@pytest.mark.parametrize(
    ("fields", "features", "words"),
    [
        ({"text": pa.string(), "label": NUMBER}, {}, "no column of images among text, label"),
        ({"front": IMAGE, "back": IMAGE}, {}, "columns front, back could each be the image; call one of them image"),
        ({"image": IMAGE, "a": NUMBER, "b": NUMBER}, {n: {"_type": "ClassLabel", "names": []} for n in "ab"},
         "columns a, b could each be the label; call one of them label"),
        ({"image": IMAGE, "label": NUMBER}, {"label": {"_type": "ClassLabel", "names": [1]}}, "are no list of texts"),
        ({"image": pa.struct([("bytes", NUMBER), ("path", pa.string())])}, {}, "holds paths and no images"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(fields, features, words):
    with pytest.raises(UserError, match=words):
        columns_of(pa.schema(list(fields.items())), features, "x")


def test_descriptions():
    assert features_of(None, "x") == {} and features_of('{"a": null}', "x", "a", "b") == {}
    assert features_of('{"a": {"b": {"c": 1}}}', "x", "a", "b") == {"c": 1}
    for text in ("{", "[1]", '{"a": 1}', "[" * 100_000, b"\xff"):
        with pytest.raises(UserError, match="x: its description of the columns is"):
            features_of(text, "x", "a")


def test_rows_are_called_by_number_and_file():
    assert row_ids("val", 7, ["a/b.jpg", None, "c:\\d.png", ".."], 4, "x") == [
        "val/0000007/b.jpg", "val/0000008", "val/0000009/d.png", "val/0000010/..",
    ]  # fmt: skip
    assert row_ids("", 0, None, 1, "x") == ["all/0000000"] and row_of("all/12345678/x/y") == ("all", 12345678)
