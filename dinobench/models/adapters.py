"""One adapter per kind of architecture, all speaking `dinobench.types.Backbone`.

In eval mode, which is how they come, the adapters record nothing for gradients; after `backbone.module.train()` the
same calls are differentiable, so that fine-tuning sees exactly the features that were scored.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.nn import functional as F

from dinobench.errors import UnsupportedCapability, UserError
from dinobench.models.pos_embed import resample_abs_pos_embed
from dinobench.types import CheckpointInfo

Layers = list[tuple[torch.Tensor, torch.Tensor]]
Blocks = list[tuple[torch.Tensor | None, torch.Tensor]]

#: Rows from which on a matrix product's rows no longer depend on their number (from 12 on, as measured with MKL).
LONG_PRODUCT = 1024


class ModuleBackbone:
    """What all adapters share: a module, and refusals for what its kind of architecture does not have."""

    capabilities: frozenset[str] = frozenset({"features"})
    assumed: tuple[str, ...] = ()  # what nothing tells of the weights, a line each
    module: Any  # an nn.Module; timm types its submodules too loosely to say more

    def __init__(self, module: nn.Module, info: CheckpointInfo, patch_size: int | None) -> None:
        self.module = module.eval()
        self.info = info
        self.patch_size = patch_size
        self.embed_dim = info.embed_dim
        self.size_multiple = 1

    def to(self, device: Any) -> ModuleBackbone:
        """Move the weights; returns itself."""
        self.module.to(device)
        return self

    def clone(self) -> ModuleBackbone:
        """A copy with weights of its own, for training without touching the original."""
        return copy.deepcopy(self)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D) float32."""
        check_images(x)
        with self._grad():
            return self._features(x).float()

    def layers(self, x: torch.Tensor, n: int = 1) -> Layers:
        """Raises UnsupportedCapability: this kind of backbone has no block outputs to give."""
        raise UnsupportedCapability(f"{self.info.name}: a {self.info.arch} gives features only, not {n} block outputs")

    def cls_attention(self, x: torch.Tensor) -> torch.Tensor:
        """Raises UnsupportedCapability: only a ViT with a CLS token has its attention."""
        raise UnsupportedCapability(f"{self.info.name}: a {self.info.arch} has no CLS attention; use a ViT")

    def layers_and_attention(self, x: torch.Tensor, n: int = 1) -> tuple[Layers, torch.Tensor]:
        """Raises UnsupportedCapability, as `cls_attention` does."""
        return self.layers(x, n), self.cls_attention(x)

    def blocks(self, x: torch.Tensor, indices: Sequence[int], norm: bool = False) -> Blocks:
        """Raises UnsupportedCapability: only a model whose blocks keep one grid of patches has them to give."""
        raise UnsupportedCapability(f"{self.info.name}: a {self.info.arch} has no blocks of one grid; use a ViT")

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """Raises UnsupportedCapability: only a model that attends over one grid of patches has their keys."""
        raise UnsupportedCapability(f"{self.info.name}: a {self.info.arch} has no keys to show; use a ViT")

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """Raises UnsupportedCapability: what this kind of backbone computes last is no map."""
        raise UnsupportedCapability(f"{self.info.name}: a {self.info.arch} has no last map to give")

    def _grad(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(self.module.training and torch.is_grad_enabled())

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ViTBackbone(ModuleBackbone):
    """A plain Vision Transformer: timm's blocks, with our own decisions where they decide the numbers.

    `module` holds its patch position embedding apart from the CLS token's (timm's `no_embed_class` form, see
    `dinobench.models.key_mapping`). Images must be a multiple of the patch size in height and width: the reference
    programs cut the rest off silently, which makes the number of patches depend on a floor nobody sees, so this one
    refuses.
    """

    capabilities = frozenset({"features", "layers", "patches", "attention", "keys", "map"})
    patch_size: int

    def __init__(
        self, module: VisionTransformer, info: CheckpointInfo, grid: tuple[int, int], pool: str = "cls"
    ) -> None:
        super().__init__(module, info, int(module.patch_embed.patch_size[0]))
        if pool == "map":
            raise UserError(f"{info.name}: has no attention pooling for --pool map; use --pool mean")
        self.size_multiple = self.patch_size
        self.pool = pool
        self.grid = grid
        self._positions: dict[Any, torch.Tensor] = {}

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """CLS of the last block after the final norm, or what `pool` says."""
        tokens = self._tokens(x)
        for block in self.module.blocks[:-1]:
            tokens = block(tokens)
        if self.pool != "cls":
            return self._pooled(self.module.norm(self.module.blocks[-1](tokens)))
        return self.module.norm(self._last_cls(tokens))

    def layers(self, x: torch.Tensor, n: int = 1) -> Layers:
        """(B, 3, H, W) -> the last n blocks, oldest first, (feature (B, D), patches (B, N, D)), normed."""
        check_images(x)
        with self._grad():
            return self._last_layers(x, n)

    def cls_attention(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, heads, N): last block's softmax, CLS row, patch columns (they sum to less than 1).

        Nothing after the last block's queries and keys is computed.
        """
        check_images(x)
        *blocks, last = self.module.blocks
        with self._grad():
            tokens = self._tokens(x)
            for block in blocks:
                tokens = block(tokens)
            return self._cls_row(last.attn, last.attn.qkv(last.norm1(tokens)))

    def layers_and_attention(self, x: torch.Tensor, n: int = 1) -> tuple[Layers, torch.Tensor]:
        """`layers` and `cls_attention` from one forward pass."""
        check_images(x)
        attention = self.module.blocks[-1].attn
        seen: list[torch.Tensor] = []
        hook = attention.qkv.register_forward_hook(lambda module, args, output: seen.append(output))
        try:
            with self._grad():
                layers = self._last_layers(x, n)
                return layers, self._cls_row(attention, seen[0])
        finally:
            hook.remove()

    def blocks(self, x: torch.Tensor, indices: Sequence[int], norm: bool = False) -> Blocks:
        """(B, 3, H, W) -> these blocks' (CLS (B, D), patches (B, N, D)), in the order asked.

        No block after the last of them is run. Raises UserError for one that the model does not have.
        """
        check_images(x)
        wanted = block_numbers(indices, len(self.module.blocks), self.info.name)
        taken: dict[int, tuple[torch.Tensor | None, torch.Tensor]] = {}
        with self._grad():
            tokens = self._tokens(x)
            for index, block in enumerate(self.module.blocks[: max(wanted) + 1]):
                tokens = block(tokens)
                if index in wanted:
                    output = (self.module.norm(tokens) if norm else tokens).float()
                    taken[index] = output[:, 0], output[:, self.module.num_prefix_tokens :]
        return [taken[index] for index in wanted]

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, heads, N, D / heads): last block's keys of the patches, bias included, not scaled."""
        check_images(x)
        *blocks, last = self.module.blocks
        with self._grad():
            tokens = self._tokens(x)
            for block in blocks:
                tokens = block(tokens)
            return keys_of(last.attn, last.norm1(tokens)[:, self.module.num_prefix_tokens :])

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D, H / patch size, W / patch size): last block's patches after the final norm."""
        ((_, patches),) = self.blocks(x, (-1,), norm=True)
        return on_grid(patches, x, self.patch_size)

    def _last_cls(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, D) as they enter the last block -> (B, D), its CLS: the other tokens' MLP is nobody's input.

        Not for CLS alone: a BLAS sums the rows of a short product in another order, and every bit shall stay as the
        whole block has it. Elsewhere than on a CPU, where kernels are chosen by the shape, all tokens go through.
        """
        block, rows = self.module.blocks[-1], max(LONG_PRODUCT, 32 * torch.get_num_threads())
        if type(block) is not Block or self.module.training or tokens.device.type != "cpu":
            return block(tokens)[:, 0]
        tokens = tokens + block.ls1(block.attn(block.norm1(tokens)))
        some = tokens[:, : -(-rows // len(tokens))]
        return (some + block.ls2(block.mlp(block.norm2(some))))[:, 0]

    def _cls_row(self, attention: Any, qkv: torch.Tensor) -> torch.Tensor:
        """qkv (B, 1 + R + N, 3 * D) -> (B, heads, N). Only one query is needed: the blocks keep their fused kernel."""
        b, t, _ = qkv.shape
        with torch.autocast(qkv.device.type, enabled=False):
            q, k, _ = qkv.float().reshape(b, t, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            q, k = attention.q_norm(q[:, :, :1]), attention.k_norm(k)
            weights = ((q * attention.scale) @ k.transpose(-2, -1)).softmax(dim=-1)  # (B, heads, 1, 1 + R + N)
        return weights[:, :, 0, self.module.num_prefix_tokens :]

    def _last_layers(self, x: torch.Tensor, n: int) -> Layers:
        depth = len(self.module.blocks)
        if not 1 <= n <= depth:
            raise UserError(f"{self.info.name}: {n} last blocks asked for, the model has {depth}")
        tokens = self._tokens(x)
        outputs: Layers = []
        for index, block in enumerate(self.module.blocks):
            tokens = block(tokens)
            if index >= depth - n:
                normed = self.module.norm(tokens).float()
                outputs.append((self._pooled(normed), normed[:, self.module.num_prefix_tokens :]))
        return outputs

    def _pooled(self, normed: torch.Tensor) -> torch.Tensor:
        """(B, 1 + R + N, D) -> (B, D), or (B, 2 * D) for "cls+mean"."""
        if self.pool == "cls":
            return normed[:, 0]
        mean = normed[:, self.module.num_prefix_tokens :].mean(dim=1)
        return mean if self.pool == "mean" else torch.cat([normed[:, 0], mean], dim=1)

    def _tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 1 + R + N, D): CLS, registers and patches as they enter the first block."""
        m, p = self.module, self.patch_size
        check_multiple(x, p, self.info.name)
        patches = m.patch_embed.norm(m.patch_embed.proj(x).flatten(2).transpose(1, 2))
        patches = patches + self._position(x.shape[-2] // p, x.shape[-1] // p)
        prefix = [m.cls_token] if m.reg_token is None else [m.cls_token, m.reg_token]
        tokens = torch.cat([*(t.expand(len(x), -1, -1).to(patches.dtype) for t in prefix), patches], dim=1)
        return m.norm_pre(m.pos_drop(tokens))

    def _position(self, h: int, w: int) -> torch.Tensor:
        """(1, h * w, D); kept per size while in eval mode, and resampled on the CPU so that every device agrees."""
        rows, registers = self.module.pos_embed, bool(self.module.num_reg_tokens)
        if (h, w) == self.grid:
            return rows
        if self.module.training:
            return resample_abs_pos_embed(rows, self.grid, (h, w), registers)
        key = (h, w, rows.device, rows.dtype, rows.data_ptr(), 0 if rows.is_inference() else rows._version)
        if key not in self._positions:
            if self._positions and next(iter(self._positions))[2:] != key[2:]:
                self._positions.clear()  # the weights have moved or changed
            with torch.inference_mode(False), torch.no_grad():
                resampled = resample_abs_pos_embed(rows.detach().float().cpu().clone(), self.grid, (h, w), registers)
                self._positions[key] = resampled.to(rows.device, rows.dtype)
        return self._positions[key]


class ConvBackbone(ModuleBackbone):
    """ResNet and ConvNeXt (timm). The feature is the global average pool of the last map.

    ConvNeXt has a LayerNorm after that pool, which is part of its feature; for patches the same norm is applied to
    every position of the map. `patch_size` is the map's stride (32 as a rule); any image size is taken as it is.
    """

    capabilities = frozenset({"features", "patches", "map"})

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        return self.module.forward_head(self.module.forward_features(x), pre_logits=True)

    def layers(self, x: torch.Tensor, n: int = 1) -> Layers:
        """(B, 3, H, W) -> [(feature (B, D), last map as patches (B, h * w, D))]; n > 1 is UnsupportedCapability."""
        if n != 1:
            raise UnsupportedCapability(f"{self.info.name}: a {self.info.arch} has one block output to give, not {n}")
        check_images(x)
        with self._grad():
            maps = self.module.forward_features(x)
            pooled = self.module.forward_head(maps, pre_logits=True).float()
            return [(pooled, self._normed(maps).flatten(2).transpose(1, 2).float())]

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D, h, w): the last map, its positions normed as `layers` has them."""
        check_images(x)
        with self._grad():
            return self._normed(self.module.forward_features(x)).float()

    def _normed(self, maps: torch.Tensor) -> torch.Tensor:
        norm = getattr(getattr(self.module, "head", None), "norm", None)
        return maps if norm is None else norm(maps)


class GenericBackbone(ModuleBackbone):
    """Any other timm or torchvision model: whatever enters its classifier is the feature.

    Some of them take one image size only; another is a UserError. Of a model that tells timm its intermediate maps the
    last one is the map.
    """

    def __init__(self, module: nn.Module, info: CheckpointInfo, patch_size: int | None) -> None:
        super().__init__(module, info, patch_size)
        if hasattr(module, "forward_intermediates"):
            self.capabilities = frozenset({"features", "map"})

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        with self._refusals(x):
            if hasattr(self.module, "forward_features") and hasattr(self.module, "forward_head"):
                return self.module.forward_head(self.module.forward_features(x), pre_logits=True).flatten(1)
            return self.module(x).flatten(1)

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D, h, w): the last of timm's intermediate maps, after the final norm where it has one."""
        if "map" not in self.capabilities:
            return super().feature_map(x)
        check_images(x)
        with self._grad(), self._refusals(x):
            (last,) = self.module.forward_intermediates(
                x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )
            return last.float()

    @contextmanager
    def _refusals(self, x: torch.Tensor) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:  # timm's way of refusing a size
            raise UserError(
                f"{self.info.name}: a {self.info.arch} refuses {tuple(x.shape[2:])} images: {error}"
            ) from None


