from __future__ import annotations

import io
import os
import pickle
import threading
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.checkpoints import VIT
from helpers.weights import save
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.errors import UserError
from dinobench.models.checkpoint import read_checkpoint, write_checkpoint
from dinobench.models.loading import inspect_checkpoint, load_backbone


class Evil:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_code_is_never_run(tmp_path, how):
    flag, path = tmp_path / "flag", tmp_path / "evil.pth"
    content = {"state_dict": VIT, "hook": Evil(flag)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"hook": Evil(flag)}))
    else:
        save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(
        UserError, match=r"evil\.pth: refused: its pickle asks for (posix|nt|os)\.system.*state_dict"
    ) as error:
        load_backbone(path)
    assert not flag.exists() and "\n" not in str(error.value)
    with pytest.raises(UserError, match="asks for"):
        inspect_checkpoint(path)


def test_a_pickled_class_is_refused_by_name(tmp_path):
    path = save({"state_dict": VIT, "config": threading.Barrier}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"asks for threading\.Barrier"):
        load_backbone(path)
    module = save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        load_backbone(module)


def zipped(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


FOREIGN = {
    "empty": (b"", "is empty"),
    "text": (b"epoch,loss\n1,2\n", "is not a checkpoint"),
    "jpeg": (b"\xff\xd8\xff\xe0" + b"\0" * 99, "JPEG"),
    "web": (b"<!DOCTYPE html><html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "npz": (zipped(["a.npy", "b.npy"]), "is a NumPy archive; save it for PyTorch: torch.save"),
    "docx": (zipped(["word/document.xml"]), "zip archive but not a checkpoint"),
    "pickle": (pickle.dumps({"a": 1}), "plain pickle"),
    "pickled_text": (pickle.dumps("hello"), "plain pickle"),
    "zeros": (b"\0" * 200, "is not a checkpoint"),
    "cut_pickle": (b"\x80\x02}q\x00(X", "truncated"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_get_one_clear_line(tmp_path, name):
    content, message = FOREIGN[name]
    path = tmp_path / f"{name}.pth"
    path.write_bytes(content)
    for call in (load_backbone, inspect_checkpoint):
        with pytest.raises(UserError) as error:
            call(path)
        assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated_files(tmp_path, container, share):
    path = tmp_path / "x.pth"
    if container == "safetensors":
        safetensors.torch.save_file(VIT, path)
    else:
        save(VIT, path, _use_new_zipfile_serialization=container == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: max(int(len(content) * share), 12)])
    with pytest.raises(UserError, match=r"x\.pth: .*truncated") as error:
        load_backbone(path)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=1, max_size=80),
    st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{"]),
)
def test_random_bytes_never_raise_anything_else(tmp_path_factory, content, start):
    path = tmp_path_factory.mktemp("fuzz") / "x.pth"
    path.write_bytes(start + content)
    with pytest.raises(UserError):
        load_backbone(path)


def test_other_things_that_are_no_file(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_backbone(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_backbone(tmp_path / "none.pth")
    with pytest.raises(UserError, match="holds no named tensors"):
        load_backbone(save([torch.ones(2)], tmp_path / "list.pth"))
    with pytest.raises(UserError, match="holds no named tensors"):
        load_backbone(save({"epoch": 3}, tmp_path / "none.pth"))
    with pytest.raises(UserError, match="TorchScript"):
        path = tmp_path / "scripted.pt"
        path.write_bytes(zipped(["m/data.pkl", "m/constants.pkl"]))
        load_backbone(path)


def test_what_would_never_end_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.pth")
    (tmp_path / "endless.pth").symlink_to(tmp_path / "endless.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "model.safetensors")
    for name, message in {
        "fifo.pth": "is not a regular file",
        "zero.pth": "is not a regular file",
        "endless.pth": "cannot be read: Too many levels",
        "x" * 300: "cannot be read: File name too long",
        "a\0b": "cannot be read: embedded null byte",
        "folder": "is a folder",
    }.items():
        for call in (load_backbone, inspect_checkpoint):
            with pytest.raises(UserError, match=message):
                call(tmp_path / name)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="files that the system makes up as they are read")
def test_files_without_a_size_are_not_opened():
    with pytest.raises(UserError, match=r"/proc/self/mem: is empty \(0 bytes\)"):
        read_checkpoint("/proc/self/mem")


@pytest.mark.filterwarnings("ignore")
def test_distributed_checkpoints_are_named_with_what_joins_them(tmp_path):
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    folder = tmp_path / "dcp"
    dcp.save({"model": VIT}, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    parts = [p for p in folder.iterdir() if p.suffix == ".distcp"]
    for path in (folder, folder / ".metadata", *parts):
        with pytest.raises(UserError, match=rf"format_utils\.dcp_to_torch_save\('{folder}', 'whole\.pth'\)"):
            read_checkpoint(path)
    format_utils = pytest.importorskip("torch.distributed.checkpoint.format_utils")
    format_utils.dcp_to_torch_save(folder, tmp_path / "whole.pth")
    plain = load_backbone(save(VIT, tmp_path / "plain.pth"))
    assert load_backbone(tmp_path / "whole.pth").info.weights_digest == plain.info.weights_digest


def test_two_tensors_of_one_name_are_refused_unless_they_are_the_same(tmp_path):
    path = save({"a.b": torch.ones(2), "a": {"b": torch.zeros(2)}, **VIT}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: holds two different tensors of the name a\.b; save one of them"):
        read_checkpoint(path)
    compiled = VIT | {f"_orig_mod.{n}": t.clone() for n, t in VIT.items()}
    assert len(read_checkpoint(save(compiled, path)).tensors) == len(VIT)


def test_names_of_tensors_are_short_and_printable(tmp_path):
    for name in ("a\nb", "a\x1b[31m", "x" * 2000):
        with pytest.raises(UserError, match="a tensor is called '") as error:
            read_checkpoint(save(VIT | {name: torch.ones(1)}, tmp_path / "x.pth"))
        assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_sha256_is_the_files(tmp_path):
    import hashlib

    path = save(VIT, tmp_path / "x.pth")
    assert (
        read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == load_backbone(path).info.sha256
    )


def test_write_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.pth"
    write_checkpoint({"a": torch.ones(2)}, path)
    assert torch.equal(torch.load(path)["a"], torch.ones(2))
    assert path.stat().st_mode & 0o077 == 0o666 & ~_umask() & 0o077

    def fail(obj, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint({"a": torch.zeros(2)}, path)
    assert torch.equal(torch.load(path)["a"], torch.ones(2)) and os.listdir(path.parent) == ["x.pth"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
