"""Plain ViTs and ResNets as the programs that train them write them, beside timm's and torchvision's own passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from helpers.checkpoints import MAE, VIT, X, dino_full, lightning, resnet
from helpers.layouts_table import Case, Written
from helpers.weights import args, dino_head, golden_input, huggingface, prefixed, save, shifted, vit
from timm.models.vision_transformer import VisionTransformer


def timm_vit(tensors: dict, heads: int = 1, size: int = 64, **kwargs: Any) -> torch.nn.Module:
    width = tensors["cls_token"].shape[-1]
    depth = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks."))
    model = VisionTransformer(
        img_size=size, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, **kwargs
    )  # fmt: skip
    model.load_state_dict(tensors)
    return model.eval()


def plain(content: Callable[[], Any], tensors: dict = VIT, heads: int = 1, **options: Any):
    def build(folder: Path) -> Written:
        with torch.no_grad():
            wanted = timm_vit(tensors, heads).forward_features(X)
        path = save(content(), folder / "x.pth")
        return Written(path, X, wanted[:, 0], patches=wanted[:, 1:], options=options)

    return build


def mean_of_patches(folder: Path) -> Written:
    with torch.no_grad():
        wanted = timm_vit(VIT).forward_features(X)
    both = torch.cat([wanted[:, 0], wanted[:, 1:].mean(dim=1)], dim=1)
    return Written(save(VIT, folder / "x.pth"), X, both, options={"pool": "cls+mean"})


def bottleneck(content: Callable[[dict], Any], make: Callable[[], Any] = resnet, **options: Any):
    def build(folder: Path) -> Written:
        model = make()
        body = {n: t for n, t in model.state_dict().items() if not n.startswith("fc.")}
        path = save(content(body), folder / "x.pth")
        model.fc = torch.nn.Identity()
        with torch.no_grad():
            return Written(path, X, model(X), options=options)

    return build


def small_stem(padding: int, pooled: bool) -> Callable[[], Any]:
    def make() -> Any:
        model = resnet()
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, padding, bias=False)
        torch.nn.init.normal_(model.conv1.weight, std=0.1, generator=torch.Generator().manual_seed(0))
        if not pooled:
            model.maxpool = torch.nn.Identity()
        return model

    return make


def lightly_names(tensors: dict) -> dict:
    return {n.replace("downsample", "shortcut"): t for n, t in tensors.items()} | {"linear.weight": torch.ones(3, 512)}


def lightly_sequential(folder: Path) -> Written:
    """`nn.Sequential(*children)` of lightly's generator, whose ReLU after the stem was no child."""
    model = small_stem(1, False)()
    model.fc, model.relu = torch.nn.Identity(), torch.nn.Identity()
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            block.relu = torch.nn.ReLU()
    numbers = {"conv1": "0", "bn1": "1", "layer1": "2", "layer2": "3", "layer3": "4", "layer4": "5"}
    tensors = {}
    for name, tensor in model.state_dict().items():
        first, _, rest = name.partition(".")
        tensors[f"{numbers[first]}.{rest.replace('downsample', 'shortcut')}"] = tensor
    with torch.no_grad():
        return Written(save(prefixed(tensors, "backbone."), folder / "x.pth"), X, model(X))


def solo(body: dict) -> dict:
    head = {"classifier.weight": torch.ones(10, 512), "projector.0.weight": torch.ones(8, 512)}
    return {"pytorch-lightning_version": "2.0", "state_dict": prefixed(body, "backbone.") | head}


def jepa(kind: str) -> Any:
    """Two networks of which `target_encoder` is the one that is evaluated."""
    extra = (
        {"prototypes": torch.ones(8, 64)} if kind == "msn" else {"predictor": {"predictor_embed.bias": torch.ones(8)}}
    )
    return {"encoder": prefixed(shifted(VIT), "module."), "target_encoder": prefixed(VIT, "module.")} | extra


def half(folder: Path) -> Written:
    """Positions are added in float32, not rounded to bfloat16 once more."""
    rounded = {n: t.bfloat16() for n, t in VIT.items()}
    with torch.no_grad():
        wanted = timm_vit({n: t.float() for n, t in rounded.items()}).forward_features(X)
    return Written(save(rounded, folder / "x.pth"), X, wanted[:, 0], patches=wanted[:, 1:])


def tall(folder: Path) -> Written:
    tensors = vit() | {"pos_embed": torch.randn(1, 33, 64, generator=torch.Generator().manual_seed(0))}
    x = golden_input(1, 128, 64)
    with torch.no_grad():
        wanted = timm_vit(tensors, size=(128, 64)).forward_features(x)
    return Written(save(tensors, folder / "x.pth"), x, wanted[:, 0], patches=wanted[:, 1:], options={"grid": "8x4"})