class PixelsBackbone(GenericBackbone):
    """The baseline of averaged pixels: its map is their colours."""

    capabilities = frozenset({"features", "map"})

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 3, side, side): what the features are made of, the whole image in side x side cells."""
        return self.features(x).unflatten(1, (3, self.module.side, self.module.side))


class Pixels(nn.Module):
    """(B, 3, H, W) -> (B, 3 * side * side): the image averaged down to side x side, the baseline to beat."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(x, self.side).flatten(1)


def check_images(x: torch.Tensor) -> None:
    """Raises UserError unless x is a batch (B, 3, H, W)."""
    if x.ndim != 4 or x.shape[1] != 3:
        raise UserError(f"a backbone takes a batch of RGB images (B, 3, H, W), not a tensor of shape {tuple(x.shape)}")


def block_numbers(indices: Sequence[int], depth: int, name: str) -> list[int]:
    """Which of 0..depth - 1 are meant, negative ones counting from the end. Raises UserError for others, and for none.

    >>> block_numbers((0, -1), 12, "vit")
    [0, 11]
    """
    if not len(indices) or not all(-depth <= index < depth for index in indices):
        raise UserError(f"{name}: blocks {list(indices)} asked for, the model has those from 0 to {depth - 1}")
    return [index % depth for index in indices]


