"""CLIP's ResNets and ConvNeXts, and RADIO, as OpenAI, open_clip, timm and NVIDIA write them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from helpers.families_hierarchical import made, random_values
from helpers.layouts_table import Case, Written
from helpers.weights import golden_input, save
from safetensors.torch import save_file

X = golden_input(2, 64, 64)
OPENAI_MARKS = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


def modified_resnet(image: int = 64, width: int = 16, heads: int = 8, layers: tuple[int, ...] = (1, 2, 1, 1)) -> Any:
    """open_clip's, in random values."""
    from open_clip.modified_resnet import ModifiedResNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return random_values(ModifiedResNet(list(layers), 24, heads, image, width))


def before_projection(tower: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What open_clip computes without its last projection, and its last map as patches."""
    maps: list[torch.Tensor] = []
    hook = tower.layer4.register_forward_hook(lambda module, args, output: maps.append(output))
    projection, width = tower.attnpool.c_proj, tower.attnpool.c_proj.in_features
    tower.attnpool.c_proj = torch.nn.Linear(width, width)
    with torch.no_grad():
        tower.attnpool.c_proj.weight.copy_(torch.eye(width))
        tower.attnpool.c_proj.bias.zero_()
        pooled = tower(x)
    hook.remove()
    tower.attnpool.c_proj = projection
    return pooled, maps[0].flatten(2).transpose(1, 2)


def resnet(write: Callable[[dict, Path], Path], x: torch.Tensor = X, options: Any = (), **sizes: Any):
    """A case's `build`: open_clip's tower, written with `visual.` before its names and a text tower beside it."""

    def build(folder: Path) -> Written:
        tower = modified_resnet(**sizes)
        tensors = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
        tensors |= {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.weight": torch.ones(8)}
        features, patches = before_projection(tower, x)
        return Written(write(tensors, folder), x, features, patches=patches, options=dict(options))

    return build


def openai(tensors: dict, folder: Path) -> Path:
    """As OpenAI's state_dict is: three whole numbers beside the tensors."""
    return save(tensors | {n: torch.tensor(v) for n, v in OPENAI_MARKS.items()}, folder / "RN.pt")


def open_clip_file(tensors: dict, folder: Path) -> Path:
    """As open_clip's trainer writes it."""
    state = {f"module.{name}": tensor for name, tensor in tensors.items()}
    return save({"epoch": 32, "state_dict": state}, folder / "epoch_32.pt")


def open_clip_folder(head_width: int, tensors: dict, folder: Path) -> Path:
    """As open_clip writes for the hub, with what it says of the tower."""
    tower = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "head_width": head_width, "patch_size": None}
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": tower}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return save(tensors, folder / "open_clip_pytorch_model.bin")


def timm_file(tensors: dict, folder: Path) -> Path:
    """As timm has them once it has read OpenAI's."""
    from timm.models.byobnet import _convert_openai_clip

    class Pooled:
        head = timm.layers.AttentionPool2d(64)

    return save(_convert_openai_clip(tensors, Pooled()), folder / "model.pth")  # type: ignore[arg-type]


def convnext(**options: Any) -> Any:
    return timm.models.convnext.ConvNeXt(num_classes=3, **(CONVNEXT | options))


def open_clip_trunk(projection: str, folder: Path) -> Written:
    """open_clip's tower over timm's model: its feature is what enters the last projection."""
    from open_clip.timm_model import TimmModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = random_values(TimmModel("convnext_atto", 12, 64, pool="avg", proj=projection, pretrained=False))
    tensors = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    path = save(tensors | {"logit_scale": torch.ones(())}, folder / "epoch_3.pt")
    with torch.no_grad():
        features = tower.trunk(X)
        if projection == "mlp":
            features = tower.head.mlp.act(tower.head.mlp.fc1(features))
    return Written(path, X, features)


def radio(width: int = 32, depth: int = 2, heads: int = 2, tokens: int = 8, corners: bool = True, side: int = 6) -> Any:
    """timm's NaFlexVit in RADIO's configuration, whose positions are resized as RADIO's are, in random values."""
    from timm.models.naflexvit import NaFlexVit, _radio_vit_cfg

    config = _radio_vit_cfg(
        embed_dim=width, depth=depth, num_heads=heads, reg_tokens=tokens - 1, pos_embed_align_corners=corners,
        init_values=1e-5,
    )  # fmt: skip
    config.pos_embed_grid_size, config.mlp_ratio = (side, side), 0.5  # small: tests hold a whole ViT-B of it
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = random_values(NaFlexVit(config, num_classes=0))
        with torch.no_grad():
            model.embeds.proj.bias.zero_()
    return model