def cases() -> list[Case]:
    moco = {"module.base_encoder.head.0.weight": torch.ones(8, 64), "module.predictor.0.weight": torch.ones(8, 8)}
    plain_vits = {
        ("DINO", "released backbone"): lambda: VIT,
        ("DINO", "full checkpoint"): dino_full,
        ("iBOT", "full checkpoint"): lambda: {
            "student": prefixed(shifted(VIT), "module.backbone."),
            "teacher": prefixed(VIT, "backbone."),
            "ibot_loss": {},
        },
        ("MoCo v3", "checkpoint"): lambda: {
            "state_dict": prefixed(VIT, "module.base_encoder.")
            | prefixed(shifted(VIT), "module.momentum_encoder.")
            | moco
        },
        ("MAE", "pretraining checkpoint"): lambda: {"model": MAE, "epoch": 800, "args": args()},
        ("MSN", "checkpoint"): lambda: jepa("msn"),
        ("ViT", "PyTorch Lightning"): lambda: lightning("backbone."),
        ("ViT", "torch.compile"): lambda: prefixed(VIT, "_orig_mod."),
        ("ViT", "with its classifier"): lambda: VIT | {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)},
        ("ViT", "exponential average beside it"): lambda: {"state_dict": shifted(VIT), "state_dict_ema": VIT},
        ("ViT", "Hugging Face, no config.json"): lambda: prefixed(huggingface(VIT), "vit."),
    }  # fmt: skip
    found = [Case(family, layout, "by itself", plain(content)) for (family, layout), content in plain_vits.items()]
    odd = vit(width=80, depth=1)
    found += [
        Case("ViT", "a width of no release", "--heads 5", plain_heads(odd, 5)),
        Case(
            "ViT", "a width of no release", "refused: give --heads", lambda folder: Written(save(odd, folder / "x.pth"))
        ),
        Case("ViT", "CLS and mean of the patches", "--pool cls+mean", mean_of_patches),
        Case("ViT", "bfloat16", "by itself", half),
        Case("ViT", "positions that are not square", "--grid 8x4", tall),
        Case(
            "ViT",
            "positions that are not square",
            "refused: --grid 4x8 or 8x4",
            lambda folder: Written(tall(folder).path),
        ),
    ]
    networks = {
        ("supervised", "torchvision"): lambda body: body | {"fc.weight": torch.ones(5, 512), "fc.bias": torch.ones(5)},
        ("DINO ResNet", "full checkpoint"): lambda body: {
            "student": prefixed(shifted(body), "module.backbone."),
            "teacher": prefixed(body, "backbone.") | dino_head("head."), "dino_loss": {},
        },
        ("SwAV", "checkpoint"): lambda body: prefixed(body | {"prototypes.weight": torch.ones(9, 8)}, "module."),
        ("Barlow Twins", "checkpoint"): lambda body: {
            "model": prefixed(body, "module.backbone.") | {"module.projector.0.weight": torch.ones(8, 512)}
        },
        ("SimSiam", "checkpoint"): lambda body: {
            "state_dict": prefixed(body, "module.encoder.") | {"module.predictor.0.weight": torch.ones(8, 8)}
        },
        ("MoCo v2", "checkpoint"): lambda body: {
            "state_dict": prefixed(body | {"fc.0.weight": torch.ones(8, 512)}, "module.encoder_q.")
            | prefixed(shifted(body), "module.encoder_k.") | {"module.queue": torch.ones(8, 9)}
        },
        ("BYOL", "online and target"): lambda body: {
            "state_dict": prefixed(shifted(body), "target_encoder.") | prefixed(body, "online_encoder.")
        },
    }  # fmt: skip
    found += [Case(family, layout, "by itself", bottleneck(content)) for (family, layout), content in networks.items()]
    found += [
        Case("lightly", "nn.Sequential of torchvision's", "by itself", sequential_of_torchvision),
        Case("lightly", "ResNetGenerator", "by itself", bottleneck(lightly_names, small_stem(1, False))),
        Case("lightly", "ResNetGenerator as nn.Sequential", "by itself", lightly_sequential),
        Case("SimCLR", "ResNet for small images", "by itself", bottleneck(dict, small_stem(1, False))),
        Case("solo-learn", "ResNet for small images", "by itself", bottleneck(solo, small_stem(2, False))),
    ]
    for suffix, stem in {
        "_cifar_pad2": (2, False),
        "_cifar_maxpool": (1, True),
        "_cifar_pad2_maxpool": (2, True),
    }.items():
        arch = f"resnet18{suffix}"
        found.append(Case("ResNet", f"small images, {suffix[7:]}", f"--arch {arch}", of_resnet18(stem, arch)))
    return found


def plain_heads(tensors: dict, heads: int):
    def build(folder: Path) -> Written:
        with torch.no_grad():
            wanted = timm_vit(tensors, heads).forward_features(X)
        return Written(save(tensors, folder / "x.pth"), X, wanted[:, 0], options={"heads": heads})

    return build


def of_resnet18(stem: tuple[int, bool], arch: str):
    def build(folder: Path) -> Written:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = torchvision.models.resnet18(num_classes=2).eval()
            model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, stem[0], bias=False)
        if not stem[1]:
            model.maxpool = torch.nn.Identity()
        path = save(model.state_dict(), folder / "x.pth")
        model.fc = torch.nn.Identity()
        with torch.no_grad():
            return Written(path, X, model(X), options={"arch": arch})

    return build


def sequential_of_torchvision(folder: Path) -> Written:
    model = resnet()
    tensors = torch.nn.Sequential(*list(model.children())[:-1]).state_dict()
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        return Written(save({"state_dict": prefixed(tensors, "backbone.")}, folder / "x.pth"), X, model(X))
