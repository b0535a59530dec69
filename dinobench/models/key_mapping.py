"""One name per backbone tensor, whichever program wrote the file; and the digest of a backbone under those names.

The canonical names are timm's. A ViT's position embedding is brought to one form on the way: the row that belongs to
the CLS token (and those of registers) is added to the token itself, which is what the forward pass does with it anyway,
so `pos_embed` keeps the patches' rows only. How each family's names become timm's is in `dinobench.models.families`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

Tensors = dict[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]

PREFIX_TOKENS = ("cls_token", "dist_token", "reg_token")  # in the order in which they stand before the patches

# What stands beside a backbone in the files met in the wild: heads, predictors, decoders, queues, mask tokens. A layer
# of the head before its classifier is none of these: it makes the feature.
IGNORED = re.compile(
    r"(fc|heads?(?!\.pre_logits\.)|head_dist|classifier|linear|pooler|projector|projection|projection_head|"
    r"projection_mlp|proj_head|prototypes|predictor|prediction_head|prediction_mlp|prediction|dino_head|ibot_head|contrastive_head|"
    r"criterion|bn|mask_token|masked_embed|queue\w*|center|decoder|decoder_\w+|lm_head|embeddings\.mask_token)(\.|$)"
)


@dataclass
class Mapped:
    """A backbone's tensors by canonical name, where each came from, and what was set aside as not the backbone's."""

    tensors: Tensors = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    folded: int = 0  # rows of `pos_embed` that were added to CLS and the tokens beside it

    def set_aside(self, canonical: str) -> None:
        """A tensor that turns out not to be the backbone's."""
        if self.tensors.pop(canonical, None) is not None:
            self.ignored += self.sources.pop(canonical, (canonical,))

    def set_aside_all(self, pattern: str) -> None:
        """`set_aside` of every tensor whose canonical name matches as a whole."""
        for name in [n for n in self.tensors if re.fullmatch(pattern, n)]:
            self.set_aside(name)

    def move(self, old: str, new: str) -> None:
        """Another canonical name for a tensor that is there."""
        self.tensors[new], self.sources[new] = self.tensors.pop(old), self.sources.pop(old, (old,))

    def rename(self, pattern: str, replacement: str) -> None:
        """Canonical names that only the whole of the tensors decides; a name that is taken is left alone."""
        for name in list(self.tensors):
            new = re.sub(pattern, replacement, name)
            if new != name and new not in self.tensors:
                self.move(name, new)

    def join(self, names: Sequence[str], joined: str) -> None:
        """Tensors -> one, along the first axis in that order, where all are there and fit."""
        parts = [self.tensors[n] for n in names if n in self.tensors]
        if len(parts) == len(names) and len({(t.shape[1:], t.ndim, t.dtype) for t in parts}) == 1 and parts[0].ndim:
            self.sources[joined] = tuple(s for n in names for s in self.sources.pop(n, (n,)))
            self.tensors[joined] = torch.cat([self.tensors.pop(n) for n in names])

    def split(self, canonical: str, parts: Mapping[str, torch.Tensor]) -> None:
        """A tensor that is there -> the parts of it, by their names."""
        source = self.sources.pop(canonical, (canonical,))
        del self.tensors[canonical]
        self.tensors |= parts
        self.sources |= dict.fromkeys(parts, source)

    def names(self, canonical: str) -> str:
        """The file's own name (or names) of a canonical tensor, for messages."""
        return " + ".join(self.sources.get(canonical, (canonical,)))


def map_keys(
    tensors: Mapping[str, torch.Tensor],
    canonical: Callable[[str], str],
    own: str = "",
    keep: frozenset[str] = frozenset(),
) -> Mapped:
    """File names (prefix already taken off) -> canonical names, by a family's `canonical`.

    Nothing is dropped silently: what is not the backbone's by its name is in `ignored`, all else in `tensors`. `own` is
    a pattern for names that look like a head's and are the backbone's, `keep` names known to be so whatever they look
    like.
    """
    mapped = Mapped()
    for name, tensor in tensors.items():
        new = canonical(name)
        if new not in keep and IGNORED.match(new) and not (own and re.fullmatch(own, new)):
            mapped.ignored.append(name)
            continue
        if new in mapped.tensors:  # two tensors for one place: the second is left over, which is reported
            new = f"{name} (a second {new})"
        mapped.tensors[new] = tensor
        mapped.sources[new] = (name,)
    return mapped


def apply_rules(rules: Rules, name: str) -> str:
    """The rules in turn, as re.sub."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def fuse_qkv(mapped: Mapped) -> None:
    """Separate query, key and value (D, D) -> one qkv (3 * D, D), in that order, where all three are there."""
    for name in [n for n in mapped.tensors if ".attn.query." in n]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        mapped.join(parts, name.replace(".query.", ".qkv."))


def fold_positions(mapped: Mapped, grid: tuple[int, int] | None = None) -> None:
    """Position rows of CLS, distillation token and registers move into those tokens, by the rows beyond a grid.

    `pos_embed` (1, N | 1 + N | 1 + R + N, D) -> (1, N, D), N = h * w of `grid` or a square. Where no such reading
    gives one, CLS is taken to have a row, as in every release whose grid is not square.
    """
    tensors, position = mapped.tensors, mapped.tensors.get("pos_embed")
    present = [(n, tensors[n].shape[1]) for n in PREFIX_TOKENS if n in tensors and tensors[n].ndim == 3]
    if position is None or position.ndim != 3 or not present:
        return
    counts = [0]
    for _, count in present:
        counts.append(counts[-1] + count)
    for prefix in counts:
        rows = position.shape[1] - prefix
        if rows == grid[0] * grid[1] if grid else square_side(rows):
            break
    else:
        prefix = next((counts[i + 1] for i, (n, _) in reversed(list(enumerate(present))) if n != "reg_token"), 0)
    if fold_prefix(tensors, prefix):
        mapped.folded = prefix


def fold_prefix(tensors: Tensors, prefix: int) -> bool:
    """Add the first `prefix` rows of `pos_embed` to the tokens that stand before the patches; False if they do not fit.

    The order is that of PREFIX_TOKENS, as in every program that has more than one.
    """
    position, start, sums = tensors["pos_embed"], 0, {}
    for name in (n for n in PREFIX_TOKENS if n in tensors and start < prefix):
        token = tensors[name]
        if (
            token.ndim != 3
            or token.shape[:1] + token.shape[2:] != position[:, 0].shape
            or token.dtype != position.dtype
        ):
            return False  # a wrong width or kind, which the comparison with the architecture reports
        sums[name] = token + position[:, start : start + token.shape[1]]
        start += token.shape[1]
    tensors.update(sums)
    tensors["pos_embed"] = position[:, start:]
    return True


def unfold_positions(mapped: Mapped) -> None:
    """The rows of the tokens before the patches come back as zeros, for a module that keeps such rows."""
    if mapped.folded:
        position = mapped.tensors["pos_embed"]
        zeros = torch.zeros(position.shape[0], mapped.folded, position.shape[2], dtype=position.dtype)
        mapped.tensors["pos_embed"], mapped.folded = torch.cat([zeros, position], dim=1), 0


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
