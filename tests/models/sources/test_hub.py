from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from helpers.hub import Hub, commit, go_online, online, serving, sharded
from helpers.weights import huggingface, save, vit
from safetensors.torch import save as safetensors

from dinobench import console
from dinobench.errors import UserError
from dinobench.hashing import sha256_file
from dinobench.models.loading import inspect_checkpoint, load_backbone
from dinobench.models.sources import hub as client
from dinobench.models.sources.hub import cached_models, fetch

VIT = huggingface(vit())
FILES = {
    "config.json": json.dumps({"model_type": "vit", "num_attention_heads": 1, "layer_norm_eps": 1e-6}).encode(),
    "preprocessor_config.json": b"{}",
    "model.safetensors": safetensors(VIT),
}
NAME = "hf:owner/model"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as server:
        go_online(monkeypatch, server.url, tmp_path / "hub")
        yield server


def test_a_model_of_the_hub_is_the_same_as_its_file(hub: Hub, tmp_path):
    sha = hub.add("owner/model", FILES)
    (tmp_path / "model.safetensors").write_bytes(FILES["model.safetensors"])
    want = load_backbone(tmp_path / "model.safetensors").info
    info = load_backbone(NAME).info
    assert info.weights_digest == want.weights_digest and info.sha256 == sha256_file(tmp_path / "model.safetensors")
    assert (info.path, info.name) == (f"{NAME}@{sha}", "model")
    assert sorted(hub.fetched) == sorted(FILES)
    assert inspect_checkpoint(NAME).info == info


def test_only_what_is_needed_is_fetched(hub: Hub, tmp_path):
    weights = {"pytorch_model.bin": b"", "tf_model.h5": b"", "modeling_x.py": b"raise SystemExit", "README.md": b""}
    hub.add("owner/model", {**FILES, **weights})
    load_backbone(NAME)
    assert sorted(hub.fetched) == sorted(FILES)
    before = len(hub.asked)
    load_backbone(NAME)
    assert sorted(hub.fetched) == sorted(FILES)  # the second time from the cache
    assert hub.asked[before:] == [("HEAD", "/owner/model/resolve/main/config.json")]  # is it still the latest?


def test_revisions_by_branch_tag_and_commit(hub: Hub, tmp_path):
    other = {**FILES, "model.safetensors": safetensors({n: t + 1 for n, t in VIT.items()})}
    old, new = hub.add("owner/model", FILES, "v1.0"), hub.add("owner/model", other)
    digests = {}
    for revision, sha in (("v1.0", old), (old, old), (old[:7], old), ("main", new), (new, new)):
        info = load_backbone(f"{NAME}@{revision}").info
        assert info.path == f"{NAME}@{sha}"
        assert info.name == f"model@{sha[:8] if revision == sha else revision}"
        digests.setdefault(sha, set()).add(info.weights_digest)
    assert {len(d) for d in digests.values()} == {1} and digests[old] != digests[new]
    before = len(hub.asked)
    assert load_backbone(f"{NAME}@{old}").info.path == f"{NAME}@{old}"  # as a record has it
    assert len(hub.asked) == before, "a commit that is here asks for nothing"


def test_a_branch_that_moves_is_fetched_anew_and_of_one_commit(hub: Hub):
    hub.add("owner/model", FILES)
    first = load_backbone(NAME).info
    sha = hub.add("owner/model", {**FILES, "model.safetensors": safetensors({n: 2 * t for n, t in VIT.items()})})
    second = load_backbone(NAME).info
    assert first.weights_digest != second.weights_digest and second.path.endswith(sha)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_sharded_model(hub: Hub, parts):
    hub.add("owner/model", {"config.json": b"{}", **sharded(VIT, parts), "model-00009-of-00009.safetensors": b""})
    hub.add("owner/whole", FILES)
    info = load_backbone(NAME).info
    assert info.weights_digest == load_backbone("hf:owner/whole").info.weights_digest
    assert "model-00009-of-00009.safetensors" not in hub.fetched


def test_a_pickle_is_read_as_any_other_file(hub: Hub, tmp_path):
    sound = save(VIT, tmp_path / "x.bin").read_bytes()
    hub.add("owner/model", {"config.json": b"{}", "pytorch_model.bin": sound})
    assert load_backbone(NAME).info.format.endswith("/zip")

    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'harmed'}",)

    hub.add("owner/harm", {"pytorch_model.bin": save({**VIT, "x": Harm()}, tmp_path / "y.bin").read_bytes()})
    with pytest.raises(UserError, match=r"pytorch_model\.bin: "):
        load_backbone("hf:owner/harm")
    assert not (tmp_path / "harmed").exists()


def refuse(hub: Hub, name: str, status: int) -> None:
    hub.add("owner/model", FILES)
    getattr(hub, name)["owner/model"] = status


