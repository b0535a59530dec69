"""Pictures of trainings, drawn from their histories: the curves of one, and the collapses of several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinobench.pretrain.history import finite_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    ("spread of features (1 = even)", {f"{n}_feature_std": n for n in ("student", "teacher")}),
    ("effective rank of features", {f"{n}_effective_rank": n for n in ("student", "teacher")}),
    ("gradient norm", {"grad_norm": "before clipping", "gradient_norm": "before clipping"}),
    ("learning rate", {"lr": "learning rate"}),
    ("weight decay", {"weight_decay": "weight decay"}),
    ("teacher's momentum", {"momentum": "momentum"}),
    ("teacher's temperature", {"teacher_temperature": "temperature"}),
)


def write_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """`curves_figure` as a PNG file; none where there is nothing to draw."""
    figure = curves_figure(history, title)
    if figure is not None:
        figure.savefig(path)


def curves_figure(history: Sequence[Mapping[str, Any]], title: str = "") -> Figure | None:
    """A training's epochs: what PANELS names and is there, then evaluations. None where there is nothing to draw.

    Evaluations have keys such as "knn/teacher/top1@k20"; networks share a panel.
    """
    panels = [(name, {k: label for k, label in keys.items() if finite_values(history, k)}) for name, keys in PANELS]
    panels = [(name, keys) for name, keys in panels if keys] + _evaluations(history)
    if not panels:
        return None
    columns = min(3, len(panels))
    figure, axes = _figure(-(-len(panels) // columns), columns)
    for axis, (name, keys) in zip(axes, panels, strict=False):
        for key, label in keys.items():
            _line(axis, history, key, label)
        axis.set_title(name, fontsize=9)
        if len(keys) > 1:
            axis.legend(fontsize=7)
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


def _evaluations(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """Panels of "protocol/network/metric" keys: one per protocol and metric, a line per network."""
    panels: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(k for row in history for k in row if k.count("/") == 2):
        protocol, network, metric = key.split("/")
        if finite_values(history, key):
            panels.setdefault(f"{protocol}: {metric}", {})[key] = network
    return list(panels.items())


def _figure(rows: int, columns: int, height: float = 2.4) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # it belongs to no window, unlike pyplot's

    figure = Figure(figsize=(3.6 * columns, height * rows + 0.3), dpi=150, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.set_xlabel("epoch", fontsize=7)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _line(axis: Axes, history: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    """One curve; epochs without a finite value are left out, and points marked where there are few."""
    points = [(row.get("epoch", i), row[key]) for i, row in enumerate(history) if finite_values([row], key)]
    if points:
        x, y = zip(*points, strict=True)
        axis.plot(x, y, label=label, linewidth=1.2, marker="o" if len(points) < 30 else "", markersize=2.5)
