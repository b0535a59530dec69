"""Weights that nobody needs to ship: tensors filled from their own names, and small files of every format."""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The rule of the golden values: a tensor from the CRC of its name."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name in ("cls_token", "pos_embed"):
        z = np.float32(0.5) * z
    elif "norm" in name and name.endswith("weight"):
        z = 1 + np.float32(0.1) * z
    elif name.endswith("bias"):
        z = np.float32(0.05) * z
    else:
        z = z / np.float32(np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(z.astype(np.float32))


def vit_shapes(
    width: int = 64,
    depth: int = 2,
    patch: int = 16,
    image: int = 64,
    registers: int = 0,
    v2: bool = False,
    swiglu: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a ViT in DINO's (`v2`: DINOv2's) flat naming."""
    rows = (image // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width), "pos_embed": (1, rows, width)}
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    if v2:
        shapes["mask_token"] = (1, width)
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        layers |= (
            {"mlp.w12": (2 * swiglu, width), "mlp.w3": (width, swiglu)}
            if swiglu
            else {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        )
        for layer, shape in layers.items():
            shapes |= {f"blocks.{i}.{layer}.weight": shape, f"blocks.{i}.{layer}.bias": shape[:1]}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (width,), f"blocks.{i}.{norm}.bias": (width,)}
        if v2:
            shapes |= {f"blocks.{i}.ls1.gamma": (width,), f"blocks.{i}.ls2.gamma": (width,)}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def vit(**kwargs: Any) -> Tensors:
    """A ViT's tensors by the golden rule, see `vit_shapes`."""
    return {n: fill(n, s) for n, s in vit_shapes(**kwargs).items()}


def quiet(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The second rule of the golden values: blocks that change their input little, so that patches follow the image."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if name in ("cls_token", "pos_embed"):
            tensor = 0.02 * tensor
        elif name.endswith("bias"):
            tensor = torch.zeros_like(tensor)
        elif name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
            tensor = 0.05 * tensor
        out[name] = tensor
    return out


def prefixed(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    return {prefix + n: t for n, t in tensors.items()}


def save(obj: Any, path: Path, **kwargs: Any) -> Path:
    torch.save(obj, path, **kwargs)
    return path


def args(**kwargs: Any) -> argparse.Namespace:
    return argparse.Namespace(arch="vit_tiny", patch_size=16, lr=5e-4, data_path="/data", **kwargs)


def shifted(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Other weights of the same shapes: what a student is beside its teacher."""
    return {n: t + 0.01 if t.is_floating_point() else t for n, t in tensors.items()}


def dino_head(prefix: str) -> Tensors:
    return {prefix + "mlp.0.weight": torch.ones(8, 64), prefix + "last_layer.weight_v": torch.ones(8, 8)}


def huggingface(tensors: Mapping[str, torch.Tensor], v2: bool = False) -> Tensors:
    """DINO's names -> Hugging Face's, query, key and value apart."""
    out: Tensors = {}
    rules = [
        (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"attn\.proj", "attention.output.dense"),
        (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
        (r"mlp\.w12", "mlp.weights_in"),
        (r"mlp\.w3", "mlp.weights_out"),
        (r"^blocks\.", "encoder.layer."),
    ]
    if not v2:
        rules += [(r"\.norm1", ".layernorm_before"), (r"\.norm2", ".layernorm_after")]
        rules += [(r"mlp\.fc1", "intermediate.dense"), (r"mlp\.fc2", "output.dense")]
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if "attn.qkv" in name:
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[name.replace("attn.qkv", f"attention.attention.{part}")] = chunk.clone()
        else:
            out[name] = tensor
    return out


def golden_input(n: int, height: int, width: int) -> torch.Tensor:
    rng = np.random.default_rng(height * 1000 + width)
    return torch.from_numpy(rng.standard_normal((n, 3, height, width)).astype(np.float32))