@pytest.mark.parametrize(
    ("reference", "prepare", "words"),
    [
        ("hf:owner/absent", lambda hub: None, r"no such model on http://127\.0\.0\.1:\d+, or it is private"),
        (f"{NAME}@v9", lambda hub: hub.add("owner/model", FILES), "it has no revision v9"),
        (f"{NAME}@{commit('x')}", lambda hub: hub.add("owner/model", FILES), f"it has no revision {commit('x')}"),
        (NAME, lambda hub: refuse(hub, "gated", 401), r"accept their terms on http://127\.0\.0\.1:\d+/owner/model"),
        (NAME, lambda hub: refuse(hub, "gated", 403), "accept their terms .*hf auth login"),
        (NAME, lambda hub: refuse(hub, "broken", 403), r"refuses it \(403\)"),
        (NAME, lambda hub: refuse(hub, "broken", 418), r"could not be fetched .*418"),
        (NAME, lambda hub: hub.add("owner/model", {"config.json": b"{}", "flax_model.msgpack": b"x"}),
         r"holds none of model\.safetensors, "),
        (NAME, lambda hub: hub.add("owner/model", {**FILES, "model.safetensors": b""}), "model.safetensors: "),
        (NAME, lambda hub: hub.add("owner/model", {"model.safetensors.index.json": b"[]"}), "nor the index"),
        (NAME, lambda hub: hub.add("owner/model", {
            "model.safetensors.index.json": b'{"weight_map": {"x": "../../x"}}'}), "nor the index"),
        (NAME, lambda hub: hub.add("owner/model", {
            "model.safetensors.index.json": b'{"weight_map": {"x": "model-00001-of-00001.safetensors"}}'}),
         "its part model-00001-of-00001.safetensors is not there"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line(hub: Hub, capfd, reference, prepare, words):
    prepare(hub)
    for call in (load_backbone, inspect_checkpoint):
        with pytest.raises(UserError, match=words) as error:
            call(reference)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert capfd.readouterr().err == ""


def test_without_a_network_the_cache_is_enough(hub: Hub, monkeypatch, tmp_path, capfd):
    sha = hub.add("owner/model", FILES)
    want = load_backbone(NAME).info
    for url, offline in (("http://127.0.0.1:9", False), (hub.url, True), ("http://no.such.host.invalid", False)):
        go_online(monkeypatch, url, tmp_path / "hub")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        capfd.readouterr()
        before = len(hub.asked)
        assert load_backbone(NAME).info == want
        why = "HF_HUB_OFFLINE is set" if offline else f"{url} cannot be reached"
        assert capfd.readouterr().err == f"{NAME}: {why}; the hub's cache has commit {sha}\n"
        assert load_backbone(want.path).info.sha256 == want.sha256  # by commit: nothing to say
        assert capfd.readouterr().err == ""
        with pytest.raises(UserError, match=f"hf:owner/other: is not, or not whole, in the hub's cache, and {why}"):
            load_backbone("hf:owner/other")
        with pytest.raises(UserError, match="not whole"):
            load_backbone(f"{NAME}@v2")
        assert len(hub.asked) == before


def test_without_a_network_a_missing_part_is_said(hub: Hub, monkeypatch, tmp_path):
    hub.add("owner/model", {"config.json": b"{}", **sharded(VIT)})
    load_backbone(NAME)
    next((tmp_path / "hub").rglob("model-00002-of-00002.safetensors")).unlink()
    go_online(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub")
    with pytest.raises(UserError, match="not whole"):
        load_backbone(NAME)


def test_an_input_that_nobody_has_looked_for_is_warned_of(hub: Hub, monkeypatch, tmp_path, capfd):
    """Another program may have cached the weights alone; that the hub has no such file is remembered, too."""
    hub.add("owner/model", {n: c for n, c in FILES.items() if n != "preprocessor_config.json"})
    load_backbone(NAME)
    go_online(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub")
    load_backbone(NAME)
    assert "preprocessor_config.json" not in capfd.readouterr().err
    shutil.rmtree(next((tmp_path / "hub").rglob(".no_exist")))
    load_backbone(NAME)
    assert "warning" in (err := capfd.readouterr().err) and "preprocessor_config.json" in err


def test_the_cache_in_its_own_layout(hub: Hub, tmp_path):
    hub.add("owner/model", FILES)
    want = load_backbone(NAME).info.weights_digest
    folder = tmp_path / "hub" / "models--owner--model"
    assert load_backbone(folder).info.weights_digest == want
    assert load_backbone(f"hf:{folder}").info.weights_digest == want
    assert cached_models() == {"owner/model"}


def test_progress_is_shown_as_megabytes(hub: Hub, monkeypatch, capfd):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 20)
    hub.add("owner/model", {"model.safetensors": safetensors({"x": torch.zeros(1_000_000)})})
    fetch(NAME, "owner/model", None)
    assert "hf:owner/model model.safetensors, MB: 4/4 " in (err := capfd.readouterr().err), err


def test_the_state_of_the_client_is_as_before(hub: Hub):
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    before = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    with pytest.raises(UserError):
        fetch("hf:owner/absent", "owner/absent", None)
    assert (constants.HF_HUB_OFFLINE, logging.get_verbosity()) == before


def test_a_server_that_says_nothing_is_given_up(hub: Hub, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, and that is all
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        go_online(monkeypatch, url, tmp_path / "hub")
        with pytest.raises(UserError, match=f"{NAME}: .*{url} cannot be reached"):
            load_backbone(NAME)
    for nowhere in ("http://127.0.0.1:9", "http://127.0.0.1:99999", "nonsense", ""):
        assert not client._reachable(nowhere)
    assert client._reachable(hub.url)
    assert client._reachable(hub.url.replace("http:", "https:"))  # no certificate: the client's to say


@pytest.mark.slow
def test_a_download_can_be_interrupted(hub: Hub, tmp_path):
    hub.add("owner/model", {**FILES, "model.safetensors": bytes(1 << 24)})
    hub.slow = 0.05
    command = [sys.executable, "-m", "dinobench", "inspect", NAME]
    process = subprocess.Popen(
        command, env={**os.environ, **online(hub.url, tmp_path / "hub")}, stderr=subprocess.PIPE, text=True
    )
    while "model.safetensors" not in hub.fetched and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130 and err.count("\n") == 1 and err.startswith("interrupted"), err
    assert not [p for p in (tmp_path / "hub").rglob("*") if p.is_file() and p.stat().st_size > 1 << 20]
