"""Pictures of trainings, drawn from their histories: the curves of one, and the collapses of several side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinobench import console
from dinobench.files import atomic_path
from dinobench.pretrain.history import finite_values
from dinobench.registry import said

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NETWORKS = ("teacher", "student")
#: What `curves_figure` draws besides evaluations: a panel's title, and its keys in metrics.jsonl with their labels.
PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("loss", {"loss": "loss"}),
    ("accuracy", {"accuracy": "accuracy"}),
    ("cosine of prediction and target", {"cosine": "cosine"}),
    (
        "entropy and KL (nats)",
        {
            "teacher_entropy": "teacher's entropy",
            "teacher_mean_entropy": "its mean output's entropy",
            "target_entropy": "targets' entropy",
            "kl": "KL(teacher ‖ student)",
        },
    ),
    ("spread of features (1 = even)", {f"{n}_feature_std": n for n in NETWORKS}),
    ("effective rank of features", {f"{n}_effective_rank": n for n in NETWORKS}),
    ("gradient norm", {"grad_norm": "before clipping", "gradient_norm": "before clipping"}),
    ("learning rate", {"lr": "learning rate"}),
    ("weight decay", {"weight_decay": "weight decay"}),
    ("teacher's momentum", {"momentum": "momentum"}),
    ("teacher's temperature", {"teacher_temperature": "temperature"}),
)
#: While a training goes on, drawing takes this share of its time, and waits so many seconds between evaluations.
SHARE, SECONDS = 0.01, 120.0
#: Points from a panel to its legend, below the numbers and the word "epoch"; and how wide a legend may be.
LEGEND_BELOW, LEGEND_WIDTH = 28, 260
#: Seconds that drawing is taken to take before the first time, which imports matplotlib.
FIRST = 1.0


class CurvesWriter:
    """Keeps a training's picture up to date while it goes on, seldom enough to cost next to nothing.

    A picture that cannot be drawn or written is warned of once, and stops nothing.
    """

    def __init__(self, path: Path, title: str) -> None:
        self._path, self._title = path, title
        self._drawn, self._took, self._told = time.monotonic(), FIRST, False

    def follow(self, history: Sequence[Mapping[str, Any]], scored: bool) -> None:
        """Draw if it is time to; sooner where the last epoch was `scored`."""
        if time.monotonic() - self._drawn >= max(self._took / SHARE, 0.0 if scored else SECONDS):
            self.draw(history)

    def draw(self, history: Sequence[Mapping[str, Any]]) -> None:
        began = time.monotonic()
        try:
            write_curves(history, self._path, self._title)
        except Exception as error:  # the numbers are in metrics.jsonl
            if not self._told:
                console.warn(f"{self._path}: cannot be drawn ({said(error)}); the training does not need it")
            self._told = True
        self._drawn = time.monotonic()
        self._took = self._drawn - began


def write_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """`curves_figure` as a PNG file, whole or not at all; none where there is nothing to draw."""
    figure = curves_figure(history, title)
    if figure is not None:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png")


@dataclass(frozen=True)
class _Curve:
    """A line of a panel: `what` of several metrics it is, and of which network, each "" where there is but one kind."""

    key: str
    what: str = ""
    network: str = ""

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.network, self.what)))


@dataclass
class _Panel:
    title: str
    curves: list[_Curve] = field(default_factory=list)


def curves_figure(history: Sequence[Mapping[str, Any]], title: str = "") -> Figure | None:
    """A training's epochs: each protocol's primary metric, what PANELS names, then the protocols' other metrics.

    Evaluations have keys such as "knn/teacher/top1@k20", a protocol's primary metric first; networks share a panel, and
    so do the variants of a metric, which differ behind @. None where there is nothing to draw.
    """
    primary, other = _evaluations(history)
    panels = [*primary, *_known(history), *other]
    if not panels:
        return None
    columns = min(3, len(panels))
    figure, axes = _figure(-(-len(panels) // columns), columns)
    epochs = [row.get("epoch", i) for i, row in enumerate(history)]
    first, last = min(epochs), max(epochs)
    pad = 0.03 * (last - first) or 0.5
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, history)
        axis.set_xlim(first - pad, last + pad)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def collapse_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]], outputs: int | None = None) -> Figure:
    """The teacher's entropy and KL over the epochs of several runs, by name: the paper's Figure 7 (arXiv 2104.14294).

    `outputs` draws log K, the entropy of the uniform output.
    """
    figure, axes = _figure(1, 2, height=3.2)
    for axis, key, name in zip(
        axes, ("teacher_entropy", "kl"), ("teacher's entropy", "KL(teacher ‖ student)"), strict=True
    ):
        for run, history in runs.items():
            _line(axis, history, key, run)
        axis.set_title(f"{name} (nats)", fontsize=9)
    if outputs:
        axes[0].axhline(math.log(outputs), color="0.6", linestyle=":", linewidth=1)
        axes[0].annotate(
            "log K", (0.01, math.log(outputs)), xycoords=("axes fraction", "data"), fontsize=7, color="0.4"
        )
    for text in axes[0].legend(fontsize=7).get_texts():
        text.set_parse_math(False)  # a folder's name may hold any sign
    return figure


def _known(history: Sequence[Mapping[str, Any]]) -> Iterator[_Panel]:
    """What of PANELS is there."""
    for title, keys in PANELS:
        curves = [
            _Curve(key, network=label) if label in NETWORKS else _Curve(key, label)
            for key, label in keys.items()
            if finite_values(history, key)
        ]
        if curves:
            yield _Panel(title, curves)


def _evaluations(history: Sequence[Mapping[str, Any]]) -> tuple[list[_Panel], list[_Panel]]:
    """Panels of "protocol/network/metric" keys, one for the variants of a metric: the primary ones, then the others."""
    families: dict[str, dict[str, list[list[str]]]] = {}
    for key in dict.fromkeys(k for row in history for k in row if k.count("/") == 2):
        protocol, network, metric = key.split("/")
        if finite_values(history, key):
            family = families.setdefault(protocol, {}).setdefault(metric.partition("@")[0], [])
            family.append([key, metric, network])
    panels: tuple[list[_Panel], list[_Panel]] = ([], [])
    for protocol, metrics in families.items():
        first: list[str] = []
        for place, (name, found) in enumerate(metrics.items()):
            alone = len({metric for _, metric, _ in found}) == 1
            title = f"{protocol}: {found[0][1] if alone else name}"
            curves = [
                _Curve(key, "" if alone else metric.removeprefix(f"{name}@"), network) for key, metric, network in found
            ]
            if place:  # as in the protocol's first panel
                curves.sort(key=lambda curve: first.index(curve.what) if curve.what in first else len(first))
            else:
                first = [curve.what for curve in curves]
            panels[place > 0].append(_Panel(title, curves))
    return panels


def _figure(rows: int, columns: int, height: float = 2.4) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # it belongs to no window, unlike pyplot's

    figure = Figure(figsize=(3.6 * columns, height * rows + 0.3), dpi=150, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("epoch", fontsize=7)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.ticklabel_format(axis="y", scilimits=(-3, 5), useOffset=False)  # of an entropy near log K too
        axis.yaxis.get_offset_text().set_fontsize(7)
    return figure, axes


def _draw(axis: Axes, panel: _Panel, history: Sequence[Mapping[str, Any]]) -> None:
    """A panel's lines: a colour for each metric, or for each network of one; the student's are dashed beside another's.

    Of several metrics the first, a protocol's primary one, is the thickest.
    """
    whats = list(dict.fromkeys(curve.what for curve in panel.curves))
    networks = [n for n in NETWORKS if any(curve.network == n for curve in panel.curves)]
    styles = dict(zip(networks, ("-", "--"), strict=False))
    for curve in panel.curves:
        color = whats.index(curve.what) if len(whats) > 1 else [*networks, curve.network].index(curve.network)
        _line(
            axis, history, curve.key, curve.label, color=f"C{color % 10}", linestyle=styles.get(curve.network, "-"),
            linewidth=1.6 if curve.what == whats[0] and len(whats) > 1 else 1.1,
        )  # fmt: skip
    axis.set_title(panel.title, fontsize=9, parse_math=False)
    if len(panel.curves) > 1:
        _legend(axis, whats, styles)


def _legend(axis: Axes, whats: Sequence[str], styles: Mapping[str, Any]) -> None:
    """Below the panel, where it hides nothing: of several metrics on two networks the colours and the two strokes."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    handles = axis.get_lines()
    if len(whats) > 1 and len(styles) > 1:
        handles = [Line2D([], [], color=f"C{i % 10}", label=what) for i, what in enumerate(whats)]
        handles += [Line2D([], [], color="0.4", linestyle=style, label=name) for name, style in styles.items()]
    longest = max(len(str(handle.get_label())) for handle in handles)
    below = axis.transAxes + ScaledTranslation(0, -LEGEND_BELOW / 72, axis.figure.dpi_scale_trans)
    axis.legend(
        handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, frameon=False,
        ncols=min(len(handles), max(1, LEGEND_WIDTH // (4 * longest + 30))), borderaxespad=0, handlelength=1.8,
        columnspacing=1.2,
    )  # fmt: skip


def _line(axis: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str, **look: Any) -> None:
    """One curve; epochs without a finite value are left out, and points marked where there are few."""
    points = [(row.get("epoch", i), row[key]) for i, row in enumerate(history) if finite_values([row], key)]
    if points:
        x, y = zip(*points, strict=True)
        look = {"linewidth": 1.2, "marker": "o" if len(points) < 30 else "", "markersize": 2.5, **look}
        axis.plot(x, y, label=label, **look)
