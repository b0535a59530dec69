"""Training checkpoints in the layout of DINO's release, with what an exact resume needs beside it.

`student` (`module.backbone.*`, `module.head.*`), `teacher` (`backbone.*`, `head.*`), `optimizer`, `epoch` (epochs
done), `args` and `dino_loss` are what facebookresearch/dino writes and reads. `dinobench` is ours: the step, the
method's other buffers, the metrics of the last epoch, and what the backbone's tensors do not tell. Learning rates,
order, views and dropout are functions of the step, so that no random state needs to be kept.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dinobench.errors import UserError
from dinobench.models import checkpoint
from dinobench.pretrain import backbones
from dinobench.pretrain import run as runs
from dinobench.pretrain.method import Method, MethodConfig, NetworkSpec
from dinobench.pretrain.optim import load_optimizer
from dinobench.training.randomness import own_randomness

LATEST = "checkpoint.pth"
SCHEMA = 1
#: Where DINO's release keeps the centre, and where our module does.
CENTER = "centering.center"


@dataclass(frozen=True)
class Progress:
    """How far a training is: optimizer steps done, and the metrics of the epoch that the last of them ended.

    Within an epoch `meters` are the sums over its steps so far, of every process (`collapse.EpochMeter.state`).
    """

    step: int = 0
    row: dict[str, float] = dataclasses.field(default_factory=dict)
    meters: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def numbered(epoch: int) -> str:
    """The name of a checkpoint that is kept."""
    return f"checkpoint{epoch:04d}.pth"


def save(
    path: Path,
    method: Method,
    optimizer: torch.optim.Optimizer,
    args: dict[str, Any],
    progress: Progress,
    steps_per_epoch: int,
) -> None:
    """Write a checkpoint atomically; `args` are plain values. Raises UserError when the disk does not take it."""
    others = {n: t for n, t in method.state_dict().items() if not n.startswith(("student.", "teacher."))}
    state: dict[str, Any] = {"student": {f"module.{n}": t for n, t in method.student.state_dict().items()}}
    if method.teacher is not None:
        state["teacher"] = dict(method.teacher.state_dict())
    state |= {
        "optimizer": optimizer.state_dict(),
        "epoch": progress.step // steps_per_epoch,
        "args": argparse.Namespace(**{k: list(v) if isinstance(v, tuple) else v for k, v in args.items()}),
        "dinobench": {
            "schema": SCHEMA,
            "step": progress.step,
            "row": progress.row,
            "method": others,
            "meters": progress.meters,
            "model": backbones.header(method.student.backbone, args),
        },
    }
    if CENTER in others:
        state["dino_loss"] = {"center": others[CENTER]}
    try:
        checkpoint.write_checkpoint(state, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise UserError(f"{path}: cannot write the checkpoint: {error}; free some space, then --resume") from error


def load(path: Path, method: Method, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Progress:
    """Put a checkpoint's state into `method` and `optimizer`; ours, or a full one of DINO's release.

    A file with weights only sets those, at step 0. Raises UserError for a file that is damaged or does not fit.
    """
    state = read(path)
    own = state.get("dinobench") if isinstance(state.get("dinobench"), dict) else None
    if own is not None and own.get("schema", 0) > SCHEMA:
        raise UserError(f"{path}: is of a later dinobench (schema {own['schema']}); update dinobench")
    tensors = _method_tensors(state, own)
    expected = method.state_dict()
    lacking = [n for n in expected if n not in tensors]
    if own is None:  # the release's file may lack what only we count
        lacking = [n for n in lacking if n.startswith(("student.", "teacher."))]
    odd = [n for n in tensors if n not in expected]
    odd += [
        f"{n} {tuple(tensors[n].shape)} instead of {tuple(t.shape)}"
        for n, t in expected.items()
        if n in tensors and tensors[n].shape != t.shape
    ]
    if lacking or odd:
        what = f"lacks {', '.join(lacking[:3])}" if lacking else f"does not fit: {', '.join(odd[:3])}"
        raise UserError(f"{path}: {what}; give the --method, --arch, sizes and settings that it was trained with")
    method.load_state_dict(tensors, strict=own is not None)
    if isinstance(state.get("optimizer"), dict):
        try:
            load_optimizer(optimizer, state["optimizer"])
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"{path}: its optimizer does not fit ({error}); give the settings it had") from error
    if own is not None:
        return Progress(int(own["step"]), dict(own["row"]), list(own.get("meters", [])))
    epoch = state.get("epoch")
    return Progress(int(epoch) * steps_per_epoch if epoch is not None and "optimizer" in state else 0)


def read(path: Path) -> dict[str, Any]:
    """The file as it was saved, tensors and plain values only. Raises UserError when it cannot be read."""
    _, state = checkpoint.read_file(path)
    if not isinstance(state, dict) or not isinstance(state.get("student"), dict):
        raise UserError(f"{path}: has no `student`: not a checkpoint of a pretraining")
    own = state.get("dinobench", {})
    parts = {"student": state["student"], "teacher": state.get("teacher", {})}
    if isinstance(own, dict) and own:
        parts |= {"method": own.get("method")}
        if (
            not all(type(own.get(n)) is int and own[n] >= 0 for n in ("schema", "step"))
            or type(own.get("row")) is not dict
        ):
            raise UserError(f"{path}: its `dinobench` has no schema, step or row as we write them; copy it again")
    for name, part in parts.items():
        if not isinstance(part, dict) or not all(
            isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in part.items()
        ):
            raise UserError(f"{path}: its `{name}` is not a dict of tensors; copy it again")
    return state


def build(kind: type[Method], config: MethodConfig, chosen: backbones.Chosen, image_size: int, classes: int) -> Method:
    """The method on the CPU, with the weights that follow from its seed; `classes` are those of its data."""
    spec = NetworkSpec(chosen.build, chosen.embed_dim, classes, chosen.is_vit, image_size)
    with own_randomness(torch.device("cpu"), config.seed):
        return kind(config, spec)


def untrained(run: runs.Run, classes: int) -> Any:
    """The student's backbone before the first step of a run."""
    kind = runs.load_method(run.method)
    chosen = backbones.choose(run.arch, run.image_size, run.patch_size, run.depth)
    return build(kind, runs.configure(kind, run.config), chosen, run.image_size, classes).student.backbone


def save_untrained(path: Path, backbone: Any, image_size: int, arch: str | None = None) -> None:
    """An untrained backbone as a checkpoint that is scored like any other; without `arch` its tensors tell that."""
    model = backbones.header(backbone, {"arch": arch, "image_size": image_size}) | {"method": "random"}
    checkpoint.write_checkpoint({"state_dict": backbone.state_dict(), "dinobench": {"model": model}}, path)


def clean(folder: Path) -> None:
    """Remove what writers that were killed have left behind."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _method_tensors(state: dict[str, Any], own: dict[str, Any] | None) -> dict[str, torch.Tensor]:
    """The method's state_dict as the file has it."""
    tensors = {f"student.{n.removeprefix('module.')}": t for n, t in state["student"].items()}
    tensors |= {f"teacher.{n.removeprefix('module.')}": t for n, t in state.get("teacher", {}).items()}
    if own is not None:
        return tensors | own["method"]
    loss = state.get("dino_loss")
    return tensors | ({CENTER: loss["center"]} if isinstance(loss, dict) and "center" in loss else {})
