from __future__ import annotations

import pytest
import torch

from dinobench.bench import BENCHES, measure_bench, table
from dinobench.bench.measure import BenchRow
from dinobench.errors import UserError

ROWS = [BenchRow("a|b", "1 s", "2 s bare", 0.5, "at most 1", True), BenchRow("c", "3", "1", 3.0, "at most 2", False)]


def test_the_table_stands_between_the_marks_and_only_there(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        table.put(path, table.markdown(ROWS, table.machine("cpu")))
    text = path.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\nOn ") and text.endswith(f"{table.END}\nafter\n")
    assert "old" not in text and text.count("| c | 3 | 1 | 3.00 | at most 2 | not met |") == 1
    assert "| a\\|b | 1 s |" in text and f"torch {torch.__version__}" in text


@pytest.mark.parametrize("content", [None, b"no marks", f"{table.END} {table.BEGIN}".encode(), b"\xff"])
def test_a_file_without_marks_is_refused_before_anything_is_measured(tmp_path, content):
    path = tmp_path / "README.md"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"README\.md: .*bench"):
        table.check(path)


def test_all_is_every_bench(monkeypatch):
    asked = []

    class Module:
        def __getattr__(self, name):
            return lambda device="auto": asked.append((name, device)) or [ROWS[0]]

    monkeypatch.setattr("dinobench.bench.import_module", lambda name: Module())
    told = []
    assert measure_bench("all", told.append, device="cuda", repeats=None) == [ROWS[0]] * len(BENCHES)
    assert told == [[ROWS[0]]] * len(BENCHES)  # each as soon as it is there
    assert [name for name, _ in asked] == [place.partition(":")[2] for place in BENCHES.values()]
    assert {device for _, device in asked} == {"cuda"}
    asked.clear()
    measure_bench("dense")
    assert [name for name, _ in asked][-2:] == ["incontext", "depth"]
