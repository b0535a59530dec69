from __future__ import annotations

import pytest
import torch

from dinobench.errors import UserError
from dinobench.training.resume import load_state, save_state


def test_state_comes_back_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "state.pt"
    assert load_state(path) is None
    save_state(path, {"step": 7, "w": torch.arange(3.0), "groups": [{"v": torch.ones(2, 2)}]})
    found = load_state(path)
    assert found is not None and found["step"] == 7 and torch.equal(found["w"], torch.arange(3.0))
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]
    content = path.read_bytes()
    for damaged in (content[:100], content[:-500] + b"\1" + content[-499:], content.replace(b"groups", b"grouqs"), b""):
        path.write_bytes(damaged)
        assert load_state(path) is None


def test_a_disk_that_refuses_is_the_users_affair(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_state(tmp_path / "file" / "state.pt", {})
