"""Suites that run in moments, and their records without what differs from time to time."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from helpers.plugins import install, protocol
from helpers.weights import save, shifted, vit

from dinobench.suite.file import Suite, read
from dinobench.suite.plan import plan
from dinobench.suite.task import run_task, write_tasks

#: What of a record tells when and where, and not what came out.
TIMES = ("started_at", "duration_s", "peak_memory_mb", "git_dirty", "git_commit")

#: A protocol that fails as its setting says: with bad input, without memory, by a fault, or until a file is there.
UNSOUND = """
import os, signal, time
from dinobench.errors import UserError
right = run

@dataclass(frozen=True)
class Config:
    how: str = setting("not", "what goes wrong")
    marks: str = setting("marks", "a folder: each run leaves a file there")

profiles = {"default": Config()}

def run(backbone, data, config, ctx):
    os.makedirs(config.marks, exist_ok=True)
    names = [n for n in os.listdir(config.marks) if n.startswith(config.how)]
    open(os.path.join(config.marks, f"{config.how}-{len(names)}-{ctx.batch_size}"), "w").close()
    if config.how == "input":
        raise UserError("image 7 is broken: mend it")
    if config.how == "fault" or (config.how == "once" and not names):
        raise ZeroDivisionError("as asked for")
    if config.how == "memory" or (config.how == "halved" and ctx.batch_size is None):
        raise MemoryError("too large")
    if config.how == "killed" or (config.how == "survives" and not names):
        os.kill(os.getpid(), signal.SIGKILL)
    if config.how == "long":
        time.sleep(60)
    return right(backbone, data, config, ctx)
"""


def plug_in(site: Path, monkeypatch: Any) -> None:
    """Protocols of a distribution in `site`, for this process and those that it starts: sound and unsound."""
    install(site, "sound", protocol("sound"))
    install(site, "unsound", protocol("unsound", UNSOUND))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))


def models(folder: Path) -> dict[str, str]:
    """Two small ViTs in files, and pixels."""
    found = {}
    network = vit(width=64, depth=1, patch=8, image=16)
    for name, tensors in (("one", network), ("two", shifted(network))):
        found[name] = str(save(tensors, folder / f"{name}.pth"))
    return {**found, "floor": "pixels:4"}


def quick(folder: Path, out: str) -> Suite:
    """Three models by k-NN and the nearest thing to nothing, twelve cells in three groups, on embedded data."""
    named = "\n".join(f'{name} = "{path}"' for name, path in models(folder).items())
    runs = '[[run]]\nprotocol = "knn"\ndata = "digits"\nset = { resize = 16, crop = 16, k = [1, 5] }\nseeds = [0, 1, 2]'
    (folder / "quick.toml").write_text(f'[models]\n{named}\n{runs}\n[[run]]\nprotocol = "sound"\ndata = "digits"\n')
    return read(folder / "quick.toml", out=folder / out)


def unsound(folder: Path, *how: str, retries: int = 2) -> Suite:
    """Cells of `unsound`, one for each thing that goes wrong."""
    text = f'retries = {retries}\n[models]\nfloor = "pixels:2"\n'
    for one in how:
        marks = folder / "marks"
        text += f'[[run]]\nprotocol = "unsound"\ndata = "digits"\nset = {{ how = "{one}", marks = "{marks}" }}\n'
    (folder / "unsound.toml").write_text(text)
    return read(folder / "unsound.toml", out=folder / "out")


def marks(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "marks").glob("*"))


def outcome(out: Path) -> dict[str, Any]:
    """All that a results folder holds but times: records, digests of items and the leaderboard."""
    found: dict[str, Any] = {"leaderboard": (out / "leaderboard.csv").read_text()}
    for path in sorted((out / "runs").glob("*.json")):
        record: dict[str, Any] = json.loads(path.read_text())
        found[path.stem] = {key: value for key, value in record.items() if key not in TIMES}
        assert (out / "items" / f"{path.stem}.parquet").is_file()
    return found


def killed_tasks(suite: Suite, rng: random.Random, within: float) -> bool:
    """Run the suite's tasks in a process of its own, killed after a while; whether it was before they had ended."""
    if not (pid := os.fork()):
        code = 1
        try:
            torch.set_num_threads(1)
            for path in write_tasks(plan(suite)):
                run_task(path, "cpu")
            code = 0
        finally:
            os._exit(code)
    time.sleep(rng.uniform(0, within))
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


class Heard:
    """Keeps the events of a launcher, and sends itself a signal once one fits."""

    def __init__(self, kind: str = "", number: int = signal.SIGTERM) -> None:
        self.kind, self.number, self.events = kind, number, []

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.events.append(dict(event))
        if event["event"] == self.kind:
            self.kind = ""
            threading.Timer(0.2, os.kill, (os.getpid(), self.number)).start()

    def kinds(self) -> list[str]:
        return [e["event"] for e in self.events if e["event"] not in ("progress", "processes")]
