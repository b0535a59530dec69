"""Adapters over timm's own forward pass: transformers of any family, and networks whose last output is a map.

`adapters.ViTBackbone` computes the plain ViT itself, because DINO's decisions about positions decide published numbers;
these leave the tokens to timm, which follows each family's authors, and decide what the feature is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dinobench.errors import UnsupportedCapability, UserError
from dinobench.models.adapters import (
    Blocks,
    Layers,
    ModuleBackbone,
    block_numbers,
    check_images,
    check_multiple,
    key_projection,
    keys_of,
    on_grid,
)
from dinobench.types import CheckpointInfo


class TokenBackbone(ModuleBackbone):
    """A transformer of timm's whose blocks keep one grid of patches: BEiT, EVA, DINOv3, CLIP, SigLIP, ...

    `pool` says what the feature is: "cls", "mean" (of the patches), "cls+mean" (side by side), "map" (the model's own
    attention pooling), "cls&dist" (the mean of CLS and DeiT's distillation token) or "summary" (RADIO's CLS tokens, one
    after the other, that the module names in `summary`). The norm that timm puts after the
    pooling (`fc_norm`) is part of it. What stands before a classifier is thus the same as with timm's
    `forward_head(pre_logits=True)` for the pooling that the model has.
    """

    patch_size: int

    def __init__(self, module: nn.Module, info: CheckpointInfo, pool: str) -> None:
        inner: Any = module
        super().__init__(module, info, int(inner.patch_embed.patch_size[0]))
        self.size_multiple = self.patch_size
        self.prefix = int(inner.num_prefix_tokens)
        self.pool = pool
        self.has_cls = getattr(inner, "cls_token", None) is not None
        if "cls" in pool and not self.has_cls:
            raise UserError(f"{info.name}: has no CLS token for --pool {pool}; use --pool mean")
        if pool == "map" and getattr(inner, "attn_pool", None) is None:
            raise UserError(f"{info.name}: has no attention pooling for --pool map; use --pool mean")
        kinds, attention = {"features", "layers", "patches", "map"}, getattr(inner.blocks[-1], "attn", None)
        kinds |= {"attention"} if self.has_cls and _softmax(attention) else set()
        self.capabilities = frozenset(kinds | ({"keys"} if key_projection(attention) else set()))

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        return self._pooled(self._checked(lambda: self.module.forward_features(x), x))

    def layers(self, x: torch.Tensor, n: int = 1) -> Layers:
        """(B, 3, H, W) -> the last n blocks, oldest first, (feature as pooled (B, D), patches (B, N, D)), normed."""
        depth = len(self.module.blocks)
        if not 1 <= n <= depth:
            raise UserError(f"{self.info.name}: {n} last blocks asked for, the model has {depth}")
        with self._grad():
            layers: Layers = []
            for prefix, patches in self._intermediates(x, n, norm=True):
                tokens = torch.cat([prefix, patches], dim=1)
                layers.append((self._pooled(tokens).float(), self._post(patches).float()))
            return layers

    def blocks(self, x: torch.Tensor, indices: Sequence[int], norm: bool = False) -> Blocks:
        """(B, 3, H, W) -> these blocks' (CLS (B, D) or None, patches (B, N, D)), in the order asked.

        Raises UserError for a block that the model does not have.
        """
        wanted = block_numbers(indices, len(self.module.blocks), self.info.name)
        numbers = sorted(set(wanted))
        with self._grad():
            outputs = self._intermediates(x, numbers, norm, stop_early=True)
            normed = [[self._post(part) if norm else part for part in output] for output in outputs]
            taken = {
                number: (prefix[:, 0].float() if self.has_cls else None, patches.float())
                for number, (prefix, patches) in zip(numbers, normed, strict=True)
            }
        return [taken[number] for number in wanted]

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, heads, N, D / heads): last block's keys of the patches, no positions rotated in.

        Raises UnsupportedCapability where the last block's attention has no linear layer for keys.
        """
        if "keys" not in self.capabilities:
            return super().keys(x)
        attention, seen = self.module.blocks[-1].attn, []
        hook = attention.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        try:
            with self._grad():
                self._checked(lambda: self.module.forward_features(x), x)
                return keys_of(attention, seen[0][:, self.prefix :])
        finally:
            hook.remove()

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D, H / patch size, W / patch size): last block's patches after the final norm."""
        ((_, patches),) = self.blocks(x, (-1,), norm=True)
        return on_grid(patches, x, self.patch_size)

    def cls_attention(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, heads, N): last block's softmax, CLS row, patch columns (they sum to less than 1)."""
        return self.layers_and_attention(x, 1)[1]

    def layers_and_attention(self, x: torch.Tensor, n: int = 1) -> tuple[Layers, torch.Tensor]:
        """`layers` and `cls_attention` from one forward pass. Raises UnsupportedCapability without a CLS token."""
        if "attention" not in self.capabilities:
            why = "has no CLS token" if not self.has_cls else "does not show its softmax"
            raise UnsupportedCapability(f"{self.info.name}: CLS attention is not applicable: a {self.info.arch} {why}")
        attention = self.module.blocks[-1].attn
        seen: list[torch.Tensor] = []
        # outside of its fused kernel timm's attention hands its softmax to a dropout, which in eval mode does nothing
        hook = attention.attn_drop.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        fused, attention.fused_attn = attention.fused_attn, False
        try:
            layers = self.layers(x, n)
        finally:
            attention.fused_attn = fused
            hook.remove()
        return layers, seen[0][:, :, 0, self.prefix :].float()

    def _intermediates(self, x: torch.Tensor, indices: Any, norm: bool, **kwargs: Any) -> Any:
        """timm's outputs of blocks, oldest first, each (prefix (B, P, D), patches (B, N, D))."""
        outputs = self._checked(
            lambda: self.module.forward_intermediates(
                x, indices=indices, norm=norm, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True,
                **kwargs,
            ),
            x,
        )  # fmt: skip
        for output in outputs:
            patches, prefix = output if isinstance(output, tuple) else (output, output[:, :0])
            yield prefix, patches

    def _pooled(self, tokens: torch.Tensor) -> torch.Tensor:
        """Normed tokens (B, prefix + N, D) -> (B, D), or (B, 2 * D) for "cls+mean"."""
        if self.pool == "map":
            whole = getattr(self.module, "pool_include_prefix", True)  # timm's Eva pools over all of them
            return self._post(self.module.attn_pool(tokens if whole else tokens[:, self.prefix :]))
        if self.pool == "cls&dist":
            return self._post(tokens[:, :2].mean(dim=1))
        if self.pool == "summary":
            return self._post(tokens[:, list(self.module.summary)].flatten(1))
        parts = [tokens[:, 0]] if "cls" in self.pool else []
        parts += [tokens[:, self.prefix :].mean(dim=1)] if "mean" in self.pool else []
        return torch.cat([self._post(part) for part in parts], dim=-1)

    def _post(self, vectors: torch.Tensor) -> torch.Tensor:
        """The norm after pooling, where the model has one in place of the one before."""
        norm = getattr(self.module, "fc_norm", None)
        return vectors if norm is None else norm(vectors)

    def _checked(self, forward: Any, x: torch.Tensor) -> Any:
        check_images(x)
        check_multiple(x, self.patch_size, self.info.name)
        try:
            return forward()
        except AssertionError as error:  # timm's way of refusing a size
            raise UserError(
                f"{self.info.name}: a {self.info.arch} refuses {tuple(x.shape[2:])} images: {error}"
            ) from None


