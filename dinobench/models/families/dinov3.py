"""DINOv3's Vision Transformers in the repository's own layout, Hugging Face's and timm's.

What no tensor tells (facebookresearch/dinov3 `hub/backbones.py`): norms of eps 1e-5, rotary periods of base 100, heads
of 64 numbers but for the largest. The repository's files hold the rotary periods, rounded to bfloat16 in the releases:
those are computed with as they are, as its own program does.
"""

from __future__ import annotations

import functools
import re

import torch
from torch import nn

from dinobench.models.architecture import Architecture
from dinobench.models.families import eva
from dinobench.models.families.family import TRANSFORMERS_BLOCK, Family, has, settings_of, settle_heads
from dinobench.models.key_mapping import Mapped, Rules, fuse_qkv
from dinobench.models.spec import ModelSpec

EPS = 1e-5  # `layernormbf16`
ROPE_THETA = 100.0
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32}
SIZES = {  # (width, depth, gated MLP)
    (192, 12, False): "vit_tiny",
    (384, 12, False): "vit_small",
    (384, 12, True): "vit_small_plus",
    (768, 12, False): "vit_base",
    (1024, 24, False): "vit_large",
    (1280, 32, True): "vit_huge_plus",
    (4096, 40, True): "vit_7b",
}
RULES: Rules = (
    (r"^storage_tokens$", "reg_token"),
    (r"^rope_embed\.periods$", "rope.periods"),
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
HUGGINGFACE_RULES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(model\.)?layer\.(\d+)\.", r"blocks.\2."),
    *TRANSFORMERS_BLOCK,
    (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
NOT_EVALUATED = r"(local_cls_norm|projectors)\..*"  # of the local crops' loss; of EUPE's distillation


def finish(mapped: Mapped, spec: ModelSpec) -> None:
    """Biases as timm has them, query and value apart; nothing that is not evaluated."""
    tensors = mapped.tensors
    mapped.set_aside_all(NOT_EVALUATED)
    _join_huggingface(mapped)
    _apply_masks(mapped)
    _split_biases(mapped)
    if "reg_token" in tensors and not tensors["reg_token"].numel():
        mapped.set_aside("reg_token")
    periods, projection = tensors.get("rope.periods"), tensors.get("patch_embed.proj.weight")
    if periods is not None and periods.ndim == 1 and len(periods) and projection is not None:
        if projection.shape[0] % (4 * len(periods)) == 0:
            spec.tell("the file's rotary periods", heads=projection.shape[0] // (4 * len(periods)))
        if torch.equal(periods.float(), usual_periods(len(periods))):
            mapped.set_aside("rope.periods")


def _join_huggingface(mapped: Mapped) -> None:
    """Query, key and value of Hugging Face -> qkv; a bias that one of them lacks is zero."""
    tensors = mapped.tensors
    for name in [n for n in tensors if re.search(r"\.attn\.(query|key|value)\.bias$", n)]:
        for part in ("query", "key", "value"):
            other = re.sub(r"\.(query|key|value)\.bias$", f".{part}.bias", name)
            if other not in tensors and tensors[name].ndim:
                tensors[other] = torch.zeros_like(tensors[name])
                mapped.sources[other] = ()
    fuse_qkv(mapped)
    if has(tensors, r"blocks\.\d+\.mlp\.fc1_g\.weight"):
        mapped.rename(r"\.mlp\.fc1\.", ".mlp.fc1_x.")


def _apply_masks(mapped: Mapped) -> None:
    """`qkv.bias * qkv.bias_mask`, 0 for the keys' third; a module never loaded into holds NaN there."""
    tensors = mapped.tensors
    for name in [n for n in tensors if n.endswith(".attn.qkv.bias_mask")]:
        mask, bias = tensors[name], tensors.get(name.removesuffix("_mask"))
        if bias is not None and bias.shape == mask.shape:
            if mask.isnan().all():
                mask = torch.ones_like(mask)
                mask[len(mask) // 3 : 2 * len(mask) // 3] = 0
            tensors[name.removesuffix("_mask")] = bias * mask.to(bias.dtype)
    mapped.set_aside_all(r"blocks\.\d+\.attn\.qkv\.bias_mask")


def _split_biases(mapped: Mapped) -> None:
    """qkv biases whose keys' third is zero everywhere -> `q_bias` and `v_bias`."""
    tensors = mapped.tensors
    names = [n for n in tensors if n.endswith(".attn.qkv.bias")]
    if any(tensors[n].ndim != 1 or len(tensors[n]) % 3 or tensors[n].chunk(3)[1].any() for n in names):
        return
    for name in names:
        query, _, value = tensors[name].chunk(3)
        mapped.split(name, {name.replace("qkv.bias", "q_bias"): query, name.replace("qkv.bias", "v_bias"): value})


def usual_periods(n: int) -> torch.Tensor:
    """(n,): 100^(i / n), in float32."""
    return torch.tensor(ROPE_THETA) ** (2.0 * torch.arange(n, dtype=torch.float32) / (2 * n))


def infer(mapped: Mapped, spec: ModelSpec, partial: bool) -> Architecture:
    """Any DINOv3 ViT; images of any multiple of the patch."""
    tensors = mapped.tensors
    found = eva.options(tensors, spec.path)
    width, patch, depth, gated = found["embed_dim"], found["patch_size"], found["depth"], found["swiglu_mlp"]
    heads = settle_heads(width, spec, HEADS, "the released DINOv3 models' of this width")
    if width // heads % 4:
        raise ValueError(f"heads of {width // heads} numbers, where rotary positions need a multiple of 4")
    eps = float(spec.settle("eps", EPS, "DINOv3's"))
    own_periods = "rope.periods" in tensors
    theta = ROPE_THETA if own_periods else float(spec.settle("rope_theta", ROPE_THETA, "DINOv3's"))
    act = eva.other_activation(spec, gated)
    make = functools.partial(
        build,
        own_periods,
        act=act,
        img_size=16 * patch,  # nothing depends on it
        num_heads=heads,
        global_pool="token",
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=theta,
        rope_rotate_half=True,
        norm_layer=functools.partial(nn.LayerNorm, eps=eps),
        **found,
    )
    settings = settings_of(
        (
            f"heads={heads}" if heads != HEADS.get(width, width / 64) else "",
            f"activation={spec.get('activation')}" if act else "",
            f"eps={eps:g}" if eps != EPS else "",
            f"rope_theta={theta:g}" if theta != ROPE_THETA else "",
        )
    )
    size = SIZES.get((width, depth, gated), f"vit_w{width}_d{depth}")
    registers = found["num_reg_tokens"]
    name = f"{size}_patch{patch}_dinov3"
    return Architecture("tokens", name, width, make, patch, depth, heads, registers, settings=settings)


def build(own_periods: bool, **kwargs: object) -> nn.Module:
    """timm's `Eva`; with `own_periods` the rotary periods are among its weights."""
    module: nn.Module = eva.build(**kwargs)  # type: ignore[arg-type]
    if own_periods:
        rope = module.get_submodule("rope")
        rope.register_buffer("periods", rope.get_buffer("periods"), persistent=True)
    return module


ORIGINAL = Family(
    "dinov3", ("rope_embed.periods", "patch_embed.proj.weight", "cls_token", "blocks.0.ls1.gamma"), infer, rules=RULES,
    finish=finish, label="dinov3", method="dinov3",
)  # fmt: skip
HUGGINGFACE = Family(
    "dinov3-huggingface", ("embeddings.patch_embeddings.weight", "embeddings.register_tokens", "norm.weight"), infer,
    rules=HUGGINGFACE_RULES, finish=finish, label="huggingface", method="dinov3",
)  # fmt: skip
TIMM = Family(  # others have trained such models too, so that the method is not told
    "dinov3-timm", ("blocks.0.gamma_1", "reg_token", "cls_token", "patch_embed.proj.weight"), infer,
    absent=("pos_embed", "blocks.0.attn.q_proj.weight", "rope.freqs"), rules=RULES, finish=finish, label="dinov3-timm",
)  # fmt: skip
