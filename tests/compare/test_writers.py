from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.tables import run
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dinobench.compare import published, writers
from dinobench.compare import table as compare
from dinobench.escaping import csv_cell
from dinobench.results import records

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
    assert csv_cell(name.replace("\r", " ").replace("\0", " ")) in {row["model"] for row in rows}


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
