from __future__ import annotations

import math

import pytest
import timm
import torch
import torchvision
from helpers.checkpoints import HF, X, resnet
from helpers.weights import args, golden_input, prefixed, save, vit
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.errors import UserError
from dinobench.models.families import resnet as resnets
from dinobench.models.key_mapping import Mapped
from dinobench.models.loading import inspect_checkpoint, load_backbone
from dinobench.models.spec import ModelSpec

SMALL = {
    "vit": vit(depth=1, image=32),
    "dinov2": vit(depth=1, image=32, registers=2, v2=True, swiglu=64),
    "huggingface": HF,
    "resnet": resnet().state_dict(),
    "convnext": timm.create_model("convnext_atto", num_classes=0, depths=(1, 1, 1, 1), dims=(4, 4, 4, 4)).state_dict(),
}


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
    assert resnets.infer(Mapped(tensors), ModelSpec("x.pth")).arch == name


def test_a_file_that_says_its_arch_must_have_all_its_blocks(tmp_path):
    path = save(
        {"teacher": prefixed(vit(width=192, depth=1, image=32), "backbone."), "args": args()}, tmp_path / "x.pth"
    )
    with pytest.raises(UserError, match=r"taken for vit_tiny_patch16, but 132 backbone tensors missing \(blocks\.1\."):
        load_backbone(path)


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


def test_grids_that_are_not_square(tmp_path):
    """16 x 8 patches, and 32 x 8, which are as many as 16 x 16: what tells is the file, or else the user."""
    position = torch.randn(1, 129, 192, generator=torch.Generator().manual_seed(0))
    tall = save(vit(width=192, depth=1) | {"pos_embed": position}, tmp_path / "x.pth")
    for arch in (None, "vit_tiny", "vit_tiny_patch16_224"):
        with pytest.raises(UserError, match=r"128 rows is of no square grid; .*--grid 8x16 or 16x8, 4x32 or 32x4"):
            load_backbone(tall, arch=arch)
    backbone = load_backbone(tall, grid="16x8")
    x = golden_input(1, 256, 128)
    with torch.random.fork_rng(), torch.no_grad():
        model = timm.create_model("vit_tiny_patch16_224", img_size=(256, 128), depth=1, num_classes=0).eval()
        model.load_state_dict(torch.load(tall))
        torch.testing.assert_close(backbone.features(x), model(x), rtol=1e-4, atol=1e-5)
    assert load_backbone(tall, grid="8x16").info.weights_digest != backbone.info.weights_digest
    many = vit(depth=1) | {"pos_embed": torch.ones(1, 257, 64)}
    for said, grid in (
        (args(img_size=(512, 128)), (32, 8)), (args(image_size=[128, 512]), (8, 32)),
        (args(img_size=(256, 256)), (16, 16)), (args(img_size=256), (16, 16)), (args(img_size=(640, 480)), (16, 16)),
    ):  # fmt: skip
        assert load_backbone(save({"model": many, "args": said}, tmp_path / "said.pth")).grid == grid
    for grid, words in {
        "7x7": "256 rows, a grid of 7x7 .--grid. needs 49",
        "7": "must be height x width",
        "0x9": "must",
    }.items():
        with pytest.raises(UserError, match=words):
            load_backbone(tmp_path / "said.pth", grid=grid)


def test_a_square_grid_made_of_another_is_read(tmp_path):
    """What the refusal says to do."""
    from timm.layers import resample_abs_pos_embed

    tall = torch.randn(1, 129, 64, generator=torch.Generator().manual_seed(0))
    square = resample_abs_pos_embed(tall, new_size=[8, 8], old_size=[16, 8], num_prefix_tokens=1)
    assert load_backbone(save(vit() | {"pos_embed": square}, tmp_path / "x.pth")).info.image_size == 128


def test_numbers_in_names_are_not_believed(tmp_path):
    for block in (300, 10**9, 10**900):
        for extra in ({f"blocks.{block}.norm1.weight": torch.ones(64)}, {}):
            tensors = vit() | extra if extra else torchvision.models.resnet18().state_dict()
            tensors |= {} if extra else {f"layer2.{block}.conv1.weight": torch.ones(1)}
            with pytest.raises(UserError, match=r"a block of the number \d+\); give --arch"):
                load_backbone(save(tensors, tmp_path / "x.pth"))


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 16, 64, 192, 256, 1 << 40]), max_size=4).map(tuple)
KINDS = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@settings(max_examples=30, deadline=None)
@given(data=st.data(), family=st.sampled_from(["vit", "dinov2", "huggingface", "resnet", "convnext"]))
def test_tensors_of_any_shape_and_kind_load_or_get_one_line(tmp_path_factory, data, family):
    tensors = dict(SMALL[family])
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3)):
        shape, kind = data.draw(SHAPES), data.draw(KINDS)
        small = math.prod(max(n, 1) for n in shape) < 1 << 16
        tensors[name] = torch.zeros(shape if small else (max(shape), 0, 1, 1)[: len(shape) + 1], dtype=kind)
        if data.draw(st.booleans()):
            tensors.pop(data.draw(st.sampled_from(sorted(tensors))))
    path = save(tensors, tmp_path_factory.mktemp("any") / "x.pth")
    for partial in (False, True):
        try:
            load_backbone(path, allow_partial=partial)
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 1500
    try:
        inspect_checkpoint(path)
    except UserError as error:
        assert str(error).isprintable()


def test_resnet_for_small_images(tmp_path):
    """A 3 x 3 first convolution: stride 1 and no max pooling, so the last map has a stride of 8."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=2).eval()
        model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
    backbone = load_backbone(save(model.state_dict(), tmp_path / "x.pth"))
    model.fc, x = torch.nn.Identity(), golden_input(1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.features(x), model(x))
    assert backbone.info.arch.endswith("_cifar") and backbone.patch_size == 8
    assert backbone.layers(x)[0][1].shape == (1, 16, 512)
