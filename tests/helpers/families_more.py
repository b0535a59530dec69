"""TIPS, data2vec 2, open_clip's timm models; and kinds that are named as they are refused: video models, NaFlex."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.families_vit import X, random_values
from helpers.layouts_table import Case, Written
from helpers.weights import prefixed, save
from torch import nn

SIZES = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 1}


def timm_vit(**options: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    return random_values(VisionTransformer(**{**SIZES, "num_classes": 0, **options}))


def tips_names(tensors: dict) -> dict:
    """timm's names and positions -> those of google-deepmind/tips (`image_encoder.py`), which are DINOv2's."""
    out = {n: t for n, t in tensors.items() if n not in ("reg_token", "pos_embed")}
    rows = torch.randn((1, 1, tensors["cls_token"].shape[-1]), generator=torch.Generator().manual_seed(1))
    out["cls_token"] = tensors["cls_token"] - rows
    out["pos_embed"] = torch.cat([rows, tensors["pos_embed"]], dim=1)
    out |= {"register_tokens": tensors["reg_token"], "mask_token": torch.ones(1, tensors["cls_token"].shape[-1])}
    if out["blocks.0.mlp.fc1.weight"].shape[0] == 2 * out["blocks.0.mlp.fc2.weight"].shape[1]:
        out = {n.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for n, t in out.items()}
    return out


def both_towers(tensors: dict) -> dict:
    """As google/tipsv2-b14 on Hugging Face."""
    text = {"text_encoder.transformer.resblocks.0.ln_1.weight": torch.ones(8), "temperature": torch.ones(1)}
    return prefixed(tips_names(tensors), "vision_encoder.") | text


def gated() -> dict[str, Any]:
    from timm.layers import SwiGLUPacked

    return {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}


def tips(change: Callable[[dict], Any] = tips_names, **options: Any) -> Callable[[Path], Written]:
    """timm's TIPS; the feature is the first CLS, which its authors call so (the register is their second)."""

    def build(folder: Path) -> Written:
        model = timm_vit(reg_tokens=1, no_embed_class=True, init_values=1.0, **options)
        with torch.no_grad():
            tokens = model.forward_features(X)
        path = save(change(dict(model.state_dict())), folder / "x.pth")
        return Written(path, X, tokens[:, 0], patches=tokens[:, 2:])

    return build


def npz(folder: Path) -> Written:
    """The released files of google-deepmind/tips."""
    model = timm_vit(reg_tokens=1, no_embed_class=True, init_values=1.0)
    arrays = {n: t.numpy() for n, t in tips_names(dict(model.state_dict())).items()}
    np.savez(folder / "tips_oss_s14_highres_distilled_vision.npz", **arrays)
    return Written(folder / "tips_oss_s14_highres_distilled_vision.npz")


