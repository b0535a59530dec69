"""Which part of a checkpoint is the backbone, and what the file tells about who trained it.

A layout is recognised by its anchors, tensors that no other architecture has; every prefix under which they stand is a
candidate (a DINO file holds `student.module.backbone.` and `teacher.backbone.`), and one is chosen.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dinobench.errors import UserError
from dinobench.models.families import FAMILIES, Family

# By preference: DINO's papers evaluate the averaged weights, MoCo's and BYOL's the online ones.
PREFERENCE: tuple[frozenset[str], ...] = (
    frozenset({"teacher"}),
    frozenset({"ema"}),
    frozenset(),  # plain, student, base_encoder, encoder_q, online
    frozenset({"momentum", "target", "k"}),
)
KNOWN_METHODS = ("dinov2", "dino", "ibot", "mocov3", "mocov2", "mae", "swav", "simsiam", "simclr", "barlow", "byol")
ONLINE = frozenset({"online", "online_encoder", "online_network", "online_backbone", "online_net"})  # BYOL's words


@dataclass(frozen=True)
class Candidate:
    """A place in the file where a backbone stands."""

    prefix: str  # with its closing dot, or empty
    family: Family

    @property
    def label(self) -> str:
        """What `--key` takes: the prefix without its closing dot."""
        return self.prefix.rstrip(".") or "(top level)"

    def rank(self, averaged: bool = False) -> int:
        """Its place in PREFERENCE; with `averaged` a target is a teacher. An `online` family's average comes last."""
        tokens = set(re.split(r"[._]", self.prefix))
        if self.family.online and "ema" in tokens:
            return len(PREFERENCE)
        if averaged and "target" in tokens:
            return 0
        return next((i for i, words in enumerate(PREFERENCE) if words & tokens), PREFERENCE.index(frozenset()))

    def answers(self, key: str) -> bool:
        """Whether `--key key` means this one: the whole prefix, a part of it, or the first word of a part."""
        parts = self.prefix.rstrip(".").split(".")
        return key == self.label or any(key == p or p.startswith(key + "_") or p.endswith("_" + key) for p in parts)


def find_candidates(names: Iterable[str], families: Sequence[Family] = FAMILIES) -> list[Candidate]:
    """Every backbone in the file, best first. The first of `families` whose marks stand under a prefix takes it.

    It takes the mark itself too, so that what stands inside a whole is not offered beside it.
    """
    present = set(names)
    ordered = sorted(present)
    candidates: dict[str, Candidate] = {}
    taken: set[str] = set()  # a mark of one family's is no other's, under whatever prefix
    for family in families:
        anchor, *others = family.anchors
        for name in ordered:
            prefix = name.removesuffix(anchor)
            if prefix == name or (prefix and not prefix.endswith(".")) or prefix in candidates or name in taken:
                continue
            if all(prefix + n in present for n in others) and not any(prefix + n in present for n in family.absent):
                candidates[prefix] = Candidate(prefix, family)
                taken.update(prefix + n for n in family.anchors)
    averaged = averaged_is_evaluated(present)
    return sorted(candidates.values(), key=lambda c: (c.rank(averaged), c.prefix.count("."), c.prefix))


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


def infer_method(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any], candidate: Candidate) -> str:
    """Who trained it, from what only that method leaves in a file; "unknown" rather than a guess.

    A file that says it itself (a string `method` at its top or in its args) is believed.
    """
    stated = find_setting(meta, "method")
    if isinstance(stated, str) and stated.isprintable() and 0 < len(stated) <= 40:
        return stated.lower()
    if candidate.family.method:
        return candidate.family.method
    names = list(tensors)
    parts = {part for name in names for part in name.split(".")} | set(meta)
    rest = [n.removeprefix(candidate.prefix) for n in names if n.startswith(candidate.prefix)]

    def has(*words: str) -> bool:
        return not parts.isdisjoint(words)

    dinov2s = has("ls1", "layer_scale1") and has("mask_token") and _registers(tensors) in (0, 4)
    if has("ibot_head") or (dinov2s and not has("depth_head")):
        return "dinov2"  # TIPS has its names, and one register; Depth Anything trains it on, under a head
    if has("ibot_loss", "masked_embed", "last_layer2", "last_layer2_g"):
        return "ibot"
    if has("dino_loss", "dino_head") or (has("student", "teacher") and has("last_layer")):
        return "dino"
    if has("base_encoder", "momentum_encoder"):
        return "mocov3"
    if has("decoder_embed", "decoder_blocks", "decoder_pos_embed"):
        return "mae"
    if averaged_is_evaluated(names):
        return "msn" if has("prototypes") else "ijepa"
    if has("prototypes", "prototypes0"):
        return "swav"
    if has("encoder_q", "encoder_k", "queue"):
        return "mocov2"
    if has(*ONLINE) or (has("prediction_head") and has("backbone_momentum")):
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


def averaged_is_evaluated(names: Iterable[str]) -> bool:
    """Whether these are MSN's or I-JEPA's files: their own evaluations load `target_encoder`, not `encoder`.

    BYOL's files have a `target` too, whose published scores are those of the network beside it: what tells them apart
    is MSN's prototypes, and the predictor of I-JEPA, which is a transformer.
    """
    parts = {part for name in names for part in name.split(".")}
    jepa = {"prototypes", "predictor_embed", "predictor_blocks", "predictor_pos_embed"}
    return "target_encoder" in parts and not parts.isdisjoint(jepa) and parts.isdisjoint(ONLINE)


def _registers(tensors: Mapping[str, torch.Tensor]) -> int:
    """How many register tokens there are."""
    tokens = (t for n, t in tensors.items() if n.endswith("register_tokens") and t.ndim == 3)
    return next((int(t.shape[1]) for t in tokens), 0)


def describe_format(candidate: Candidate, meta: Mapping[str, Any], method: str, container: str) -> str:
    """Layout and container, such as "dino/zip" or "huggingface/safetensors"."""
    label = candidate.family.label or candidate.family.name
    if label.startswith("huggingface"):
        layout = label
    elif "pytorch-lightning_version" in meta or "hyper_parameters" in meta:
        layout = "lightning"
    elif method in KNOWN_METHODS and candidate.prefix:
        layout = method
    else:
        layout = label
    return f"{layout}/{container}"
