"""Backbones that come by name: timm's pretrained models, random starts, raw pixels; and what `--arch` asks for."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
import torchvision
from timm.layers import Attention, AttentionPool2d, PatchEmbed, RotaryEmbeddingDinoV3
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dinobench.errors import UserError
from dinobench.models.adapters import Pixels
from dinobench.models.architecture import (
    ALIASES,
    Architecture,
    build_empty,
    repool,
    usual_heads,
    vit_name,
)
from dinobench.models.families import resnet
from dinobench.models.families.family import activation_name, settings_of
from dinobench.models.key_mapping import Mapped, flatten_convnext, weights_digest
from dinobench.models.sources.hub import cache_only_if_offline, one_line
from dinobench.models.sources.names import check_name
from dinobench.models.spec import ModelSpec
from dinobench.types import CheckpointInfo, ModelInput

# What timm's pretrained tags tell of the method; the longer first
TAG_METHODS = {"dinov3": "dinov3", "lvd142m": "dinov2", "dino": "dino", "mae": "mae", "clip": "clip"}
# By timm's module: the option with which its models take images of any size.
ANY_SIZE: dict[str, dict[str, Any]] = {
    "vision_transformer": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
}
ANY_SIZE |= {"deit": {"dynamic_img_size": True}}
ANY_SIZE |= {"swin_transformer": {"strict_img_size": False}, "swin_transformer_v2": {"strict_img_size": False}}
# timm's global_pool -> ours
POOL_NAMES = {"token": "cls", "avg": "mean", "map": "map"}


@dataclass(frozen=True)
class NamedModel:
    """A module with its weights, and what it is."""

    module: nn.Module
    architecture: Architecture
    info: CheckpointInfo


@dataclass(frozen=True)
class RequestedArch:
    """What `--arch` asks for: timm's (or torchvision's) very model, or a ViT of DINO's with any patch size.

    `whole` is whether the file's tensors go into that model as it is. A plain ViT's are looked at all the same: they
    tell its grid, and the architecture asked for what they cannot.
    """

    arch: str
    architecture: Architecture
    whole: bool
    origin: str = "--arch"
    anchors: tuple[str, ...] = ()
    activation: str | None = None
    eps: float | None = None
    stem: str | None = None

    def tell(self, spec: ModelSpec) -> None:
        """What is decided by the name."""
        spec.tell(
            f"{self.origin} {self.arch}", heads=self.architecture.heads, activation=self.activation, eps=self.eps,
            stem=self.stem, **_usual_input(self.arch, self.whole),
        )  # fmt: skip

    def check(self, architecture: Architecture, path: str) -> None:
        """Raises UserError where the file's tensors are of another architecture."""
        if self._differs(architecture):
            raise UserError(
                f"{path}: holds {_brief(architecture)}, not {self.origin} {self.arch} ({_brief(self.architecture)})"
            )

    def _differs(self, architecture: Architecture) -> bool:
        wanted = self.architecture
        if wanted.family == "vit" and architecture.family == "vit":
            same = (wanted.embed_dim, wanted.depth) == (architecture.embed_dim, architecture.depth)
            if not same or wanted.patch_size is None:  # an alias names no patch size
                return not same
            finer = [(a.patch_size, a.registers, _pre_norm(a)) for a in (wanted, architecture)]
            return finer[0] != finer[1]
        if wanted.family != architecture.family:
            return True
        shapes = [{n: t.shape for n, t in _canonical(build_empty(a)).items()} for a in (wanted, architecture)]
        return shapes[0] != shapes[1]


def _pre_norm(architecture: Architecture) -> bool:
    """Whether a ViT has a norm before its first block, as CLIP's have."""
    return "norm_pre.weight" in build_empty(architecture).state_dict()


def load_named(kind: str, model: str, seed: int, name: str | None, pool: str | None = None) -> NamedModel:
    """`timm:` (pretrained) or `random:` (weights drawn from `seed`). UserError for an unknown or unreachable one."""
    spec = f"{kind}:{model}"
    module = create(model, spec, seed, pretrained=kind == "timm")
    base, _, tag = model.partition(".")
    tag = tag or str(getattr(module, "pretrained_cfg", {}).get("tag", ""))
    method = "random" if kind == "random" else tag_method(tag)
    shown = name or (f"random_{base}" if kind == "random" else model)
    return named(module, model, shown, spec, source=kind, method=method, pool=pool)


