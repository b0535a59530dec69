from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.samples import INFO, record
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dinobench import console
from dinobench.cli.display import compare as display
from dinobench.compare import published, writers
from dinobench.compare import table as compare
from dinobench.errors import UserError
from dinobench.results import comparability, records
from dinobench.types import MetricValue, RunRecord


def run(model: str = "m", value: float = 50.0, *, weights: str = "", n: int = 100, metric: str = "top1@k20",
        half: float | None = None, unit: str = "%", **changes: object) -> RunRecord:  # fmt: skip
    info = dataclasses.replace(INFO, name=model, weights_digest=(weights or model.encode().hex()).ljust(64, "0")[:64])
    interval = (None, None) if half is None else (value - half, value + half)
    fields = {"checkpoint": info, "metrics": {metric: MetricValue(value, *interval, n, unit)}, "primary": metric}
    fields.update(changes)
    run_id = "-".join([model, *(str(v)[:12] for v in changes.values()), str(value)])
    return record(run_id, **fields)


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


ODD = [
    "a_b", "50%", "R&D", "#1", "$x$", "{}", "}{", "\\", "\\\\", "~", "^", "a|b", "<b>", "`code`", "*x*", "[x](y)",
    "[l]", "*", "±", "café", "Łódź", "猫", "ViT–S/16", "a--b", "''", ",,", '"', "\t", "a\nb", " ", "&#38;", "ø½€", "✓",
    "\\end{tabular}", "%\\", "::", "---", "é́", "!`?`", "x" * 60, "=1+1", "-1", "\u2028", "\x00",
]  # fmt: skip
NAMES = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))


def named(name: str) -> writers.Table:
    found = [run(name, 10, half=1), run("other", 20, half=2), run(name, 5, half=1, dataset=name, protocol_version=2)]
    return compare.compare(found, flags={found[0].run_id: [name]}, figures=published.published_scores(["knn"])[:1])


@settings(deadline=None, max_examples=60)
@given(NAMES)
def test_any_name_keeps_the_csv_whole(name):
    text = writers.to_csv(named(name))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == writers.CSV_COLUMNS and len(rows) == 4
    assert all(None not in row and None not in row.values() for row in rows)
    assert all(row["model"] for row in rows) or not name
    assert name.replace("\r", " ").replace("\0", " ") in {row["model"] for row in rows}


def cells_of(markdown: str) -> list[list[str]]:
    """The text of every cell, as a renderer of GitHub's Markdown sees it."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and token.level == 4:
            children = token.children or []
            rows[-1].append("".join(c.content for c in children if c.type in ("text", "code_inline", "text_special")))
    return rows


@settings(deadline=None, max_examples=80)
@given(NAMES)
def test_any_name_keeps_the_markdown_table_whole(name):
    table = named(name)
    rows = cells_of(writers.to_markdown(table, "pm"))
    assert len(rows) == len(table.rows) + 1 and {len(r) for r in rows} == {len(table.columns) + 1}

    def bare(text: str) -> str:
        return re.sub(r"\W", "", text)

    assert all(bare(row.labels[0]) in bare(shown[0]) for row, shown in zip(table.rows, rows[1:], strict=True))


UNESCAPED = re.compile(r"(?<!\\)[#_~^]")


def structure(latex: str) -> list[int]:
    """Columns of every row of the only tabular, after checks that braces and environments balance."""
    opened: list[str] = []
    for begin, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        if begin == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    body = re.search(r"\\begin\{tabular\}\{(\w+)\}\n(.*)\\end\{tabular\}", latex, re.S)
    assert body is not None
    rows = [line for line in body[2].splitlines() if line.endswith(r" \\")]
    counts = [len(body[1])]
    for row in rows:
        assert (
            not UNESCAPED.search(row)
            and not re.search(r"(?<!\\)%", row)
            and len(re.findall(r"(?<!\\)\$", row)) % 2 == 0
        )
        spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
        counts.append(len(re.findall(r"(?<!\\)&", row)) + 1 + spans)
    return counts


@settings(deadline=None, max_examples=80)
@given(NAMES)
def test_any_name_keeps_the_latex_whole(name):
    table = named(name)
    assert set(structure(writers.to_latex(table, "intervals"))) == {len(table.columns) + 1}
    turned = writers.transposed(table, ("a", "b", "c", "d"))
    assert set(structure(writers.to_latex(turned))) == {len(turned.columns) + 4}


def engine() -> list[str] | None:
    """A TeX that is installed here, with booktabs."""
    found = next(filter(shutil.which, ("pdflatex", "xelatex", "lualatex")), None)
    if found and shutil.which("kpsewhich"):
        asked = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False)
        return [found, "-interaction=nonstopmode", "-halt-on-error"] if asked.returncode == 0 else None
    return ["tectonic"] if shutil.which("tectonic") else None


def compiles(tmp_path: Path, tex: list[str]) -> None:
    program = engine()
    if program is None:
        pytest.skip("no TeX with booktabs is installed")
    document = "\n".join([r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", *tex])
    (tmp_path / "t.tex").write_text(document + "\n\\end{document}\n", encoding="utf-8")
    done = subprocess.run([*program, "t.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "t.pdf").stat().st_size, done.stdout[-2000:]


def test_the_latex_compiles_with_every_odd_name_in_it(tmp_path):
    compiles(tmp_path, [writers.to_latex(named(name), spread) for name in ODD for spread in ("pm",)])


def test_the_committed_records_compile_both_ways_round(tmp_path):
    found, broken = records.read_all(ROOT / "results")
    assert found and not broken
    figures = published.published_scores({r.protocol for r in found})
    both = [compare.compare(found, rows=rows, figures=figures) for rows in ("model", "protocol")]
    for table in both:
        assert set(structure(writers.to_latex(table, "pm"))) == {len(table.columns) + len(table.corner)}
    compiles(tmp_path, [writers.to_latex(table, "pm") for table in both])


def test_formats_of_one_small_table():
    table = compare.compare([run("a_1", 10.04, half=1), run("b", 30, half=2)])
    assert writers.to_markdown(table, "intervals") == (
        "| model | knn<br>digits<br>dino2021<br>top1@k20 (%) |\n| --- | ---: |\n"
        "| a\\_1 | <ins>10.0 [9.0, 11.0]</ins> |\n| b | **30.0 [28.0, 32.0]** |\n"
    )
    latex = writers.to_latex(table, "pm")
    assert r"a\_1 & \underline{10.0 $\pm$ 1.0} \\" in latex and r"b & \textbf{30.0 $\pm$ 2.0} \\" in latex
    assert writers.to_csv(table).splitlines()[1] == (
        "a_1,none,fake,knn,dino2021,digits,top1@k20,%,10.04,9.04,11.04,100,second,no,,0,a_1-10.04,"
    )


def test_a_narrow_screen_gets_blocks_of_columns(monkeypatch, capsys):
    found = [run(m, v, protocol=p) for m, v in (("a", 1), ("b", 2)) for p in ("knn", "logreg", "linear")]
    monkeypatch.setattr(console.stdout, "width", 40)
    display.table(compare.compare(found), "")
    narrow = capsys.readouterr().out
    assert narrow.count("model") == 2 and max(map(len, narrow.splitlines()[:12])) <= 40
    monkeypatch.setattr(console.stdout, "width", 200)
    display.table(compare.compare(found), "")
    assert capsys.readouterr().out.count("model") == 1
