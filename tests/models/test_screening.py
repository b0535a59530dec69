from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch
from helpers.pickles import START, archive, call, mapping, name, number, numbers, tensor, text

from dinobench.errors import UserError
from dinobench.models.checkpoint import read_checkpoint

#: A number of a structured dtype whose field is a pointer: the old way to have NumPy follow any address.
FORGED = call(
    "numpy.core.multiarray.scalar",
    call("numpy.dtype", text("V8"), b"\x89", b"\x88") + numbers((3,)) + b"b",
    call("_codecs.encode", text("A" * 8), text("latin1")),
)
SHARED = b"".join(b"}" + b"".join(text(k) + b"h%c" % i + b"s" for k in "ab") + b"q%c" % (i + 1) for i in range(60))
GROWN = {str(i): tensor(key="1", numel=1 << 20, size=(1 << 20,)) for i in range(40)}

HOSTILE = {
    "deep_list": (START + b"]" * 100_000 + b"a" * 99_999 + b".", "more than 64 deep"),
    "deep_tuple": (START + b")" + b"\x85" * 100_000 + b".", "more than 64 deep"),
    "deep_key": (START + b"})" + b"\x85" * 100_000 + b"K\1s.", "more than 64 deep"),
    "deep_key_that_nothing_refers_to": (START + b"})" + b"\x85" * 100_000 + b"K\1s}.", "more than 64 deep"),
    "cycle": (START + b"}q\0" + text("a") + b"h\0s.", "contains itself"),
    "cycle_of_two": (START + b"]q\0]q\1h\0ah\1a.", "contains itself"),
    "sharing": (START + b"}q\0" + SHARED + b".", "millions of values"),
    "steps": (START + b"}" * 1_100_000 + b".", "millions of values"),
    "memory_by_bytearray": (START + call("builtins.bytearray", number(10**13)) + b".", "builtins.bytearray"),
    "memory_by_tensor": (START + call("torch.Tensor", number(10**13)) + b"}.", r"torch\.Tensor"),
    "memory_by_codec": (START + call("_codecs.encode", text("a"), text("bz2")) + b".", "_codecs.encode"),
    "memory_by_memo": (START + b"}r\xff\xff\xff\xff.", "no named tensors"),
    "forged_pointer": (START + FORGED + b".", r"numpy\.\S+ as torch\.save does not write it"),
    "equal_hashes": (START + b"}" + number(((1 << 61) - 1) << 61) + b"Ns.", "a key that is no plain value"),
    "attributes": (START + name("collections.OrderedDict") + b")R}" + text("items") + b"Nsb.", "attributes"),
    "string_beyond_the_end": (START + b"X\xff\xff\xff\x7fabc.", "truncated"),
    "short_record": (mapping(a=tensor(numel=8, size=(8,))), "a storage of 32 bytes has 16 in the file"),
    "long_record": (mapping(a=tensor(numel=2, size=(2,))), "a storage of 8 bytes has 16 in the file"),
    "no_record": (mapping(a=tensor(key="7")), "a storage of 16 bytes has none in the file"),
    "huge_storage": (mapping(a=tensor(numel=10**12)), "a storage of 4000000000000 bytes has 16"),
    "beyond_its_storage": (mapping(a=tensor(size=(5,))), r"the tensor 'a' of shape \(5,\) reaches beyond its storage"),
    "beyond_by_offset": (mapping(a=tensor(offset=1)), "reaches beyond its storage"),
    "beyond_by_stride": (mapping(a=tensor(size=(2, 2), stride=(3, 1))), "reaches beyond its storage"),
    "negative_offset": (mapping(a=tensor(offset=-1)), "a tensor's shape as torch.save does not write it"),
    "stride_0": (mapping(a=tensor(size=(10**9, 4), stride=(0, 1))), "repeats its values; save it as a clone"),
    "overlapping": (mapping(a=tensor(size=(3, 2), stride=(1, 1))), "repeats its values"),
    "quantised_storage": (mapping(a=tensor(kind="QInt8Storage")), r"quantised tensors; .*dequantize"),
    "two_kinds": (mapping(a=tensor(), b=tensor(kind="IntStorage")), "two sizes or kinds"),
    "shared_often": (mapping(**GROWN), "names 167772160 bytes of tensors in storages of 4194304 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_get_one_line(tmp_path, case):
    content, message = HOSTILE[case]
    path = tmp_path / "x.pth"
    records = {"data/0": bytes(16), "data/1": bytes(4 << 20)}
    path.write_bytes(archive(content, records if case == "shared_often" else None))
    with pytest.raises(UserError, match=message) as error:
        read_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ") and str(error.value).isprintable()


def test_the_same_pickle_is_taken_with_what_it_says(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(archive(mapping(a=tensor(size=(2, 2), stride=(1, 2)), b=tensor(offset=2, size=(2,)))))
    assert {n: tuple(t.shape) for n, t in read_checkpoint(path).tensors.items()} == {"a": (2, 2), "b": (2,)}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_without_usable_values_are_named(tmp_path, legacy):
    one = torch.ones(4, 4)
    odd = {
        "quantised": (torch.quantize_per_tensor(one, 0.1, 0, torch.qint8), "dequantize"),
        "sparse": (one.to_sparse(), "to_dense"),
        "without values": (one.to("meta"), "without values"),
    }
    for what, (value, remedy) in odd.items():
        torch.save({"a": value}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match=rf"x\.pth: holds .*{what}.*|{remedy}"):
            read_checkpoint(tmp_path / "x.pth")


def values():
    """Whatever people keep beside their weights."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.is_norm = True
    named = torch.ones(3)
    named.note = "kept"
    state = torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict()
    return {
        "state_dict": state,
        "parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "with_state": parameter,
        "attribute": named,
        "kinds": {str(d): torch.ones(2).to(d) for d in (torch.float16, torch.bfloat16, torch.int64, torch.bool)},
        "new_kinds": {"u": torch.ones(2, dtype=torch.uint16), "f": torch.ones(2).to(torch.float8_e4m3fn)},
        "complex": torch.ones(2, dtype=torch.complex64),
        "empty": torch.zeros(0, 5),
        "one": torch.tensor(3.0),
        "view": torch.arange(12.0).reshape(3, 4)[:, 1:3],
        "channels_last": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "args": argparse.Namespace(betas=(0.9, 0.999), size=torch.Size([3, 4]), device=torch.device("cpu", 0)),
        "numbers": [np.float64(2), np.float32(1), np.int64(3), np.bool_(True)],
        "plain": [b"bytes", bytearray(b"ab"), {1, 2}, 1 + 2j, None, 1 << 40, -5, 3.5, ("a", (1,))],
        "torch": [torch.float32, torch.strided, torch.Size([1])],
        "keys": {1: 2, 2.5: 1, None: 0, (1, "a"): 3, b"x": 1},
    }  # fmt: skip


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves_is_taken(tmp_path, legacy):
    path = tmp_path / "x.pth"
    content = values()
    if legacy:
        del content["new_kinds"]  # torch cannot read those of its own
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    raw = read_checkpoint(path)
    assert torch.equal(raw.tensors["view"], values()["view"]) and raw.tensors["channels_last"].stride()[1] == 1
    assert raw.tensors["attribute"].note == "kept" and raw.tensors["with_state"].is_norm
    assert raw.meta["args"]["size"] == (3, 4) and raw.meta["numbers"] == values()["numbers"]
    assert raw.meta["plain"][:3] == [b"bytes", bytearray(b"ab"), {1, 2}] and raw.meta["keys"] == values()["keys"]


def test_names_in_a_refusal_are_printable(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(archive(START + b"cos\x1b[31m\nsystem\n)R."))
    with pytest.raises(UserError, match=r"asks for 'os\\x1b\[31m\.system'"):
        read_checkpoint(path)


def test_python_2_wrote_dicts_as_pairs(tmp_path):
    pairs = b"](" + b"](" + text("a") + tensor() + b"e" + b"e"
    path = tmp_path / "x.pth"
    path.write_bytes(archive(START + name("collections.OrderedDict") + b"(" + pairs + b"tR."))
    assert list(read_checkpoint(path).tensors) == ["a"]


def test_distributed_metadata_is_named_for_what_it_is(tmp_path):
    from torch.distributed.checkpoint.metadata import Metadata

    path = tmp_path / "renamed.pth"
    torch.save({"meta": Metadata({})}, path)
    with pytest.raises(UserError, match="dcp_to_torch_save"):
        read_checkpoint(path)