def named(
    module: nn.Module, model: str, name: str, path: str, *, sha256: str = "", source: str, method: str,
    pool: str | None = None,
) -> NamedModel:  # fmt: skip
    """A ready module and what is to be said of it; a plain ViT is brought to our form in place."""
    architecture = repool(describe(module, model), pool, path)
    info = CheckpointInfo(
        name=name,
        path=path,
        sha256=sha256,
        weights_digest=weights_digest(_canonical(module), architecture.settings),
        format=source,
        key="",
        arch=architecture.arch,
        patch_size=architecture.patch_size,
        embed_dim=architecture.embed_dim,
        depth=architecture.depth,
        heads=architecture.heads,
        registers=architecture.registers,
        method=method,
        epoch=None,
        image_size=architecture.grid[0] * architecture.patch_size if architecture.patch_size else None,
        input=_pretrained_input(module, path) if source == "timm" else None,
        pool=None if architecture.family == "vit" and architecture.pool == "cls" else architecture.pool,
    )
    return NamedModel(module, architecture, info)


def _usual_input(arch: str, whole: bool) -> dict[str, Any]:
    """Mean and std of timm's pretrained weights of an architecture, where all of them agree, or those of the tag given.

    A plain ViT's name without a tag decides nothing: most files of that kind are of self-supervised trainings, which
    take ImageNet's, while timm's own weights may take others.
    """
    base, _, tag = arch.partition(".")
    if not timm.is_model(base) or not (whole or tag):
        return {}
    configs = timm.models.get_arch_pretrained_cfgs(base)
    if tag in configs:
        configs = {tag: configs[tag]}
    inputs = {(tuple(c.mean), tuple(c.std)) for c in configs.values() if c.mean and c.std and c.has_weights}
    return dict(zip(("mean", "std"), inputs.pop(), strict=True)) if len(inputs) == 1 else {}


def _pretrained_input(module: Any, spec: str) -> ModelInput | None:
    """What timm's configuration of the weights says that they were trained on; None where it does not say.

    Raises UserError for numbers that cannot be.
    """
    stated = getattr(module, "pretrained_cfg", {})
    if not stated.get("mean") or not stated.get("std"):
        return None
    try:
        return ModelInput(tuple(stated["mean"]), tuple(stated["std"]), "timm's pretrained_cfg")
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{spec}: its pretrained_cfg is of no use here: {one_line(error)}; give the file's path"
        ) from None


def load_pixels(side: str, name: str | None) -> NamedModel:
    """`pixels[:SIDE]`: the image itself, averaged to SIDE x SIDE (16 unless said). Raises UserError."""
    if side and not (side.isdecimal() and 1 <= int(side) <= 512):
        raise UserError(f"pixels:{side}: the side must be a whole number from 1 to 512, as in pixels:16")
    n = int(side or 16)
    architecture = Architecture("pixels", f"pixels{n}", 3 * n * n, functools.partial(Pixels, n))
    info = CheckpointInfo(
        name=name or f"pixels{n}",
        path=f"pixels:{n}",
        sha256="",
        weights_digest=hashlib.sha256(f"pixels:{n}".encode()).hexdigest(),
        format="pixels",
        key="",
        arch=architecture.arch,
        patch_size=None,
        embed_dim=architecture.embed_dim,
        depth=None,
        heads=None,
        registers=0,
        method="pixels",
        epoch=None,
    )
    return NamedModel(Pixels(n), architecture, info)