class MapBackbone(ModuleBackbone):
    """A hierarchical network of timm's (Swin and the like): its feature is what enters the classifier.

    `patch_size` is the stride of the last map, whose positions, normed, are the patches.
    """

    capabilities = frozenset({"features", "patches", "map"})

    def __init__(self, module: nn.Module, info: CheckpointInfo) -> None:
        inner: Any = module
        super().__init__(module, info, int(inner.feature_info[-1]["reduction"]))

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        return self.module.forward_head(self._last_map(x), pre_logits=True)

    def layers(self, x: torch.Tensor, n: int = 1) -> Layers:
        """(B, 3, H, W) -> [(feature (B, D), last map as patches (B, h * w, D))]; n > 1 is UnsupportedCapability."""
        if n != 1:
            raise UnsupportedCapability(f"{self.info.name}: a {self.info.arch} has one block output to give, not {n}")
        with self._grad():
            maps = self._last_map(x)
            pooled = self.module.forward_head(maps, pre_logits=True).float()
            return [(pooled, self._channels_last(maps).flatten(1, 2).float())]

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D, h, w): the last map, normed."""
        with self._grad():
            return self._channels_last(self._last_map(x)).movedim(-1, 1).float()

    def _channels_last(self, maps: torch.Tensor) -> torch.Tensor:
        return maps if maps.shape[-1] == self.module.num_features else maps.movedim(1, -1)

    def _last_map(self, x: torch.Tensor) -> torch.Tensor:
        check_images(x)
        try:
            return self.module.forward_features(x)
        except AssertionError as error:
            raise UserError(
                f"{self.info.name}: a {self.info.arch} refuses {tuple(x.shape[2:])} images: {error}"
            ) from None


def _softmax(attention: Any) -> bool:
    """Whether an attention is one whose softmax can be read (see `cls_attention`)."""
    return hasattr(attention, "attn_drop") and hasattr(attention, "fused_attn")
