"""What the steps of a training computed, read without holding up the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """x of the host on the device, copied while the device works: from memory that it can read by itself on CUDA."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class StepValues:
    """Numbers of recent steps, read when the device has them: waiting for each step would leave a GPU idle.

    The last `lag` steps are left to the device.
    """

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self._pending: deque[tuple[int, torch.Tensor, Any]] = deque()

    def add(self, step: int, values: torch.Tensor) -> None:
        """The numbers (n,) of a step, on any device."""
        host = values.detach().to("cpu", non_blocking=True)
        event = None
        if values.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
        self._pending.append((step, host, event))

    def take(self, lag: int | None = None) -> Iterator[tuple[int, list[float]]]:
        """(step, its numbers), once each and in order, for all but the last `lag` steps."""
        while len(self._pending) > (self.lag if lag is None else lag):
            step, host, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            yield step, host.tolist()
