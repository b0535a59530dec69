from __future__ import annotations

import argparse
import json
import pickle
import random
import warnings
from collections import Counter

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.damage import BY_CONTAINER
from helpers.pickles import tensor, text
from helpers.weights import save

from dinobench.errors import UserError
from dinobench.models.checkpoint import flatten, read_checkpoint
from dinobench.models.containers import read_file


def small():
    """A little of everything that real files hold, with tensors that share a storage."""
    shared = torch.arange(96.0)
    generator = torch.Generator().manual_seed(0)
    return {
        "model": {
            "patch_embed.proj.weight": torch.randn(4, 3, 2, 2, generator=generator),
            "norm1.weight": torch.randn(32, generator=generator),
            "norm2.weight": torch.randn(32, generator=generator),
            "qkv.weight": torch.randn(32, 32, generator=generator).half(),
            "q": shared[:32],
            "k": shared[32:].reshape(8, 8).T,
        },
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_tiny", lr=5e-4, sizes=[1, (2, None)]),
        "optimizer": {"state": {0: {"step": 7}}, "param_groups": [{"lr": np.float64(1e-3), "ok": True}]},
    }


def content(container):
    return {n: t.contiguous() for n, t in small()["model"].items()} if container == "safetensors" else small()


def written(container, path):
    if container == "safetensors":
        safetensors.torch.save_file(content(container), path)
        return path
    return save(small(), path, _use_new_zipfile_serialization=container == "zip")


def reference(path, container):
    """The tensors as the library itself reads them, copied rather than mapped."""
    if container == "safetensors":
        return safetensors.torch.load(path.read_bytes())
    scalar = np.float64(0).__reduce__()[0]
    allowed = [argparse.Namespace, np.dtype, type(np.dtype("f8")), (scalar, "numpy._core.multiarray.scalar")]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(flatten(torch.load(path, weights_only=True)))


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and np.array_equal(bits(one[n]), bits(other[n]))
        for n in one
    )


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def outcomes(container, count, tmp_path, seed=0):
    """Damage a checkpoint `count` times and count what became of it. Raises for anything but UserError."""
    rng, path = random.Random(f"{container} {seed}"), tmp_path / "x.bin"
    original = written(container, path).read_bytes()
    intact = read_checkpoint(path).tensors
    intact = {n: t.clone() for n, t in intact.items()}
    found: Counter[str] = Counter()
    for number in range(count):
        mutation = rng.choice(BY_CONTAINER[container])
        content = mutation(original, rng)
        path.unlink()  # the earlier one may be mapped still
        path.write_bytes(content)
        what = f"{container} {seed} {number} {mutation.__name__}"
        try:
            tensors = read_checkpoint(path).tensors
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 600, what
            found["refused"] += 1
            continue
        if same(tensors, intact):
            found["the same"] += 1
            continue
        assert container != "zip" or mutation.__name__ == "repacked", what  # a checksum stands for every byte
        assert same(tensors, reference(path, container)), what
        found["as the file says"] += 1
    return found


@pytest.mark.parametrize("container, count", [("zip", 1000), ("legacy", 500), ("safetensors", 500)])
def test_damaged_files_give_the_same_weights_or_one_line(tmp_path, container, count):
    found = outcomes(container, count, tmp_path)
    assert found.total() == count and found["refused"] > count / 2


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_what_was_saved_is_read(tmp_path, container):
    kind, value = read_file(written(container, tmp_path / "x.bin"))
    assert kind == container and same(dict(flatten(value)), dict(flatten(content(container))))
    if container != "safetensors":
        assert value["args"] == small()["args"] and value["optimizer"] == small()["optimizer"]


def test_names_and_contents_that_differ(tmp_path):
    path = written("zip", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors: is a torch\.save file by its content; rename it to \.pth"):
        read_file(path)
    assert read_file(written("safetensors", tmp_path / "x.pth"))[0] == "safetensors"


def test_saved_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = written("zip", tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_checkpoint(path).tensors, dict(flatten(small())))


def safetensors_file(header, data=b""):
    inner = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(inner).to_bytes(8, "little") + inner + data


def entry(start, stop, shape=(2,)):
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


SAFETENSORS = {
    "overlapping": safetensors_file({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "out_of_range": safetensors_file({"a": entry(0, 800, (200,))}, bytes(12)),
    "hole": safetensors_file({"a": entry(4, 12)}, bytes(12)),
    "twice": safetensors_file(json.dumps({"a": entry(0, 8), "b": entry(8, 16)}).replace("b", "a").encode(), bytes(16)),
    "deep": safetensors_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "long_header": (1 << 31).to_bytes(8, "little") + b"{" + b" " * 100,
    "many": safetensors_file({str(i): entry(0, 0, (0,)) for i in range(60_000)}),
    "odd_kind": safetensors_file({"a": entry(0, 8) | {"dtype": "F6_E2M3"}}, bytes(8)),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_that_lie(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS[name])
    with pytest.raises(UserError, match=r"x\.safetensors: (is truncated or damaged|has a header of|holds)") as error:
        read_checkpoint(path)
    assert str(error.value).isprintable()


def legacy(numel=4, listed=("0",), stored=4):
    """A legacy file of one storage, "0", with its parts told apart."""
    parts = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    body = b"\x80\x02}" + text("a") + tensor(numel=numel, size=(numel,), view=True) + b"s."
    data = b"".join(stored.to_bytes(8, "little") + bytes(4 * stored) for _ in listed)
    return b"".join(pickle.dumps(p, 2) for p in parts) + body + pickle.dumps(list(listed), 2) + data


def test_legacy_storages_must_all_be_there(tmp_path):
    """A storage that is not listed would keep what the memory happened to hold."""
    path = tmp_path / "x.pth"
    path.write_bytes(legacy())
    assert read_checkpoint(path).tensors["a"].tolist() == [0] * 4
    for content in (
        legacy(listed=()),
        legacy(listed=("0", "0")),
        legacy(stored=3),
        legacy(numel=5),
        legacy(numel=1 << 40),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.pth: is truncated or damaged"):
            read_checkpoint(path)
