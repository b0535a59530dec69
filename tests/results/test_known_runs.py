"""A checkpoint is known again while its files stay as they are, and read again when anything speaks against that."""

from __future__ import annotations

import dataclasses
import json

import pytest
from helpers.samples import INFO

from dinobench import files
from dinobench.errors import UserError
from dinobench.results import known_runs

HOW = {"name": None, "seed": 0, "arch": None, "key": None, "heads": None, "allow_partial": False}


@pytest.fixture(autouse=True)
def settled(monkeypatch, own_cache):
    monkeypatch.setattr(files, "SETTLED_NS", -(10**12))


def read(path, info=INFO, **changes):
    """As a run does: looks, reads, remembers."""
    sight = known_runs.look(str(path), **{**HOW, **changes})
    known_runs.remember(sight, info)


def known(path, **changes):
    return known_runs.recalled(str(path), **{**HOW, **changes})


def test_a_checkpoint_is_known_again_as_what_it_was(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    assert known(path) is None
    info = dataclasses.replace(INFO, missing=("a", "b"), epoch=3)
    read(path, info)
    assert known(path) == info


@pytest.mark.parametrize("changes", [{"key": "student"}, {"name": "b"}, {"allow_partial": True}])
def test_read_in_another_way_it_is_another(tmp_path, changes):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    read(path)
    assert known(path, **changes) is None


def test_a_seed_counts_where_something_is_drawn_by_it(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    for spec, partly in ((path, False), ("pixels:8", False), (path, True), ("random:vit_tiny", False)):
        read(spec, seed=1, allow_partial=partly)
        assert known(spec, seed=1, allow_partial=partly) == INFO
    assert known(path, seed=2) == known("pixels:8", seed=2) == INFO
    assert known(path, seed=2, allow_partial=True) is known("random:vit_tiny", seed=2) is None


def test_a_file_that_was_replaced_or_touched_is_read_again(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    read(path)
    path.write_bytes(b"WEIGHTS")
    assert known(path) is None
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        known(path)


def test_a_file_that_changed_while_it_was_read_is_not_remembered(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    sight = known_runs.look(str(path), **HOW)
    path.write_bytes(b"other weights")
    known_runs.remember(sight, INFO)
    assert known(path) is None


def test_a_part_of_a_sharded_save_counts(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    part = tmp_path / "model-00001-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": {"a": part.name}}))
    part.write_bytes(b"part")
    read(index)
    assert known(index) == INFO
    part.write_bytes(b"another")
    assert known(index) is None


def test_other_software_reads_anew(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    read(path)
    monkeypatch.setattr(known_runs, "_software", lambda: ("newer",))
    assert known(path) is None


def test_pretrained_names_are_never_believed():
    assert known("timm:vit_tiny_patch16_224") is None
    assert known_runs.look("timm:vit_tiny_patch16_224", **HOW) is None


@pytest.mark.parametrize("damage", ["", "{}", '{"files": {}, "info": {}}', '{"files": [], "info": 3}', "[" * 100_000])
def test_a_damaged_memory_is_none(tmp_path, damage):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    read(path)
    [memory] = (files.cache_root() / known_runs.KIND).iterdir()
    memory.write_text(damage)
    assert known(path) is None


def test_what_a_backbone_could_give_is_known_with_it(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    sight = known_runs.look(str(path), **HOW)
    known_runs.remember(sight, INFO)
    assert known_runs.stand_in(sight) == known_runs.Known(INFO)
    known_runs.remember(sight, INFO, ("map", "features"))
    found = known_runs.stand_in(sight)
    assert found.capabilities == {"features", "map"} and found.info == INFO and found.embed_dim == INFO.embed_dim


def test_a_name_on_a_hub_is_known_again_for_plans_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for reference in ("timm:vit_small_patch16_224.dino", "hf:facebook/dino-vits16"):
        known_runs.remember(known_runs.look_again(reference, **HOW), INFO)
        assert known_runs.remembered(known_runs.look_again(reference, **HOW)) == INFO
        assert known_runs.look(reference, **HOW) is None
    assert known_runs.look_again("timm:local-dir:here", **HOW) is None
    (tmp_path / "facebook" / "dino-vits16").mkdir(parents=True)  # what's on the disk may change
    assert known_runs.look_again("hf:facebook/dino-vits16", **HOW) is None
