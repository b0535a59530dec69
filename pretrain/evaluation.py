"""Scoring while training: any protocol on the teacher and the student of a checkpoint, every few epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dinobench import console, registry
from dinobench.config import resolve_config, settings_of
from dinobench.data import load_dataset
from dinobench.errors import UserError
from dinobench.pretrain import backbones, checkpoints
from dinobench.pretrain.run import Run
from dinobench.runtime import Runtime
from dinobench.types import ComputeOptions, LoadOptions, RunRecord

#: An image is resized to so many times its crop before scoring, as 256 is to 224.
RESIZE = 256 / 224

#: (checkpoint file, epochs done: 0 before the first step) -> metrics by "protocol/network/metric", as in
#: "knn/teacher/top1@k20".
Evaluate = Callable[[Path, int], dict[str, float]]
#: dinobench.runner.run. The runner stands above this package, so that callers hand it in.
Score = Callable[..., Sequence[RunRecord]]


def check(run: Run) -> None:
    """Raises UserError now, and not after the first epochs, when a protocol or a setting of it is unknown."""
    for name in run.evals:
        _settings(name, run)


def check_data(run: Run) -> None:
    """Raises UserError now, and not after the first epochs, when what `run` is to be scored on is not there."""
    for name in run.evals:
        kind = registry.load(name).data
        try:
            load_dataset(run.eval_data or run.data, kind, progress=console.progress)
        except UserError as error:
            remedy = "give another --eval-data" if run.eval_data else f"name {_a_set(kind)} with --eval-data"
            raise UserError(f"--eval {name}: {error}; {remedy}, or leave --eval out") from error


def _a_set(kind: str) -> str:
    return "a set with labels and a test split" if kind == "classification" else f"a data set of {kind}"


def _settings(name: str, run: Run) -> dict[str, Any]:
    """What the user set; else the images come at the size that the run trains at."""
    protocol = registry.load(name)
    chosen: dict[str, Any] = dict(run.eval_settings)
    config = next(iter(protocol.profiles.values()))
    if {"resize", "crop"} <= settings_of(config).keys() and not {"resize", "crop"} & chosen.keys():
        chosen |= {"resize": round(RESIZE * run.image_size), "crop": run.image_size}
    resolve_config(protocol, None, chosen)
    return chosen


def evaluator(run: Run, name: str, score: Score, runtime: Runtime, compute: ComputeOptions) -> Evaluate:
    """What scores the checkpoints of `run`: records like any other, called NAME-eEPOCH-NETWORK, and their metrics.

    Before the first step teacher and student are the same: one record, called after the student, is of both.
    """
    chosen = backbones.choose(run.arch, run.image_size, run.patch_size, run.depth)
    arch = None if chosen.recognisable else run.arch

    def evaluate(path: Path, epoch: int) -> dict[str, float]:
        state = checkpoints.read(path)
        networks = _networks(state, epoch)
        tf32 = torch.backends.cudnn.allow_tf32
        scores: dict[str, float] = {}
        for protocol in run.evals:
            for network, alike in networks.items():
                records = score(
                    protocol, f"{name}-e{epoch:03d}-{network}={path}", run.eval_data or run.data,
                    settings=_settings(protocol, run), out=run.results, seed=int(run.config["seed"]), compute=compute,
                    skip_broken=run.skip_broken,
                    loading=LoadOptions(key=network, arch=arch),
                )  # fmt: skip
                for one in alike:
                    scores |= _by_key(protocol, one, records)
        # What a run changes for itself goes back to what the training has.
        torch.backends.cudnn.allow_tf32 = tf32
        console.silent = runtime.rank > 0
        return scores

    return evaluate


def _networks(state: Mapping[str, Any], epoch: int) -> dict[str, tuple[str, ...]]:
    """The networks of a checkpoint that are scored, each with all that have its scores."""
    there = tuple(n for n in ("teacher", "student") if isinstance(state.get(n), Mapping))
    if epoch == 0 and len(there) == 2:
        teacher, student = (_backbone(state[n]) for n in there)
        if teacher.keys() == student.keys() and all(torch.equal(teacher[n], student[n]) for n in teacher):
            return {"student": there}
    return {n: (n,) for n in there}


def _backbone(network: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {name.removeprefix("module."): tensor for name, tensor in network.items()}
    return {name: tensor for name, tensor in plain.items() if name.startswith("backbone.")}


def _by_key(protocol: str, network: str, records: Sequence[RunRecord]) -> dict[str, float]:
    """Metrics by "protocol/network/metric", a record's primary one first."""
    return {
        f"{protocol}/{network}/{name}": r.metrics[name].value
        for r in records
        for name in sorted(r.metrics, key=lambda name: name != r.primary)
    }


def primary_scores(row: Mapping[str, Any]) -> list[str]:
    """Of an epoch's row, the primary metric of each protocol on each network, as in "knn/teacher/top1@k20 81.25"."""
    first: dict[str, str] = {}
    for key, value in row.items():
        if key.count("/") == 2:
            first.setdefault(key.rpartition("/")[0], f"{key} {value:.2f}")
    return list(first.values())
