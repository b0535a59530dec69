"""Training and scoring of linear classifiers on a frozen backbone: the linear protocol once it is configured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dinobench.data.subsets import Subset, hold_out
from dinobench.data.transforms import for_backbone
from dinobench.distributed import gather_rows
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.metrics.classification import Truth
from dinobench.signals import StopRequest
from dinobench.training.augment import CropAndFlip
from dinobench.training.linear_classifiers import ClassifierSpec, FeatureLayout, FeatureRows, LinearClassifiers
from dinobench.training.loader import ImageLoader
from dinobench.training.resume import load_state, save_state
from dinobench.training.sampler import Order
from dinobench.training.schedules import cosine
from dinobench.training.scoring import classification_result
from dinobench.training.step_values import StepValues, to_device
from dinobench.types import Backbone, Context, FeatureRequest, Features, ImageClassification, Result


@dataclass(frozen=True)
class ProbeConfig:
    """How the classifiers are trained and chosen; the fields are those of the linear protocol's Config."""

    classifiers: tuple[ClassifierSpec, ...]
    batch: int
    epochs: int
    steps_per_epoch: int
    minimum_steps: int
    per_step: bool
    momentum: float
    weight_decay: float
    init_std: float
    holdout: float
    holdout_seed: int

    def order(self, n: int, seed: int) -> Order:
        """The batches of n train images."""
        one_pass = -(-n // self.batch)
        steps = self.steps_per_epoch or (self.minimum_steps if self.minimum_steps > one_pass else 0)
        return Order(n, self.batch, seed, steps)

    def factors(self, steps: int) -> np.ndarray:
        """The schedule's factor of the learning rate, (epochs, steps per epoch)."""
        if self.per_step:
            return cosine(1, 0, self.epochs, steps).reshape(self.epochs, steps)
        return np.repeat(cosine(1, 0, self.epochs, 1)[:, None], steps, axis=1)


@dataclass
class ProbeStep:
    """Joined features x (b, width) and labels (b,) of one update, the `index`-th of all from 0.

    `n` is how many images of it this process has loaded, `says` is for the progress bar. `counts` (b,) is how often
    each stands in the batch, where not once.
    """

    epoch: int
    index: int
    x: torch.Tensor
    labels: torch.Tensor
    ends_epoch: bool
    n: int
    says: str = ""
    counts: torch.Tensor | None = None


#: x (b, width), labels (b,), images loaded, counts (b,) or None: what a ProbeStep is made of.
_Batch = tuple[torch.Tensor, torch.Tensor, int, torch.Tensor | None]


@dataclass
class TestScores:
    """How the test images were classified after the last epoch tested, and each classifier's best epoch so far.

    `ranks` (n, H): place of the true class; `best_right` (n, H) bool and `best_epoch` (H,) 1-based.
    """

    ranks: torch.Tensor
    best_right: torch.Tensor
    best_epoch: torch.Tensor

    def update(self, ranks: torch.Tensor, epoch: int) -> None:
        """Take in the ranks after an epoch; of equal epochs the first stays the best."""
        right = ranks == 0
        better = right.sum(0) > self.best_right.sum(0)
        better |= self.best_epoch == 0
        self.best_right[:, better] = right[:, better]
        self.best_epoch[better] = epoch
        self.ranks = ranks


class Probe:
    """One run of the linear protocol. With `augment` None the train features are extracted once."""

    def __init__(
        self,
        backbone: Backbone,
        data: ImageClassification,
        layout: FeatureLayout,
        request: FeatureRequest,
        augment: CropAndFlip | None,
        config: ProbeConfig,
        ctx: Context,
    ) -> None:
        self.backbone, self.data, self.layout = backbone, data, layout
        self.request = request = dataclasses.replace(request, transform=for_backbone(request.transform, backbone))
        self.augment = augment = for_backbone(augment, backbone)
        self.config, self.ctx = config, ctx
        self.choosing = len(config.classifiers) > 1
        if augment is None:
            self._from_features(ctx.features(backbone, data.train, request))
        else:
            self._from_images(augment)
        test = ctx.features(backbone, data.test, request)
        self.kept = test.kept
        self.test_rows = FeatureRows(test, layout, np.arange(len(test.kept)), ctx.device)
        self.truth = Truth.of(data, test.kept)
        self.order = config.order(len(self.train_labels), ctx.seed)
        # Every step sees every image: each is computed once then, however often it stands in the batch.
        every = augment is None and self.order.steps > 0 and len(self.train_labels) <= config.batch
        self.whole = self.train_rows[:] if every else None
        self.classifiers = LinearClassifiers(
            layout, config.classifiers, len(data.classes), seed=ctx.seed, device=ctx.device, scale=config.batch / 256,
            momentum=config.momentum, weight_decay=config.weight_decay, std=config.init_std, whole=self.whole,
            rank=ctx.rank, processes=ctx.processes,
        )  # fmt: skip
        nothing = torch.zeros(len(self.test_rows), len(self.classifiers))
        self.stop = StopRequest()
        no_epoch = torch.zeros(len(self.classifiers), dtype=torch.int64)
        self.scores = TestScores(nothing.short(), nothing.bool(), no_epoch)

    def _split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices to learn from and held out; with one classifier there is nothing to choose, and none are."""
        if not self.choosing:
            return np.arange(len(labels)), np.zeros(0, np.int64)
        return hold_out(labels, self.config.holdout, self.config.holdout_seed)

    def _from_features(self, train: Features) -> None:
        labels = self.data.train.labels[train.kept]
        learn, held_out = self._split(labels)
        self.train_labels, self.held_out_labels = labels[learn], torch.from_numpy(labels[held_out])
        self.train_rows = FeatureRows(train, self.layout, learn, self.ctx.device)
        self.held_out_rows = FeatureRows(train, self.layout, held_out, self.ctx.device)

    def _from_images(self, augment: CropAndFlip) -> None:
        ctx, train = self.ctx, self.data.train
        learn, held_out = self._split(train.labels)
        self.train_labels = train.labels[learn]
        if self.choosing:
            subset = Subset(train, held_out, f"{train.name} (held out)")
            features = ctx.features(self.backbone, subset, self.request)
            self.held_out_rows = FeatureRows(features, self.layout, np.arange(len(features.kept)), ctx.device)
            self.held_out_labels = torch.from_numpy(subset.labels[features.kept])
        self.loader = ImageLoader(
            Subset(train, learn, train.name) if self.choosing else train, augment, seed=ctx.seed,
            on_cpu=ctx.device.type == "cpu", processes=ctx.processes, micro_batch=ctx.batch_size,
            workers=ctx.workers, ram_bytes=ctx.ram_bytes,
            skip_broken=ctx.skip_broken,
        )  # fmt: skip

    def run(self) -> Result:
        """Train to the last epoch, then choose a classifier and score it. Raises UserError when every one diverges.

        A signal that ends a run is heeded after the step that it comes in: the state is saved and Interrupted raised.
        """
        config, steps = self.config, self.order.steps_per_epoch
        first = self._resume()
        factors = config.factors(steps)
        per_epoch = steps * config.batch if self.order.steps else len(self.train_labels)
        shard = self.ctx.shard(per_epoch) if self.augment else slice(0, per_epoch)
        total = (config.epochs * steps - first) * (shard.stop - shard.start) // steps
        held_out = ""
        shown = StepValues(lag=1 if self.ctx.device.type == "cuda" else 0)  # a GPU is not waited for
        with self.stop.listening():
            for step in self.ctx.progress(self.steps(first), f"Training {len(self.classifiers)} linear heads", total):
                factor = float(factors[step.epoch, step.index % steps])
                losses = None
                if len(step.labels):
                    losses = self.classifiers.step(step.x, step.labels, factor, step.index, step.counts)
                if step.ends_epoch:
                    self.classifiers.check(step.index)
                    self._check_any_converging()
                    held_out = self._test(step.epoch + 1)
                    self._save(step.index + 1)
                if losses is not None and (step.ends_epoch or step.index % 10 == 0):
                    losses = self.classifiers.of_all(losses)
                    shown.add(step.index, torch.nan_to_num(losses, nan=torch.inf).min()[None])
                for index, (lowest,) in shown.take():
                    if not np.isfinite(lowest):
                        self._check_any_converging()
                    step.says = f"epoch {index // steps + 1}/{config.epochs}, loss {lowest:.3f}{held_out}"
                if self._stops(step):
                    self._save(step.index + 1)
                    raise self.stop.interrupted()
        return self._result()

    def _stops(self, step: ProbeStep) -> bool:
        """Whether a signal came, to any process: they ask each other where they meet anyway, or at an epoch's end."""
        if self.ctx.processes == 1:
            return self.stop.asked
        meeting = self.augment is not None or step.ends_epoch
        return meeting and bool(self.ctx.gather(torch.tensor([self.stop.asked])).any())

    def steps(self, first: int) -> Iterator[ProbeStep]:
        """The features and labels of every step, from step `first` of all to the end of the training."""
        steps = self.order.steps_per_epoch
        schedule = [divmod(index, steps) for index in range(first, self.config.epochs * steps)]
        batches = self._augmented(schedule) if self.augment else self._extracted(schedule)
        for (epoch, step), (x, labels, n, counts) in zip(schedule, batches, strict=True):
            yield ProbeStep(epoch, epoch * steps + step, x, labels, step == steps - 1, n, counts=counts)

    def _extracted(self, schedule: Sequence[tuple[int, int]]) -> Iterator[_Batch]:
        device, every = self.ctx.device, torch.from_numpy(self.train_labels)
        every = every.to(device)
        for epoch, step in schedule:
            images, _ = self.order(epoch, step)
            if self.whole is None:
                index = to_device(torch.from_numpy(images), device)
                yield self.train_rows[images], every.index_select(0, index), len(images), None
            else:
                counts = torch.from_numpy(np.bincount(images, minlength=len(every)).astype(np.float32))
                yield self.whole, every, len(images), to_device(counts, device)

    def _augmented(self, schedule: Sequence[tuple[int, int]]) -> Iterator[_Batch]:
        """Each process computes the features of its shard, and trains its classifiers on those of the whole batch."""
        ctx, parts, rows = self.ctx, [], []
        for part in self.loader.load((self.order(epoch, step) for epoch, step in schedule), ctx.shard):
            if part.n:
                with ctx.inference():
                    assert self.augment is not None
                    x = self.augment.normalise(part.views[0].to(ctx.device, non_blocking=True))
                    parts.append(self.layout.compute(self.backbone, x).float())
            rows.append(part.rows)
            if part.last:
                step_rows = np.concatenate(rows)
                x = torch.cat(parts) if parts else torch.zeros(0, self.layout.width, device=ctx.device)
                labels = to_device(torch.from_numpy(self.train_labels[step_rows]), ctx.device)
                if ctx.processes > 1:
                    x, labels = gather_rows(x), gather_rows(labels)
                yield x, labels, len(step_rows), None
                parts, rows = [], []

    def _test(self, epoch: int) -> str:
        """Score the test images; returns how well the chosen classifier does on the held-out ones, for the screen."""
        ranks, _ = self.classifiers.evaluate(self.test_rows, self.truth)
        self.scores.update(ranks, epoch)
        if not self.choosing:
            return ""
        chosen, accuracy = self._choose()
        return f", held out {accuracy:.1f} % ({self.classifiers.specs[chosen]})"

    def _choose(self) -> tuple[int, float]:
        """Of those that converge the one right most often on the held-out images, of equals the one of least loss."""
        if not self.choosing:
            return 0, 0.0
        ranks, losses = self.classifiers.evaluate(self.held_out_rows, self.held_out_labels)
        right = (ranks == 0).sum(0).tolist()
        diverged_at = self.classifiers.of_all(self.classifiers.diverged_at).tolist()
        converging = [i for i, step in enumerate(diverged_at) if step < 0]
        chosen = max(converging, key=lambda i: (right[i], -float(losses[i])))
        return chosen, 100 * right[chosen] / len(self.held_out_rows)

    def _check_any_converging(self) -> None:
        diverged_at = self.classifiers.of_all(self.classifiers.diverged_at)
        if bool((diverged_at >= 0).all()):
            which = "every head's loss" if self.choosing else "the loss"
            step, lowest = int(diverged_at.max()), min(spec.rate for spec in self.config.classifiers)
            raise UserError(
                f"linear: from step {step} on, {which} is not finite; "
                f"lower the learning rate, as in --set lr={lowest / 10:g}"
            )

    def _result(self) -> Result:
        chosen, accuracy = self._choose()
        specs, diverged_at = self.classifiers.specs, self.classifiers.of_all(self.classifiers.diverged_at).cpu()
        diverged = [str(spec) for spec, step in zip(specs, diverged_at.tolist(), strict=True) if step >= 0]
        notes = []
        if diverged:
            notes.append(f"{len(diverged)} of {len(specs)} heads diverged and were dropped: {'; '.join(diverged)}")
        ranks = self.scores.ranks
        columns = {"top1_best_epoch": self.scores.best_right[:, chosen]}
        best_epoch = f"best epoch on the test images: {int(self.scores.best_epoch[chosen])} of {self.config.epochs}"
        if self.choosing:
            right = (ranks == 0).sum(0).masked_fill(diverged_at >= 0, -1)
            best = int(right.argmax())
            columns["top1_val_chosen"] = ranks[:, best] == 0
            notes.append(
                f"head chosen on {len(self.held_out_rows)} held-out images: {specs[chosen]} "
                f"({accuracy:.2f} % there); head best on the test images: {specs[best]}; {best_epoch}"
            )
        else:
            notes.append(best_epoch)
        predicted = self.classifiers.predict(self.test_rows, chosen, self.truth)
        return classification_result(self.data, self.kept, predicted, ranks[:, chosen], columns, notes)

    def _state_path(self) -> Path:
        """Where the state is kept, named by what decides the training: another configuration finds nothing."""
        identity = digest(
            dataclasses.asdict(self.config), dataclasses.asdict(self.layout), repr(self.request), repr(self.augment),
            self.data.fingerprint, self.backbone.info.weights_digest, self.ctx.seed,
            len(self.train_labels), len(self.test_rows),
        )  # fmt: skip
        return self.ctx.scratch / f"linear-{identity[:16]}.pt"

    def _save(self, steps: int) -> None:
        state = {"steps": steps, "classifiers": self.classifiers.state(), "scores": vars(self.scores)}
        if self.ctx.rank == 0:
            save_state(self._state_path(), state)

    def _resume(self) -> int:
        """The number of steps done before; takes their state back."""
        state, steps = load_state(self._state_path()), 0
        if state is not None:
            # "epochs" is of an earlier dinobench, which saved at the end of epochs alone
            steps = int(state["epochs"]) * self.order.steps_per_epoch if "epochs" in state else int(state["steps"])
        found = self.ctx.gather(torch.tensor([steps]))
        if bool((found != steps).any()):  # not every process sees the same file: together they start anew
            return 0
        if state is None or not self.classifiers.restore(state["classifiers"]):
            return 0
        self.scores = TestScores(**state["scores"])
        return steps
