"""Signs of collapse: spread and rank of features, means over an epoch, and a verdict on the epochs so far.

Two measures of the backbone's features are taken every epoch for every network. `feature_std` is how far they spread
over the sphere (SimSiam, arXiv 2011.10566, figure 2): 1 where they are isotropic, 0 where all are the same.
`effective_rank` is over how many directions (Roy and Vetterli 2007; RankMe, arXiv 2210.02885).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dinobench.pretrain.history import finite_values
from dinobench.pretrain.method import MethodOutput
from dinobench.training.step_values import to_device

#: Features kept per process and network, from which an epoch's spread and rank are measured.
RESERVOIR = 2048

# Thresholds of `verdict`. A random ViT starts at a feature_std of 0.1 to 0.3 and a KL above 0.1 when sharpened.

#: Entropy in nats below which the teacher all but always chooses the same output for an image.
ONE_ENTROPY = 0.1
#: Outputs used over a batch, the exponential of the mean output's entropy, below which the teacher uses few of its K.
FEW_OUTPUTS = 4.0
#: Share of log K above which the teacher's entropy is that of the uniform output.
UNIFORM_SHARE = 0.98
#: KL in nats below which the student has nothing left to learn from the teacher.
NO_KL = 0.05
#: A feature_std below the first is a point; so is one below the second that has fallen to the third's share of its
#: highest. DINO passes through 0.1 in its first epochs.
TINY_STD, SMALL_STD, STD_FALL = 0.01, 0.05, 0.25
#: An effective rank below the first is of few dimensions; so is one below the second's share of its highest.
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

    def __init__(self, capacity: int = RESERVOIR, seed: int = 0) -> None:
        self.capacity, self.seen = capacity, 0
        self._rng = np.random.default_rng(seed)
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
            to, of = to_device(torch.tensor([list(taken.keys()), list(taken.values())]), rows.device)
            self._rows.index_copy_(0, to, rows.index_select(0, of).to(torch.float32))

    def state(self) -> dict[str, Any]:
        """All that `restore` needs; the generator's numbers, of 128 bits, as text."""
        generator = json.dumps(self._rng.bit_generator.state)
        return {"seen": self.seen, "rows": self.sample().cpu().clone(), "generator": generator}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from a `state`, so that what is added later is sampled as if nothing had been between."""
        self.seen, rows = int(state["seen"]), state["rows"]
        self._rows = rows.new_empty((self.capacity, rows.shape[1]), device=device)
        self._rows[: len(rows)] = rows
        self._rng.bit_generator.state = json.loads(state["generator"])

    def sample(self) -> torch.Tensor:
        """(min(seen, capacity), d) float32."""
        assert self._rows is not None, "nothing was added"
        return self._rows[: self.seen]


class EpochMeter:
    """Means over an epoch of what every step gave, without waiting for the device before the epoch's end.

    `norms` are the steps' gradient norms, `seconds` what the epoch has taken so far, interruptions left out.
    """

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []
        self._began = time.monotonic()
        self._images = 0
        self._names: tuple[str, ...] = ()
        self._sums: torch.Tensor | None = None
        self._features: dict[str, Reservoir] = {}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @torch.no_grad()
    def add(self, output: MethodOutput, images: int) -> None:
        """Count an output that was averaged over `images` of this process. Every step must have the same stats."""
        names = ("loss", *sorted(output.stats))
        if self._sums is None:
            self._names = names
            # The Apple GPU has no float64; elsewhere the sum of a long epoch should not lose digits.
            dtype = torch.float32 if output.loss.device.type == "mps" else torch.float64
            self._sums = torch.zeros(len(names), dtype=dtype, device=output.loss.device)
        if names != self._names:
            raise ValueError(f"a step logs {', '.join(names)}, an earlier one {', '.join(self._names)}")
        values = [output.loss, *(output.stats[n] for n in names[1:])]
        self._sums += images * torch.stack([v.detach().to(self._sums) for v in values])
        self._images += images
        for network, features in output.features.items():
            self._features.setdefault(network, Reservoir()).add(features)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, of this process: plain values and tensors on the CPU."""
        return {
            "images": self._images,
            "names": list(self._names),
            "sums": [] if self._sums is None else self._sums.tolist(),
            "features": {network: reservoir.state() for network, reservoir in self._features.items()},
            "norms": torch.stack(self.norms).float().cpu() if self.norms else torch.zeros(0),
            "seconds": self.seconds,
        }

    def restore(self, states: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        """Go on from the states of an interrupted epoch: this process's, or several where there were more processes."""
        for state in states:
            if state["images"]:
                self._names = tuple(state["names"])
                dtype = torch.float32 if device.type == "mps" else torch.float64
                sums = torch.tensor(state["sums"], dtype=dtype, device=device)
                self._sums = sums if self._sums is None else self._sums + sums
                self._images += int(state["images"])
            for network, kept in state["features"].items():
                if network not in self._features:
                    self._features[network] = Reservoir()
                    self._features[network].restore(kept, device)
        if states:  # of all processes the same
            self.norms = list(states[0]["norms"].to(device).unbind())
            self._began = time.monotonic() - float(states[0]["seconds"])

    def summary(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Means over all processes' images, and the spread and rank of every network's features.

        `gather` joins the processes' tensors along the first dimension (`Runtime.gather`); all must call this together.
        """
        if self._sums is None:
            return {}
        sums = torch.tensor([*self._sums.tolist(), self._images], dtype=torch.float64)
        totals = gather(sums[None]).sum(0)
        summary = dict(zip(self._names, (totals[:-1] / totals[-1]).tolist(), strict=True))
        for network, reservoir in sorted(self._features.items()):
            features = gather(reservoir.sample().cpu())
            features = features[:: -(-len(features) // RESERVOIR)]
            finite = bool(torch.isfinite(features).all())
            summary[f"{network}_feature_std"] = feature_std(features) if finite else math.nan
            summary[f"{network}_effective_rank"] = effective_rank(features) if finite else math.nan
        return summary


def verdict(history: Sequence[Mapping[str, Any]], outputs: int | None = None) -> str | None:
    """One line when the epochs in `history` show features collapsing, saying which way; None when they do not.

    `outputs` is K, the number of the head's outputs, where there are outputs to be uniform over. The two collapses of
    DINO show in the teacher's entropy, with KL(teacher ‖ student) near 0 (arXiv 2104.14294, figure 7): it goes to 0
    when one dimension wins and to log K when all outputs are alike. Where a batch norm keeps a few dimensions alive,
    it shows in how many outputs the teacher uses over a batch. Other methods are judged by their features.
    A first epoch is not judged: its mean is mostly of the random start.
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
        highest = math.log(outputs) if outputs else None
        uniform = entropy > UNIFORM_SHARE * highest if highest else kl < NO_KL / 5 and entropy > 1
        if uniform:
            limit = f" of at most {highest:.2f}" if highest else ""
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
    std, rank = (finite_values(history, f"{network}_{k}") for k in ("feature_std", "effective_rank"))
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


def _last(history: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return next(reversed(finite_values(history[-1:], key)), None)
