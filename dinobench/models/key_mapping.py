"""One name per backbone tensor, whichever program wrote the file; and the digest of a backbone under those names.

The canonical names are timm's. A ViT's position embedding is brought to one form on the way: the row that belongs to
the CLS token (and those of registers) is added to the token itself, which is what the forward pass does with it anyway,
so `pos_embed` keeps the patches' rows only. Renaming follows the public sources: facebookresearch/dino, dinov2 (chunked
block names, SwiGLU `w12`/`w3`), ConvNeXt, torchvision, and Hugging Face transformers' ViT and Dinov2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

Tensors = dict[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]

# What stands beside a backbone in the files met in the wild: heads, predictors, decoders, queues, mask tokens.
IGNORED = re.compile(
    r"(fc|head|heads|head_dist|classifier|linear|pooler|projector|projection|projection_head|projection_mlp|proj_head|"
    r"prototypes|predictor|prediction_head|prediction_mlp|prediction|dino_head|ibot_head|contrastive_head|criterion|bn|"
    r"mask_token|masked_embed|queue\w*|center|decoder|decoder_\w+|lm_head|embeddings\.mask_token)(\.|$)"
)

VIT_RULES: Rules = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks repeat the true index inside
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)
HF_RULES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.|\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"(?<!attention)\.output\.dense\.|\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
# lightly and others keep a ResNet as nn.Sequential(*children): 0 conv1, 1 bn1, 4..7 the stages
RESNET_SEQUENTIAL_RULES: Rules = (
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^4\.", "layer1."),
    (r"^5\.", "layer2."),
    (r"^6\.", "layer3."),
    (r"^7\.", "layer4."),
)
CONVNEXT_RULES: Rules = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
)
_TV_BLOCK = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}


@dataclass
class Mapped:
    """A backbone's tensors by canonical name, where each came from, and what was set aside as not the backbone's."""

    tensors: Tensors = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def names(self, canonical: str) -> str:
        """The file's own name (or names) of a canonical tensor, for messages."""
        return " + ".join(self.sources.get(canonical, (canonical,)))


def map_keys(tensors: Mapping[str, torch.Tensor], layout: str, keep: frozenset[str] = frozenset()) -> Mapped:
    """File names (prefix already taken off) -> canonical names, for one of the layouts of `models.formats.ANCHORS`.

    Nothing is dropped silently: what is not the backbone's by its name is in `ignored`, all else in `tensors`. `keep`
    are names known to be the backbone's whatever they look like.
    """
    mapped = Mapped()
    for name, tensor in tensors.items():
        new = rename(name, layout)
        # timm's ConvNeXt keeps its final norm in the head; the original's `norm` maps there too
        head = IGNORED.match(new) and not (layout.startswith("convnext") and new.startswith("head.norm."))
        if new not in keep and head:
            mapped.ignored.append(name)
            continue
        if new in mapped.tensors:  # two tensors for one place: the second is left over, which is reported
            new = f"{name} (a second {new})"
        mapped.tensors[new] = tensor
        mapped.sources[new] = (name,)
    if layout in ("vit", "huggingface"):
        fuse_qkv(mapped)
        fold_positions(mapped)
    elif layout.startswith("convnext"):
        flatten_convnext(mapped.tensors)
    return mapped


def rename(name: str, layout: str) -> str:
    """The canonical name of one tensor.

    >>> rename("blocks.0.3.mlp.w12.weight", "vit")
    'blocks.3.mlp.fc1.weight'
    >>> rename("encoder.layer.0.attention.output.dense.bias", "huggingface")
    'blocks.0.attn.proj.bias'
    >>> rename("features.3.1.block.3.weight", "convnext-torchvision")
    'stages.1.blocks.1.mlp.fc1.weight'
    """
    if layout == "convnext-torchvision":
        return _rename_torchvision_convnext(name)
    rules = {
        "vit": VIT_RULES,
        "huggingface": HF_RULES,
        "resnet-sequential": RESNET_SEQUENTIAL_RULES,
        "convnext-original": CONVNEXT_RULES,
    }.get(layout, ())
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _rename_torchvision_convnext(name: str) -> str:
    """torchvision interleaves: features.0 stem, odd ones stages, even ones the downsampling between them."""
    if match := re.match(r"features\.0\.(\d)\.(\w+)$", name):
        return f"stem.{match[1]}.{match[2]}"
    if match := re.match(r"features\.(\d+)\.(\d+)\.(block\.(\d)\.(\w+)|layer_scale)$", name):
        stage = f"stages.{int(match[1]) // 2}.blocks.{match[2]}"
        return f"{stage}.gamma" if match[4] is None else f"{stage}.{_TV_BLOCK.get(match[4], match[4])}.{match[5]}"
    if match := re.match(r"features\.(\d+)\.(\d)\.(\w+)$", name):
        return f"stages.{int(match[1]) // 2}.downsample.{match[2]}.{match[3]}"
    return re.sub(r"^classifier\.0\.", "head.norm.", name)