def nvidia(model: Any, summary: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The tensors as in NVIDIA's model.safetensors."""
    own = dict(model.state_dict())
    out = {f"radio_model.model.{n}".replace(".gamma", ".grandma"): t for n, t in own.items() if n.startswith("blocks.")}
    generator = "radio_model.model.patch_generator"
    kernel = own["embeds.proj.weight"]
    if kernel.ndim == 4:
        kernel = kernel.flatten(1)
    else:  # NaFlexVit's rows are (pixel, channel)
        kernel = kernel.reshape(len(kernel), 16 * 16, 3).transpose(1, 2).flatten(1)
    out[f"{generator}.embedder.weight"] = kernel.contiguous()
    rows = own["embeds.pos_embed"]  # (1, side, side, D)
    out[f"{generator}.pos_embed"] = rows.reshape(1, -1, rows.shape[-1]).contiguous()
    out[f"{generator}.cls_token.token"] = torch.cat([own["embeds.cls_token"], own["embeds.reg_token"]], dim=1)[0]
    out["radio_model.summary_idxs"] = torch.tensor(summary)
    for name, values in (("mean", timm.data.OPENAI_CLIP_MEAN), ("std", timm.data.OPENAI_CLIP_STD)):
        out[f"radio_model.input_conditioner.norm_{name}"] = torch.tensor(values).reshape(3, 1, 1)
    out["radio_model.adaptors.clip.head_mlp.0.weight"] = torch.ones(2, 2)
    return out


def radio_tokens(model: Any, x: torch.Tensor) -> torch.Tensor:
    """(B, tokens + N, D), as they leave the last block."""
    with torch.no_grad():
        out = model.forward_features(x)
    return out["patches"] if isinstance(out, dict) else out


def radio_case(change: Callable[[dict], dict] = dict, arch: str | None = None, **sizes: Any):
    def build(folder: Path) -> Written:
        model = radio(**sizes)
        tokens = radio_tokens(model, X)
        path = folder / "model.safetensors"
        save_file(change(nvidia(model, (0, 1, 2))), path)
        options = {"arch": arch} if arch else {}
        return Written(path, X, tokens[:, :3].flatten(1), patches=tokens[:, 8:], options=options)

    return build


def as_trained(tensors: dict) -> dict:
    """NVlabs/RADIO's own files have the ViT as `base_model`, and no list of tokens."""
    own = {n: t for n, t in tensors.items() if n.startswith("radio_model.model.")}
    return {n.replace("radio_model.model.", "base_model.").replace("grandma", "gamma"): t for n, t in own.items()}


def cases() -> list[Case]:
    big = {"image": 224, "width": 64, "heads": 32, "layers": (3, 4, 6, 3)}
    mlp = functools.partial(convnext, head_hidden_size=20)
    return [
        Case("CLIP ResNet", "OpenAI", "by itself", resnet(openai)),
        Case("CLIP ResNet", "open_clip, its trainer", "by itself", resnet(open_clip_file)),
        Case("CLIP ResNet", "open_clip, for the hub", "by itself", resnet(functools.partial(open_clip_folder, 64))),
        Case(
            "CLIP ResNet", "open_clip, for the hub, other heads", "by itself",
            resnet(functools.partial(open_clip_folder, 128), heads=4),
        ),
        Case("CLIP ResNet", "timm", "by itself", resnet(timm_file)),
        Case(
            "CLIP ResNet", "OpenAI, RN50", "--arch resnet50_clip",
            resnet(openai, golden_input(1, 224, 224), {"arch": "resnet50_clip"}, **big),
        ),
        Case(
            "CLIP ResNet", "OpenAI, heads that do not divide its width", "refused: 7 heads do not divide the width 512",
            resnet(openai, options={"heads": 7}),
        ),
        Case(
            "CLIP ResNet", "OpenAI, another size asked for", "refused: not --arch resnet18",
            resnet(openai, options={"arch": "resnet18"}),
        ),
        Case("ConvNeXt", "timm, with a layer before the classifier", "by itself", made("mlp", mlp)),
        Case("RADIO", "NVIDIA's model on the hub", "refused: give --arch, as in vit_", radio_case()),
        Case(
            "RADIO", "NVIDIA's model on the hub", "--arch vit_base_patch16_radio_v3",
            radio_case(arch="vit_base_patch16_radio_v3", width=768, depth=12, heads=12),
        ),
        Case("RADIO", "NVlabs/RADIO's training", "refused: with --arch", radio_case(as_trained)),
        Case("ConvNeXt", "open_clip", "by itself", functools.partial(open_clip_trunk, "linear")),
        Case("ConvNeXt", "open_clip, projection of two layers", "by itself", functools.partial(open_clip_trunk, "mlp")),
    ]  # fmt: skip
