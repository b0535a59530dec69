from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from helpers.hub import Hub, go_online, serving, sharded
from helpers.weights import golden_input, huggingface, save, vit
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from dinobench.errors import UserError
from dinobench.models.factory import NamedModel
from dinobench.models.loading import inspect_checkpoint, load_backbone
from dinobench.models.sources import references
from dinobench.models.sources.references import FORMS, KINDS, Weights, resolve, split_name

X = golden_input(2, 64, 64)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as server:
        go_online(monkeypatch, server.url, tmp_path / "hub")
        yield server


def hf_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "vit", "num_attention_heads": 1, "layer_norm_eps": 1e-6})
    )
    save_file(huggingface(vit()), folder / "model.safetensors")
    return folder


def timm_folder(folder: Path, architecture: str = "vit_tiny_patch16_224", **arguments: object) -> torch.nn.Module:
    """A model in the form in which timm itself shares one, with a classifier of seven classes."""
    from timm.models import save_for_hf

    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = timm.create_model(architecture, num_classes=7, **arguments).eval()
        for p in module.parameters():
            p.data.add_(0.01 * torch.randn_like(p))
    save_for_hf(module, folder, model_args=dict(arguments), safe_serialization=True)
    return module


@pytest.mark.parametrize(
    "form", ["hf:./models/vit", "hf:models/vit", "hf:{tmp}/models/vit", "models/vit", "hf:~/models/vit"]
)
def test_a_local_folder(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    hf_folder(tmp_path / "models" / "vit")
    info = load_backbone(form.format(tmp=tmp_path)).info
    want = load_backbone(tmp_path / "models" / "vit" / "model.safetensors").info
    assert (info.weights_digest, info.sha256) == (want.weights_digest, want.sha256)
    assert Path(info.path).expanduser().absolute() == Path(want.path)  # a record's path leads to the file
    assert info.name == ("vit" if form.startswith("hf:") else "vit/model")  # plain paths keep the names they had


def test_a_sharded_local_folder(tmp_path):
    folder = tmp_path / "big"
    folder.mkdir()
    for name, content in sharded(huggingface(vit()), 3).items():
        (folder / name).write_bytes(content)
    info = load_backbone(f"hf:{folder}").info
    assert info.weights_digest == load_backbone(hf_folder(tmp_path / "vit")).info.weights_digest
    assert info.path.endswith("model.safetensors.index.json")


def test_snapshots_of_which_none_is_the_latest(tmp_path):
    folder = tmp_path / "models--a--b"
    hf_folder(folder / "snapshots" / ("1" * 40))
    assert load_backbone(folder).info.embed_dim == 64
    hf_folder(folder / "snapshots" / ("2" * 40))
    with pytest.raises(UserError, match="2 snapshots in it; give one of the folders in"):
        load_backbone(folder)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("2" * 40)
    assert "2" * 40 in load_backbone(f"hf:{folder}").info.path


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("hf:", "write hf:OWNER/MODEL["),
        ("hf:a/b/c", "no name of a model on the hub"),
        ("hf:a/b@", "no name of a model on the hub"),
        ("hf:a/b@v 1", "no name of a model on the hub"),
        ("hf:a--b/c", "no name of a model on the hub"),
        ("hf:https://huggingface.co/a/b", "no name of a model on the hub"),
        ("hf:./nowhere", "no such folder"),
        ("hf:/no/where@v1", "what is on disk has no revisions"),
        ("hf:../../etc", "no such folder"),
        ("timm:hf-hub:", "write timm:hf-hub:OWNER/MODEL"),
        ("timm:hf-hub:x y", "no name of a model on the hub"),
        ("timm:hf-hbu:a/b", "timm has no source 'hf-hbu'"),
        ("timm:local-dir:nowhere", "no such folder"),
        ("timm:nosuch", "no model of that name"),
        ("torchhub:a/b", "write torchhub:OWNER/REPO:ENTRY"),
        ("torchhub:a/b:c", "say --trust-repo"),
        ("random:", "no model of that name"),
        ("pixels:x", "from 1 to 512"),
        ("hff:a/b", "'hff' is none of timm, hf, torchhub, random, pixels; did you mean 'hf'?"),
        ("https://x.org/a.pth", "'https' is none of"),
        ("facebook/dino-vits16", "a model of the hub is written hf:facebook/dino-vits16"),
        ("hf:\0", "hub"), ("\0", "null"), ("hf:" + "a" * 5000, "hub"), ("x:" * 3000, "name too long"),
    ],
)  # fmt: skip
def test_references_that_lead_nowhere(tmp_path, monkeypatch, reference, words):
    monkeypatch.chdir(tmp_path)
    for call in (load_backbone, inspect_checkpoint):
        with pytest.raises(UserError, match=re.escape(words)) as error:
            call(reference)
        assert "\n" not in str(error.value)


