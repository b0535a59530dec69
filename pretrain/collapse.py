"""What a training tells of itself: means over an epoch, signs of collapse, metrics.jsonl, and the curves drawn from it.

Two measures of the backbone's features are taken every epoch for every network. `feature_std` is how far they spread
over the sphere (SimSiam, arXiv 2011.10566, figure 2): 1 where they are isotropic, 0 where all are the same.
`effective_rank` is over how many directions (Roy and Vetterli 2007; RankMe, arXiv 2210.02885).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from dinobench.errors import UserError
from dinobench.pretrain.method import MethodOutput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EpochRow = dict[str, Any]
#: Features kept per process and network, from which an epoch's spread and rank are measured.
RESERVOIR = 2048

# Thresholds of `verdict`. A random ViT starts at a feature_std of 0.1 to 0.3 and a KL above 0.1 when sharpened.
ONE_ENTROPY = 0.1  # nats: the teacher all but always chooses the same output for an image
FEW_OUTPUTS = 4.0  # of K, that the teacher uses over a batch: the exponential of its mean output's entropy
UNIFORM_SHARE = 0.98  # of log K
NO_KL = 0.05  # nats: the student has nothing left to learn from the teacher
TINY_STD, SMALL_STD, STD_FALL = 0.01, 0.05, 0.25  # DINO passes through 0.1 in its first epochs
TINY_RANK, RANK_FALL = 1.5, 0.05


def feature_std(features: torch.Tensor) -> float:
    """Features (n, d) -> the mean over dimensions of the standard deviation of the L2-normalised rows, times √d.

    >>> round(feature_std(torch.eye(64)), 2), round(feature_std(torch.ones(64, 64)), 2)
    (0.99, 0.0)
    """
    unit = F.normalize(features.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean()) * math.sqrt(features.shape[1])


def effective_rank(features: torch.Tensor) -> float:
    """Features (n, d), not centred -> exp of the entropy of their singular values over their sum: 1 .. min(n, d).

    >>> round(effective_rank(torch.eye(64)), 3), round(effective_rank(torch.ones(64, 64)), 3)
    (64.0, 1.0)
    """
    x = features.double()
    gram = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T  # its eigenvalues take a fraction of an SVD's time
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


class Reservoir:
    """A uniform random sample, of bounded size, of all rows ever added (Vitter 1985, algorithm R, by the batch).

    Its random numbers are its own: what is measured does not change what is trained.
    """

    def __init__(self, capacity: int = RESERVOIR) -> None:
        self.capacity, self.seen = capacity, 0
        self._rng = np.random.default_rng(0)
        self._rows: torch.Tensor | None = None

    def add(self, rows: torch.Tensor) -> None:
        """Offer rows (n, d), on any device; the sample stays on it, in float32."""
        rows = rows.detach()
        if self._rows is None:
            self._rows = rows.new_empty((self.capacity, rows.shape[1]), dtype=torch.float32)
        index = np.arange(self.seen, self.seen + len(rows))
        slots = np.where(index < self.capacity, index, self._rng.integers(0, index + 1))
        taken = {int(slot): row for row, slot in enumerate(slots) if slot < self.capacity}  # a later row replaces
        self.seen += len(rows)
        if taken:
            to, of = (torch.tensor(list(t), device=rows.device) for t in (taken.keys(), taken.values()))
            self._rows[to] = rows[of].to(torch.float32)

    def sample(self) -> torch.Tensor:
        """(min(seen, capacity), d) float32."""
        assert self._rows is not None, "nothing was added"
        return self._rows[: self.seen]


class EpochMeter:
    """Means over an epoch of what every step gave, without waiting for the device before the epoch's end."""

    def __init__(self) -> None:
        self._images = 0
        self._names: tuple[str, ...] = ()
        self._sums: torch.Tensor | None = None
        self._features: dict[str, Reservoir] = {}

    @torch.no_grad()
    def add(self, outcome: MethodOutput, images: int) -> None:
        """Count an outcome that was averaged over `images` of this process. Every step must have the same stats."""
        names = ("loss", *sorted(outcome.stats))
        if self._sums is None:
            self._names = names
            # The Apple GPU has no float64; elsewhere the sum of a long epoch should not lose digits.
            kind = torch.float32 if outcome.loss.device.type == "mps" else torch.float64
            self._sums = torch.zeros(len(names), dtype=kind, device=outcome.loss.device)
        if names != self._names:
            raise ValueError(f"a step logs {', '.join(names)}, an earlier one {', '.join(self._names)}")
        values = [outcome.loss, *(outcome.stats[n] for n in names[1:])]
        self._sums += images * torch.stack([v.detach().to(self._sums) for v in values])
        self._images += images
        for network, features in outcome.features.items():
            self._features.setdefault(network, Reservoir()).add(features)

    def summary(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Means over all processes' images, and the spread and rank of every network's features.

        `gather` joins the processes' tensors along the first dimension (`Engine.gather`); all must call this together.
        """
        if self._sums is None:
            return {}
        mine = torch.tensor([*self._sums.tolist(), self._images], dtype=torch.float64)
        totals = gather(mine[None]).sum(0)
        found = dict(zip(self._names, (totals[:-1] / totals[-1]).tolist(), strict=True))
        for network, reservoir in sorted(self._features.items()):
            features = gather(reservoir.sample().cpu())
            features = features[:: -(-len(features) // RESERVOIR)]
            finite = bool(torch.isfinite(features).all())
            found[f"{network}_feature_std"] = feature_std(features) if finite else math.nan
            found[f"{network}_effective_rank"] = effective_rank(features) if finite else math.nan
        return found


def verdict(history: Sequence[Mapping[str, Any]], outputs: int | None = None) -> str | None:
    """One line when the epochs in `history` show features collapsing, saying which way; None when they do not.

    `outputs` is K, the number of the head's outputs, where there are outputs to be uniform over. The two collapses of
    DINO are told by the teacher's entropy, with KL(teacher ‖ student) near 0 (arXiv 2104.14294, figure 7): it goes to 0
    when one dimension wins and to log K when all outputs are alike. Where a batch norm keeps a few dimensions alive,
    how many outputs the teacher uses over a batch tells it. Other methods are judged by their features.
    Nothing is said of a first epoch: its mean is mostly of the random start.
    """
    if len(history) < 2:
        return None
    entropy, kl = (_last(history, k) for k in ("teacher_entropy", "kl"))
    if entropy is not None and kl is not None and kl < NO_KL:
        if entropy < ONE_ENTROPY:
            return (
                f"collapsing to one dimension: the teacher's entropy is {entropy:.3f} and KL {kl:.3f}, so that every "
                "image gets the same output; is centring on?"
            )
        known = math.log(outputs) if outputs else None
        uniform = entropy > UNIFORM_SHARE * known if known else kl < NO_KL / 5 and entropy > 1
        if uniform:
            limit = f" of at most {known:.2f}" if known else ""
            return (
                f"collapsing to the uniform output: the teacher's entropy is {entropy:.2f}{limit} and KL {kl:.3f}; "
                "is sharpening on (a teacher temperature below the student's)?"
            )
    mean_entropy = _last(history, "teacher_mean_entropy")
    if mean_entropy is not None and math.exp(mean_entropy) < FEW_OUTPUTS:
        return (
            f"collapsing to one dimension: the teacher uses {math.exp(mean_entropy):.1f} of its outputs over a batch, "
            f"with an entropy of {entropy or 0:.3f} for an image; is centring on?"
        )
    return next(filter(None, (_feature_verdict(history, network) for network in ("teacher", "student"))), None)


def _feature_verdict(history: Sequence[Mapping[str, Any]], network: str) -> str | None:
    std, rank = (_numbers(history, f"{network}_{k}") for k in ("feature_std", "effective_rank"))
    if std and (std[-1] < TINY_STD or (std[-1] < SMALL_STD and std[-1] < STD_FALL * max(std))):
        return (
            f"collapsing to a point: the standard deviation of the {network}'s features is {std[-1]:.4f} "
            f"(from {max(std):.3f}; 1 is spread evenly), so that all images look alike"
        )
    if rank and (rank[-1] < TINY_RANK or rank[-1] < RANK_FALL * max(rank)):
        return (
            f"collapsing to few dimensions: the effective rank of the {network}'s features is {rank[-1]:.1f} "
            f"(from {max(rank):.1f})"
        )
    return None


def _numbers(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = (row.get(key) for row in history)
    return [float(v) for v in values if v is not None and math.isfinite(v)]


def _last(history: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next(reversed(_numbers(history[-1:], key)), None)


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to metrics.jsonl as one line. Numbers that are not finite become null, as JSON has none.

    A line that an interrupted run left unfinished is taken away first.
    """
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    line = json.dumps(clean, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        file.seek(0)
        whole = file.read()
        if not whole.endswith(b"\n"):
            file.truncate(whole.rfind(b"\n") + 1)
        file.write(line.encode())  # append mode writes at the end, wherever it was read


def read_metrics(path: Path) -> list[EpochRow]:
    """The rows of metrics.jsonl, in order; none where there is no such file.

    An unfinished last line is left out, and where a resumed run repeated an epoch the later row counts.
    Raises UserError when another line is no JSON object.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line break was not finished
    rows: dict[Any, EpochRow] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not a JSON object; remove the line")
        key = row.get("epoch", f"line {number}")
        rows.pop(key, None)
        rows[key] = row
    return list(rows.values())


def tensorboard(folder: Path) -> Any | None:
    """A TensorBoard writer (`add_scalar(name, value, step)`, `close()`), or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


#: What `curves` draws besides evaluations: a panel's title, and its keys in metrics.jsonl with what they are called.
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


def curves(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Draw a training's epochs into a PNG file: what PANELS names and is there, then evaluations.

    Evaluations have keys such as "knn/teacher/top1@k20"; networks share a panel. Draws nothing from no epochs.
    """
    panels = [(name, {k: label for k, label in keys.items() if _numbers(history, k)}) for name, keys in PANELS]
    panels = [(name, keys) for name, keys in panels if keys] + _evaluations(history)
    if not panels:
        return
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
        figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def collapse_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, outputs: int | None = None) -> None:
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
    axes[0].legend(fontsize=7)
    figure.savefig(path)


def _evaluations(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """Panels of "protocol/network/metric" keys: one per protocol and metric, a line per network."""
    panels: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(k for row in history for k in row if k.count("/") == 2):
        protocol, network, metric = key.split("/")
        if _numbers(history, key):
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
    points = [(row.get("epoch", i), row[key]) for i, row in enumerate(history) if _numbers([row], key)]
    if points:
        x, y = zip(*points, strict=True)
        axis.plot(x, y, label=label, linewidth=1.2, marker="o" if len(points) < 30 else "", markersize=2.5)
