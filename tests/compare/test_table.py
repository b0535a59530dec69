from __future__ import annotations

from collections import defaultdict

import pytest
from helpers.tables import run
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench import console
from dinobench.cli.display import compare as display
from dinobench.compare import published, writers
from dinobench.compare import table as compare
from dinobench.errors import UserError
from dinobench.results import comparability
from dinobench.types import MetricValue


def places(table: writers.Table) -> dict[tuple[str, int], int]:
    return {
        (row.labels[-1], i): cell.place
        for row, cells in zip(table.rows, table.cells, strict=True)
        for i, cell in enumerate(cells)
        if cell is not None and cell.place
    }


def test_best_and_second_of_one_test():
    table = compare.compare([run("a", 10), run("b", 30), run("c", 20)])
    assert table.corner == ("model",) and [r.labels for r in table.rows] == [("a",), ("b",), ("c",)]
    assert [c.labels for c in table.columns] == [("knn", "digits", "dino2021", "top1@k20 (%)")]
    assert places(table) == {("b", 0): 1, ("c", 0): 2} and not table.notes


def test_ties_as_shown_share_a_place_and_one_score_alone_has_none():
    assert places(compare.compare([run("a", 30.04), run("b", 29.96), run("c", 20)])) == {
        ("a", 0): 1, ("b", 0): 1, ("c", 0): 2,
    }  # fmt: skip
    assert not places(compare.compare([run("a", 30)]))
    assert places(compare.compare([run("a", float("nan")), run("b", 1), run("c", 2)])) == {("c", 0): 1, ("b", 0): 2}


def test_less_is_better_where_it_is():
    table = compare.compare([run("a", 10, metric="J_decay"), run("b", 30, metric="J_decay")])
    assert places(table) == {("a", 0): 1, ("b", 0): 2}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config_hash": "e" * 64, "config": {"k": [10, 20], "temperature": 0.5, "flip": None}}, "temperature"),
        ({"dataset_fingerprint": "e" * 64}, "images: digits"),
        ({"protocol_version": 2}, "version of knn: 1 and 2"),
        ({"broken_images": 3}, "left out because they could not be read: 0 and 3"),
    ],
)
def test_runs_that_differ_stand_apart_with_the_reason(changes, reason):
    table = compare.compare([run("a", 10), run("b", 30), run("c", 90, **changes)])
    assert places(table) == {("b", 0): 1, ("a", 0): 2}
    assert [bool(c.marks) for c in table.columns] == [False, True]
    ((mark, note),) = table.notes
    assert table.columns[1].marks == (mark,) and note.startswith("not ranked with knn dino2021") and reason in note


def test_what_was_changed_in_a_profile_is_a_note_and_long_reasons_are_counted():
    changed = {f"s{i}": i for i in range(9)}
    table = compare.compare([
        run("a", 10), run("b", 20), run("a", 30, protocol="logreg", profile="dinov2+C=1+crop=64"),
        run("a", 5, config_hash="e" * 64, config=changed, profile="dino2021+s0=0"),
    ])  # fmt: skip
    notes = dict(table.notes)
    assert "logreg dinov2 with C=1, crop=64" in notes.values()
    (long,) = (n for n in notes.values() if n.startswith("not ranked"))
    assert "and 7 more" in long and "\n" not in long


def test_seeds_precisions_and_namesakes_have_rows_of_their_own():
    labels = [r.labels[0] for r in compare.compare([run("a", 1, seed=0), run("a", 2, seed=1), run("b", 3)]).rows]
    assert labels == ["a (seed 0)", "a (seed 1)", "b"]
    labels = [r.labels[0] for r in compare.compare([run("a", 1), run("a", 2, precision="bf16")]).rows]
    assert labels == ["a (seed 0)", "a (seed 0, precision bf16)"]
    labels = [r.labels[0] for r in compare.compare([run("a", 1), run("a", 2, weights="5")]).rows]
    assert labels == ["a (weights 50000000)", "a (weights 61000000)"]


def test_axes_either_way_round():
    found = [run("a", 1), run("b", 2), run("a", 3, dataset="shapes", dataset_fingerprint="e" * 64)]
    table = compare.compare(found, rows="dataset")
    assert table.corner == ("dataset", "protocol", "profile", "metric")
    assert [r.labels[0] for r in table.rows] == ["digits", "shapes"] and [c.labels for c in table.columns] == [
        ("a",), ("b",),
    ]  # fmt: skip
    assert compare.compare(found, rows="arch").rows[0].labels == ("fake", "a")
    with pytest.raises(UserError, match="with one of model, method, arch in the rows"):
        compare.compare(found, rows="model", columns="arch")
    with pytest.raises(UserError, match="unknown --rows value 'modle': did you mean 'model'"):
        compare.compare(found, rows="modle")


