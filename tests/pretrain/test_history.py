"""metrics.jsonl: what is written comes back, whatever an interruption left."""

from __future__ import annotations

import json
import math
import os

import pytest

from dinobench.errors import UserError
from dinobench.pretrain import history


class TestMetrics:
    def test_rows_come_back(self, tmp_path):
        path = tmp_path / "run" / "metrics.jsonl"
        assert history.read_metrics(path) == []
        rows = [{"epoch": 0, "loss": 1.5, "knn/teacher/top1@k20": 31.0}, {"epoch": 1, "loss": math.inf, "lr": None}]
        for row in rows:
            history.append_metrics(path, row)
        assert history.read_metrics(path) == [rows[0], {"epoch": 1, "loss": None, "lr": None}]
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    def test_a_torn_last_line_is_left_out_and_repaired(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        history.append_metrics(path, {"epoch": 0, "loss": 1.0})
        whole = path.read_bytes()
        for torn in (b'{"epoch": 1, "lo', b'{"epoch": 1}', "{é".encode()[:2]):
            path.write_bytes(whole + torn)
            assert history.read_metrics(path) == [{"epoch": 0, "loss": 1.0}]
        history.append_metrics(path, {"epoch": 1, "loss": 0.5})
        assert [r["epoch"] for r in history.read_metrics(path)] == [0, 1]
        assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 2

    def test_a_repeated_epoch_counts_once(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        for epoch, loss in ((0, 1.0), (1, 0.9), (2, 0.8), (1, 0.7), (2, 0.6)):
            history.append_metrics(path, {"epoch": epoch, "loss": loss})
        assert [(r["epoch"], r["loss"]) for r in history.read_metrics(path)] == [(0, 1.0), (1, 0.7), (2, 0.6)]

    @pytest.mark.parametrize("bad", ["nonsense", "[1, 2]"])
    def test_other_damage_is_named(self, tmp_path, bad):
        path = tmp_path / "metrics.jsonl"
        path.write_text(f'{{"epoch": 0}}\n{bad}\n{{"epoch": 1}}\n')
        with pytest.raises(UserError, match=r"metrics.jsonl: line 2 is not a JSON object; remove the line"):
            history.read_metrics(path)


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # makes importing it fail
    assert history.tensorboard(tmp_path) is None


def test_looking_at_a_history_tells_what_could_not_be_read():
    content = b'{"epoch": 1, "loss": 2}\n\n[1]\n{"epoch": 1, "loss": 1}\n{"loss": 3}\n{"epoch": [2]}\n{"epo'
    rows, unreadable = history.parse_metrics(content)
    assert rows == [{"epoch": 1, "loss": 1}, {"loss": 3}, {"epoch": [2]}] and unreadable == [3, 7]


def test_epochs_that_are_trained_again_are_taken_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2, 3):
        history.append_metrics(path, {"epoch": epoch})
    assert history.rewind_metrics(path, 3) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    assert history.rewind_metrics(path, 1) == [{"epoch": 1}] == history.read_metrics(path)


def test_a_history_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        history.MetricsWriter(tmp_path / "run", tmp_path / "results").write({"epoch": 1, "step": 3})


def test_histories_are_found_by_folder_file_and_name(tmp_path):
    history.append_metrics(tmp_path / "dino" / "metrics.jsonl", {"epoch": 1})
    history.append_metrics(tmp_path / "copy.jsonl", {"epoch": 2})
    assert history.named_history(str(tmp_path / "dino")) == ("dino", [{"epoch": 1}])
    assert history.named_history(str(tmp_path / "copy.jsonl")) == ("copy", [{"epoch": 2}])
    assert history.named_history(f"no centring={tmp_path / 'dino'}") == ("no centring", [{"epoch": 1}])
    with pytest.raises(UserError, match="no epochs of a training there"):
        history.named_history(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("line", ['{"loss": 1}', '{"epoch": "1"}', '{"epoch": [1]}', '{"epoch": 1' + "0" * 400 + "}",
                                  "[" * 100_000, '{"epoch": ' + "1" * 5000 + "}", '{"epoch": true}'])  # fmt: skip
def test_a_line_that_no_training_wrote_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"epoch": 0}}\n{line}\n')
    for read in (history.read_metrics, lambda p: history.rewind_metrics(p, 1)):
        with pytest.raises(UserError, match=r"metrics.jsonl: .* remove the line"):
            read(path)


def test_what_is_no_file_is_no_history(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("metrics.jsonl", "pipe", "a\0b"):
        with pytest.raises(UserError, match="no history of a training"):
            history.read_metrics(tmp_path / name)


def test_values_that_cannot_be_drawn_are_left_out():
    rows = [{"kl": v} for v in (1, 10**400, float("nan"), "x", None, [1], -1e308, 2.5)]
    assert history.finite_values(rows, "kl") == [1, 2.5]
