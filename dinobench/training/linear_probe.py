"""Training and scoring of linear heads on a frozen backbone: what the linear protocol does once it is configured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dinobench.data.subsets import Subset, hold_out
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.metrics.classification import first_argmax, label_rank
from dinobench.models.checkpoint import read_checkpoint
from dinobench.training.augment import CropAndFlip
from dinobench.training.linear_classifiers import ClassifierSpec, FeatureLayout, FeatureRows, LinearClassifiers
from dinobench.training.loader import ImageLoader
from dinobench.training.resume import load_state, save_state
from dinobench.training.sampler import Order
from dinobench.training.schedules import cosine
from dinobench.types import Backbone, Context, FeatureRequest, Features, ImageClassification, Result


@dataclass(frozen=True)
class ProbeConfig:
    """How the heads are trained and chosen; the fields are those of the linear protocol's Config."""

    heads: tuple[ClassifierSpec, ...]
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
    """Joined features x (b, width) and labels (b,) of one update; `says` is for the progress bar, `n` images."""

    epoch: int
    number: int
    x: torch.Tensor
    labels: torch.Tensor
    ends_epoch: bool
    n: int
    says: str = ""


@dataclass
class Tested:
    """What the test images said after the last epoch tested, and each head's best epoch so far.

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
        recipe: ProbeConfig,
        ctx: Context,
    ) -> None:
        self.backbone, self.data, self.layout = backbone, data, layout
        self.request, self.augment, self.recipe, self.ctx = request, augment, recipe, ctx
        self.choosing = len(recipe.heads) > 1
        if augment is None:
            self._from_features(ctx.features(backbone, data.train, request))
        else:
            self._from_images(augment)
        test = ctx.features(backbone, data.test, request)
        self.kept = test.kept
        self.test = FeatureRows(test, layout, np.arange(len(test.kept)), ctx.device)
        self.test_labels = torch.from_numpy(data.test.labels[test.kept])
        self.order = recipe.order(len(self.learn), ctx.seed)
        self.heads = LinearClassifiers(
            layout, recipe.heads, len(data.classes), seed=ctx.seed, device=ctx.device, scale=recipe.batch / 256,
            momentum=recipe.momentum, weight_decay=recipe.weight_decay, std=recipe.init_std,
        )  # fmt: skip
        nothing = torch.zeros(len(self.test), len(self.heads))
        self.tested = Tested(nothing.short(), nothing.bool(), torch.zeros(len(self.heads), dtype=torch.int64))

    def _split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices to learn from and held out; with a single head there is nothing to choose, and none are."""
        if not self.choosing:
            return np.arange(len(labels)), np.zeros(0, np.int64)
        return hold_out(labels, self.recipe.holdout, self.recipe.holdout_seed)

    def _from_features(self, train: Features) -> None:
        labels = self.data.train.labels[train.kept]
        learn, held = self._split(labels)
        self.learn, self.held_labels = labels[learn], torch.from_numpy(labels[held])
        self.rows = FeatureRows(train, self.layout, learn, self.ctx.device)
        self.held = FeatureRows(train, self.layout, held, self.ctx.device)

    def _from_images(self, augment: CropAndFlip) -> None:
        ctx, train = self.ctx, self.data.train
        learn, held = self._split(train.labels)
        self.learn = train.labels[learn]
        if self.choosing:
            subset = Subset(train, held, f"{train.name} (held out)")
            features = ctx.features(self.backbone, subset, self.request)
            self.held = FeatureRows(features, self.layout, np.arange(len(features.kept)), ctx.device)
            self.held_labels = torch.from_numpy(subset.labels[features.kept])
        self.loader = ImageLoader(
            Subset(train, learn, train.name) if self.choosing else train, augment, seed=ctx.seed,
            on_cpu=ctx.device.type == "cpu", processes=ctx.processes, micro_batch=ctx.batch_size,
            workers=ctx.workers, ram_bytes=ctx.ram_bytes,
            skip_broken=ctx.skip_broken,
        )  # fmt: skip

    def run(self) -> Result:
        """Train to the last epoch, then choose a head and score it. Raises UserError when every head diverges."""
        recipe = self.recipe
        first = self._resume()
        steps = self.order.steps_per_epoch
        factors = recipe.factors(steps)
        per_epoch = steps * recipe.batch if self.order.steps else len(self.learn)
        mine = self.ctx.shard(per_epoch) if self.augment else slice(0, per_epoch)
        total = (recipe.epochs - first) * (mine.stop - mine.start)
        held_out = ""
        for step in self.ctx.progress(self._steps(first), f"Training {len(self.heads)} linear heads", total):
            factor = float(factors[step.epoch, step.number % steps])
            losses = self.heads.step(step.x, step.labels, factor, step.number) if len(step.labels) else None
            if step.ends_epoch:
                self.heads.check(step.number)
                self._check_alive()
                held_out = self._test(step.epoch + 1)
                self._save(step.epoch + 1)
            if losses is not None and (step.ends_epoch or step.number % 10 == 0):  # a GPU need not wait every step
                lowest = float(torch.nan_to_num(losses, nan=torch.inf).min())
                if not np.isfinite(lowest):
                    self._check_alive()
                step.says = f"epoch {step.epoch + 1}/{recipe.epochs}, loss {lowest:.3f}{held_out}"
        return self._result()

    def _steps(self, first_epoch: int) -> Iterator[ProbeStep]:
        steps = self.order.steps_per_epoch
        wanted = [(e, s) for e in range(first_epoch, self.recipe.epochs) for s in range(steps)]
        source = self._augmented(wanted) if self.augment else self._extracted(wanted)
        for (epoch, step), (x, labels, n) in zip(wanted, source, strict=True):
            yield ProbeStep(epoch, epoch * steps + step, x, labels, step == steps - 1, n)

    def _extracted(self, wanted: list[tuple[int, int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        for epoch, step in wanted:
            images, _ = self.order(epoch, step)
            labels = torch.from_numpy(self.learn[images]).to(self.ctx.device)
            yield self.rows[images], labels, len(images)

    def _augmented(self, wanted: list[tuple[int, int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Each process computes the features of its share; all of them train the heads on the whole batch."""
        ctx, parts, rows = self.ctx, [], []
        for part in self.loader.load((self.order(epoch, step) for epoch, step in wanted), ctx.shard):
            if part.n:
                with ctx.inference():
                    assert self.augment is not None
                    x = self.augment.normalise(part.views[0].to(ctx.device, non_blocking=True))
                    parts.append(self.layout.compute(self.backbone, x).float())
            rows.append(part.rows)
            if part.last:
                mine = np.concatenate(rows)
                x = torch.cat(parts) if parts else torch.zeros(0, self.layout.width, device=ctx.device)
                labels = torch.from_numpy(self.learn[mine])
                if ctx.processes > 1:
                    x, labels = ctx.gather(x), ctx.gather(labels)
                yield x.to(ctx.device), labels.to(ctx.device), len(mine)
                parts, rows = [], []

    def _test(self, epoch: int) -> str:
        ranks, _ = self.heads.evaluate(self.test, self.test_labels)
        self.tested.update(ranks, epoch)
        if not self.choosing:
            return ""
        chosen, accuracy = self._choose()
        return f", held out {accuracy:.1f} % ({self.heads.heads[chosen]})"

    def _choose(self) -> tuple[int, float]:
        """The living head that is right most often on the held-out images, of equals the one of least loss there."""
        if not self.choosing:
            return 0, 0.0
        ranks, losses = self.heads.evaluate(self.held, self.held_labels)
        right = (ranks == 0).sum(0).tolist()
        alive = [i for i, step in enumerate(self.heads.died.tolist()) if step < 0]
        chosen = max(alive, key=lambda i: (right[i], -float(losses[i])))
        return chosen, 100 * right[chosen] / len(self.held)

    def _check_alive(self) -> None:
        died = self.heads.died
        if bool((died >= 0).all()):
            which = "every head's loss" if self.choosing else "the loss"
            step, low = int(died.max()), min(h.rate for h in self.recipe.heads)
            raise UserError(
                f"linear: from step {step} on, {which} is not finite; "
                f"lower the learning rate, as in --set lr={low / 10:g}"
            )

    def _result(self) -> Result:
        chosen, accuracy = self._choose()
        died = self.heads.died.tolist()
        dead = [str(head) for head, step in zip(self.heads.heads, died, strict=True) if step >= 0]
        notes = []
        if dead:
            notes.append(f"{len(dead)} of {len(self.heads)} heads diverged and were dropped: {'; '.join(dead)}")
        ranks = self.tested.ranks
        columns = {"top1_best_epoch": self.tested.best_right[:, chosen]}
        said = f"best epoch on the test images: {int(self.tested.best_epoch[chosen])} of {self.recipe.epochs}"
        if self.choosing:
            right = (ranks == 0).sum(0).masked_fill(self.heads.died.cpu() >= 0, -1)
            best = int(right.argmax())
            columns["top1_val_chosen"] = ranks[:, best] == 0
            notes.append(
                f"head chosen on {len(self.held)} held-out images: {self.heads.heads[chosen]} "
                f"({accuracy:.2f} % there); head best on the test images: {self.heads.heads[best]}; {said}"
            )
        else:
            notes.append(said)
        scores = self.heads.predict(self.test, chosen)
        return classified(self.data, self.kept, scores, ranks[:, chosen], columns, notes)

    def _state_path(self) -> Path:
        """Where the state is kept, named by what decides the training: another configuration finds nothing."""
        identity = digest(
            dataclasses.asdict(self.recipe), dataclasses.asdict(self.layout), repr(self.request), repr(self.augment),
            self.data.fingerprint, self.backbone.info.weights_digest, self.ctx.seed, len(self.learn), len(self.test),
        )  # fmt: skip
        return self.ctx.scratch / f"linear-{identity[:16]}.pt"

    def _save(self, epochs: int) -> None:
        if self.ctx.rank == 0:
            save_state(self._state_path(), {"epochs": epochs, "heads": self.heads.state(), "tested": vars(self.tested)})

    def _resume(self) -> int:
        """The number of epochs done before; takes their state back."""
        state = load_state(self._state_path(), self.ctx.device)
        if state is None:
            return 0
        self.heads.restore(state["heads"])
        self.tested = Tested(**{name: tensor.cpu() for name, tensor in state["tested"].items()})
        return int(state["epochs"])


def evaluate_released(
    backbone: Backbone,
    data: ImageClassification,
    request: FeatureRequest,
    layout: FeatureLayout,
    path: str,
    interleaved: bool,
    ctx: Context,
) -> Result:
    """Score a trained head from its file on the test images. Raises UserError when it does not fit."""
    raw = read_checkpoint(path)
    matrices = [n for n, t in raw.tensors.items() if n.endswith("weight") and t.ndim == 2]
    if len(matrices) != 1:
        raise UserError(f"{path}: {len(matrices)} matrices in it, a linear head has one; give the head's own file")
    weight = raw.tensors[matrices[0]].float()
    bias = raw.tensors.get(matrices[0].removesuffix("weight") + "bias", torch.zeros(len(weight))).float()
    if tuple(weight.shape) != (len(data.classes), layout.width):
        raise UserError(
            f"{path}: a head of {weight.shape[0]} classes on {weight.shape[1]} columns; {data.name} has "
            f"{len(data.classes)} classes, and blocks={layout.blocks} with mean_patch="
            f"{'on' if layout.mean_patch else 'off'} of {backbone.info.name} give {layout.width} columns; "
            "set blocks and mean_patch to what it was trained on"
        )
    if interleaved:
        weight = torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1)
    test = ctx.features(backbone, data.test, request)
    scores = layout.join(test, slice(None)) @ weight.T + bias
    labels = torch.from_numpy(data.test.labels[test.kept])
    return classified(data, test.kept, scores, label_rank(scores, labels), {}, [f"head {path}, sha256 {raw.sha256}"])


def classified(
    data: ImageClassification,
    kept: np.ndarray,
    scores: torch.Tensor,
    ranks: torch.Tensor,
    columns: dict[str, torch.Tensor],
    notes: list[str],
) -> Result:
    """The Result of test images `kept` (n,): scores (n, C), place of the true class (n,), more right/wrong columns."""
    predicted = first_argmax(scores)
    columns = {"top1": ranks == 0, "top5": ranks < 5, **columns}
    frame = {
        "id": [data.test.ids[int(i)] for i in kept],
        "label": [data.classes[i] for i in data.test.labels[kept]],
        "prediction": [data.classes[i] for i in predicted],
        **{name: right.numpy() for name, right in columns.items()},
    }
    values = {name: 100 * float(right.double().mean()) for name, right in columns.items()}
    return Result(values, pd.DataFrame(frame), notes=notes)
