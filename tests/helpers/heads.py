"""What each of two processes does that train linear heads."""

from __future__ import annotations

import dataclasses
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.contexts import WatchedContext, clusters
from helpers.fakes import FakeBackbone

from dinobench.data.image_split import array_split, assemble
from dinobench.distributed import gather_rows
from dinobench.metrics.classification import Truth
from dinobench.protocols.linear import profiles, run
from dinobench.runtime import one_thread
from dinobench.signals import Interrupted
from dinobench.training.linear_classifiers import ClassifierSpec, FeatureLayout, FeatureRows, LinearClassifiers
from dinobench.types import Features, ImageClassification, Result

CPU = torch.device("cpu")
SMALL = dataclasses.replace(
    profiles["cached"], lr=(1e-3, 1e-1), blocks=(1, 2), epochs=3, minimum_steps=10, batch=128, resize=8, crop=8,
    min_scale=0.5,
)  # fmt: skip
LAYOUT = FeatureLayout(blocks=2, mean_patch=True, dim=5)
RATES = (0.01, 0.1, 0.5, 1e38)  # the last one's head diverges
#: Heads by whether two processes have whole kinds of them, divide one, leave one process idle.
SPECS = {
    "whole": [ClassifierSpec(b, m, r) for b in (1, 2) for m in (False, True) for r in RATES],
    "divided": [ClassifierSpec(2, True, r) for r in RATES],
    "idle": [ClassifierSpec(2, False, 0.1)],
}


def colors() -> ImageClassification:
    """Images of one colour that tells the class, up to noise."""
    rng = np.random.default_rng(0)

    def split(name: str, n: int) -> Any:
        labels = np.arange(n) % 3
        pixels = 40 * np.eye(3)[labels] + rng.integers(60, 140, (n, 3))
        images = np.broadcast_to(pixels[:, None, None].astype(np.uint8), (n, 8, 8, 3))
        return array_split(name, np.ascontiguousarray(images), [f"{name}/{i}" for i in range(n)], labels)

    return assemble("colors", "array", ["red", "green", "blue"], split("train", 120), split("test", 60))


class JoinedContext(WatchedContext):
    """One of the processes of a group."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rank, self.processes = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def shard(self, n: int) -> slice:
        return slice(n * self.rank // self.processes, n * (self.rank + 1) // self.processes)

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return gather_rows(part).cpu()


def trained(name: str, whole: bool, state: dict[str, Any] | None = None, **process: int) -> dict[str, Any]:
    """Three steps of `SPECS[name]`, from a state or the start, and all that can be asked afterwards.

    `whole`: on twelve images, all of them in every step, instead of on sixty.
    """
    vectors, y = (torch.from_numpy(a) for a in clusters(60, 4, LAYOUT.width, 1.0))
    x = vectors.float()
    features = Features(x[:, :10].reshape(60, 2, 5).numpy(), np.stack([x[:, 10:].numpy()] * 2, axis=1), np.arange(60))
    rows, truth = FeatureRows(features, LAYOUT, np.arange(60), CPU), Truth(y)
    batch = slice(12 if whole else 60)
    made = LinearClassifiers(
        LAYOUT, SPECS[name], 4, seed=3, device=CPU, whole=x[batch] if whole else None, scale=2.0, **process
    )
    if state is not None:
        assert made.restore(state)
    counts = torch.arange(1.0, 13) if whole else None
    losses = [made.of_all(made.step(x[batch], y[batch], 1 - i / 10, i, counts)) for i in range(3)]
    made.check(3)
    return {
        "own": len(made.diverged_at), "losses": torch.stack(losses), "diverged_at": made.of_all(made.diverged_at),
        "evaluated": made.evaluate(rows, truth), "predicted": made.predict(rows, len(made) - 1, truth),
        "state": made.state(),
    }  # fmt: skip


def train_apart(rank: int, folder: str) -> None:
    """`trained` of every kind, from the start and from there on, in two processes; kept by each."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in SPECS:
        for whole in (False, True):
            first = trained(name, whole, rank=rank, processes=2)
            second = trained(name, whole, first["state"], rank=rank, processes=2)
            torch.save([first, second], Path(folder) / f"{name}-{whole}-{rank}.pt")
    torch.distributed.destroy_process_group()


#: Features of the protocol's run, what ends it after how many steps, and how many are left from the state then saved.
ENDS = [
    ("extracted", "error", 10),
    ("augmented", "error", 10),
    ("extracted", "signal", 10),
    ("augmented", "signal", 15),
]


def run_twice(rank: int, folder: str) -> None:
    """The protocol in two processes, ended as `ENDS` says, and again to its end."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for features, stop, _ in ENDS:
        _run_twice(rank, Path(folder) / f"{features}-{stop}", features, stop)
    torch.distributed.destroy_process_group()


def _run_twice(rank: int, folder: Path, features: str, stop: str) -> None:
    """An error in the third of three epochs of ten steps, or a signal to the second process in the second."""
    config, seen = dataclasses.replace(SMALL, features=features), []
    scratch = folder / "scratch"

    def end(item: Any) -> None:
        seen.append(item)
        if stop == "error" and len(seen) == 25:
            raise Interrupted(signal.SIGTERM)
        if stop == "signal" and len(seen) == 14 and rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    with suppress(Interrupted):
        run(FakeBackbone(), colors(), config, JoinedContext(scratch=scratch, each=end))
    torch.distributed.barrier()
    if rank == 0:
        (path,) = scratch.glob("linear-*.pt")
        (folder / "interrupted.pt").write_bytes(path.read_bytes())
    torch.distributed.barrier()
    rest: list[Any] = []
    result = run(FakeBackbone(), colors(), config, JoinedContext(scratch=scratch, each=rest.append))
    result.items.to_json(folder / f"items-{rank}.json", double_precision=15)
    kept = {"steps": len(rest), "metrics": result.metrics, "notes": result.notes}
    torch.save(kept, folder / f"result-{rank}.pt")


def alone(features: str, **options: Any) -> Result:
    """The protocol in one process."""
    config = dataclasses.replace(SMALL, features=features)
    with one_thread():
        return run(FakeBackbone(), colors(), config, WatchedContext(**options))