class Data2Vec2(nn.Module):
    """What fairseq's `Data2VecMultiModel.extract_features` computes for images, in its names."""

    def __init__(self, first: int = 1, shared: int = 2, heads: int = 4, width: int = 64, eps: float = 1e-6) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        image = nn.Module()
        image.local_encoder = nn.Module()
        image.local_encoder.proj = nn.Conv2d(3, width, 16, 16)
        image.extra_tokens = nn.Parameter(torch.zeros(1, 1, width))
        image.fixed_positional_encoder = nn.Module()
        image.fixed_positional_encoder.positions = nn.Parameter(torch.zeros(1, 16, width))
        image.context_encoder = nn.Module()
        image.context_encoder.norm = nn.LayerNorm(width, eps)
        image.context_encoder.blocks = nn.ModuleList(self._block(eps) for _ in range(first))
        image.decoder = nn.Module()
        image.decoder.proj = nn.Linear(width, width)
        self.modality_encoders = nn.ModuleDict({"IMAGE": image})
        self.blocks = nn.ModuleList(self._block(eps) for _ in range(shared))

    def _block(self, eps: float) -> nn.Module:
        width, block = self.width, nn.Module()
        block.norm1, block.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        block.attn, block.mlp = nn.Module(), nn.Module()
        block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        return block

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, 64, 64) -> tokens (B, 17, D), CLS first, and the last softmax (B, heads, 17, 17)."""
        image: Any = self.modality_encoders["IMAGE"]
        patches = image.local_encoder.proj(x).flatten(2).transpose(1, 2) + image.fixed_positional_encoder.positions
        tokens = torch.cat([image.extra_tokens.expand(len(x), -1, -1), patches], dim=1)
        tokens, softmax = image.context_encoder.norm(tokens), tokens
        for block in [*image.context_encoder.blocks, *self.blocks]:
            q, k, v = (
                part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in block.attn.qkv(tokens).chunk(3, -1)
            )
            softmax = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
            tokens = block.norm1(tokens + block.attn.proj((softmax @ v).transpose(1, 2).flatten(2)))
            tokens = block.norm2(tokens + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(tokens))))
        return tokens, softmax


def data2vec2(
    heads: int = 4, eps: float = 1e-6, config: bool = True, ema: bool = True, options: dict[str, Any] | None = None
):
    def build(folder: Path) -> Written:
        model = random_values(Data2Vec2(heads=heads, eps=eps))
        content: dict[str, Any] = dict(model.state_dict())
        if ema:
            content["_ema"] = {n: t + 0.1 for n, t in content.items() if "decoder" not in n}
        file: dict[str, Any] = {"model": content, "args": None, "optimizer_history": []}
        if config:
            file["cfg"] = {"model": {"_name": "data2vec_multi", "num_heads": heads, "norm_eps": eps}}
        with torch.no_grad():
            tokens, softmax = model(X)
        path = save(file, folder / "base_imagenet.pt")
        return Written(path, X, tokens[:, 1:].mean(1), softmax[:, :, 0, 1:], tokens[:, 1:], options or {})

    return build


def data2vec2_finetuned(folder: Path) -> Written:
    model, norm = random_values(Data2Vec2(first=2, shared=1)), random_values(nn.LayerNorm(64, 1e-6), 1)
    content = prefixed({n: t for n, t in model.state_dict().items() if "decoder" not in n}, "model.")
    content |= prefixed(norm.state_dict(), "fc_norm.") | {"head.weight": torch.ones(3, 64), "head.bias": torch.ones(3)}
    with torch.no_grad():
        wanted = norm(model(X)[0][:, 1:].mean(1))
    cfg = {"model": {"pretrained_model_args": {"model": {"_name": "data2vec_multi", "num_heads": 4}}}}
    return Written(save({"model": content, "cfg": cfg}, folder / "x.pt"), X, wanted)


def alibi(folder: Path) -> Written:
    tensors = dict(Data2Vec2().state_dict()) | {"modality_encoders.IMAGE.alibi_scale": torch.ones(1, 1, 1, 1, 1)}
    return Written(save({"model": tensors}, folder / "x.pt"))


def vjepa(folder: Path) -> Written:
    """facebookresearch/jepa and vjepa2: encoder, target_encoder and predictor, patches of two frames."""
    model = timm_vit(class_token=False, global_pool="avg", fc_norm=False)
    tensors = dict(model.state_dict()) | {"patch_embed.proj.weight": torch.ones(64, 3, 2, 16, 16)}
    content = {part: prefixed(tensors, "module.backbone.") for part in ("encoder", "target_encoder")}
    return Written(save({**content, "predictor": {"predictor_embed.weight": torch.ones(8)}}, folder / "x.pth"))


def vjepa2_huggingface(folder: Path) -> Written:
    from transformers import VJEPA2Config, VJEPA2Model

    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "crop_size": 32}
    predictor = {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    VJEPA2Model(VJEPA2Config(**sizes, **predictor, frames_per_clip=2)).save_pretrained(folder)
    return Written(folder)


def naflex_huggingface(config: bool, folder: Path) -> Written:
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}
    Siglip2VisionModel(Siglip2VisionConfig(**sizes, num_patches=16)).save_pretrained(folder)
    if not config:
        (folder / "config.json").unlink()
    return Written(folder / "model.safetensors")


def naflex_timm(folder: Path) -> Written:
    from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

    model = NaFlexVit(NaFlexVitCfg(embed_dim=64, depth=1, num_heads=2, patch_size=16, embed_proj_type="linear"))
    return Written(save(model.state_dict(), folder / "x.pth"))


def trunk(
    name: str, pool: str | None, told: bool = True, change: Callable[[dict], Any] = dict, **how: Any
) -> Callable[[Path], Written]:
    """open_clip's model with a timm model for its image tower; the feature wanted is that before the projection."""

    def build(folder: Path) -> Written:
        from open_clip.model import CLIP

        vision = {"image_size": 160, "timm_model_name": name, "timm_proj": "linear"}
        vision |= {} if pool is None else {"timm_pool": pool}
        text = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
        model = random_values(CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text))
        path = save(change(dict(model.state_dict())), folder / "open_clip_pytorch_model.bin")
        if told:
            cfg = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
            (folder / "open_clip_config.json").write_text(json.dumps(cfg))
        x = torch.nn.functional.interpolate(X, 160)
        with torch.no_grad():
            return Written(path, x, model.visual.trunk(x), options=how)

    return build