def parse_arch(arch: str, origin: str, image_size: tuple[int, int] | None = None) -> RequestedArch:
    """A timm model's name, or DINO's vit_tiny, vit_small ... with any patch size. UserError if unknown.

    `origin` is who names it, `image_size` what it is built for where that is not its usual one.
    """
    if arch in ALIASES:
        width, depth = ALIASES[arch]
        architecture = Architecture("vit", arch, width, nn.Identity, depth=depth, heads=usual_heads(width))
        return RequestedArch(arch, architecture, whole=False, origin=origin)
    spec = f"{origin} {arch}"
    base, _, stem = arch.partition("_cifar")
    if arch != base and f"cifar{stem}" in resnet.STEMS:
        small = functools.partial(resnet.small_stem, functools.partial(create, base, spec, 0, False), f"cifar{stem}")
        architecture = replace(describe(create(base, spec, 0, False), arch), build=small)
        if architecture.family != "resnet":
            raise UserError(f"{spec}: only a ResNet has a stem for small images; take the model's own name, {base}")
        return RequestedArch(arch, architecture, whole=False, origin=origin, stem=f"cifar{stem}")
    build = functools.partial(create, arch, spec, 0, False, image_size)
    module = build()
    architecture = replace(describe(module, arch), build=build)
    if architecture.family == "vit":
        inner: Any = module
        eps = float(inner.norm.eps)
        return RequestedArch(arch, architecture, False, origin, (), activation_name(inner.blocks[0].mlp.act), eps)
    names = [n for n in module.state_dict() if not n.endswith("num_batches_tracked")]
    return RequestedArch(arch, architecture, True, origin, (names[-1], names[0]))


def check_arch(arch: str) -> None:
    """Raises UserError where `--arch` knows no architecture of that name; none is built."""
    base, _, stem = arch.partition("_cifar")
    if arch not in ALIASES:
        name = base if f"cifar{stem}" in resnet.STEMS else arch
        check_name(name.partition(".")[0], f"--arch {arch}", pretrained=False)


def create(model: str, spec: str, seed: int, pretrained: bool, image_size: tuple[int, int] | None = None) -> nn.Module:
    """A timm model without classifier, or a torchvision one; random weights come from `seed` alone.

    `image_size` (height, width) is for models whose tensors depend on it.
    """
    base = model.partition(".")[0]
    check_name(base, spec, pretrained)
    if timm.is_model(base):
        options = _any_size(base) | ({"img_size": image_size} if image_size else {})
        make: Callable[[], nn.Module] = functools.partial(
            timm.create_model, model if pretrained else base, pretrained=pretrained, num_classes=0, **options
        )
    else:
        make = functools.partial(_torchvision, base)
    with torch.random.fork_rng(devices=[]), cache_only_if_offline() if pretrained else contextlib.nullcontext():
        torch.manual_seed(seed)
        try:
            return make()
        except Exception as error:  # whatever a download raises: its kinds differ by version of the hub's client
            if not pretrained:
                raise UserError(f"{spec}: cannot be built: {one_line(error)}") from None
            raise UserError(
                f"{spec}: its pretrained weights could not be had ({one_line(error)}); check the network and the tag, "
                "or download the file and give its path"
            ) from None


def _any_size(base: str) -> dict[str, Any]:
    """What makes timm's model take images of other sizes than it was defined for, where it can."""
    defined = timm.model_entrypoint(base).__module__.rpartition(".")[2]
    return ANY_SIZE.get(defined, {})


def _torchvision(base: str) -> nn.Module:
    """A torchvision model with its last Linear layer taken away."""
    module: Any = torchvision.models.get_model(base, weights=None)
    linear = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ValueError("it has no linear classifier to take the features from")
    module.num_features = module.get_submodule(linear[-1]).in_features
    module.set_submodule(linear[-1], nn.Identity())
    return module


