"""Every two of several runs: one correction over all, and a triangle that says which are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.runs import run

from dinobench.compare.all_pairs import all_pairs, difference_text, to_markdown
from dinobench.compare.pair import compare
from dinobench.errors import UserError
from dinobench.stats.paired_tests import holm


def test_p_is_corrected_over_all_pairs(tmp_path):
    r = np.random.default_rng(0)
    records = [run(tmp_path, name, r.random(400) < share) for name, share in (("a", 0.8), ("b", 0.7), ("c", 0.4))]
    pairs = all_pairs(tmp_path, records)
    named = [(p.run_a.checkpoint.name, p.run_b.checkpoint.name) for p in pairs]
    assert named == [("a", "b"), ("a", "c"), ("b", "c")]
    alone = [compare(tmp_path, p.run_a, tmp_path, p.run_b).primary for p in pairs]
    assert [p.primary.p for p in pairs] == [m.p for m in alone]
    assert [p.primary.p_holm for p in pairs] == holm([m.p for m in alone])
    assert [p.primary.difference for p in pairs] == [m.difference for m in alone]


def test_the_triangle_has_each_pair_once_and_bold_where_it_is_told_apart(tmp_path):
    right = np.arange(200) % 5 > 0
    records = [run(tmp_path, "up|down", right), run(tmp_path, "same", right), run(tmp_path, "worse", ~right)]
    pairs = all_pairs(tmp_path, records)
    head, _, *rows, _, legend = to_markdown(pairs).splitlines()
    assert head == "| | same | worse |" and [row.split(" | ")[0] for row in rows] == ["| up&#124;down", "| same"]
    assert "**" in rows[0].split(" | ")[2] and "**" not in rows[0].split(" | ")[1] and "Holm" in legend
    assert rows[1].split(" | ")[1] == ""
    assert difference_text(pairs[0]).startswith("+0.0 [") and difference_text(pairs[0]).endswith("(p 1.0000)")
    assert difference_text(pairs[1]).startswith("**+60.0 [") and difference_text(pairs[1]).endswith("** (p < 0.0001)")


def test_runs_that_are_not_comparable_are_refused(tmp_path):
    right = np.arange(50) % 5 > 0
    records = [run(tmp_path, "a", right), run(tmp_path, "b", right, dataset_fingerprint="0" * 64)]
    with pytest.raises(UserError, match="not comparable"):
        all_pairs(tmp_path, records)
