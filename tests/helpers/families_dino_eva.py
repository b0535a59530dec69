"""DINOv3, EVA and BEiT as the programs that write them save them: small random models and the features they give."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from helpers.layouts_table import Case, Written
from helpers.weights import Tensors, prefixed, save
from torch import nn


def randomized(module: nn.Module, seed: int = 0) -> Any:
    """Every parameter of some size, none zero: norms about 1, the others such that activations stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            plain = parameter.ndim < 2 or re.search("token|pos|table|probe|latent", name)
            parameter.copy_(drawn * (0.3 if plain else parameter[0].numel() ** -0.5))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module.eval()


def images(height: int, width: int, n: int = 2) -> torch.Tensor:
    return torch.randn((n, 3, height, width), generator=torch.Generator().manual_seed(height + width))


def hf_dinov3(**kwargs: Any) -> Any:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 192}
    config = DINOv3ViTConfig(**(sizes | {"num_register_tokens": 4} | kwargs), attn_implementation="eager")
    return randomized(DINOv3ViTModel(config))


def hf_beit(kind: str = "Beit", pooled: bool = True, **kwargs: Any) -> Any:
    import transformers

    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96}
    sizes |= {"image_size": 64, "use_relative_position_bias": True}
    config = getattr(transformers, f"{kind}Config")(**(sizes | kwargs), attn_implementation="eager")
    return randomized(getattr(transformers, f"{kind}Model")(config, add_pooling_layer=pooled))


