"""The signals that end a run: noted once, heeded at once the second time, and told by the exit code."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dinobench import signals
from dinobench.signals import ENDING, Interrupted, StopRequest


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


def test_schedulers_and_terminals_are_heard():
    assert {n.name for n in ENDING} == {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"}


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_is_noted_and_the_second_stops(number):
    before = signal.getsignal(number)
    stop = StopRequest()
    with pytest.raises(KeyboardInterrupt), stop.listening():
        assert not stop.asked
        kill(number)
        assert stop.asked and stop.interrupted().number == number
        kill(number)
    assert signal.getsignal(number) is before and signals.exit_code() == 128 + number


@pytest.mark.parametrize("number", [n for n in ENDING if n != signal.SIGINT])
def test_a_command_ends_at_once_and_what_it_waits_for_may_end_first(number):
    with pytest.raises(Interrupted) as raised, signals.handled_by(signals.interrupt):
        stop = StopRequest()
        with stop.listening():
            kill(number)
        assert stop.asked
        kill(number)
    assert raised.value.number == number


def test_what_nohup_switched_off_stays_off():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled_by(signals.interrupt):
            kill(signal.SIGHUP)
        stop = StopRequest()
        with stop.listening():
            kill(signal.SIGHUP)
        assert not stop.asked and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_the_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    during = []

    def listen():
        with StopRequest().listening():
            during.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert during == [before]
