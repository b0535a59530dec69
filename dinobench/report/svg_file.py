"""Lines or bars as a file of their own: SVG, the same bytes for the same numbers, on light and on dark pages."""

from __future__ import annotations

from xml.sax.saxutils import escape

from dinobench.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Bars, Chart

#: Rows of the legend, each with so many names side by side, and the heights of title and row.
BESIDE, TITLE, ROW = 2, 22, 16
#: Of bars: where they begin and end, between their names and their values, and how high one is.
FROM, TO, THICK = 130, WIDTH - 44, 9
STYLE = """
text { font: 10.5px system-ui, sans-serif; fill: #565d64 } .title { font-size: 12px; font-weight: 600; fill: #1a1d20 }
.grid { stroke: #e3e6e8 } .axis { stroke: #b9bfc4 } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.band { opacity: .13; stroke: none } .d1 { stroke-dasharray: 5 3 } .d2 { stroke-dasharray: 1.5 3 }
.t0 { --tone: #0b6a5b } .t1 { --tone: #b4530b } .t2 { --tone: #3459b8 } .t3 { --tone: #9b2f6f }
.t4 { --tone: #6b7280 } .t5 { --tone: #7a6a00 } .t6 { --tone: #0c7fa6 } .t7 { --tone: #7446b0 }
.track { fill: #f1f3f4 } .bar { fill: #8fb8b0 } .best { fill: #3f9484 } .span { stroke: #1a1d20 }
.line { stroke: var(--tone) } .band, circle { fill: var(--tone) }
@media (prefers-color-scheme: dark) {
text { fill: #a3abb2 } .title { fill: #e6e8ea } .grid { stroke: #2b3136 } .axis { stroke: #4a535a }
.track { fill: #23282c } .bar { fill: #3d6f67 } .best { fill: #4fae9b } .span { stroke: #e6e8ea }
.t0 { --tone: #5ecdb6 } .t1 { --tone: #f0a35e } .t2 { --tone: #8fb0ff } .t3 { --tone: #ee8fc2 }
.t4 { --tone: #aab2bb } .t5 { --tone: #d9c84a } .t6 { --tone: #62c6ea } .t7 { --tone: #bf9bf5 }
}
"""


def to_svg(chart: Chart) -> str:
    """The chart with its title above and its lines' names below. A line without a path is drawn as dots alone."""
    rows = -(-len(chart.lines) // BESIDE)
    height = TITLE + HEIGHT + rows * ROW + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" role="img" '
        f'aria-label="{_attribute(f"{chart.title}: {chart.y_label} over {chart.x_label}")}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT - 36}" y="14">{escape(chart.title)}</text>',
        f'<g transform="translate(0 {TITLE})">',
        *_axes(chart),
    ]
    for line in chart.lines:
        if line.band:
            parts.append(f'<path class="band t{line.tone % 8}" d="{line.band}"/>')
    for line in chart.lines:
        if line.path:
            parts.append(f'<path class="line {_classes(line.tone)}" d="{line.path}"/>')
        for x, y, says in line.dots:
            dot = f'<circle class="t{line.tone % 8}" cx="{x}" cy="{y}" r="2.6"><title>{escape(says)}</title></circle>'
            parts.append(dot)
    parts += ["</g>", *_legend(chart)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def bars_to_svg(bars: Bars) -> str:
    """The bars with their names before and their values behind them, and their intervals as lines; the best first."""
    height, share = TITLE + ROW * (len(bars.bars) + 2) + 2, (TO - FROM) / 100
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" role="img" '
        f'aria-label="{_attribute(f"{bars.title}: {bars.note}")}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="0" y="14">{escape(bars.title)}</text>',
    ]
    for number, bar in enumerate(bars.bars):
        y, kind = TITLE + number * ROW, "bar best" if bar.best else "bar"
        x, wide = round(FROM + share * bar.left, 1), round(share * bar.width, 1)
        parts += [
            f"<g><title>{escape(f'{bar.label}: {bar.detail}')}</title>",
            f'<text x="{FROM - 6}" y="{y + THICK}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="track" x="{FROM}" y="{y}" width="{TO - FROM}" height="{THICK}"/>',
            f'<rect class="{kind}" x="{x}" y="{y}" width="{wide}" height="{THICK}"/>',
        ]
        if bar.low is not None and bar.high is not None:
            low, high = (round(FROM + share * bound, 1) for bound in (bar.low, bar.high))
            parts.append(f'<path class="span" d="M{low} {y + THICK / 2}H{high}"/>')
        parts += [f'<text x="{TO + 6}" y="{y + THICK}">{escape(bar.text)}</text>', "</g>"]
    for up, foot in ((21, bars.note), (5, f"bars from {bars.start} to {bars.end}, lines are 95 % intervals")):
        parts.append(f'<text x="0" y="{height - up}">{escape(foot)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(chart: Chart) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for y, label in chart.y_ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{round(y + 3.5, 1)}" text-anchor="end">{escape(label)}</text>')
    for x, label in chart.x_ticks:
        parts.append(f'<path class="axis" d="M{x} {bottom}v4"/>')
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{escape(label)}</text>')
    middle = (LEFT + right) // 2
    return [
        *parts,
        f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>',
        f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(chart.x_label)}</text>',
        f'<text x="{LEFT}" y="2">{escape(chart.y_label)}</text>',
    ]


def _legend(chart: Chart) -> list[str]:
    parts = []
    for number, line in enumerate(chart.lines):
        row, column = divmod(number, BESIDE)
        x, y = LEFT - 36 + column * WIDTH // BESIDE, TITLE + HEIGHT + row * ROW + 10
        mark = f'<path class="line {_classes(line.tone)}" d="M{x} {y - 4}h18"/>'
        if not line.path:
            mark = f'<circle class="t{line.tone % 8}" cx="{x + 9}" cy="{y - 4}" r="2.6"/>'
        parts += [mark, f'<text x="{x + 23}" y="{y}">{escape(line.name)}</text>']
    return parts


def _classes(tone: int) -> str:
    dash = tone // 8 % 3
    return f"t{tone % 8}" + (f" d{dash}" if dash else "")


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
