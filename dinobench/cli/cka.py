"""`dinobench compare --cka A B`: how alike the blocks of two models see the same images. Parses, calls, prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinobench import console
from dinobench.cli.display import layout
from dinobench.cli.output import deliver, format_of, write
from dinobench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dinobench.compare.cka import BlockSimilarity

#: What of a block can be compared.
TOKENS = ("cls", "patches")


def show(
    results: Path,
    models: tuple[str, str],
    data: Sequence[str],
    form: str | None,
    output: Path | None,
    images: int | None,
    of: str | None,
    size: int | None,
    device: str | None,
) -> None:
    """On screen, as a table in a file, or as a heat map where `output` ends in .png, .svg or .pdf.

    `data` is one data set with labels, of which the test images are looked at. Raises UserError for everything that
    does not fit before a model is loaded.
    """
    from dinobench import runtime
    from dinobench.compare import cka
    from dinobench.files import check_output
    from dinobench.report.figures import FIGURES

    if len(data) != 1:
        raise UserError("--cka looks at the images of one data set: give it with --data, as in --data digits")
    if of not in (None, *TOKENS):
        raise unknown_name("--of", of, list(TOKENS))
    picture = form is None and output is not None and output.suffix.lower().removeprefix(".") in FIGURES
    form = "picture" if picture else format_of(form, output, [*cka.FORMATS])
    if output is not None:
        check_output(output)
    a, b = (cka.find(results, model) for model in models)
    from dinobench.context import LocalContext  # after what can be told without torch

    found = cka.block_similarity(
        (a, b), data[0], LocalContext(runtime.start(device or "auto").device),
        images=images or cka.IMAGES, tokens="patches" if of == "patches" else "cls", size=size or 224,
        progress=console.progress,
    )  # fmt: skip
    if form == "picture":
        assert output is not None
        return _draw(found, output)
    if form != "table":
        return deliver(cka.FORMATS[form](found), output)
    _print(found)


def _draw(found: BlockSimilarity, output: Path) -> None:
    from dinobench.report import figures
    from dinobench.report.heat_map import similarity_figure

    write(output, figures.figure_file(similarity_figure(found), figures.format_of(output, figures.FIGURES)))


def _print(found: BlockSimilarity) -> None:
    """Both tables: rows are A's blocks, columns B's."""
    what = "CLS tokens" if found.tokens == "cls" else "mean patch tokens"
    console.text(f"A  {found.a.model}\nB  {found.b.model}\n\n{what} of {found.images:,} images of {found.data}\n")
    for kind, table in (("linear", found.linear), ("debiased", found.debiased)):
        columns = [f"{kind} CKA: A", *(f"B {name.removeprefix('block ')}" for name in found.b.blocks)]
        rows = [[name, *(f"{v:.2f}" for v in row)] for name, row in zip(found.a.blocks, table, strict=True)]
        layout.table("", columns, rows, right=columns[1:])
        console.text("")
