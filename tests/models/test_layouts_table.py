"""Every layout that docs/checkpoints.md lists, read as a user would; `DINOBENCH_WRITE_DOCS=1` writes its table."""

from __future__ import annotations

import os

import pytest
from helpers.layouts_table import BEGIN, DOCS, END, all_cases, row, table

CASES = {case.name: case for case in all_cases()}
ROWS: dict[str, tuple[str, str, str, str]] = {}


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_program_that_wrote_the_file(tmp_path, name):
    ROWS[name] = row(CASES[name], tmp_path)
    assert ROWS[name][3] in ("-", "< 1e-5", "< 1e-4")


def test_the_documented_table_is_what_was_found():
    if len(ROWS) < len(CASES):
        pytest.skip("only some of the layouts were read")
    text = DOCS.read_text()
    before, _, rest = text.partition(BEGIN)
    documented, _, after = rest.partition(END)
    found = table(list(ROWS.values()))
    if os.environ.get("DINOBENCH_WRITE_DOCS"):
        DOCS.write_text(before + BEGIN + found + END + after)
        documented = found
    assert [line.rsplit("|", 2)[0] for line in documented.splitlines()] == [
        line.rsplit("|", 2)[0] for line in found.splitlines()
    ]
