"""Damaged and hostile files of items, each in a process of its own, so that a crash is seen."""

from __future__ import annotations

import multiprocessing

import pytest
from helpers import damaged_items


def in_process(function, *arguments) -> None:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join(200)
    process.kill()
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_files_are_one_line(tmp_path, seed):
    in_process(damaged_items.mutated, tmp_path, seed, 500)


@pytest.mark.slow
def test_odd_tables_are_one_line(tmp_path):
    in_process(damaged_items.odd_tables, tmp_path)


@pytest.mark.slow
def test_small_files_that_stand_for_much_take_no_memory(tmp_path):
    in_process(damaged_items.make_bombs, tmp_path)
    in_process(damaged_items.small_files_of_much, tmp_path)
