from __future__ import annotations

import pytest
import safetensors.torch
import torch
from helpers.checkpoints import MAE, VIT, X, dino_full, lightning, resnet
from helpers.weights import args, dino_head, huggingface, prefixed, save, shifted, vit

from dinobench.errors import UserError
from dinobench.models.loading import inspect_checkpoint, load_backbone


def chunked(tensors):
    return {n.replace("blocks.", "blocks.0.") if n.startswith("blocks.") else n: t for n, t in tensors.items()}


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


def test_ignored_tensors_are_listed(tmp_path):
    seen = inspect_checkpoint(save({"model": MAE}, tmp_path / "mae.pth"))
    assert "model.decoder_embed.weight" in seen.ignored and "model.mask_token" in seen.ignored
    full = inspect_checkpoint(save(dino_full(), tmp_path / "full.pth"))
    assert "teacher.head.last_layer.weight_v" in full.ignored


def test_what_a_file_says_of_itself_is_believed_within_reason(tmp_path):
    odd = {"method": "a\nb", "epoch": 1 << 60, "args": args(num_heads=True)}
    info = load_backbone(save({"model": VIT} | odd, tmp_path / "x.pth")).info
    assert (info.method, info.epoch, info.heads) == ("unknown", None, 1)
    info = load_backbone(save({"model": VIT, "method": "My-SSL", "epoch": 12}, tmp_path / "x.pth")).info
    assert (info.method, info.epoch) == ("my-ssl", 12)


def test_a_hundred_backbones_are_too_many(tmp_path):
    many = {f"m{i}.patch_embed.proj.weight": torch.ones(1) for i in range(101)}
    with pytest.raises(UserError, match=r"x\.pth: holds 101 backbones; save the state_dict\(\) of one of them"):
        load_backbone(save(many, tmp_path / "x.pth"))


def test_float8_is_named(tmp_path):
    packed = VIT | {"norm.weight": torch.ones(64).to(torch.float8_e4m3fn)}
    with pytest.raises(UserError, match=r"1 tensors of float8_e4m3fn \(norm\.weight\); save them as float16"):
        load_backbone(save(packed, tmp_path / "x.pth"))