def key_projection(attention: Any) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight (D, C) and bias (D,) that give an attention's keys, of its own layer or of one for queries and values too.

    None where it has neither.
    """
    if isinstance(own := getattr(attention, "k_proj", None), nn.Linear):
        return own.weight, own.bias
    if not isinstance(fused := getattr(attention, "qkv", None), nn.Linear) or fused.out_features % 3:
        return None
    third = fused.out_features // 3
    bias = None if fused.bias is None else fused.bias[third : 2 * third]
    separate = getattr(attention, "k_bias", None)  # BEiT's and EVA's, which their qkv layer does not hold
    return fused.weight[third : 2 * third], bias if separate is None else separate


def keys_of(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, T, C) as they enter an attention -> their keys (B, heads, T, D / heads) in float32."""
    projection = key_projection(attention)
    assert projection is not None
    return F.linear(tokens, *projection).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2).float()


def on_grid(patches: torch.Tensor, x: torch.Tensor, patch: int) -> torch.Tensor:
    """Patches (B, N, D) of images x (B, 3, H, W) -> (B, D, H / patch, W / patch)."""
    return patches.transpose(1, 2).unflatten(2, (x.shape[-2] // patch, x.shape[-1] // patch))


def check_multiple(x: torch.Tensor, patch: int, name: str) -> None:
    """Raises UserError naming the nearest sizes when a side of x (B, 3, H, W) is not a multiple of `patch`."""
    for side, what in ((x.shape[-2], "height"), (x.shape[-1], "width")):
        if side % patch or not side:
            below, above = side // patch * patch, (side // patch + 1) * patch
            nearest = f"{below} or {above}" if below else f"{above}"
            raise UserError(
                f"{name}: image {what} {side} is not a multiple of the patch size {patch}; resize to {nearest}"
            )
