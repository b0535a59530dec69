"""Which part of a checkpoint is the backbone, and what the file tells about who trained it.

A layout is recognised by its anchors, tensors that no other architecture has; every prefix under which they stand is a
candidate (a DINO file holds `student.module.backbone.` and `teacher.backbone.`), and one is chosen.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dinobench.errors import UserError

ANCHORS: dict[str, tuple[str, ...]] = {
    "vit": ("patch_embed.proj.weight",),
    "huggingface": ("embeddings.patch_embeddings.projection.weight",),
    "resnet": ("layer1.0.conv1.weight", "conv1.weight"),
    "resnet-sequential": ("4.0.conv1.weight", "0.weight"),
    "convnext-timm": ("stages.0.blocks.0.conv_dw.weight", "stem.0.weight"),
    "convnext-original": ("stages.0.0.dwconv.weight", "downsample_layers.0.0.weight"),
    "convnext-torchvision": ("features.1.0.block.0.weight", "features.0.0.weight"),
}
# By preference: DINO's papers evaluate the averaged weights, MoCo's and BYOL's the online ones.
PREFERENCE: tuple[frozenset[str], ...] = (
    frozenset({"teacher"}),
    frozenset({"ema"}),
    frozenset(),  # plain, student, base_encoder, encoder_q, online
    frozenset({"momentum", "target", "k"}),
)
KNOWN_METHODS = ("dinov2", "dino", "ibot", "mocov3", "mocov2", "mae", "swav", "simsiam", "simclr", "barlow", "byol")


@dataclass(frozen=True)
class Candidate:
    """A place in the file where a backbone stands."""

    prefix: str  # with its closing dot, or empty
    layout: str  # a key of ANCHORS, or "generic"

    @property
    def label(self) -> str:
        """What `--key` takes: the prefix without its closing dot."""
        return self.prefix.rstrip(".") or "(top level)"

    @property
    def rank(self) -> int:
        """Its place in PREFERENCE."""
        tokens = set(re.split(r"[._]", self.prefix))
        return next((i for i, words in enumerate(PREFERENCE) if words & tokens), PREFERENCE.index(frozenset()))

    def answers(self, key: str) -> bool:
        """Whether `--key key` means this one: the whole prefix, a part of it, or the first word of a part."""
        parts = self.prefix.rstrip(".").split(".")
        return key == self.label or any(key == p or p.startswith(key + "_") or p.endswith("_" + key) for p in parts)


def find_candidates(names: Iterable[str], extra_anchor: str | None = None) -> list[Candidate]:
    """Every backbone in the file, best first; with `extra_anchor`, wherever that tensor stands instead."""
    present = set(names)
    anchors = {"generic": (extra_anchor,)} if extra_anchor else ANCHORS
    candidates: dict[str, Candidate] = {}
    for layout, (anchor, *others) in anchors.items():
        for name in present:
            prefix = name.removesuffix(anchor)
            if prefix == name or (prefix and not prefix.endswith(".")):
                continue
            if all(prefix + other in present for other in others):
                candidates.setdefault(prefix, Candidate(prefix, layout))
    return sorted(candidates.values(), key=lambda c: (c.rank, c.prefix.count("."), c.prefix))


def choose(candidates: list[Candidate], key: str | None, path: str) -> Candidate:
    """The candidate that `key` names, or the best one. Raises UserError listing the options for an unknown key."""
    if key is None:
        return candidates[0]
    chosen = [c for c in candidates if c.answers(key)]
    if not chosen:
        raise UserError(f"{path}: no backbone under --key {key}; there is: {', '.join(c.label for c in candidates)}")
    return chosen[0]


def under(
    tensors: Mapping[str, torch.Tensor], chosen: Candidate, candidates: list[Candidate]
) -> dict[str, torch.Tensor]:
    """The tensors below the chosen prefix, without it; those of another candidate nested deeper are not its own."""
    nested = tuple(c.prefix for c in candidates if c.prefix != chosen.prefix and c.prefix.startswith(chosen.prefix))
    return {
        name.removeprefix(chosen.prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(chosen.prefix) and not (nested and name.startswith(nested))
    }


def find_epoch(meta: Mapping[str, Any]) -> int | None:
    """The file's own `epoch` (DINO, MoCo, MAE, Lightning), as written there."""
    epoch = meta.get("epoch")
    if not isinstance(epoch, numbers.Integral) or isinstance(epoch, bool):
        return None
    return int(epoch) if abs(int(epoch)) < 1 << 53 else None  # beyond, JSON's readers disagree


