"""Swin Transformer (arXiv 2103.14030) and V2 (2111.09883): in microsoft's names, timm's, torchvision's, Hugging Face's.

The second version computes its position bias, so no tensor tells the windows' size: buffers that microsoft's files keep
do, or `config.json`, or else `--arch` has to.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2

from dinobench.errors import UserError
from dinobench.models.architecture import Architecture
from dinobench.models.families.family import (
    TRANSFORMERS_BLOCK,
    Family,
    check_patch_embedding,
    count,
    first,
    settings_of,
)
from dinobench.models.key_mapping import Mapped, Rules, fuse_qkv
from dinobench.models.spec import ModelSpec

SIZES: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
}
SIZES |= {(192, (2, 2, 18, 2)): "large"}
# what the module computes itself when it is built; the first two tell the windows' size
COMPUTED = re.compile(
    r"layers\.\d+\.blocks\.\d+\.(attn\.relative_position_index|attn\.relative_coords_table|attn_mask)"
)

HF_RULES: Rules = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    *TRANSFORMERS_BLOCK,
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.self\.", ".attn."),
    (r"^layernorm\.", "norm."),
)


def rename_torchvision(name: str) -> str:
    """torchvision interleaves: features.0 the stem, odd ones stages, even ones the merging before the next.

    >>> rename_torchvision("features.3.1.mlp.3.weight"), rename_torchvision("features.2.reduction.weight")
    ('layers.1.blocks.1.mlp.fc2.weight', 'layers.0.downsample.reduction.weight')
    """
    name = re.sub(r"^features\.0\.0\.", "patch_embed.proj.", name)
    name = re.sub(r"^features\.0\.2\.", "patch_embed.norm.", name)
    if match := re.match(r"features\.(\d+)\.(\d+)\.(.*)", name):
        name = f"layers.{int(match[1]) // 2}.blocks.{match[2]}.{match[3]}"
    elif match := re.match(r"features\.(\d+)\.(.*)", name):
        name = f"layers.{int(match[1]) // 2 - 1}.downsample.{match[2]}"
    return re.sub(r"\.mlp\.0\.", ".mlp.fc1.", re.sub(r"\.mlp\.3\.", ".mlp.fc2.", name))


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Move the merging of patches to the stage that it leads to, join q, k and v, set computed buffers aside."""
    tensors = mapped.tensors
    for name in [n for n in tensors if COMPUTED.fullmatch(n)]:
        tensor = tensors[name]
        mapped.set_aside(name)
        if tensor.ndim == 4 and name.endswith("relative_coords_table"):
            spec.tell("its table of coordinates", window=(tensor.shape[1] + 1) // 2)
        elif tensor.ndim == 2 and name.endswith("relative_position_index"):
            spec.tell("its table of positions", window=round(tensor.shape[0] ** 0.5))
    if any(n.startswith("layers.0.downsample.") for n in tensors):
        for name in [n for n in tensors if re.match(r"layers\.\d+\.downsample\.", n)]:
            stage = int(name.split(".")[1])
            mapped.move(name, name.replace(f"layers.{stage}.", f"layers.{stage + 1}.new_", 1))
        for name in [n for n in tensors if ".new_downsample." in n]:
            mapped.move(name, name.replace(".new_downsample.", ".downsample."))
    for name in [n for n in tensors if n.endswith(".attn.relative_position_bias_table") and tensors[n].ndim == 2]:
        spec.tell("its table of biases", window=(round(tensors[name].shape[0] ** 0.5) + 1) // 2)
    if any(n.endswith(".attn.logit_scale") for n in tensors):
        _split_biases(mapped)
    fuse_qkv(mapped)


def finish_torchvision(mapped: Mapped, spec: ModelSpec) -> None:
    """As `finish`; the keys' third of V2's bias, which torchvision sets to zero on every call, is set to zero here."""
    tensors = mapped.tensors
    if any(n.endswith(".attn.logit_scale") for n in tensors):
        for name in [n for n in tensors if n.endswith(".attn.qkv.bias") and tensors[n].ndim == 1]:
            q, k, v = tensors[name].chunk(3)
            tensors[name] = torch.cat([q, torch.zeros_like(k), v])
    finish(mapped, spec)


def _split_biases(mapped: Mapped) -> None:
    """V2 has biases of q and v only: parts that hold them apart, or one of all three whose keys' part is 0."""
    tensors = mapped.tensors
    for name in [n for n in tensors if re.search(r"\.attn\.(query|value|qkv)\.bias$", n)]:
        stem, part = name.rsplit(".attn.", 1)
        if part == "qkv.bias":
            q, k, v = tensors[name].chunk(3) if tensors[name].ndim == 1 else (None, None, None)
            if q is None or k is None or v is None or bool(k.any()):
                continue  # left over, which is reported
            mapped.split(name, {f"{stem}.attn.q_bias": q, f"{stem}.attn.v_bias": v})
        else:
            mapped.move(name, f"{stem}.attn.{part[0]}_bias")


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Widths, depths, heads and windows of a Swin; V2's are as told. Raises UserError where nobody tells them."""
    tensors = mapped.tensors
    width, patch = check_patch_embedding(tensors["patch_embed.proj.weight"], spec.path)
    depths = tuple(count(tensors, rf"layers\.{i}\.blocks\.(\d+)\.") for i in range(4))
    v2 = any(n.endswith(".attn.logit_scale") for n in tensors)
    table = r"\.blocks\.\d+\.attn\.logit_scale" if v2 else r"\.blocks\.\d+\.attn\.relative_position_bias_table"
    heads = tuple(first(tensors, rf"layers\.{i}{table}").shape[0 if v2 else 1] for i in range(4))
    fc1 = first(tensors, r"layers\.0\.blocks\.\d+\.mlp\.fc1\.weight")
    window = spec.get("window")
    if not isinstance(window, int) or window < 1:
        raise UserError(
            f"{spec.path}: no tensor of a Swin V2 tells the size of its windows; name the model with --arch"
        )
    stated = spec.get("image_size")
    # every released model was trained at the size where the last stage is one window
    size = stated or (patch * 8 * window, patch * 8 * window)
    kwargs: dict[str, Any] = {}
    if v2 and (trained := spec.get("pretrained_windows")):
        kwargs["pretrained_window_sizes"] = trained
    build = functools.partial(
        SwinTransformerV2 if v2 else SwinTransformer,
        img_size=size,
        patch_size=patch,
        num_classes=0,
        embed_dim=width,
        depths=depths,
        num_heads=heads,
        window_size=window,
        mlp_ratio=(fc1.shape[0] + 0.01) / width,  # timm floors width * ratio, up to 8 times this width
        strict_img_size=False,
        **kwargs,
    )
    version = "swinv2" if v2 else "swin"
    size_name = SIZES.get((width, depths), f"w{width}_d{''.join(map(str, depths))}")
    arch = f"{version}_{size_name}_patch{patch}_window{window}"
    settings = settings_of(
        (
            f"window={window}" if v2 else "",
            f"image={size[0]}x{size[1]}" if size[0] != patch * 8 * window or size[0] != size[1] else "",
            f"pretrained={kwargs['pretrained_window_sizes']}" if any(kwargs.get("pretrained_window_sizes", ())) else "",
        )
    )  # fmt: skip
    return Architecture("maps", arch, width * 8, build, settings=settings, pool=None)


_V1 = "layers.0.blocks.0.attn.relative_position_bias_table"
_V2 = "layers.0.blocks.0.attn.logit_scale"
_EMBED = "patch_embed.proj.weight"
_HF = "embeddings.patch_embeddings.projection.weight"
FAMILIES = (
    Family("swin", (_V1, _EMBED), infer, finish=finish, label="swin"),
    Family("swinv2", (_V2, _EMBED), infer, finish=finish, label="swin"),
    Family(
        "swin-torchvision", ("features.1.0.attn.relative_position_bias_table", "features.0.0.weight"), infer,
        rename=rename_torchvision, finish=finish_torchvision, label="torchvision",
    ),
    Family(
        "swinv2-torchvision", ("features.1.0.attn.logit_scale", "features.0.0.weight"), infer,
        rename=rename_torchvision, finish=finish_torchvision, label="torchvision",
    ),
    Family(
        "huggingface-swin", ("encoder.layers.0.blocks.0.attention.self.query.weight", _HF), infer, rules=HF_RULES,
        finish=finish, label="huggingface",
    ),
)  # fmt: skip