def describe(module: Any, model: str) -> Architecture:
    """The architecture of a ready module. A plain ViT is brought to `models.key_mapping`'s form in place."""
    base = model.partition(".")[0]
    build = functools.partial(nn.Identity)
    if _is_plain_vit(module):
        _split_positions(module)
        width, depth, heads = module.embed_dim, len(module.blocks), module.blocks[0].attn.num_heads
        patch, registers = int(module.patch_embed.patch_size[0]), module.num_reg_tokens
        grid = (int(module.patch_embed.grid_size[0]), int(module.patch_embed.grid_size[1]))
        act = activation_name(module.blocks[0].mlp.act)
        settings = settings_of(
            (
                "" if heads == usual_heads(width) else f"heads={heads}",
                "" if act in ("gelu", "silu") else f"activation={act}",
            )
        )
        name = vit_name(width, depth, patch, registers)
        return Architecture("vit", name, width, build, patch, depth, heads, registers, grid, settings)
    width = int(getattr(module, "head_hidden_size", None) or module.num_features)
    if _is_token_model(module):
        patch, grid = int(module.patch_embed.patch_size[0]), module.patch_embed.grid_size
        attention, pool, settings = module.blocks[0].attn, POOL_NAMES[module.global_pool], base
        if isinstance(getattr(module, "rope", None), RotaryEmbeddingDinoV3) and module.cls_token is not None:
            pool, settings = "cls", f"{base},pool=cls"  # DINOv3's authors; timm's default is the mean
        if isinstance(module, VisionTransformerDistilled):
            pool = "cls&dist"
        return Architecture(
            "tokens", base, width, build, patch, len(module.blocks), getattr(attention, "num_heads", None),
            max(0, module.num_prefix_tokens - 1), (int(grid[0]), int(grid[1])), settings, pool,
        )  # fmt: skip
    if isinstance(module, SwinTransformer | SwinTransformerV2):
        return Architecture("maps", base, width, build, settings=base, pool=None)
    if type(module) is ResNet:
        return Architecture("resnet", base, width, build, settings=base if _unlike_inferred(module) else "", pool=None)
    if type(module) is ConvNeXt:
        return Architecture("convnext", base, width, build, pool=None)
    if isinstance(getattr(module, "head", None), AttentionPool2d):  # CLIP's ResNets
        return Architecture("resnet", base, width, build, settings=base, pool=None)
    return Architecture("generic", base, width, build, settings=base, pool=None)


def _unlike_inferred(module: nn.Module) -> bool:
    """Whether a ResNet's tensors without its name would be taken for another: blurred pooling has no tensors."""
    try:
        inferred = resnet.infer(Mapped(_canonical(module)), ModelSpec(""))
        return _layers(build_empty(inferred)) != _layers(module)
    except (LookupError, ValueError, ArithmeticError, UserError):
        return True


def _layers(module: nn.Module) -> list[str]:
    """The modules that compute, in their order, as they describe themselves."""
    return [repr(m) for m in module.modules() if not list(m.children()) and not isinstance(m, nn.Identity)]


def _is_token_model(module: Any) -> bool:
    """Whether timm's model has one grid of patches from block to block, and a pooling that we have too."""
    if not isinstance(module, VisionTransformer | Eva | Beit):
        return False
    square = module.patch_embed.patch_size[0] == module.patch_embed.patch_size[1]
    return square and getattr(module, "global_pool", None) in POOL_NAMES and hasattr(module, "forward_intermediates")


def _is_plain_vit(module: Any) -> bool:
    """Whether our own forward pass says the same as timm's: one CLS token, learned positions, a norm at the end."""
    if type(module) is not VisionTransformer or type(module.patch_embed) is not PatchEmbed:
        return False
    settled = module.has_class_token and module.pos_embed is not None and module.attn_pool is None
    ends = not isinstance(module.norm, nn.Identity) and isinstance(module.patch_drop, nn.Identity)
    square = module.patch_embed.patch_size[0] == module.patch_embed.patch_size[1]
    return settled and ends and square and all(type(getattr(b, "attn", None)) is Attention for b in module.blocks)


@torch.no_grad()
def _split_positions(module: Any) -> None:
    """Move the position rows of CLS and registers into those tokens, as for tensors from files."""
    if module.no_embed_class:
        return
    rows, prefix = module.pos_embed, module.num_prefix_tokens
    module.cls_token.add_(rows[:, :1])
    if module.reg_token is not None:
        module.reg_token.add_(rows[:, 1:prefix])
    module.pos_embed = nn.Parameter(rows[:, prefix:].clone())
    module.no_embed_class = True


def _canonical(module: nn.Module) -> dict[str, torch.Tensor]:
    tensors = dict(module.state_dict())
    if type(module) is ConvNeXt:
        flatten_convnext(tensors)
    return tensors


def tag_method(tag: str) -> str:
    """The method that a pretrained tag of timm's tells of, or "unknown"."""
    method = next((m for part, m in TAG_METHODS.items() if part in tag), None)
    return method or ("supervised" if any(s in tag for s in ("in1k", "in12k", "in21k", "in22k")) else "unknown")


def _brief(a: Architecture) -> str:
    if a.family != "vit":
        return f"a {a.arch}"
    patch = f", patch {a.patch_size}" if a.patch_size else ""
    return f"a ViT of width {a.embed_dim}, depth {a.depth}{patch}" + (
        f", {a.registers} registers" if a.registers else ""
    )
