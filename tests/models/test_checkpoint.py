from __future__ import annotations

import io
import os
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from helpers.weights import args, dino_head, huggingface, prefixed, save, shifted, vit
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.errors import UserError
from dinobench.models.architecture import infer_resnet
from dinobench.models.checkpoint import read_checkpoint, write_checkpoint
from dinobench.models.key_mapping import weights_digest
from dinobench.models.loading import default_name, inspect_checkpoint, load_backbone

VIT = vit()
HF = huggingface(VIT)
X = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))


def dino_full():
    student = prefixed(shifted(VIT), "module.backbone.") | dino_head("module.head.")
    return {
        "student": student,
        "teacher": prefixed(VIT, "backbone.") | dino_head("head."),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": np.float64(5e-4)}]},
        "epoch": 7,
        "args": args(),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def lightning(prefix):
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed(VIT, prefix) | {"criterion.center": torch.zeros(8)},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{}],
    }


def chunked(tensors):
    return {n.replace("blocks.", "blocks.0.") if n.startswith("blocks.") else n: t for n, t in tensors.items()}


MAE = VIT | {"mask_token": torch.ones(1, 1, 64), "decoder_embed.weight": torch.ones(8, 64)}
MAE |= {"decoder_pos_embed": torch.ones(1, 17, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
TIMM = VIT | {"pos_embed": VIT["pos_embed"][:, 1:], "cls_token": VIT["cls_token"] + VIT["pos_embed"][:, :1]}
# name -> (content, method, part of the format's name, epoch)
VIT_FILES = {
    "dino": (VIT, "unknown", "vit", None),
    "dino_full": (dino_full(), "dino", "dino", 7),
    "ibot_full": (
        {"student": prefixed(shifted(VIT), "module.backbone."), "teacher": prefixed(VIT, "backbone."), "ibot_loss": {}},
        "ibot",
        "ibot",
        None,
    ),
    "ibot_masked": ({"state_dict": VIT | {"masked_embed": torch.ones(1, 64)}}, "ibot", "ibot", None),
    "mocov3": (
        {
            "epoch": 300,
            "arch": "vit_small",
            "state_dict": prefixed(VIT, "module.base_encoder.")
            | prefixed(shifted(VIT), "module.momentum_encoder.")
            | {"module.base_encoder.head.0.weight": torch.ones(8, 64), "module.predictor.0.weight": torch.ones(8, 8)},
        },
        "mocov3",
        "mocov3",
        300,
    ),
    "mae": ({"model": MAE, "epoch": 800, "args": args()}, "mae", "mae", 800),
    "lightning_backbone": (lightning("backbone."), "unknown", "lightning", 3),
    "lightning_model": (lightning("model."), "unknown", "lightning", 3),
    "lightning_encoder": (lightning("encoder."), "unknown", "lightning", 3),
    "lightning_teacher": (
        lightning("teacher_backbone.") | {"x": prefixed(shifted(VIT), "student_backbone.")},
        "unknown",
        "lightning",
        3,
    ),
    "compiled": (prefixed(VIT, "_orig_mod."), "unknown", "vit", None),
    "timm_no_embed_class": (TIMM, "unknown", "vit", None),
    "supervised": (VIT | {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)}, "supervised", "vit", None),
    "huggingface": (prefixed(huggingface(VIT), "vit."), "unknown", "huggingface", None),
    "huggingface_bare": (huggingface(VIT), "unknown", "huggingface", None),
    "ema": ({"state_dict": shifted(VIT), "state_dict_ema": VIT}, "unknown", "vit", None),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return load_backbone(save(VIT, tmp_path_factory.mktemp("reference") / "x.pth"))


@pytest.mark.parametrize("name", VIT_FILES)
def test_one_set_of_weights_in_every_format_is_one_model(tmp_path, reference, name):
    content, method, layout, epoch = VIT_FILES[name]
    backbone = load_backbone(save(content, tmp_path / f"{name}.pth"))
    info = backbone.info
    assert info.weights_digest == reference.info.weights_digest
    assert torch.equal(backbone.features(X), reference.features(X))
    assert (info.method, info.format.split("/")[0].split("-")[0], info.epoch) == (method, layout, epoch)
    assert (info.arch, info.patch_size, info.embed_dim, info.depth, info.heads) == ("vit_w64_d2_patch16", 16, 64, 2, 1)
    assert info.image_size == 64 and not info.missing and not info.unexpected


@pytest.mark.parametrize("container", ["safetensors", "legacy", "half"])
def test_containers_agree(tmp_path, reference, container):
    path = tmp_path / "x.any"
    if container == "safetensors":
        safetensors.torch.save_file(VIT, path)
    elif container == "legacy":
        save(dino_full(), path, _use_new_zipfile_serialization=False)
    else:  # bfloat16 widens exactly; what is lost was lost when it was saved
        save({n: t.bfloat16() for n, t in VIT.items()}, path)
        assert load_backbone(path).features(X).dtype == torch.float32
        return
    backbone = load_backbone(path)
    assert backbone.info.format.endswith("/" + container)
    assert backbone.info.weights_digest == reference.info.weights_digest


def test_huggingface_folder(tmp_path, reference):
    safetensors.torch.save_file(huggingface(VIT), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    backbone = load_backbone(tmp_path)
    assert backbone.info.weights_digest == reference.info.weights_digest
    assert backbone.info.name.startswith(tmp_path.name)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [0, 48])
def test_dinov2_in_its_formats(tmp_path, registers, swiglu):
    tensors = vit(patch=14, image=56, registers=registers, v2=True, swiglu=swiglu)
    cls, position = tensors["cls_token"], tensors["pos_embed"]
    as_timm = {n: t for n, t in tensors.items() if n not in ("register_tokens", "mask_token")}
    as_timm = {n.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): t for n, t in as_timm.items()}
    as_timm |= {"cls_token": cls + position[:, :1], "pos_embed": position[:, 1:]}
    as_timm |= {"reg_token": tensors["register_tokens"]} if registers else {}
    contents = [
        tensors,
        chunked(tensors),
        {"teacher": prefixed(chunked(tensors), "backbone.") | {"dino_head.last_layer.weight": torch.ones(8, 8)}},
        huggingface(tensors, v2=True),
        as_timm,
    ]
    x = X[..., :56, :42]
    loaded = [load_backbone(save(c, tmp_path / f"{i}.pth")) for i, c in enumerate(contents)]
    assert len({b.info.weights_digest for b in loaded}) == 1
    assert all(torch.equal(b.features(x), loaded[0].features(x)) for b in loaded)
    assert {b.info.method for b in loaded[:4]} == {"dinov2"}
    assert loaded[0].info.registers == registers
    assert loaded[0].layers(x)[0][1].shape == (1, 12, 64)


def resnet(block=torchvision.models.resnet.BasicBlock, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.ResNet(block, [1, 1, 1, 2], **kwargs).eval()
    for module in model.modules():  # running statistics that matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def test_resnets_in_their_formats(tmp_path):
    model = resnet()
    fc = {n: t for n, t in model.state_dict().items() if n.startswith("fc.")}
    body = {n: t for n, t in model.state_dict().items() if not n.startswith("fc.")}
    sequential = torch.nn.Sequential(*list(model.children())[:-1]).state_dict()
    head = {"projector.0.weight": torch.ones(8, 512)}
    files = {
        "torchvision": (body | fc, "supervised"),
        "module": (prefixed(body, "module."), "unknown"),
        "dino": (
            {
                "student": prefixed(shifted(body), "module.backbone."),
                "teacher": prefixed(body, "backbone.") | dino_head("head."),
                "dino_loss": {},
            },
            "dino",
        ),
        "swav": (
            prefixed(
                body | {"projection_head.0.weight": torch.ones(8, 512), "prototypes.weight": torch.ones(9, 8)},
                "module.",
            ),
            "swav",
        ),
        "barlow": (
            {
                "epoch": 999,
                "model": prefixed(body, "module.backbone.")
                | prefixed(head | {"bn.running_mean": torch.ones(8)}, "module."),
            },
            "barlow",
        ),
        "simsiam": (
            {
                "state_dict": prefixed(body | {"fc.0.weight": torch.ones(8, 512)}, "module.encoder.")
                | {"module.predictor.0.weight": torch.ones(8, 8)}
            },
            "simsiam",
        ),
        "mocov2": (
            {
                "state_dict": prefixed(body | {"fc.0.weight": torch.ones(8, 512)}, "module.encoder_q.")
                | prefixed(shifted(body), "module.encoder_k.")
                | {"module.queue": torch.ones(8, 9), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
            },
            "mocov2",
        ),
        "byol": (
            {
                "state_dict": prefixed(shifted(body), "target_encoder.")
                | prefixed(body, "online_encoder.")
                | {"predictor.0.weight": torch.ones(8, 8)}
            },
            "byol",
        ),
        "lightly": (
            {"state_dict": prefixed(sequential, "backbone.") | prefixed(shifted(sequential), "backbone_momentum.")},
            "unknown",
        ),
        "no_counters": ({n: t for n, t in body.items() if not n.endswith("num_batches_tracked")}, "unknown"),
    }
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        want = model(X)
    digests = set()
    for name, (content, method) in files.items():
        backbone = load_backbone(save(content, tmp_path / f"{name}.pth"))
        torch.testing.assert_close(backbone.features(X), want, msg=name)
        assert (backbone.info.arch, backbone.info.method, backbone.info.heads) == ("resnet_1_1_1_2", method, None), name
        digests.add(backbone.info.weights_digest)
    assert len(digests) == 1


@pytest.mark.parametrize("kwargs", [{}, {"width_per_group": 128}, {"groups": 32, "width_per_group": 4}])
def test_bottleneck_widths(tmp_path, kwargs):
    model = resnet(torchvision.models.resnet.Bottleneck, num_classes=3, **kwargs)
    backbone = load_backbone(save(model.state_dict(), tmp_path / "x.pth"))
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(X), model(X))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d"])
def test_resnet_names(name):
    with torch.device("meta"):
        tensors = torchvision.models.get_model(name).state_dict()
    assert infer_resnet(tensors, "x.pth").arch == name


def original_convnext(tensors):
    """timm's names -> facebookresearch/ConvNeXt's."""
    out = {}
    for n, t in tensors.items():
        n = n.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.").replace("head.fc.", "head.")
        if ".downsample." in n:
            n = "downsample_layers." + n.split(".")[1] + "." + n.split("downsample.")[1]
        n = n.replace(".blocks", "").replace("conv_dw", "dwconv").replace("mlp.grn.weight", "grn.gamma")
        n = n.replace("mlp.grn.bias", "grn.beta").replace("mlp.fc", "pwconv")
        t = t.flatten(1) if "pwconv" in n and n.endswith("weight") else t
        out[n] = t.reshape(1, 1, 1, -1) if ".grn." in n else t
    return out


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_convnext_in_its_formats(tmp_path, name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    files = [model.state_dict(), {"model": original_convnext(model.state_dict())}]
    loaded = [load_backbone(save(c, tmp_path / f"{i}.pth")) for i, c in enumerate(files)]
    with torch.no_grad():
        want = model.forward_head(model.forward_features(X), pre_logits=True)
    for backbone in loaded:
        torch.testing.assert_close(backbone.features(X), want, rtol=1e-4, atol=1e-4)
        assert backbone.info.arch == name
    assert len({b.info.weights_digest for b in loaded}) == 1


def test_torchvision_convnext(tmp_path):
    block = torchvision.models.convnext.CNBlockConfig
    sizes = [(16, 32, 2), (32, 64, 1), (64, 96, 2), (96, None, 1)]
    model = torchvision.models.ConvNeXt([block(*s) for s in sizes], layer_scale=0.5).eval()
    backbone = load_backbone(save(model.state_dict(), tmp_path / "x.pth"))
    model.classifier[2] = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(X), model(X), rtol=1e-4, atol=1e-5)


def test_key_chooses_among_several(tmp_path):
    path = save(dino_full(), tmp_path / "full.pth")
    teacher, student = load_backbone(path), load_backbone(path, key="student")
    assert (teacher.info.key, student.info.key) == ("teacher.backbone", "student.module.backbone")
    assert teacher.info.weights_digest != student.info.weights_digest
    with pytest.raises(
        UserError, match=r"full\.pth: no backbone under --key ema; there is: teacher\.backbone, student"
    ):
        load_backbone(path, key="ema")
    assert inspect_checkpoint(path).keys == ("teacher.backbone", "student.module.backbone")
    mixed = save(
        lightning("student_backbone.") | {"m": prefixed(shifted(VIT), "teacher_backbone.")}, tmp_path / "l.ckpt"
    )
    assert load_backbone(mixed).info.key == "m.teacher_backbone"
    assert load_backbone(mixed, key="student").info.key == "state_dict.student_backbone"


def test_incomplete_files_are_refused_and_partial_loading_is_recorded(tmp_path):
    broken = {n: t for n, t in VIT.items() if n != "blocks.1.mlp.fc2.weight"} | {
        "blocks.0.adapter.weight": torch.ones(2)
    }
    path = save(broken, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        load_backbone(path)
    for part in (
        "x.pth",
        "1 backbone tensors missing (blocks.1.mlp.fc2.weight)",
        "left over (blocks.0.adapter.weight)",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    state = torch.get_rng_state()
    first, again, other = (load_backbone(path, allow_partial=True, seed=s) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert first.info.missing == ("blocks.1.mlp.fc2.weight",)
    assert first.info.unexpected == ("blocks.0.adapter.weight",)
    assert torch.equal(first.features(X), again.features(X))
    assert not torch.equal(first.features(X), other.features(X))
    seen = inspect_checkpoint(path)
    assert seen.missing == first.info.missing and seen.unexpected == first.info.unexpected
    assert len(seen.matched) == len(VIT) - 1


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(VIT)))
def test_any_missing_tensor_refuses(tmp_path_factory, name):
    path = save({n: t for n, t in VIT.items() if n != name}, tmp_path_factory.mktemp("m") / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth"):
        load_backbone(path)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_other_shape_or_kind_refuses(tmp_path_factory, data):
    content, name = data.draw(st.sampled_from([(VIT, n) for n in VIT] + [(HF, n) for n in HF]))
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 17, 64]), max_size=4))
    integers = data.draw(st.booleans())
    if not integers and tuple(shape) == content[name].shape:
        return
    other = torch.zeros(content[name].shape if integers else shape, dtype=torch.int8 if integers else torch.float32)
    path = save(content | {name: other}, tmp_path_factory.mktemp("m") / "x.pth")
    with pytest.raises(UserError) as error:
        load_backbone(path)
    assert "\n" not in str(error.value)


