from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess

import pytest
import safetensors.torch
import torch
from helpers.checkpoints import HF, VIT
from helpers.weights import save

from dinobench.errors import UserError
from dinobench.models.checkpoint import read_checkpoint
from dinobench.models.loading import load_backbone


def write(folder, tensors=HF, kind="safetensors", parts=2):
    """A sharded save as Hugging Face writes it; returns its index."""
    folder.mkdir(exist_ok=True)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names, places = list(tensors), {}
    for number in range(parts):
        file = f"{stem}-{number + 1:05d}-of-{parts:05d}.{kind}"
        part = {n: tensors[n].contiguous() for n in names[number::parts]}
        if kind == "safetensors":
            safetensors.torch.save_file(part, folder / file)
        else:
            save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("tensors", [VIT, HF])
def test_folder_and_index_give_what_the_whole_file_gives(tmp_path, kind, tensors):
    index = write(tmp_path / "vit", tensors, kind, parts=3)
    whole = load_backbone(save(tensors, tmp_path / "whole.pth"))
    for given in (index, index.parent):
        read = load_backbone(given)
        assert read.info.weights_digest == whole.info.weights_digest
        assert (read.info.name, read.info.path) == (f"vit/{index.name.split('.')[0]}", str(index))
    assert read.info.format.endswith("/safetensors" if kind == "safetensors" else "/zip")


def test_a_whole_file_beside_an_index_goes_first(tmp_path):
    index = write(tmp_path / "m", kind="bin")
    safetensors.torch.save_file(VIT, index.parent / "model.safetensors")
    assert load_backbone(index.parent).info.path.endswith("model.safetensors")


def test_the_hash_is_that_of_a_list_of_hashes(tmp_path):
    index = write(tmp_path / "m")
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in sorted(index.parent.iterdir())]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert load_backbone(index).info.sha256 == expected
    if shutil.which("sha256sum"):
        command = "LC_ALL=C sha256sum model* | sha256sum"
        shell = subprocess.run(["sh", "-c", command], cwd=index.parent, capture_output=True, text=True, check=True)
        assert shell.stdout.split()[0] == expected
    part = index.parent / "model-00002-of-00002.safetensors"
    tensors = safetensors.torch.load_file(part)
    safetensors.torch.save_file({n: t + 1 for n, t in tensors.items()}, part)
    assert load_backbone(index).info.sha256 != expected


def test_one_part_is_refused_with_the_remedy(tmp_path):
    index = write(tmp_path / "m")
    part = index.parent / "model-00002-of-00002.safetensors"
    with pytest.raises(UserError, match=r"is part 2 of 2 of a sharded checkpoint; give its index, .*index\.json$"):
        load_backbone(part)
    index.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json, its index, is not beside it: fetch both"):
        load_backbone(part)
    only = part.rename(part.with_name("model-00001-of-00001.safetensors"))
    safetensors.torch.save_file(VIT, only)
    assert load_backbone(only).info.arch == "vit_w64_d2_patch16"


def test_parts_and_index_must_agree(tmp_path):
    index = write(tmp_path / "m")
    content = json.loads(index.read_text())
    name = "layernorm.weight"
    place = content["weight_map"].pop(name)
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"json: it and its part {place} do not agree on 1 tensors \('{name}'\)"):
        read_checkpoint(index)
    content["weight_map"] |= {name: place, "norm.more": place}
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"do not agree on 1 tensors \('norm\.more'\)"):
        read_checkpoint(index)
    (index.parent / place).unlink()
    with pytest.raises(UserError, match=rf"its part {place} is not beside it; copy or download all 2 parts"):
        read_checkpoint(index)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"weight_map": {}}',
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": "../m/x.bin"}}',
        b'{"weight_map": {"a": "/etc/passwd"}}',
        b'{"weight_map": {"a": "x\\u0000.bin"}}',
        b'{"weight_map": ' + b"[" * 100_000,
        b'{"weight_map": {"a": ' + b"1" * 5000 + b"}}",
    ],
)
def test_what_is_no_index(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"index\.json: is not a checkpoint, nor the index of a sharded one"):
        read_checkpoint(path)


def test_a_part_that_would_never_end(tmp_path):
    index = write(tmp_path / "m")
    part = index.parent / "model-00001-of-00002.safetensors"
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(UserError, match="is not beside it"):
        read_checkpoint(index)


def test_damaged_parts_are_named(tmp_path):
    index = write(tmp_path / "m", kind="bin")
    part = index.parent / "pytorch_model-00001-of-00002.bin"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(UserError, match=rf"{part.name}: is damaged \(a checksum is wrong\)"):
        read_checkpoint(index)
    save([torch.ones(2)], part)
    with pytest.raises(UserError, match="do not agree"):
        read_checkpoint(index)
