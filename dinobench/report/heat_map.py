"""A picture for papers: how alike the blocks of two backbones are, as heat maps over the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinobench.compare.cka import BlockSimilarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches of a block's cell, within these bounds for the whole map.
CELL, LEAST, MOST = 0.3, 2.2, 7.0
#: Blocks that are named on an axis at most.
NAMED = 13


def similarity_figure(found: BlockSimilarity) -> Figure:
    """Linear and debiased CKA side by side on one colour scale from 0 to 1; debiased values below 0 are shown as 0.

    The figure belongs to no window; save it with `dinobench.report.figures.figure_file`.
    """
    from matplotlib.figure import Figure

    rows, columns = found.linear.shape
    height, width = (min(MOST, max(LEAST, CELL * n)) for n in (rows, columns))
    figure = Figure(figsize=(2 * width + 2.4, height + 1.1), dpi=200, layout="constrained")
    axes = figure.subplots(1, 2, squeeze=False)[0]
    for axis, kind, table in zip(axes, ("linear", "debiased"), (found.linear, found.debiased), strict=True):
        image = axis.imshow(table, origin="lower", cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"{kind} CKA", fontsize=9)
        axis.set_xlabel(_axis(found.b.model, found.b.blocks), fontsize=8, parse_math=False)
        axis.set_xticks(*_ticks(found.b.blocks), fontsize=7)
        axis.set_yticks(*_ticks(found.a.blocks), fontsize=7)
    axes[0].set_ylabel(_axis(found.a.model, found.a.blocks), fontsize=8, parse_math=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.ax.tick_params(labelsize=7)
    what = "CLS tokens" if found.tokens == "cls" else "mean patch tokens"
    figure.suptitle(f"{what} of {found.images:,} images of {found.data}", fontsize=9, parse_math=False)
    return figure


def _axis(model: str, blocks: tuple[str, ...]) -> str:
    return f"{model}, block" if len(blocks) > 1 else model


def _ticks(blocks: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """Places and names: the numbers of some blocks, evenly."""
    if len(blocks) == 1:
        return [0], [blocks[0]]
    step = -(-len(blocks) // NAMED)
    places = list(range(0, len(blocks), step))
    return places, [blocks[i].removeprefix("block ") for i in places]
