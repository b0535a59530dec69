"""Swin, ResNet and ConvNeXt as microsoft, timm, torchvision, Hugging Face and others write them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from helpers.layouts_table import Case, Written
from helpers.weights import golden_input, save

SWIN = {"img_size": 64, "patch_size": 4, "embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
COMPUTED = ("relative_coords", "attn_mask", "filt", "k_bias")  # buffers that are no weights
X = golden_input(2, 64, 64)


def random_values(module: torch.nn.Module, seed: int = 0, scale: float = 0.2) -> Any:
    """The module with every parameter and running statistic away from where it started, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point() or any(word in name for word in COMPUTED):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif "norm" in name or name.endswith(("logit_scale", "bn1.weight", "bn2.weight", "bn3.weight")):
                tensor.copy_(1 + scale * noise if name.endswith(("weight", "logit_scale")) else scale * noise)
            else:
                fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
                tensor.copy_(noise / fan**0.5 if tensor.ndim > 1 else scale * noise)
    return module.eval()


def made(name: str, make: Callable[[], Any], change: Callable[[dict], dict] = dict, **options: Any):
    """A case's `build`: a timm model, its tensors renamed by `change`, and what timm computes before its classifier."""

    def build(folder: Path) -> Written:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = random_values(make())
        with torch.no_grad():
            wanted = model.forward_head(model.forward_features(X), pre_logits=True)
        return Written(save(change(dict(model.state_dict())), folder / "x.pth"), X, wanted.flatten(1), options=options)

    return build


def microsoft(tensors: dict) -> dict:
    """timm's names -> microsoft's: the merging of patches ends a stage, and tables that are computed are kept."""
    out = {}
    for name, tensor in tensors.items():
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}.", f"layers.{stage - 1}.", 1)
        out[name.replace("head.fc.", "head.")] = tensor
    out["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.long)
    out["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 4, 4)
    return {"model": out, "epoch": 299}


def huggingface(kind: str, **config: Any):
    def build(folder: Path) -> Written:
        import transformers

        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config))
        model = random_values(model)
        model.save_pretrained(folder)
        with torch.no_grad():
            out = model(X)
        patches = out.last_hidden_state
        patches = patches.flatten(2).transpose(1, 2) if patches.ndim == 4 and kind == "ResNet" else None
        return Written(folder, X, out.pooler_output.flatten(1), patches=patches)

    return build


def torchvision_model(make: Callable[[], Any], last: str, **options: Any):
    def build(folder: Path) -> Written:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = random_values(make())
        path = save(model.state_dict(), folder / "x.pth")
        model.set_submodule(last, torch.nn.Identity())
        with torch.no_grad():
            return Written(path, X, model(X), options=options)

    return build


def swin_of_torchvision(version: str) -> Any:
    block = getattr(torchvision.models.swin_transformer, f"SwinTransformerBlock{version}")
    merging = getattr(torchvision.models.swin_transformer, f"PatchMerging{version}")
    return torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 2, 1, 1], [1, 2, 2, 4], [2, 2], num_classes=3, block=block, downsample_layer=merging
    )


def cases() -> list[Case]:
    swin = functools.partial(timm.models.swin_transformer.SwinTransformer, window_size=2, num_classes=3, **SWIN)
    swin2 = functools.partial(timm.models.swin_transformer_v2.SwinTransformerV2, window_size=2, num_classes=3, **SWIN)
    hf = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4]}
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    blocks = {"embedding_size": 64, "depths": [1, 1, 1, 2]}
    found = [
        Case("Swin", "timm", "by itself", made("swin", swin)),
        Case("Swin", "microsoft", "by itself", made("swin", swin, microsoft)),
        Case("Swin", "Hugging Face", "by itself", huggingface("Swin", window_size=2, **hf)),
        Case("Swin", "torchvision", "by itself", torchvision_model(lambda: swin_of_torchvision(""), "head")),
        Case("Swin V2", "timm", "refused: size of its windows", made("swin2", swin2)),
        Case("Swin V2", "microsoft", "by itself", made("swin2", swin2, microsoft)),
        Case("Swin V2", "Hugging Face", "by itself", huggingface("Swinv2", window_size=2, **hf)),
        Case("Swin V2", "torchvision", "by itself", torchvision_model(lambda: swin_of_torchvision("V2"), "head")),
        Case("ConvNeXt", "Hugging Face", "by itself", huggingface("ConvNext", **sizes)),
        Case("ConvNeXt V2", "Hugging Face", "by itself", huggingface("ConvNextV2", **sizes)),
        Case(
            "ResNet", "Hugging Face", "by itself",
            huggingface("ResNet", hidden_sizes=[256, 512, 1024, 2048], **blocks),
        ),
        Case(
            "ResNet", "Hugging Face, basic blocks", "by itself",
            huggingface("ResNet", hidden_sizes=[64, 128, 256, 512], layer_type="basic", **blocks),
        ),
    ]  # fmt: skip
    for name in ("resnet50d", "resnetblur18", "resnetaa50", "seresnet50", "resnet18d", "resnet18"):
        make = functools.partial(timm.create_model, name, num_classes=3)
        found.append(Case("ResNet", f"timm, {name}", f"--arch {name}", made(name, make, arch=name)))
    return found
