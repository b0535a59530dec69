"""A suite's training, done by the task that first needs it, as `dinobench pretrain` would do it.

It is saved and gone on with as any training is, and belongs to whoever holds the lock in its folder.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from dinobench import console, lazy
from dinobench.files import writable_folder
from dinobench.suite.training import standing
from dinobench.suite.training.asked import Training

with lazy.imports():
    import torch

    from dinobench import runtime

if TYPE_CHECKING:
    from dinobench.pretrain.loop import Loop

#: Held, in the folder of a training, by the process that trains.
LOCK = ".lock"
#: Seconds until a training that another process has is looked at again.
LATER = 1.0

#: As `console.watcher`: what is done, how much, of how much.
Watch = Callable[[str, int, int | None], None]


def ensure(training: Training, device: str, watch: Watch) -> None:
    """Returns once the model's file is whole, made by this process or by another one that is at it.

    Raises UserError where the folder holds another training, and as a training does; Interrupted where a signal ended
    it: it is saved then.
    """
    if standing.look(training).done:
        return
    folder = Path(training.folder)
    writable_folder(folder)
    lock = FileLock(folder / LOCK)
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            watch(f"waits for the training of {training.name} by another process", 0, None)
            time.sleep(LATER)
    try:
        if not standing.look(training).done:
            _make(training, device, watch)
    finally:
        lock.release()


def _make(training: Training, device: str, watch: Watch) -> None:
    from dinobench.pretrain import images
    from dinobench.pretrain import run as runs
    from dinobench.pretrain.checkpoints import LATEST, save_untrained, untrained
    from dinobench.pretrain.loop import Loop

    folder = Path(training.folder)
    begun = (folder / LATEST).exists()
    run = runs.read(folder) if begun else training.run()
    started = runtime.start(device, 1, training.precision or run.precision or None)
    if begun:
        run, data = images.go_on(run, folder, started, skip_broken=training.skip_broken)
    else:
        run, data = images.begin(dataclasses.replace(run, precision=started.precision), folder, started)
    if training.start:
        save_untrained(training.file, untrained(run, len(data.classes)), run.image_size)
        return
    loop = Loop(run, folder, started, data)
    with _watched(loop, training.name, watch):
        loop.train()
    del loop
    gc.collect()
    if started.device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _watched(loop: Loop, name: str, watch: Watch) -> Iterator[None]:
    """What the loop says of its progress is told to `watch`, counted in steps of the whole training."""
    before, whole = console.watcher, loop.steps_per_epoch * loop.config.epochs
    console.watcher = lambda what, done, total: watch(f"training {name}, {what}", loop.at.step, whole)
    try:
        yield
    finally:
        console.watcher = before
