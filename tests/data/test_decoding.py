"""Decoding ahead of use, in order and within bounds; decoded images kept within a budget."""

from __future__ import annotations

import threading
from itertools import count, islice

import numpy as np
import pytest
from helpers.fakes import FakeSplit
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.data.decoding import ImageCache, in_order, ram_budget


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 40), threads=st.integers(1, 4), ahead=st.integers(1, 9), overlap=st.booleans())
def test_results_come_in_the_order_of_the_items(n, threads, ahead, overlap):
    assert list(in_order(lambda i: i * i, range(n), threads=threads, ahead=ahead, overlap=overlap)) == [
        i * i for i in range(n)
    ]


@pytest.mark.parametrize("overlap", [False, True])
def test_no_more_than_asked_for_is_taken_ahead(overlap):
    taken = []

    def items():
        for i in count():  # without end: a loop over steps need not know how many there are
            taken.append(i)
            yield i

    results = in_order(str, items(), threads=2, ahead=5, overlap=overlap)
    for used, result in enumerate(islice(results, 23)):
        assert result == str(used) and len(taken) <= used + 5
    results.close()


def test_threads_rest_while_the_caller_computes_on_the_same_cores():
    running = []

    def work(i):
        running.append(i)
        return i

    results = in_order(work, range(12), threads=3, ahead=4, overlap=False)
    for i in results:
        assert len(running) == 4 * (i // 4 + 1)  # whole lumps, and none begun while one is used


def test_an_error_of_the_work_is_raised_and_ends_the_loop():
    def work(i):
        if i == 3:
            raise KeyError("three")
        return i

    results = in_order(work, range(10), threads=2, ahead=4, overlap=True)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert list(results) == []


def test_each_thread_is_started_once():
    started: list[int] = []
    begin = lambda: started.append(threading.get_ident())  # noqa: E731
    list(in_order(abs, range(50), threads=1, ahead=4, overlap=True, start=begin))
    assert len(started) == 1 and started[0] != threading.get_ident()


def test_images_are_kept_within_the_budget_and_decoded_anew_beyond():
    split = FakeSplit(10)
    size = np.asarray(split.load(0)).nbytes
    split.loads.clear()
    images = ImageCache(split, np.asarray, 4 * size + 1)
    for _ in range(3):
        for row in range(10):
            assert (images.get(row)[0, 0] == split.colors[row]).all()
    assert [split.loads[row] for row in range(10)] == [1] * 4 + [3] * 6
    assert images.room == 1


def test_a_split_in_memory_is_not_kept_twice():
    split = FakeSplit(3)
    split.in_memory = True
    images = ImageCache(split, np.asarray, 10**9)
    for _ in range(2):
        images.get(0)
    assert split.loads[0] == 2 and images.room == 10**9


def test_a_chosen_budget_is_each_processes_own():
    assert ram_budget(1000, 4) == 1000
    assert ram_budget(None, 4) == pytest.approx(ram_budget(None, 1) / 4, abs=1)