def test_metrics_by_pattern():
    two = {"top1@k20": MetricValue(50.0, None, None, 9, "%"), "top5@k20": MetricValue(80.0, None, None, 9, "%")}
    table = compare.compare([run("a", metrics=two), run("b")], metrics=["top*"])
    assert [c.labels[-1] for c in table.columns] == ["top1@k20 (%)", "top5@k20 (%)"]
    assert [[c is not None for c in row] for row in table.cells] == [[True, True], [True, False]]
    with pytest.raises(UserError, match="unknown metric 'top2'"):
        compare.compare([run("a")], metrics=["top2"])


def test_flags_are_notes_of_their_cells():
    a, b = run("a", 1), run("b", 2)
    table = compare.compare([a, b], flags={b.run_id: ["scores like chance", "as the random one"], "other": ["no"]})
    assert [cells[0].marks for cells in table.cells if cells[0]] == [(), ("a", "b")]
    assert dict(table.notes) == {"a": "scores like chance", "b": "as the random one"}


def test_published_figures_stand_beside_ours_and_are_never_ranked_with_them():
    figures = published.published_scores(["knn"])
    table = compare.compare([run("a", 99.9), run("b", 1)], figures=figures)
    assert [c.published for c in table.columns] == [False, True]
    assert table.columns[1].labels == ("knn", "ImageNet-1k", "published", "top1@k20 (%)")
    assert places(table) == {("a", 0): 1, ("b", 0): 2}
    for row, cells in zip(table.rows, table.cells, strict=True):
        assert [c is not None for c in cells] == [not row.published, row.published]
    assert all("facebookresearch/" in note for _, note in table.notes)
    doubtful = compare.compare([run("a", protocol="finetune")], figures=published.published_scores(["finetune"]))
    assert any("unverified" in note for _, note in doubtful.notes)


RUNS = st.lists(
    st.builds(
        lambda model, value, test, metric, seed: run(
            model, value, metric=metric, seed=seed, config_hash=test * 64, dataset_fingerprint=test * 64
        ),
        st.sampled_from("abcd"), st.integers(0, 8).map(lambda v: v / 4), st.sampled_from("ef"),
        st.sampled_from(["top1", "J_decay"]), st.integers(0, 1),
    ),
    min_size=1, max_size=14, unique_by=lambda r: r.run_id,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(RUNS)
def test_ranking_never_mixes_what_cannot_be_compared(found):
    table = compare.compare(found, figures=published.published_scores(["knn"]))
    by_id = {r.run_id: r for r in found}
    homes = defaultdict(set)
    for i, _ in enumerate(table.columns):
        column = [row[i] for row in table.cells if row[i] is not None]
        ours = [by_id[c.facts["run_id"]] for c in column if "run_id" in c.facts]
        assert len({(comparability.key(r), r.primary) for r in ours}) <= 1
        assert not ours or len(ours) == len(column)  # published figures never share a column
        for r in ours:
            homes[comparability.key(r), r.primary].add(i)
        best = [c.value for c in column if c.place == 1]
        others = [c.value for c in column if c.place != 1]
        if len(column) > 1 and ours:
            better = min if ours[0].primary == "J_decay" else max
            shown = [round(c.value, 1) for c in column]
            assert (
                best
                and {round(b, 1) for b in best} == {better(shown)}
                and better(shown) not in map(lambda v: round(v, 1), others)
            )
        else:
            assert not best
    assert all(len(columns) == 1 for columns in homes.values())
    assert sum(c is not None and "run_id" in c.facts for row in table.cells for c in row) == len(found)


def test_a_narrow_screen_gets_blocks_of_columns(monkeypatch, capsys):
    found = [run(m, v, protocol=p) for m, v in (("a", 1), ("b", 2)) for p in ("knn", "logreg", "linear")]
    monkeypatch.setattr(console.stdout, "width", 40)
    display.table(compare.compare(found), "")
    narrow = capsys.readouterr().out
    assert narrow.count("model") == 2 and max(map(len, narrow.splitlines()[:12])) <= 40
    monkeypatch.setattr(console.stdout, "width", 200)
    display.table(compare.compare(found), "")
    assert capsys.readouterr().out.count("model") == 1
