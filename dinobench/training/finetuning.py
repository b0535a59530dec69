"""The fine-tuning protocol's run, once it is configured: steps, tests, states on disk, the final weights."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3

from dinobench.data.decoding import ram_budget
from dinobench.distributed import sum_gradients
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.metrics.classification import first_argmax, label_rank
from dinobench.models.checkpoint import write_checkpoint
from dinobench.training.augment import TrainView
from dinobench.training.drop_path import Draws, add_drop_path
from dinobench.training.loader import ImageLoader, MicroBatch
from dinobench.training.mixup import Mix, in_pairs, share_in_pairs
from dinobench.training.optim import Classifier, finetune_parameter_groups
from dinobench.training.random_erasing import ERASING, erase
from dinobench.training.randomness import own_randomness
from dinobench.training.resume import TrainingState
from dinobench.training.sampler import RepeatedOrder
from dinobench.types import Context, ImageClassification, Result

#: Sets the generator of a step's mix apart from those of its images, which are seeded by three numbers.
MIX = 1


@dataclass(frozen=True)
class Update:
    """One step done: `n` images, and what the progress bar says."""

    n: int
    says: str


class FineTuning:
    """One run. `config` is the protocol's; `backbone` is copied and stays as it is."""

    def __init__(self, backbone: Any, data: ImageClassification, config: Any, ctx: Context) -> None:
        self.data, self.config, self.ctx = data, config, ctx
        self.info = backbone.info
        self.notes: list[str] = []
        self.file = self._final_file()
        copy = backbone.clone().to(ctx.device)
        copy.module.requires_grad_(True)
        self.draws = Draws()
        uniforms = add_drop_path(copy.module, config.drop_path, self.draws)
        if config.drop_path and not uniforms:
            self.notes.append(f"drop_path has no effect: no residual blocks found in a {self.info.arch}")
        self.model = Classifier(copy, len(data.classes), config.head_std, ctx.seed).to(ctx.device)
        self.ema = ModelEmaV3(self.model, decay=config.ema) if config.ema else None

        batch = min(config.batch, len(data.train))  # a step has no more images than there are
        self.order = RepeatedOrder(len(data.train), batch, ctx.seed, repeats=config.repeats)
        self.steps = self.order.steps_per_epoch
        self.lr = config.lr * batch / config.lr_batch
        self.optimizer = torch.optim.AdamW(
            finetune_parameter_groups(self.model, config.weight_decay, config.layer_decay),
            lr=self.lr, betas=(config.betas[0], config.betas[1]), eps=config.eps,
        )  # fmt: skip
        per_epoch = self.steps if config.schedule == "step" else 1
        self.schedule = CosineLRScheduler(
            self.optimizer, lr_min=config.min_lr,
            t_initial=max(2, config.epochs * per_epoch),  # timm would remark on a schedule of one value
            warmup_t=config.warmup_epochs * per_epoch, warmup_lr_init=config.warmup_lr,
        )  # fmt: skip
        self.autocast: Callable[[], AbstractContextManager[Any]] = ctx.autocast
        with self.autocast():
            kind = ctx.device.type
            half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        self.scaler = torch.amp.GradScaler(kind, enabled=half)
        self.criterion = SoftTargetCrossEntropy()
        self.mixing = config.mixing()
        self.view = TrainView(config.augment(), config.operations(), config.erase(), uniforms)
        self.transform = config.transform()
        self.train_images = self._loader(data.train, self.view)
        self.test_images = self._loader(data.test, lambda image, rng: self.transform(image))
        self.tested: dict[str, torch.Tensor] = {}
        self.keeper = TrainingState(ctx.scratch / f"finetune-{self._identity()[:16]}.pt", ctx)

    def _loader(self, split: Any, augment: Any) -> ImageLoader:
        ctx = self.ctx
        wanted = ctx.batch_size
        ram = ram_budget(ctx.ram_bytes, ctx.processes)
        return ImageLoader(
            split, augment, seed=ctx.seed, on_cpu=ctx.device.type == "cpu", processes=ctx.processes,
            micro_batch=max(2, wanted // 2 * 2) if wanted else None,  # whole pairs
            workers=ctx.workers, ram_bytes=ram // 2,  # two loaders share it
            skip_broken=ctx.skip_broken,
        )  # fmt: skip

    def run(self) -> Result:
        """Train to the last epoch and score it. Raises UserError when the training diverges."""
        first = self._resume()
        total = self.config.epochs * self.steps
        images = (total - first) * self.order.batch
        for _ in self.ctx.progress(self._updates(first, total), f"Fine-tuning {self.info.name}", images):
            pass
        if self.file and self.ctx.rank == 0:
            self._write_final(self.file)
        return self._result()

    def _updates(self, first: int, total: int) -> Iterator[Update]:
        loss, accuracy = 0.0, ""
        source = self.train_images.load(map(self._images, range(first, total)), self._share)
        if self.tested:
            accuracy = self._accuracy()
        for number in range(first, total):
            epoch, step = divmod(number, self.steps)
            new = self._update(source, number)
            loss = new if not step or number == first else 0.9 * loss + 0.1 * new
            if step == self.steps - 1:
                if (epoch + 1) % self.config.test_epochs == 0 or epoch + 1 == self.config.epochs:
                    self._test(epoch + 1)
                    accuracy = self._accuracy()
                self.keeper.save(self._state(number + 1))
            elif self.keeper.due:
                self.keeper.save(self._state(number + 1))
            yield Update(self.order.batch, f"epoch {epoch + 1}/{self.config.epochs}, loss {loss:.3f}{accuracy}")

    def _images(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        images, views = self.order(*divmod(number, self.steps))
        pairs = in_pairs(len(images))
        return images[pairs], views[pairs]

    def _share(self, n: int) -> slice:
        return share_in_pairs(self.ctx, n)

    def _update(self, source: Iterator[MicroBatch], number: int) -> float:
        """One step of the optimizer; returns the loss per image. Raises UserError when it is not finite."""
        config, device = self.config, self.ctx.device
        epoch, step = divmod(number, self.steps)
        self.schedule.step(epoch) if config.schedule == "epoch" else self.schedule.step(number)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        mix = self.mixing.draw(config.crop, config.crop, np.random.default_rng((self.ctx.seed, number, 0, MIX)))
        totals, error = torch.zeros(3, device=device), None  # loss, images, processes that failed
        mine = self._share(self.order.batch)
        left = mine.stop - mine.start
        try:
            for part in source:
                wanted = min(self.train_images.micro_batch, left)
                left -= wanted
                if part.n:
                    with own_randomness(device, self.ctx.seed, number, self.ctx.rank, left):
                        loss = self._loss(part, mix if part.n == wanted else Mix())  # else a partner may be missing
                    self.scaler.scale(loss / self.order.batch).backward()
                    totals += torch.stack([loss.detach(), loss.new_tensor(part.n), loss.new_zeros(())])
                if part.last:
                    break
        except UserError as raised:
            error = raised
            totals[2] += 1
        loss_sum, images, failed = sum_gradients(self.model, totals, self.ctx.processes).tolist()
        if failed:
            raise error or UserError("another process met an error, which its own message names")
        mean = loss_sum / max(images, 1)
        if not np.isfinite(mean):
            raise UserError(
                f"finetune: the loss is not finite at step {step + 1} of epoch {epoch + 1}; lower the learning rate, "
                f"as in --set lr={config.lr / 10:g}" + (", or use --precision 32" if self.scaler.is_enabled() else "")
            )
        self._apply(self.order.batch / max(images, 1))
        return mean

    def _loss(self, part: MicroBatch, mix: Mix) -> torch.Tensor:
        """The sum over the images of a micro-batch."""
        device = self.ctx.device
        x = self.transform.normalise(part.views[0].to(device, non_blocking=True))
        draws = part.views[1]
        if self.view.erasing:
            erase(x, draws[:, :ERASING])
        self.draws.uniform = draws[:, ERASING:].to(device, torch.float32)
        labels = torch.from_numpy(self.data.train.labels[part.rows]).to(device)
        targets = mix.targets(labels, len(self.data.classes), self.config.smoothing)
        with self.autocast():
            scores = self.model(mix.images(x))
        return self.criterion(scores.float(), targets) * part.n

    def _apply(self, correction: float) -> None:
        """Step on the summed gradients; `correction` is above 1 where images were left out as broken."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if correction != 1 or self.config.clip:
            self.scaler.unscale_(self.optimizer)
        if correction != 1:
            for p in parameters:
                assert p.grad is not None
                p.grad.mul_(correction)
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model)

    def _test(self, epoch: int) -> None:
        """Score the test images; keeps the ranks of the true class and the predictions, and the best epoch's."""
        model = self.ema.module if self.ema else self.model
        model.eval()
        n = len(self.data.test)

        def scored() -> list[torch.Tensor]:
            parts = []
            for part in self.test_images.load([(np.arange(n), np.zeros(n, np.int64))], self.ctx.shard):
                if part.n:
                    with self.ctx.inference():
                        scores = model(self.transform.normalise(part.views[0].to(self.ctx.device))).float()
                    labels = torch.from_numpy(self.data.test.labels[part.rows]).to(scores.device)
                    rows = torch.from_numpy(part.rows).to(scores.device)
                    parts.append(torch.stack([rows, label_rank(scores, labels), first_argmax(scores)], dim=1).cpu())
            return parts

        parts = self.ctx.run_on_all(scored)
        rows, ranks, predicted = self.ctx.gather(torch.cat(parts) if parts else torch.zeros(0, 3).long()).T.clone()
        if not len(rows):
            raise UserError(f"none of the {n:,} images of {self.data.test.name} can be read")
        right, before = ranks == 0, self.tested.get("best_right")
        self.tested |= {"rows": rows, "ranks": ranks, "predicted": predicted}
        if before is None or len(before) != len(right) or right.sum() > before.sum():
            self.tested |= {"best_right": right, "best_epoch": torch.tensor(epoch)}

    def _accuracy(self) -> str:
        return f", test top-1 {100 * float((self.tested['ranks'] == 0).double().mean()):.1f} %"

    def _result(self) -> Result:
        data, kept = self.data, self.tested["rows"].numpy()
        ranks = self.tested["ranks"]
        columns = {"top1": ranks == 0, "top5": ranks < 5, "top1_best_epoch": self.tested["best_right"]}
        frame = {
            "id": [data.test.ids[int(i)] for i in kept],
            "label": [data.classes[i] for i in data.test.labels[kept]],
            "prediction": [data.classes[i] for i in self.tested["predicted"]],
            **{name: right.numpy() for name, right in columns.items()},
        }
        values = {name: 100 * float(right.double().mean()) for name, right in columns.items()}
        best = int(self.tested["best_epoch"])
        notes = [*self.notes, f"best epoch on the test images: {best} of {self.config.epochs}"]
        met = [zlib.crc32(name.encode()) for name in self.train_images.broken]  # several processes may meet the same
        if broken := len(self.ctx.gather(torch.tensor(met, dtype=torch.int64)).unique()):
            notes.append(f"{broken} train images could not be read and were left out")
        return Result(values, pd.DataFrame(frame), notes=notes)

    def _identity(self) -> str:
        """What decides the training: another configuration finds no state of this one."""
        fields = dataclasses.asdict(self.config) | {"save": None}
        return digest(fields, self.data.fingerprint, self.info.weights_digest, self.info.arch, self.ctx.seed)

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
        state = self.keeper.load()
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

    def _final_file(self) -> Path | None:
        """Where the final weights go; its folder is made now, so that one that cannot be is found before the work."""
        if not self.config.save:
            return None
        path = Path(self.config.save).expanduser()
        if self.config.save.endswith("/") or path.is_dir():
            path /= f"{self.info.name.replace('/', '-')}.pth"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(path, error) from None
        return path

    def _write_final(self, path: Path) -> None:
        model = self.ema.module if self.ema else self.model
        weights = {name: tensor.cpu() for name, tensor in model.module.state_dict().items()}
        head = {name: tensor.cpu() for name, tensor in model.head.state_dict().items()}
        kept = {
            "backbone": weights, "head": head, "classes": list(self.data.classes), "epoch": self.config.epochs,
            "arch": self.info.arch, "method": f"{self.info.method.removesuffix('-finetuned')}-finetuned",
        }  # fmt: skip
        if self.info.heads:
            kept["heads"] = self.info.heads
        try:
            write_checkpoint(kept, path)
        except (OSError, RuntimeError) as error:
            raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}; choose another save=")
