"""How comparisons of records are shown to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from dinobench import console
from dinobench.cli.display import layout
from dinobench.compare.writers import Cell, Table, shown

if TYPE_CHECKING:
    from dinobench.compare.ablation import Ablation
    from dinobench.compare.explain import Explanation
    from dinobench.compare.pair import Pairing, PairResult

#: Raised letters for notes: as narrow as the numbers they stand behind (there is no raised q).
_RAISED = dict(zip("abcdefghijklmnoprstuvwxyz,=", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ'⁼", strict=True))
#: Classes or videos that are named where a model is ahead.
_AHEAD = 3
#: More rows than this are aligned by ourselves: laying out one by one what nobody reads cell by cell takes minutes.
_LONG = 500


def table(wide: Table, spread: str = "") -> None:
    """A table of scores, cut into blocks of columns where the screen is too narrow, and its notes."""
    heads = ["\n".join(c.labels) + _raised(c.marks) for c in wide.columns]
    rows = [[*r.labels[:-1], r.labels[-1] + _raised(r.marks)] for r in wide.rows]
    cells = [[_score(cell, spread) for cell in row] for row in wide.cells]
    corner = ["\n".join([*[""] * (_height(heads) - 1), name]) for name in wide.corner]
    labels = sum(_width([name, *(r[i] for r in rows)]) + layout.GAP for i, name in enumerate(corner))
    widths = [_width([head, *(row[i] for row in cells)]) for i, head in enumerate(heads)]
    for block in layout.blocks(widths, console.stdout.width - labels):
        some = [(r, [row[i] for i in block]) for r, row in zip(rows, cells, strict=True)]
        titles = [heads[i] for i in block]
        console.table("", [*corner, *titles], [[*r, *row] for r, row in some if any(row)], right=titles)
        console.text("")
    if any(cell is not None and cell.place in (1, 2) for row in wide.cells for cell in row):
        console.text("** the best and * the second of those that can be compared")
    for mark, note in wide.notes:
        console.text(layout.prose(f"{_raised((mark,))} {note}"))


def _height(heads: Sequence[str]) -> int:
    return max((h.count("\n") + 1 for h in heads), default=1)


def _raised(marks: Sequence[str]) -> str:
    return "".join(_RAISED.get(c, c) for c in ",".join(marks))


def _score(cell: Cell | None, spread: str) -> str:
    if cell is None:
        return ""
    return {1: "**", 2: "*"}.get(cell.place, "") + shown(cell, spread) + _raised(cell.marks)


def _width(texts: Sequence[str]) -> int:
    return max(len(line) for text in texts for line in text.split("\n"))


def pair(pairing: Pairing) -> None:
    """Two models on every test they share, item by item, and on which items either is ahead most."""
    from dinobench.compare.pair_files import question

    console.text(f"A  {pairing.a}\nB  {pairing.b}\n")
    several = len([r for r in pairing.results if r.primary.p is not None]) > 1
    columns = ["test", "metric", "A", "B", "A - B", "95 % interval", "p", *["p, Holm"] * several]
    layout.table("", columns, [_paired(r, several) for r in pairing.results], right=columns[2:])
    if several:
        console.text(f"\np, Holm: corrected for looking at {len(pairing.results)} tests at once")
    for result in pairing.results:
        console.text("\n".join([f"\n{question(result)}", *(layout.prose(x, indent=2) for x in _remarks(result))]))
    if pairing.notes or pairing.skipped:
        console.text("")
    for note in pairing.notes:
        console.text(note)
    for line in pairing.skipped:
        console.text(f"left out: {line}")


def _paired(result: PairResult, several: bool) -> list[str]:
    from dinobench.compare.pair_files import interval_text, p_text, question

    m = result.primary
    numbers = [f"{m.a:.2f}", f"{m.b:.2f}", f"{m.difference:+.2f}", interval_text(m), p_text(m.p)]
    return [question(result), m.metric, *numbers, *[p_text(m.p_holm)] * several]


def _remarks(result: PairResult) -> Iterator[str]:
    """How it was tested, where either is ahead most, and what to know."""
    m = result.primary
    if m.method:
        groups = f" in {m.groups:,} groups by {m.cluster}" if m.cluster else ""
        yield f"of {m.items:,} items{groups} A is ahead on {m.won_a:,} and B on {m.won_b:,} ({m.method})"
    if m.detectable is not None:
        yield f"so many items show a difference of {m.detectable:.2f} in 80 % of cases, at the 5 % level"
    sign = 1 if m.higher_is_better else -1
    for who, ahead in (
        ("A", [g for g in result.where if sign * g.difference > 0][:_AHEAD]),
        ("B", [g for g in reversed(result.where) if sign * g.difference < 0][:_AHEAD]),
    ):
        if ahead:
            yield f"{who} is ahead most on {ahead[0].column} " + ", ".join(
                f"{g.group} ({g.difference:+.1f})" for g in ahead
            )
    if m.note:
        yield m.note
    yield from result.notes


def explanation(result: Explanation) -> None:
    """Whether two runs can be compared, what differs, and on how many items."""
    from dinobench.compare.explain import written

    a, b = result.a, result.b
    console.text(f"A  {a.run_id}\nB  {b.run_id}\n")
    if result.comparable:
        console.text("They can be compared.")
    else:
        console.text("They cannot be compared. These would have to be the same:")
        for reason in result.reasons:
            console.text(f"  {reason}")
    if result.gap is not None:
        one, other = a.metrics[result.metric], b.metrics[result.metric]
        console.text(f"{result.metric}: A {one.value:.2f}, B {other.value:.2f}, B - A {result.gap:+.2f} ({one.unit})")
    if result.items is not None:
        i = result.items
        alone = f"; {i.only_a:,} only in A, {i.only_b:,} only in B" if i.only_a or i.only_b else ""
        console.text(
            f"items: {i.differing:,} of {i.shared:,} score differently (A ahead on {i.a_ahead:,}, "
            f"B on {i.b_ahead:,}){alone}"
        )
    if result.differences:
        console.text("")
        layout.table(
            "what differs, the most decisive first", ["field", "A", "B", "", "meaning"],
            [[d.name, written(d.a), written(d.b), "must agree" * d.bars, d.meaning] for d in result.differences],
        )  # fmt: skip
    else:
        console.text("nothing that is recorded differs")


def flips(ablation: Ablation) -> None:
    """What each factor does alone, all of them together, and what is left."""
    from dinobench.compare.explain import written

    def signed(value: float | None) -> str:
        return "" if value is None else f"{value:+.2f}"

    rows: list[list[str]] = [["A again", "", "", f"{ablation.base:.2f}", signed(ablation.base - ablation.a), ""]]
    for f in ablation.flips:
        score = "" if f.value is None else f"{f.value:.2f}"
        rows.append([f.name, written(f.a), written(f.b), score, signed(ablation.effect(f)), f.note])
    if ablation.together is not None and len(ablation.flips) > 1:
        rows.append(["all of these", "", "", f"{ablation.together:.2f}", signed(ablation.together - ablation.base), ""])
    if ablation.interaction is not None and len(ablation.flips) > 1:
        rows.append(
            ["interaction", "", "", "", signed(ablation.interaction), "all of these, less the sum of each alone"]
        )
    rows.append(["left over", "", "", "", signed(ablation.left), "what was not changed: data, versions, device"])
    console.text("")
    layout.table(
        f"{ablation.metric}, A with one factor at a time as in B (recorded: A {ablation.a:.2f}, B {ablation.b:.2f})",
        ["factor", "A", "B", ablation.metric, "effect", ""], rows, right=[ablation.metric, "effect"],
    )  # fmt: skip


def leaderboard(lines: Sequence[Sequence[Any]]) -> None:
    """The readable columns of the leaderboard's rows."""
    from dinobench.results.leaderboard import COLUMNS

    columns = ["model", "arch", "protocol", "profile", "dataset", "metric", "value", "ci_low", "ci_high", "n"]
    *texts, n = map(COLUMNS.index, columns)  # all are texts but the number of items
    picked = itemgetter(*texts)
    rows = [(*picked(line), str(line[n])) for line in lines]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    if len(rows) <= _LONG or sum(widths) + layout.GAP * (len(widths) - 1) > console.stdout.width:
        return layout.table("", columns, rows, right=columns[6:])
    sides = ["-" if c in columns[:6] else "" for c in columns]
    form = (" " * layout.GAP).join(f"%{side}{wide}s" for side, wide in zip(sides, widths, strict=True))
    console.text("\n".join([form % row for row in [tuple(columns), *rows]]))