def original_dinov3(model: Any) -> Tensors:
    """transformers' DINOv3 in the names of facebookresearch/dinov3."""
    given, out = dict(model.state_dict()), Tensors()
    width = given["norm.weight"].shape[0]
    config = model.config
    size = width // config.num_attention_heads // 4
    out["rope_embed.periods"] = config.rope_theta ** (2.0 * torch.arange(size, dtype=torch.float32) / (2 * size))
    up = "w2" if config.use_gated_mlp else "fc1"
    rules = (
        (r"^embeddings\.patch_embeddings", "patch_embed.proj"), (r"^embeddings\.register_tokens", "storage_tokens"),
        (r"^embeddings\.", ""), (r"^model\.layer\.", "blocks."), (r"attention\.o_proj", "attn.proj"),
        (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"), (r"gate_proj", "w1"), (r"up_proj", up),
        (r"down_proj", "w3" if config.use_gated_mlp else "fc2"),
    )  # fmt: skip
    for name, tensor in given.items():
        if re.search(r"\.[qkv]_proj\.", name):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor[0] if name == "mask_token" else tensor
    for i in range(config.num_hidden_layers):
        old, new = f"model.layer.{i}.attention", f"blocks.{i}.attn.qkv"
        out[f"{new}.weight"] = torch.cat([given[f"{old}.{p}_proj.weight"] for p in "qkv"])
        if config.query_bias:
            biases = [given[f"{old}.q_proj.bias"], torch.full((width,), 7.0), given[f"{old}.v_proj.bias"]]
            out[f"{new}.bias"] = torch.cat(biases)  # what the keys have is masked
            out[f"{new}.bias_mask"] = torch.ones(3 * width).index_fill_(0, torch.arange(width, 2 * width), 0.0)
    return out


def original_beit(model: Any) -> Tensors:
    """transformers' BEiT in the names of microsoft/unilm, with its indices."""
    given, out = dict(model.state_dict()), Tensors()
    rules = (
        (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"), (r"^pooler\.layernorm", "fc_norm"),
        (r"^embeddings\.position_embeddings", "pos_embed"), (r"^embeddings\.", ""), (r"^layernorm\.", "norm."),
        (r"^shared_position_bias\.", "rel_pos_bias."), (r"^layers\.", "blocks."), (r"lambda_", "gamma_"),
        (r"(\d)\.relative_position_bias\.", r"\1.attn."), (r"attention\.o_proj", "attn.proj"),
        (r"attention\.(q|v)_proj\.bias", r"attn.\1_bias"), (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
    )  # fmt: skip
    for name, tensor in given.items():
        if re.search(r"\.[qkv]_proj\.weight$", name):
            continue
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
        if name.endswith("relative_position_bias_table"):
            out[name.replace("bias_table", "index")] = torch.zeros(17, 17, dtype=torch.long)
    for i in range(model.config.num_hidden_layers):
        parts = [given[f"layers.{i}.attention.{p}_proj.weight"] for p in "qkv"]
        out[f"blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
    return out


def original_eva02(module: Any) -> Tensors:
    """timm's EVA-02 in the names of baaivision/EVA, with its tables of rotary positions."""
    out = Tensors()
    for name, tensor in module.state_dict().items():
        name = re.sub(r"mlp\.fc1_g", "mlp.w1", name).replace("mlp.fc1_x", "mlp.w2").replace("mlp.fc2", "mlp.w3")
        name = re.sub(r"attn\.([qv])_proj\.bias", r"attn.\1_bias", name.replace("mlp.norm", "mlp.ffn_ln"))
        out[name.replace("attn.norm", "attn.inner_attn_ln")] = tensor
    sine, cosine = module.rope.get_embed(module.patch_embed.grid_size).chunk(2, -1)
    for prefix in ("", *(f"blocks.{i}.attn." for i in range(len(module.blocks)))):
        out |= {f"{prefix}rope.freqs_cos": cosine.clone(), f"{prefix}rope.freqs_sin": sine.clone()}
    return out


def original_pe(module: Any) -> Tensors:
    """timm's Perception Encoder in the names of facebookresearch/perception_models."""
    given, out = dict(module.state_dict()), Tensors()
    rules = (
        (r"^patch_embed\.proj", "conv1"), (r"^pos_embed$", "positional_embedding"), (r"^cls_token", "class_embedding"),
        (r"^norm_pre", "ln_pre"), (r"^norm\.", "ln_post."), (r"^blocks", "transformer.resblocks"),
        (r"(\d)\.norm(\d)", r"\1.ln_\2"), (r"gamma_(\d)", r"ls_\1.gamma"), (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj", "attn.out_proj"), (r"fc1", "c_fc"), (r"fc2", "c_proj"), (r"pool\.latent", "pool.probe"),
        (r"attn_pool\.norm", "attn_pool.layernorm"), (r"attn_pool\.proj", "attn_pool.attn.out_proj"),
    )  # fmt: skip
    for part in ("weight", "bias") if "attn_pool.q.weight" in given else ():
        joined = [given.pop(f"attn_pool.{name}.{part}") for name in ("q", "kv")]
        out[f"attn_pool.attn.in_proj_{part}"] = torch.cat(joined)
    for name, tensor in given.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor.flatten() if name == "class_embedding" else tensor.squeeze(0) if "posit" in name else tensor
    return prefixed(out | {"proj": torch.ones(128, 64)}, "visual.")


@torch.no_grad()
def features(model: Any, x: torch.Tensor) -> torch.Tensor:
    """What the program itself gives: transformers' pooled output, timm's output without classifier."""
    output = model(x)
    if isinstance(output, torch.Tensor):
        return output
    pooled = output.pooler_output
    return output.last_hidden_state[:, 1:].mean(1) if pooled is None else pooled.flatten(1)


def in_folder(make: Callable[[], Any], size: tuple[int, int] = (64, 96), **options: Any) -> Callable[[Path], Written]:
    """As `save_pretrained` writes it, config.json beside the weights."""

    def build(folder: Path) -> Written:
        model, x = make(), images(*size)
        model.save_pretrained(folder)
        return Written(folder / "model.safetensors", x, features(model, x), options=options)

    return build


def in_file(
    make: Callable[[], Any],
    names: Callable[[Any], Any] = lambda model: model.state_dict(),
    size: tuple[int, int] = (64, 96),
    **options: Any,
) -> Callable[[Path], Written]:
    """As `torch.save` of the state_dict, renamed by `names`."""

    def build(folder: Path) -> Written:
        model, x = make(), images(*size)
        return Written(save(names(model), folder / "model.pth"), x, features(model, x), options=options)

    return build


def from_timm(name: str, **kwargs: Any) -> Callable[[], Any]:
    sizes = {"num_classes": 0, "embed_dim": 128, "depth": 2, "num_heads": 2}
    return lambda: randomized(timm.create_model(name, **(sizes | kwargs)))


def _pe(kind: str, **kwargs: Any) -> Callable[[], Any]:
    return from_timm(f"vit_pe_{kind}", img_size=64, dynamic_img_size=True, ref_feat_shape=(4, 4), **kwargs)


def _teacher(model: Any) -> dict[str, Any]:
    """A file of DINOv3's own training."""
    return {"teacher": prefixed(original_dinov3(model), "backbone.") | {"dino_head.mlp.0.weight": torch.ones(2, 2)}}


def _seven_b(model: Any) -> Tensors:
    return original_dinov3(model) | {"local_cls_norm.weight": torch.ones(128), "local_cls_norm.bias": torch.ones(128)}


def hf_convnext(**kwargs: Any) -> Any:
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], **kwargs)
    return randomized(DINOv3ConvNextModel(config))


def original_convnext(model: Any) -> Tensors:
    """transformers' DINOv3 ConvNeXt in the names of facebookresearch/dinov3, the final norm under both of its names."""
    out = Tensors()
    for name, tensor in model.state_dict().items():
        name = re.sub(r"^model\.stages\.(\d)\.downsample_layers\.", r"downsample_layers.\1.", name)
        name = re.sub(r"^model\.stages\.(\d)\.layers\.", r"stages.\1.", name)
        name = name.replace("depthwise_conv", "dwconv").replace("pointwise_conv", "pwconv")
        out[name.replace("layer_norm", "norm")] = tensor
    return out | {f"norms.3.{part}": out[f"norm.{part}"] for part in ("weight", "bias")}


GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
NO_BIAS = {"query_bias": False, "value_bias": False, "num_attention_heads": 1}
SHARED = {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}


def _eva(name: str, patch: int = 14, **kwargs: Any) -> Callable[[], Any]:
    return from_timm(name, img_size=4 * patch, dynamic_img_size=True, **kwargs)


def case(family: str, layout: str, build: Callable[[Path], Written], how: str = "by itself") -> Case:
    return Case(family, layout, how, build)


def cases() -> list[Case]:
    """Every layout of these families."""
    d3, hf, tm = "DINOv3 ViT", "Hugging Face folder", "timm"
    dino = "facebookresearch/dinov3"
    return [
        case(d3, hf, in_folder(hf_dinov3)),
        case(d3, f"{hf}, gated MLP", in_folder(lambda: hf_dinov3(**GATED))),
        case(d3, f"{hf}, gated by GELU, 4 heads, eps, theta", in_folder(
            lambda: hf_dinov3(use_gated_mlp=True, num_attention_heads=4, layer_norm_eps=1e-3, rope_theta=50.0))),
        case(d3, f"{hf}, bias of the keys", in_folder(lambda: hf_dinov3(key_bias=True))),
        case(d3, f"{hf}, no registers", in_folder(lambda: hf_dinov3(num_register_tokens=0))),
        case(d3, "transformers' state_dict", in_file(hf_dinov3)),
        case(d3, dino, in_file(hf_dinov3, original_dinov3)),
        case(d3, f"{dino}, training's teacher", in_file(hf_dinov3, _teacher)),
        case(d3, f"{dino}, gated MLP", in_file(lambda: hf_dinov3(**GATED), original_dinov3)),
        case(d3, f"{dino}, 7B's kind", in_file(lambda: hf_dinov3(**GATED, **NO_BIAS), _seven_b)),
        case(d3, tm, in_file(from_timm("vit_small_patch16_dinov3", global_pool="token"))),
        case(d3, f"{tm}, biases", in_file(from_timm("vit_small_patch16_dinov3_qkvb", global_pool="token"))),
        case(d3, f"{tm}, gated MLP", in_file(from_timm("vit_small_plus_patch16_dinov3_qkvb", global_pool="token"))),
        case("DINOv3 ConvNeXt", hf, in_folder(hf_convnext)),
        case("DINOv3 ConvNeXt", "transformers' state_dict", in_file(hf_convnext)),
        case("DINOv3 ConvNeXt", dino, in_file(hf_convnext, original_convnext)),
        case("EVA", tm, in_file(_eva("eva_giant_patch14_224"), size=(56, 84))),
        case("EVA-02", f"{tm}, tiny and small", in_file(_eva("eva02_tiny_patch14_224"), size=(56, 84))),
        case("EVA-02", f"{tm}, base and large", in_file(_eva("eva02_base_patch14_224"), size=(56, 84))),
        case("EVA-02", f"{tm}, CLIP", in_file(_eva("eva02_base_patch16_clip_224", 16))),
        case("EVA-02", "baaivision/EVA", in_file(_eva("eva02_base_patch14_224"), original_eva02, size=(56, 84))),
        case("EVA-02", "baaivision/EVA, CLIP, another grid", in_file(
            _eva("eva02_base_patch16_clip_224", 16, num_heads=4, ref_feat_shape=(5, 5)), original_eva02)),
        case("BEiT", hf, in_folder(hf_beit, (64, 64))),
        case("BEiT", f"{hf}, shared positions, CLS", in_folder(
            lambda: hf_beit(**SHARED, use_absolute_position_embeddings=True, use_mean_pooling=False), (64, 64))),
        case("data2vec-vision", hf, in_folder(lambda: hf_beit("Data2VecVision"), (64, 64))),
        case("data2vec-vision", f"{hf}, without pooler", in_folder(
            lambda: hf_beit("Data2VecVision", pooled=False), (64, 64))),
        case("BEiT", "transformers' state_dict", in_file(hf_beit, size=(64, 64))),
        case("BEiT", "transformers' state_dict, shared positions", in_file(lambda: hf_beit(**SHARED), size=(64, 64))),
        case("BEiT", "microsoft/unilm", in_file(lambda: hf_beit(layer_norm_eps=1e-6), original_beit, (64, 64))),
        case("BEiT", "microsoft/unilm, shared positions", in_file(
            lambda: hf_beit(**SHARED, layer_norm_eps=1e-6), original_beit, (64, 64))),
        case("BEiT", tm, in_file(from_timm("beit_base_patch16_224", img_size=64), size=(64, 64))),
        case("BEiT", f"{tm}, 64 x 96", in_file(
            from_timm("beit_base_patch16_224", img_size=(64, 96)), grid="4x6"), "--grid 4x6"),
        case("PE-core", tm, in_file(_pe("core_base_patch16_224"))),
        case("PE-core", "facebookresearch/perception_models", in_file(_pe("core_base_patch16_224"), original_pe)),
        case("PE-spatial", tm, in_file(_pe("spatial_base_patch16_512"))),
        case("PE-spatial", "facebookresearch/perception_models, no CLS", in_file(
            _pe("spatial_base_patch16_512", class_token=False, rope_grid_offset=0.0, init_values=0.1), original_pe)),
    ]  # fmt: skip
