"""run.json comes back, and guards its folder."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dinobench.errors import UserError
from dinobench.pretrain import run as runs


@pytest.mark.parametrize(
    ("method", "expected"), [("simclr", {"projector_norm": False}), ("mocov3", {}), ("dino", {}), ("mine", {})]
)
def test_a_run_begun_before_a_setting_was_there_keeps_what_it_did(method, expected, tmp_path):
    values = {"schema": 1, **dataclasses.asdict(runs.Run(method, "vit_tiny", 32, 8, 2, "digits", {"epochs": 3}, "32"))}
    for name in ("eval_data", "skip_broken", "left_out", "lost"):
        del values[name]
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert runs.read(tmp_path).config == {"epochs": 3, "decay_all": False, **expected}


def test_run_json_comes_back_and_guards_its_folder(tmp_path):
    config = {"epochs": 3, "decay_all": True}
    run = runs.Run("dino", "vit_tiny", 32, 8, 2, "digits", config, "32", evals=("knn",), eval_settings={"k": "1"})
    runs.begin(tmp_path / "run", run)
    assert runs.read(tmp_path / "run") == run
    runs.begin(tmp_path / "run", run)  # nothing was trained yet
    (tmp_path / "run" / "checkpoint.pth").write_bytes(b"state")
    with pytest.raises(UserError, match=r"holds a training run \(dino on digits\).*--resume"):
        runs.begin(tmp_path / "run", run)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a run's settings"):
        runs.read(tmp_path / "run")
    with pytest.raises(UserError, match=r"no run\.json in it"):
        runs.read(tmp_path)


def test_what_two_runs_differ_in_is_told_by_name():
    config = {"epochs": 3, "jitter": (0.4, 0.2), "lr": 0.1}
    one = runs.Run("dino", "vit_tiny", 16, 8, None, "digits", config, "32", results="here")
    same = dataclasses.replace(one, config={**config, "jitter": [0.4, 0.2]}, results="there")
    assert runs.differences(one, same, but=("results",)) == []
    other = dataclasses.replace(same, depth=2, config={**config, "epochs": 9})
    assert runs.differences(one, other, but=("results",)) == ["depth none, not 2", "epochs 3, not 9"]