def pooled_trunk(folder: Path) -> Written:
    from timm.layers.attention_pool2d import AttentionPool2d

    tensors = prefixed(timm_vit().state_dict(), "visual.trunk.")
    pool = AttentionPool2d(64, feat_size=2, num_heads=4)
    return Written(save(tensors | prefixed(pool.state_dict(), "visual.head.pool."), folder / "x.pth"))


def convnext_mlp(folder: Path) -> Written:
    """As convnext_large_mlp: a layer between norm and classifier, whose output is the feature."""
    from timm.models.convnext import ConvNeXt

    sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "head_hidden_size": 40}
    model = random_values(ConvNeXt(**sizes, num_classes=3))
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(X), pre_logits=True)
    return Written(save(model.state_dict(), folder / "x.pth"), X, wanted)


def cases() -> list[Case]:
    itself, file = "by itself", "google-deepmind/tips"
    fairseq, clip = "facebookresearch/fairseq", "open_clip, timm model"
    return [
        Case("TIPS", file, itself, tips()),
        Case("TIPS", f"{file}, gated MLP", itself, tips(**gated())),
        Case("TIPS", "both towers", itself, tips(both_towers)),
        Case("TIPS", "timm", itself, tips(dict)),
        Case("TIPS", f"{file}, .npz", "refused: is a NumPy archive; save it for PyTorch", npz),
        Case("data2vec 2", fairseq, itself, data2vec2()),
        Case("data2vec 2", f"{fairseq}, 2 heads, eps", itself, data2vec2(heads=2, eps=1e-3)),
        Case("data2vec 2", f"{fairseq}, no cfg", "--heads 4",
             data2vec2(4, config=False, ema=False, options={"heads": 4})),
        Case("data2vec 2", f"{fairseq}, fine-tuned", itself, data2vec2_finetuned),
        Case("data2vec 2", f"{fairseq}, ALiBi", "refused: ALiBi", alibi),
        Case("ConvNeXt", "timm, a layer before the classifier", itself, convnext_mlp),
        Case("V-JEPA", "facebookresearch/jepa", "refused: is a video model", vjepa),
        Case("V-JEPA 2", "Hugging Face", "refused: is a video model", vjepa2_huggingface),
        Case("SigLIP 2 NaFlex", "Hugging Face", "refused: is a NaFlex ViT",
             functools.partial(naflex_huggingface, True)),
        Case("SigLIP 2 NaFlex", "Hugging Face, no config.json", "refused: is a NaFlex ViT",
             functools.partial(naflex_huggingface, False)),
        Case("SigLIP 2 NaFlex", "timm", "refused: is a NaFlex ViT", naflex_timm),
        Case("CLIP", f"{clip}, with open_clip_config.json", itself, trunk("test_vit", "token")),
        Case("CLIP", f"{clip}, with open_clip_config.json, mean", itself, trunk("test_vit", "avg")),
        Case("CLIP", f"{clip}, with open_clip_config.json of defaults", itself, trunk("test_vit", None)),
        Case("CLIP", f"{clip}, ConvNeXt, with open_clip_config.json", itself, trunk("test_convnext", "")),
        Case("CLIP", clip, itself, trunk("test_vit", "token", False)),
        Case("CLIP", f"{clip}, ConvNeXt", itself, trunk("test_convnext", "", False)),
        Case("CLIP", f"{clip} under attention pooling", "refused: an attention pooling of open_clip's own",
             pooled_trunk),
    ]  # fmt: skip
