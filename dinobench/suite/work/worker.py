"""One process of a suite on this machine: it takes tasks line by line, and says line by line what comes of them.

Started by `local` as `python -m dinobench.suite.work.worker DEVICE`. Each line in is a JSON text: an object with a
task's file and the names of its devices, where it has several, or null for the end; each line out a JSON object, an
event. Where the lines end without a null, whoever started it is gone:
what runs is then stopped, as by a signal.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from dinobench import lazy, signals
from dinobench.evaluations.kept import Kept
from dinobench.suite.task import AGAIN, run_task

with lazy.imports():
    import torch


def main(device: str) -> int:
    """Returns the code of the task that ended it, or 0."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command sets it
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what anybody prints is no event

    def tell(event: Mapping[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    asked: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, asked), daemon=True).start()
    kept = Kept()
    try:
        with signals.handled_by(signals.interrupt, heed=[signal.SIGINT]):
            tell({"event": "ready", "devices": accelerators(device)})
            while (task := asked.get()) is not None:
                several = task["devices"]
                code = run_task(
                    Path(task["file"]), device, devices=max(1, len(several)), visible=several, told=tell, kept=kept
                )
                tell({"event": "ended", "code": code})
                if code == AGAIN or code > 128:
                    return code
    except KeyboardInterrupt:
        return signals.exit_code()
    except BrokenPipeError:  # nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), events.fileno())
        return 1
    return 0


def accelerators(device: str) -> int:
    """How many devices of that kind there are besides the CPU."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count()
    return int(device in ("auto", "mps") and torch.backends.mps.is_available())


def _listen(lines: TextIO, asked: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in lines:
        task = json.loads(line)
        asked.put(task)
        if task is None:
            return
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
