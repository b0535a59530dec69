"""The pretraining loop, the same for every method: steps, schedules, checkpoints, diagnostics, evaluations.

Everything random follows from (seed, step): a run that is stopped at any step and resumed ends with the weights of one
that was not. Between processes only one flat bucket of gradients is exchanged at each step.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dinobench import console
from dinobench.distributed import EarlySums, average_over_processes
from dinobench.errors import UserError
from dinobench.files import atomic_path
from dinobench.pretrain import backbones, checkpoints, collapse, evaluation, history, optim, plots
from dinobench.pretrain import run as runs
from dinobench.pretrain.loader import ViewBatch, ViewLoader
from dinobench.pretrain.method import Method, Network, StepInfo
from dinobench.pretrain.views import snapped
from dinobench.runtime import Runtime
from dinobench.signals import StopRequest
from dinobench.training.randomness import own_randomness
from dinobench.training.resume import TrainingProgress
from dinobench.training.step_values import StepValues
from dinobench.types import ImageClassification, TrainingImages

#: Work that a crash may cost within a long epoch.
SAVE_SECONDS = 300.0
#: Ends of epochs that follow each other sooner than this, or than so many times what writing takes, are not all saved.
EPOCH_SECONDS, WRITING = 20.0, 20.0
#: How often an epoch that passes quickly is worth a line on the screen.
REPORT_SECONDS = 10.0


class Loop:
    """A run in progress: its networks, its optimizer, its data, and how far it is."""

    def __init__(
        self,
        run: runs.Run,
        folder: Path,
        runtime: Runtime,
        data: TrainingImages | ImageClassification,
        *,
        workers: int | None = None,
        ram_bytes: int | None = None,
        evaluate: evaluation.Evaluate | None = None,
        watch: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """Build everything, and go on from the folder's checkpoint if any. Raises UserError for what does not fit.

        watch: called by the first process with each epoch's row, once it is written.
        """
        self.run, self.folder, self.runtime, self.evaluate, self._watch = run, folder, runtime, evaluate, watch
        kind = runs.load_method(run.method)
        self.config = runs.configure(kind, run.config)
        self.chosen = backbones.choose(run.arch, run.image_size, run.patch_size, run.depth)
        with runs.answering(run):
            self.method = self._build(kind, len(data.classes))
            views = kind.views(self.config, run.image_size)
        self.parameters = [p for p in self.method.student.parameters() if p.requires_grad]
        self._early = EarlySums(self.parameters, runtime.processes)
        self.optimizer = optim.make_optimizer(self.method.student, self.config)
        self.loader = ViewLoader(
            data.train, snapped(views, self.chosen.patch_size),
            batch=self.config.batch, micro_batch=-(-self.config.batch // (runtime.processes * run.accumulate)),
            seed=self.config.seed, device=runtime.device, rank=runtime.rank, processes=runtime.processes,
            workers=workers, ram_bytes=ram_bytes,
        )  # fmt: skip
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.at = runtime.run_on_all(self._load)
        done = self.at.step // self.steps_per_epoch
        rows = runtime.run_on_first(lambda: history.rewind_metrics(folder / history.METRICS, done))
        self.history = runtime.broadcast(rows or [])
        self.step_values = StepValues(lag=1 if runtime.device.type == "cuda" else 0)
        self.loss = math.nan
        self._stop, self._stopping, self._due = StopRequest(), False, False
        self._reported, self._writing = 0.0, 0.0
        #: When the last checkpoint was written, by time.monotonic.
        self.saved_at = time.monotonic()
        self._warned = ""
        self._writer = runtime.run_on_first(lambda: history.MetricsWriter(folder, Path(run.results)))
        self._curves = plots.CurvesWriter(folder / "curves.png", folder.name) if runtime.rank == 0 else None

    @property
    def latest(self) -> Path:
        return self.folder / checkpoints.LATEST

    def now(self, step: int) -> StepInfo:
        return StepInfo(step, step // self.steps_per_epoch, self.steps_per_epoch, self.config.epochs)

    def train(self) -> list[history.EpochRow]:
        """Train to the end; returns the rows of metrics.jsonl.

        Signals that end a run save and raise Interrupted. Raises UserError when the loss is not finite any more.
        """
        self.method.train()
        if self._writer is not None:
            self._writer.catch_up()
        with runs.answering(self.run), self._stop.listening():
            if self.at.row and self.at.step % self.steps_per_epoch == 0:
                self._keep(int(self.at.row["epoch"]))
                self._close(self.at.row)  # what an interruption kept from being written after the checkpoint
            elif self.evaluate is not None and self.at.step == 0 and not self.history:
                self._save()  # what is scored is a file
                self._close({"epoch": 0, "step": 0})
            for epoch in range(self.at.step // self.steps_per_epoch, self.config.epochs):
                self._epoch(epoch)
        if self._curves is not None:
            self._curves.draw(self.history)
        if self._writer is not None:
            self._writer.close()
        return self.history

    def _epoch(self, epoch: int) -> None:
        first = self.at.step - epoch * self.steps_per_epoch
        meter = collapse.EpochMeter()
        meter.restore(self.at.meters[self.runtime.rank :: self.runtime.processes], self.runtime.device)
        title = f"Epoch {epoch + 1}/{self.config.epochs}"
        whole, start = self.steps_per_epoch * self.config.batch, first * self.config.batch
        measured = whole if self.at.meters else whole - start  # an earlier dinobench kept no sums of the steps before
        for _ in console.progress(self.steps(epoch, first, meter), title, whole, start):
            pass
        self.read_values(lag=0)
        seconds = meter.seconds
        last = self.now(self.at.step - 1)
        row = {
            "epoch": epoch + 1,
            "step": self.at.step,
            **meter.summary(self.runtime.gather),
            "lr": optim.learning_rate(self.config, last),
            "weight_decay": optim.weight_decay(self.config, last),
            **self.method.logged(last),
            "grad_norm": float(torch.stack(meter.norms).mean()),
            "images_per_s": round(measured / seconds, 2),
            "seconds": round(seconds, 3),
        }
        self.at = checkpoints.Progress(self.at.step, row)
        pause = max(EPOCH_SECONDS, WRITING * self._writing)
        waited = self.runtime.broadcast(time.monotonic() - self.saved_at >= pause)
        if waited or self._keeps(epoch + 1) or self._evaluates(epoch + 1) or epoch + 1 == self.config.epochs:
            self._save()
        self._keep(epoch + 1)
        self._close(row)

    def steps(self, epoch: int, first: int, meter: collapse.EpochMeter) -> Iterator[TrainingProgress]:
        """Train through an epoch from its step `first` on."""
        share = self.config.batch // self.runtime.processes
        part, loss = 0, torch.zeros((), device=self.runtime.device)
        began, before = time.monotonic(), self.at.step
        for batch in self._batches(epoch, first):
            loss += self._backward(batch, part, len(batch.views[0]) / share, meter)
            part += 1
            if not batch.last:
                continue
            meter.norms.append(self.update(loss))
            part, loss = 0, torch.zeros_like(loss)
            left = self.steps_per_epoch * self.config.epochs - self.at.step
            pace = (time.monotonic() - began) / (self.at.step - before)
            yield TrainingProgress(self.config.batch, f"loss {self.loss:.4f}, {_clock(left * pace)} left in all")
            within = self.at.step % self.steps_per_epoch
            if self._stopping:
                if within:
                    self._save(meter)
                    self._interrupted()
            elif within and self._due:
                self._save(meter)

    def _batches(self, epoch: int, first: int) -> Iterator[ViewBatch]:
        try:
            yield from self.loader.epoch(epoch, first)
        except UserError:
            console.silent = False  # an image that only this process met: the others do not know what to say
            raise

    def _backward(self, batch: ViewBatch, part: int, weight: float, meter: collapse.EpochMeter) -> torch.Tensor:
        """Gradients of one part of a step; returns its share of the step's loss."""
        now = self.now(self.at.step)
        with own_randomness(self.runtime.device, self.config.seed, now.step, self.runtime.rank, part):
            with self.runtime.autocast():
                output = runs.checked(self.run, self.method(batch.views, batch.labels, now))
            with self._early.during(batch.last):
                (output.loss * weight).backward()
        meter.add(output, len(batch.views[0]))
        return output.loss.detach().float() * weight

    def update(self, loss: torch.Tensor) -> torch.Tensor:
        """The optimizer's step and what follows it; returns the gradient's norm."""
        now, processes = self.now(self.at.step), self.runtime.processes
        wishes = (float(wish) for wish in (self._stop.asked, self._writes_now()))
        totals = torch.stack([loss, *(torch.full_like(loss, wish) for wish in wishes)])
        totals = average_over_processes(self.parameters, totals, processes, self._early)
        self.method.before_step(now)
        norm = optim.clip_each(self.parameters, self.config.clip)
        optim.set_rates(self.optimizer, self.config, now)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(now)
        self.at = checkpoints.Progress(now.step + 1)
        self.step_values.add(now.step, torch.cat([totals, norm[None].to(totals)]))
        self.read_values()
        # One process need not ask the others, who learn of it in the next step's totals.
        self._stopping |= processes == 1 and self._stop.asked
        self._due |= processes == 1 and self._writes_now()
        return norm

    def read_values(self, lag: int | None = None) -> None:
        """Look at steps that are through. Raises UserError when one was not finite."""
        for step, (loss, stop, due, norm) in self.step_values.take(lag):
            self.loss = loss / self.runtime.processes
            self._stopping |= stop > 0
            self._due |= due > 0
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = "loss" if not math.isfinite(loss) else "gradient"
                saved = self.runtime.broadcast(self.latest.exists())
                good = f"{self.latest} is the last good checkpoint" if saved else "no checkpoint had been written yet"
                raise UserError(
                    f"the {what} of step {step} (epoch {self.now(step).epoch + 1}) is not finite; {good}; start again "
                    "with a lower lr, a longer warm-up or --precision 32"
                )

    def _writes_now(self) -> bool:
        return self.runtime.rank == 0 and time.monotonic() - self.saved_at >= max(SAVE_SECONDS, WRITING * self._writing)

    def _save(self, meter: collapse.EpochMeter | None = None) -> None:
        """Write the checkpoint, within an epoch with the sums of its `meter`; all processes together."""
        self.read_values(lag=0)  # what is not finite is not saved
        meters = self.runtime.gather_objects(meter.state()) if meter is not None else []
        at, self._due = dataclasses.replace(self.at, meters=meters), False
        if self.runtime.rank == 0:
            began = time.monotonic()
            args = {**dataclasses.asdict(self.config), **dataclasses.asdict(self.run), "arch": self.chosen.arch}
            args |= {"patch_size": self.chosen.patch_size, "method": self.run.method, "config": None}
            checkpoints.save(self.latest, self.method, self.optimizer, args, at, self.steps_per_epoch)
            self._writing = time.monotonic() - began
        self.saved_at = time.monotonic()

    def _keeps(self, epoch: int) -> bool:
        return bool(self.run.save_every) and epoch % self.run.save_every == 0

    def _keep(self, epoch: int) -> None:
        """Copy the checkpoint of an epoch that is to be kept."""
        path = self.folder / checkpoints.numbered(epoch)
        if self.runtime.rank > 0 or not self._keeps(epoch):
            return
        try:
            with atomic_path(path) as temporary:
                shutil.copyfile(self.latest, temporary)
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"{path}: cannot be written: {why}; free some space, then --resume") from error

    def _close(self, row: dict[str, Any]) -> None:
        """What an epoch's end is for besides its weights: evaluations, metrics, a look at them.

        Epoch 0 is what there is before the first step: its row has scores alone.
        """
        epoch = int(row["epoch"])
        if self.history and self.history[-1]["epoch"] >= epoch:
            return
        if self.evaluate is not None and self._evaluates(epoch):
            self.runtime.barrier()  # until the first process has written what is scored
            row = {**row, **self.evaluate(self.latest, epoch)}
            self.method.train()
        self.history.append(row)
        if self._writer is not None:
            self._writer.write(row)
            if self._watch is not None:
                self._watch(row)
            self._report(row)
        if self._stopping and epoch < self.config.epochs:
            self._save()
            self._interrupted()
        if self._curves is not None and epoch < self.config.epochs:
            self._curves.follow(self.history, scored=self._evaluates(epoch))

    def _evaluates(self, epoch: int) -> bool:
        return bool(self.evaluate) and (epoch % self.run.every == 0 or epoch == self.config.epochs)

    def _report(self, row: dict[str, Any]) -> None:
        scores = evaluation.primary_scores(row)
        if not row["epoch"]:
            console.note(f"before the first step: {', '.join(scores) or 'nothing to score'}")
            return
        if scores or time.monotonic() - self._reported >= REPORT_SECONDS or row["epoch"] == self.config.epochs:
            self._reported = time.monotonic()
            words = [f"loss {row.get('loss', math.nan):.4f}", f"{row['images_per_s']:.1f} images/s", *scores]
            console.note(f"epoch {row['epoch']}/{self.config.epochs}: {', '.join(words)}")
        trained = [one for one in self.history if one["epoch"]]
        verdict = collapse.verdict(trained, getattr(self.config, "out_dim", None)) or ""
        if verdict and verdict.partition(":")[0] != self._warned:
            console.warn(f"epoch {row['epoch']}: {verdict}")
        self._warned = verdict.partition(":")[0]

    def _interrupted(self) -> None:
        console.note(
            f"interrupted after step {self.at.step} (epoch {self.now(self.at.step).epoch + 1}); saved; "
            f"`dinobench pretrain --resume {self.folder}` goes on"
        )
        raise self._stop.interrupted()

    def _build(self, kind: type[Method], classes: int) -> Method:
        method = self.runtime.run_on_all(
            lambda: checkpoints.build(kind, self.config, self.chosen, self.run.image_size, classes)
        )
        method.to(self.runtime.device)
        if self.run.compile:
            for module in method.modules():
                if isinstance(module, Network):
                    module.backbone.compile()
        return method

    def _load(self) -> checkpoints.Progress:
        if self.runtime.rank == 0:
            checkpoints.clean(self.folder)
        path = self.latest if self.latest.exists() else Path(self.run.init) if self.run.init else None
        if path is None:
            return checkpoints.Progress()
        at = checkpoints.load(path, self.method, self.optimizer, self.steps_per_epoch)
        if at.step and not at.row:
            console.note(f"{path}: going on from step {at.step}, epoch {at.step // self.steps_per_epoch + 1}")
        return at


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
