"""The fine-tuning protocol's run, once it is configured: steps, tests, states on disk, the final weights."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3

from dinobench.config import flat
from dinobench.data.decoding import ram_budget
from dinobench.data.transforms import for_backbone
from dinobench.distributed import EarlySums, sum_gradients
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD, ModelInput, reading_of
from dinobench.metrics.classification import first_argmax, label_rank
from dinobench.signals import StopRequest
from dinobench.training.drop_path import Draws, add_drop_path
from dinobench.training.loader import Augment, ImageLoader, MicroBatch, StepIndices
from dinobench.training.mixup import Mix, in_pairs, shard_in_pairs
from dinobench.training.optim import Classifier, finetune_parameter_groups
from dinobench.training.random_erasing import ERASING, erase
from dinobench.training.randomness import own_randomness
from dinobench.training.resume import TrainingProgress, TrainingState
from dinobench.training.sampler import RepeatedOrder
from dinobench.training.scoring import classification_result
from dinobench.training.step_values import StepValues, to_device
from dinobench.types import Context, ImageClassification, ImageSplit, Result

if TYPE_CHECKING:
    from dinobench.protocols.finetune import Config

#: Sets the generator of a step's mix apart from those of its images, which are seeded by three numbers.
MIX = 1


class FineTuning:
    """One run. `backbone` is copied and stays as it is."""

    def __init__(self, backbone: Any, data: ImageClassification, config: Config, ctx: Context) -> None:
        self.data, self.config, self.ctx = data, config, ctx
        self.info = backbone.info
        self.notes: list[str] = []
        train, optimizer, drop_path = config.train, config.optimizer, config.regularisation.drop_path
        copy = backbone.clone().to(ctx.device)
        copy.module.requires_grad_(True)
        self.draws = Draws()
        uniforms = add_drop_path(copy.module, drop_path, self.draws)
        if drop_path and not uniforms:
            self.notes.append(f"drop_path has no effect: no residual blocks found in a {self.info.arch}")
        self.model = Classifier(copy, len(data.classes), train.head_std, ctx.seed).to(ctx.device)
        self.early = EarlySums([p for p in self.model.parameters() if p.requires_grad], ctx.processes)
        self.ema = ModelEmaV3(self.model, decay=optimizer.ema) if optimizer.ema else None

        batch = min(train.batch, len(data.train))  # a step has no more images than there are
        self.order = RepeatedOrder(len(data.train), batch, ctx.seed, repeats=config.augmentation.repeats)
        self.steps = self.order.steps_per_epoch
        self.lr = train.lr * batch / train.lr_batch
        self.optimizer = torch.optim.AdamW(
            finetune_parameter_groups(self.model, optimizer.weight_decay, optimizer.layer_decay),
            lr=self.lr, betas=(optimizer.betas[0], optimizer.betas[1]), eps=optimizer.eps,
            fused=ctx.device.type == "cuda",  # one kernel; on a CPU it would round otherwise
        )  # fmt: skip
        per_epoch = self.steps if train.schedule == "step" else 1
        self.schedule = CosineLRScheduler(
            self.optimizer, lr_min=train.min_lr,
            t_initial=max(2, train.epochs * per_epoch),  # timm would remark on a schedule of one value
            warmup_t=train.warmup_epochs * per_epoch, warmup_lr_init=train.warmup_lr,
        )  # fmt: skip
        kind = ctx.device.type
        with ctx.autocast():
            half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        self.scaler = torch.amp.GradScaler(kind, enabled=half)
        self.criterion = SoftTargetCrossEntropy()
        self.mixing = config.regularisation.mixing()
        self.view = config.train_view(uniforms)
        self.transform = for_backbone(config.test_transform(), backbone)
        self.train_images = self._loader(data.train, self.view)
        self.test_images = self._loader(data.test, lambda image, rng: self.transform(image))
        self.tested: dict[str, torch.Tensor] = {}
        self.stop, self.stopping = StopRequest(), False
        self.values, self.mean = StepValues(lag=1 if kind == "cuda" else 0), 0.0
        self.state = TrainingState(ctx.scratch / f"finetune-{self._identity()[:16]}.pt", ctx)

    def _loader(self, split: ImageSplit, augment: Augment) -> ImageLoader:
        ctx = self.ctx
        ram = ram_budget(ctx.ram_bytes, ctx.processes)
        return ImageLoader(
            split, augment, seed=ctx.seed, on_cpu=ctx.device.type == "cpu", processes=ctx.processes,
            micro_batch=max(2, ctx.batch_size // 2 * 2) if ctx.batch_size else None,  # whole pairs
            workers=ctx.workers, ram_bytes=ram // 2,  # two loaders share it
            skip_broken=ctx.skip_broken,
        )  # fmt: skip

    def run(self) -> Result:
        """Train to the last epoch and score it. Raises UserError when the training diverges.

        A signal that ends a run is heeded after the step that it comes in: the state is saved and Interrupted raised.
        """
        first = self._resume()
        total = self.config.train.epochs * self.steps
        images = (total - first) * self.order.batch
        with self.stop.listening():
            for _ in self.ctx.progress(self._train(first, total), f"Fine-tuning {self.info.name}", images):
                pass
        if self.ctx.rank == 0 and self.ctx.saves:
            self.ctx.save("model.pth", self._checkpoint())
        for images in (self.train_images, self.test_images):
            self.ctx.left_out(f"{images.split.name}/{name}" for name in images.broken)
        return self._result()

    def _train(self, first: int, total: int) -> Iterator[TrainingProgress]:
        """Steps `first` to `total` of the training, with the tests and saved states between them."""
        loss, accuracy = 0.0, ""
        train = self.config.train
        batches = self.train_images.load(map(self._step_indices, range(first, total)), self._shard)
        if self.tested:
            accuracy = self._accuracy()
        for step in range(first, total):
            epoch, within = divmod(step, self.steps)
            step_loss = self._update(batches, step)
            loss = step_loss if not within or step == first else 0.9 * loss + 0.1 * step_loss
            if within == self.steps - 1 or self.state.due or self.stopping:
                self._look(lag=0)  # what is not finite is neither tested nor saved
            if within == self.steps - 1:
                if (epoch + 1) % train.test_epochs == 0 or epoch + 1 == train.epochs:
                    self._test(epoch + 1)
                    accuracy = self._accuracy()
                self.state.save(self._state(step + 1))
            elif self.state.due or self.stopping:
                self.state.save(self._state(step + 1))
            if self.stopping:
                raise self.stop.interrupted()
            yield TrainingProgress(self.order.batch, f"epoch {epoch + 1}/{train.epochs}, loss {loss:.3f}{accuracy}")

    def _step_indices(self, step: int) -> StepIndices:
        images, views = self.order(*divmod(step, self.steps))
        pairs = in_pairs(len(images))
        return images[pairs], views[pairs]

    def _shard(self, n: int) -> slice:
        return shard_in_pairs(self.ctx.shard, n)

    def _update(self, batches: Iterator[MicroBatch], step: int) -> float:
        """One step of the optimizer; returns the loss per image. Raises UserError when it is not finite."""
        config, device = self.config, self.ctx.device
        epoch = step // self.steps
        self.schedule.step(epoch if config.train.schedule == "epoch" else step)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        crop = config.transform.crop
        mix = self.mixing.draw(crop, crop, np.random.default_rng((self.ctx.seed, step, 0, MIX)))
        totals, error = torch.zeros(4, device=device), None  # loss, images, processes that failed or are to stop
        images, failed = 0.0, 0.0
        shard = self._shard(self.order.batch)
        left = shard.stop - shard.start
        try:
            for part in batches:
                expected = min(self.train_images.micro_batch, left)
                left -= expected
                if part.n:
                    with own_randomness(device, self.ctx.seed, step, self.ctx.rank, left):
                        loss = self._loss(part, mix if part.n == expected else Mix())  # else a partner may be missing
                    with self.early.during(part.last):
                        self.scaler.scale(loss / self.order.batch).backward()
                    totals[0] += loss.detach()
                    images += part.n
                if part.last:
                    break
        except UserError as raised:
            error, failed = raised, 1.0
        stopping = float(self.stop.asked)
        for at, value in enumerate((images, failed, stopping), 1):
            totals[at].fill_(value)
        totals = sum_gradients(self.model, totals, self.ctx.processes, self.early)
        if self.ctx.processes > 1:  # what the others met decides this step too
            _, images, failed, stopping = totals.tolist()
        self.stopping = stopping > 0
        if failed:
            raise error or UserError("another process met an error, which its own message names")
        self.values.add(step, totals)
        self._look()
        self._apply(self.order.batch / max(images, 1))
        return self.mean

    def _look(self, lag: int | None = None) -> None:
        """At the losses of steps that are through. Raises UserError for one that is not finite."""
        for step, (loss_sum, images, _, _) in self.values.take(lag):
            self.mean = loss_sum / max(images, 1)
            if not np.isfinite(self.mean):
                epoch, within = divmod(step, self.steps)
                raise UserError(
                    f"finetune: the loss is not finite at step {within + 1} of epoch {epoch + 1}; lower the learning "
                    f"rate, as in --set lr={self.config.train.lr / 10:g}"
                    + (", or use --precision 32" if self.scaler.is_enabled() else "")
                )

    def _loss(self, part: MicroBatch, mix: Mix) -> torch.Tensor:
        """The sum over the images of a micro-batch."""
        device = self.ctx.device
        x = self.transform.normalise(part.views[0].to(device, non_blocking=True))
        draws = part.views[1]
        if self.view.erasing:
            erase(x, draws[:, :ERASING])
        self.draws.uniform = to_device(draws[:, ERASING:].float(), device)
        labels = to_device(torch.from_numpy(self.data.train.labels[part.rows]), device)
        targets = mix.targets(labels, len(self.data.classes), self.config.regularisation.smoothing)
        with self.ctx.autocast():
            scores = self.model(mix.images(x))
        return self.criterion(scores.float(), targets) * part.n

    def _apply(self, correction: float) -> None:
        """Step on the summed gradients; `correction` is above 1 where images were left out as broken."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        clip = self.config.optimizer.clip
        if correction != 1 or clip:
            self.scaler.unscale_(self.optimizer)
        if correction != 1:
            for p in parameters:
                assert p.grad is not None
                p.grad.mul_(correction)
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model)

    @property
    def final_model(self) -> Any:
        """The Classifier that is tested and kept: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    def _test(self, epoch: int) -> None:
        """Score the test images; keeps the ranks of the true class and the predictions, and the best epoch's."""
        model = self.final_model
        model.eval()
        n = len(self.data.test)

        def score() -> list[torch.Tensor]:
            parts = []
            for part in self.test_images.load([(np.arange(n), np.zeros(n, np.int64))], self.ctx.shard):
                if part.n:
                    with self.ctx.inference():
                        scores = model(self.transform.normalise(part.views[0].to(self.ctx.device))).float()
                    labels, rows = to_device(
                        torch.from_numpy(np.stack([self.data.test.labels[part.rows], part.rows])), scores.device
                    )
                    parts.append(torch.stack([rows, label_rank(scores, labels), first_argmax(scores)], dim=1))
            return parts

        parts = self.ctx.run_on_all(score)
        none = torch.zeros(0, 3, dtype=torch.int64, device=self.ctx.device)
        rows, ranks, predicted = self.ctx.gather(torch.cat(parts) if parts else none).T.clone()
        if not len(rows):
            raise UserError(f"none of the {n:,} images of {self.data.test.name} can be read")
        right, before = ranks == 0, self.tested.get("best_right")
        self.tested |= {"rows": rows, "ranks": ranks, "predicted": predicted}
        if before is None or len(before) != len(right) or right.sum() > before.sum():
            self.tested |= {"best_right": right, "best_epoch": torch.tensor(epoch)}

    def _accuracy(self) -> str:
        return f", test top-1 {100 * float((self.tested['ranks'] == 0).double().mean()):.1f} %"

    def _result(self) -> Result:
        best = int(self.tested["best_epoch"])
        notes = [*self.notes, f"best epoch on the test images: {best} of {self.config.train.epochs}"]
        columns = {"top1_best_epoch": self.tested["best_right"]}
        rows, ranks, predicted = self.tested["rows"].numpy(), self.tested["ranks"], self.tested["predicted"]
        return classification_result(self.data, rows, predicted, ranks, columns, notes)

    def _identity(self) -> str:
        """What decides the training: another configuration finds no state of this one."""
        info = self.info
        read = reading_of(info)
        return digest(
            flat(self.config), self.data.fingerprint, info.weights_digest, info.arch, self.ctx.seed,
            *([read] if read else []),
        )  # fmt: skip

    def _state(self, steps: int) -> dict[str, Any]:
        return {
            "step": steps,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else {},
            "tested": self.tested,
            "broken": sorted(self.train_images.broken),
        }

    def _resume(self) -> int:
        """Takes back the state of an interrupted run; returns the number of steps it had done."""
        state = self.state.load()
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.tested = state["tested"]
        self.train_images.broken.update(state["broken"])
        return int(state["step"])

    def _checkpoint(self) -> bytes:
        """The final weights as a checkpoint file that `load_backbone` reads, the head beside the backbone."""
        model, info = self.final_model, self.info
        content = {
            "backbone": {name: tensor.cpu() for name, tensor in model.module.state_dict().items()},
            "head": {name: tensor.cpu() for name, tensor in model.head.state_dict().items()},
            "classes": list(self.data.classes), "epoch": self.config.train.epochs,
            "arch": info.arch, "method": f"{info.method.removesuffix('-finetuned')}-finetuned",
        }  # fmt: skip
        if info.heads:
            content["heads"] = info.heads
        seen = ModelInput(self.transform.mean or IMAGENET_MEAN, self.transform.std or IMAGENET_STD)
        if not seen.usual:  # what it was trained on, it is to be scored on
            content["input"] = {"mean": list(seen.mean), "std": list(seen.std)}
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()
