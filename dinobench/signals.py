"""Signals that ask a program to end, from a terminal, a closed one, or a scheduler whose time is up.

What they end exits with 128 and the signal's number, as a shell reports it: schedulers can tell it from a fault.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

#: Ctrl-C, a scheduler's end of time, a terminal that goes away, and the warnings ahead of the end that SLURM can send:
#: which of the two is up to who submits (submitit takes USR2).
ENDING = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """Asked to end by signal `number`."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = int(number)


class _Last:
    number: int = signal.SIGINT


def exit_code() -> int:
    """128 and the number of the signal that came last, Ctrl-C's where none was seen."""
    return 128 + int(_Last.number)


@contextmanager
def handled_by(handler: Callable[[int], None], heed: Sequence[int] = ()) -> Iterator[None]:
    """`handler(number)` takes the signals for the block; outside the main thread, which alone may, nothing changes.

    What was switched off by whoever started the program stays so, as `nohup` does with a terminal that goes away, but
    for those of `heed`.
    """

    def handle(number: int, frame: object) -> None:
        _Last.number = number
        handler(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [n for n in ENDING if n in heed or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)


def interrupt(number: int) -> None:
    """A handler that ends the work at once, as Ctrl-C does."""
    raise Interrupted(number)


class StopRequest:
    """The first signal while it listens sets `asked`, a second one raises Interrupted at once."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def asked(self) -> bool:
        return bool(self.number)

    def interrupted(self) -> Interrupted:
        """What to raise once all is saved; where another process was asked, Ctrl-C's."""
        return Interrupted(self.number or signal.SIGINT)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals for the block (see `handled_by`)."""

        def ask(number: int) -> None:
            if self.asked:
                raise Interrupted(number)
            self.number = number

        with handled_by(ask, heed=[signal.SIGINT]):
            yield