def fuse_qkv(mapped: Mapped) -> None:
    """Separate query, key and value (D, D) -> one qkv (3 * D, D), in that order, where all three are there."""
    for name in [n for n in mapped.tensors if ".attn.query." in n]:
        parts = [name, name.replace(".query.", ".key."), name.replace(".query.", ".value.")]
        tensors = [mapped.tensors[p] for p in parts if p in mapped.tensors]
        if len(tensors) == 3 and len({(t.shape[1:], t.ndim, t.dtype) for t in tensors}) == 1 and tensors[0].ndim:
            fused = name.replace(".query.", ".qkv.")
            mapped.sources[fused] = tuple(s for p in parts for s in mapped.sources.pop(p))
            mapped.tensors[fused] = torch.cat([mapped.tensors.pop(p) for p in parts])


def fold_positions(mapped: Mapped) -> None:
    """Position rows of CLS and registers move into those tokens, by the number of rows beyond a square grid.

    `pos_embed` (1, N | 1 + N | 1 + R + N, D) -> (1, N, D). Left as it is when no such reading gives a square.
    """
    tensors, position = mapped.tensors, mapped.tensors.get("pos_embed")
    if position is None or position.ndim != 3 or "cls_token" not in tensors:
        return
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors and tensors["reg_token"].ndim == 3 else 0
    for prefix in dict.fromkeys((0, 1, 1 + registers)):
        if square_side(position.shape[1] - prefix):
            fold_prefix(tensors, prefix)
            return


def fold_prefix(tensors: Tensors, prefix: int) -> None:
    """Add the first `prefix` rows of `pos_embed` to CLS (the first) and the registers (the others)."""
    position = tensors["pos_embed"]
    rows = (tensors["cls_token"], *((tensors["reg_token"],) if prefix > 1 else ()))
    if any(t.shape[:1] + t.shape[2:] != position[:, 0].shape or t.dtype != position.dtype for t in rows):
        return  # a wrong width or kind, which the comparison with the architecture reports
    if prefix:
        tensors["cls_token"] = tensors["cls_token"] + position[:, :1]
    if prefix > 1:
        tensors["reg_token"] = tensors["reg_token"] + position[:, 1:prefix]
    tensors["pos_embed"] = position[:, prefix:]


def square_side(n: int) -> int:
    """The side of a square of n patches, 0 where n is no square.

    >>> square_side(196), square_side(197)
    (14, 0)
    """
    side = round(max(n, 0) ** 0.5)
    return side if side * side == n else 0


def flatten_convnext(tensors: Tensors) -> None:
    """1 x 1 convolutions and broadcast axes -> plain matrices and vectors, as timm's Linear form has them."""
    for name, tensor in tensors.items():
        if re.search(r"\.mlp\.fc\d\.weight$", name) and tensor.ndim == 4:
            tensors[name] = tensor.flatten(1)
        elif re.search(r"(\.gamma|\.mlp\.grn\.(weight|bias))$", name) and tensor.ndim > 1:
            tensors[name] = tensor.flatten()


def weights_digest(tensors: Mapping[str, torch.Tensor], settings: str = "") -> str:
    """SHA-256 (hex) over name, dtype, shape and bytes of the tensors in the order of their names.

    `settings` says what tensors cannot and the outputs depend on (such as an unusual number of heads). Counters of
    batches, which no evaluation reads, are left out, so that files with and without them agree.
    """
    sha = hashlib.sha256(settings.encode())
    for name in sorted(tensors):
        if name.endswith("num_batches_tracked"):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