def find_setting(meta: Mapping[str, Any], *names: str) -> Any:
    """The first of `names` at the top of the file or in its `args`, `config` or `hyper_parameters`."""
    places = [meta, *(meta[k] for k in ("args", "config", "hyper_parameters") if isinstance(meta.get(k), Mapping))]
    return next((p[n] for n in names for p in places if p.get(n) is not None), None)


def find_image_size(meta: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the images it was trained on, where the file states both."""
    stated = find_setting(meta, "img_size", "image_size")
    pair = isinstance(stated, list | tuple) and len(stated) == 2 and all(type(side) is int for side in stated)
    return (stated[0], stated[1]) if pair else None


def infer_method(names: Iterable[str], meta: Mapping[str, Any], candidate: Candidate) -> str:
    """Who trained it, from what only that method leaves in a file; "unknown" rather than a guess.

    A file that says it itself (a string `method` at its top or in its args) is believed.
    """
    stated = find_setting(meta, "method")
    if isinstance(stated, str) and stated.isprintable() and 0 < len(stated) <= 40:
        return stated.lower()
    names = list(names)
    parts = {part for name in names for part in name.split(".")} | set(meta)
    rest = [n.removeprefix(candidate.prefix) for n in names if n.startswith(candidate.prefix)]

    def has(*words: str) -> bool:
        return not parts.isdisjoint(words)

    scaled = has("ls1", "layer_scale1")
    if has("ibot_head") or (scaled and has("mask_token", "register_tokens", "reg_token")):
        return "dinov2"
    if has("ibot_loss", "masked_embed", "last_layer2", "last_layer2_g"):
        return "ibot"
    if has("dino_loss", "dino_head") or (has("student", "teacher") and has("last_layer")):
        return "dino"
    if has("base_encoder", "momentum_encoder"):
        return "mocov3"
    if has("decoder_embed", "decoder_blocks", "decoder_pos_embed"):
        return "mae"
    if has("prototypes", "prototypes0"):
        return "swav"
    if has("encoder_q", "encoder_k", "queue"):
        return "mocov2"
    online = has("online", "online_encoder", "online_network", "online_backbone", "online_net")
    if online or (has("prediction_head") and has("backbone_momentum")):
        return "byol"
    if has("prediction_head") or (has("predictor") and "encoder" in candidate.prefix.split(".")):
        return "simsiam"
    if has("projector") and has("bn") and "backbone" in candidate.prefix.split("."):
        return "barlow"
    if has("lambd"):
        return "barlow"
    if any(re.fullmatch(r"(head|fc|classifier|classifier\.2|head\.fc|heads\.head)\.weight", n) for n in rest):
        return "supervised"
    return "unknown"


def describe_format(candidate: Candidate, meta: Mapping[str, Any], method: str, container: str) -> str:
    """Layout and container, such as "dino/zip" or "huggingface/safetensors"."""
    if candidate.layout == "huggingface":
        layout = "huggingface"
    elif "pytorch-lightning_version" in meta or "hyper_parameters" in meta:
        layout = "lightning"
    elif method in KNOWN_METHODS and candidate.prefix:
        layout = method
    else:
        layout = {"vit": "vit", "resnet": "torchvision"}.get(candidate.layout, candidate.layout)
    return f"{layout}/{container}"