@given(st.text(max_size=30), st.sampled_from([*(f"{k}:" for k in KINDS if k != "timm"), "", "timm:local-dir:"]))
def test_any_text_is_refused_in_one_line_or_resolved(text, start):
    """Offline, as all tests are: nothing of the kind is in the cache."""
    try:
        assert isinstance(resolve(start + text), Weights | NamedModel)
    except UserError as error:
        assert "\n" not in str(error) or "\n" in text


def test_names_before_references(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b").touch()
    for text, want in {
        "ours=x.pth": ("ours", "x.pth"), "a=b": (None, "a=b"), "lr=1/x": ("lr", "1/x"), "./lr=1": (None, "./lr=1"),
        "us=hf:a/b@c": ("us", "hf:a/b@c"), "timm:local-dir:a=c": (None, "timm:local-dir:a=c"), "=x": (None, "=x"),
        "x=pixels:4": ("x", "pixels:4"),
    }.items():  # fmt: skip
        assert split_name(text) == want


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(vit(), Path("pixels"))
    save(vit(), Path("timm:resnet18"))
    for name in ("pixels", "timm:resnet18"):
        assert load_backbone(name).info.path == name


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64}),
        ("vit_small_patch14_dinov2", {"img_size": 56, "depth": 2, "num_heads": 3, "embed_dim": 48}),
        ("resnet10t", {}),
        ("convnext_atto", {}),
        ("mobilenetv3_small_050", {}),
    ],
)
@pytest.mark.parametrize("source", ["local-dir", "hf-hub"])
def test_a_folder_of_timms(hub: Hub, tmp_path, source, architecture, arguments):
    """The features are those of the module that timm saved."""
    module = timm_folder(tmp_path / "saved", architecture, **arguments)
    files = {p.name: p.read_bytes() for p in (tmp_path / "saved").iterdir()}
    sha = hub.add("us/model", files)
    reference = "timm:hf-hub:us/model@main" if source == "hf-hub" else f"timm:local-dir:{tmp_path / 'saved'}"
    backbone = load_backbone(reference)
    x = golden_input(2, 56, 56) if "dinov2" in architecture else X
    with torch.no_grad():
        want = module.forward_head(module.forward_features(x), pre_logits=True)
    torch.testing.assert_close(backbone.features(x), want, atol=1e-5, rtol=1e-5)
    info = backbone.info
    assert (info.path, info.name) == (
        (f"timm:hf-hub:us/model@{sha}", "model@main") if source == "hf-hub" else (reference, "saved")
    )
    assert len(info.sha256) == 64
    assert inspect_checkpoint(reference).info == info


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": None}, "names no architecture of timm's"),
        ({"architecture": "resnet10x"}, "timm has no architecture 'resnet10x'; did you mean"),
        ({"architecture": "resnet18"}, "cannot be loaded into timm's resnet18"),
        ({"model_args": {"embed_dim": 10**9}}, "model_args has 'embed_dim'"),
        ({"model_args": {"depth": 10_000}}, "asks for more than"),
        ({"model_args": {"embed_dim": 9999, "depth": 3, "num_heads": 9}}, "asks for 3"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args has 'checkpoint_path'"),
        ({"model_args": {"in_chans": 1}}, "1 input channels"),
        ({"model_args": {"nonsense": 1}}, "cannot be loaded"),
        ({"model_args": [1]}, "names no architecture of timm's"),
        ({"pretrained_cfg": {"file": "/etc/passwd", "custom_load": True, "first_conv": "no.such"}}, "cannot be loaded"),
    ],
)
def test_a_config_that_is_not_to_be_believed(tmp_path, change, words):
    timm_folder(tmp_path / "m", "vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=words) as error:
        load_backbone(f"timm:local-dir:{tmp_path / 'm'}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_config_that_is_none(tmp_path, content):
    hf_folder(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="names no architecture of timm's"):
        load_backbone(f"timm:local-dir:{tmp_path / 'm'}")


HUBCONF = """
dependencies = ["torch"]
import torch

def vit_x(pretrained=True):
    holder = torch.nn.Module()
    tensors = torch.load(TENSORS, weights_only=True)
    holder.state_dict = lambda *a, **k: tensors
    return holder

def broken():
    raise SystemExit("no more\\nof this")

def nothing():
    return torch.nn.Identity()
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository in torch.hub's own cache, as an earlier download leaves it."""
    folder = tmp_path / "torch" / "us_repo_main"
    folder.mkdir(parents=True)
    path = save(vit(), tmp_path / "tensors.pth")
    (folder / "hubconf.py").write_text(HUBCONF.replace("TENSORS", repr(str(path))))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return path


def test_torch_hub_only_where_its_code_is_trusted(repository, tmp_path):
    reference = "torchhub:us/repo:main:vit_x"
    with pytest.raises(UserError, match=r"runs the Python code of github\.com/us/repo; say --trust-repo"):
        load_backbone(reference)
    info = load_backbone(reference, trust_repo=True).info
    assert info.weights_digest == load_backbone(repository).info.weights_digest
    assert (info.path, info.name, info.sha256) == (reference, "vit_x", "")
    assert inspect_checkpoint(reference, trust_repo=True).info.arch == info.arch


@pytest.mark.parametrize(
    ("entry", "words"), [("broken", "no more of this"), ("nothing", "without tensors"), ("absent", "absent")]
)
def test_torch_hub_entries_that_give_nothing(repository, entry, words):
    with pytest.raises(UserError, match=words) as error:
        load_backbone(f"torchhub:us/repo:main:{entry}", trust_repo=True)
    assert "\n" not in str(error.value)


def test_inspect_takes_whatever_run_takes(hub: Hub, repository, tmp_path):
    """One reference of each form; what inspect says is what a run would record."""
    hf_folder(tmp_path / "vit")
    timm_folder(tmp_path / "timm", "vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24)
    for name in ("vit", "timm"):
        hub.add(f"us/{name}", {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    examples = {
        "PATH": str(repository), "timm:hf-hub:OWNER/MODEL[@REVISION]": "timm:hf-hub:us/timm",
        "timm:local-dir:FOLDER": f"timm:local-dir:{tmp_path / 'timm'}", "hf:OWNER/MODEL[@REVISION]": "hf:us/vit",
        "hf:FOLDER": f"hf:{tmp_path / 'vit'}", "torchhub:OWNER/REPO[:REF]:ENTRY": "torchhub:us/repo:main:vit_x",
        "random:MODEL": "random:resnet10t", "pixels[:SIDE]": "pixels:4",
    }  # fmt: skip
    assert FORMS.keys() - examples.keys() == {"timm:MODEL[.TAG]"}  # not without a network
    for reference in examples.values():
        seen = inspect_checkpoint(reference, trust_repo=True)
        assert seen.info == load_backbone(reference, trust_repo=True).info
        assert not (seen.missing or seen.unexpected or seen.non_finite)


def test_every_form_is_of_a_known_kind():
    assert set(KINDS) == {"timm", "hf", "torchhub", "random", "pixels"}
    assert all(references.kind(form) for form in FORMS if form != "PATH" and not form.startswith("pixels["))