def test_a_file_that_says_its_arch_must_have_all_its_blocks(tmp_path):
    path = save(
        {"teacher": prefixed(vit(width=192, depth=1, image=32), "backbone."), "args": args()}, tmp_path / "x.pth"
    )
    with pytest.raises(UserError, match=r"taken for vit_tiny_patch16, but 132 backbone tensors missing \(blocks\.1\."):
        load_backbone(path)


def test_ignored_tensors_are_listed(tmp_path):
    seen = inspect_checkpoint(save({"model": MAE}, tmp_path / "mae.pth"))
    assert "model.decoder_embed.weight" in seen.ignored and "model.mask_token" in seen.ignored
    full = inspect_checkpoint(save(dino_full(), tmp_path / "full.pth"))
    assert "teacher.head.last_layer.weight_v" in full.ignored


def test_wrong_shape_names_the_tensor(tmp_path):
    path = save(VIT | {"blocks.1.mlp.fc1.weight": torch.ones(3, 64)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1\.weight \(3, 64\) instead of \(256, 64\)"):
        load_backbone(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_named(tmp_path, bad):
    content = dino_full()
    content["teacher"]["backbone.norm.bias"] = torch.full((64,), bad)
    path = save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: NaN or infinity in 1 tensors \(teacher\.backbone\.norm\.bias\)"):
        load_backbone(path)
    assert inspect_checkpoint(path).non_finite == ("norm.bias",)


def test_arch_must_agree(tmp_path):
    small = save(vit(width=192, depth=2, image=32), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: holds a ViT of width 192, depth 2, patch 16, not --arch vit_small"):
        load_backbone(small, arch="vit_small")
    with pytest.raises(UserError, match="not --arch vit_tiny_patch16_224"):
        load_backbone(small, arch="vit_tiny_patch16_224")
    with pytest.raises(UserError, match="not --arch resnet18"):
        load_backbone(small, arch="resnet18")
    with pytest.raises(UserError, match="no model of that name; near it: vit_"):
        load_backbone(small, arch="vit_smal_patch16_224")
    r18 = save(torchvision.models.resnet18().state_dict(), tmp_path / "r.pth")
    assert load_backbone(r18, arch="resnet18").info.arch == "resnet18"
    with pytest.raises(UserError, match="holds a resnet18, not --arch resnet34"):
        load_backbone(r18, arch="resnet34")


def test_arch_opens_what_cannot_be_inferred(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model("mobilenetv3_small_050", num_classes=4).eval()
    path = save({"state_dict": prefixed(model.state_dict(), "module.")}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: no known backbone among its \d+ tensors .*--arch"):
        load_backbone(path)
    backbone = load_backbone(path, arch="mobilenetv3_small_050")
    with torch.no_grad():
        want = model.forward_head(model.forward_features(X), pre_logits=True)
    torch.testing.assert_close(backbone.features(X), want)
    assert backbone.capabilities == {"features"} and backbone.embed_dim == want.shape[1]


def test_heads(tmp_path):
    odd = vit(width=80, depth=1, image=32)
    path = save(odd, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth: how many attention heads .*--heads"):
        load_backbone(path)
    with pytest.raises(UserError, match="3 heads do not divide the width 80"):
        load_backbone(path, heads=3)
    assert load_backbone(path, heads=5).info.heads == 5
    assert load_backbone(save({"model": odd, "args": args(num_heads=4)}, tmp_path / "said.pth")).info.heads == 4
    small = vit(width=384, depth=1, image=32)
    moco = save({"state_dict": prefixed(small, "module.base_encoder.")}, tmp_path / "moco.pth")
    plain = save(small, tmp_path / "plain.pth")
    assert (load_backbone(moco).info.heads, load_backbone(plain).info.heads) == (12, 6)
    # heads change the outputs and leave no trace in the tensors: caches keyed by the digest must tell them apart
    assert load_backbone(moco).info.weights_digest != load_backbone(plain).info.weights_digest
    assert load_backbone(moco, heads=6).info.weights_digest == load_backbone(plain).info.weights_digest


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


def test_sha256_is_the_files(tmp_path):
    import hashlib

    path = save(VIT, tmp_path / "x.pth")
    assert (
        read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == load_backbone(path).info.sha256
    )


def test_digest_sees_every_change():
    base = weights_digest(VIT)
    assert weights_digest(dict(reversed(list(VIT.items())))) == base
    assert weights_digest(VIT | {"norm.bias": VIT["norm.bias"] + 1e-3}) != base
    assert weights_digest(VIT | {"norm.bias": VIT["norm.bias"].reshape(1, -1)}) != base
    assert weights_digest({n.replace("norm.bias", "norm.shift"): t for n, t in VIT.items()}) != base
    assert weights_digest(VIT, "heads=2") != base


def test_names_say_something(tmp_path):
    assert default_name(Path("/runs/dino_s/checkpoint.pth")) == "dino_s/checkpoint"
    assert default_name(Path("/runs/dino_s/epoch=3-step=20.ckpt")) == "dino_s/epoch=3-step=20"
    assert default_name(Path("/runs/a/checkpoint0040.pth.tar")) == "a/checkpoint0040"
    assert default_name(Path("/runs/dino_s16.pth")) == "dino_s16"
    assert load_backbone(save(VIT, tmp_path / "x.pth"), name="mine").info.name == "mine"


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
