"""ViTs of all kinds and CLIP's and SigLIP's towers as the programs that define them write them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers.layouts_table import Case, Written
from helpers.weights import golden_input, save

X = golden_input(2, 64, 64)
SIZES = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 4}
HF = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
HF_DINOV2 = {n: v for n, v in HF.items() if n != "intermediate_size"}


def random_values(module: torch.nn.Module, seed: int = 0) -> Any:
    """The module with every parameter and running statistic of some size, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim > 1 and not name.endswith("weight"):
                tensor.copy_(0.5 * noise)  # tokens and positions
            elif tensor.ndim > 1:
                tensor.copy_(1.5 * noise / max(1, tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_((1 if name.endswith("weight") else 0) + 0.3 * noise)
    return module.eval()


def timm_vit(change: Callable[[dict], Any] = dict, how: dict[str, Any] | None = None, **options: Any):
    """A ViT of timm's, its tensors renamed by `change`, and what timm computes before its classifier."""

    def build(folder: Path) -> Written:
        from timm.models.deit import VisionTransformerDistilled
        from timm.models.vision_transformer import VisionTransformer

        sizes = {**SIZES, **options}
        kind = VisionTransformerDistilled if sizes.pop("distilled", False) else VisionTransformer
        model = random_values(kind(**sizes))
        with torch.no_grad():
            tokens = model.forward_features(X)
            wanted = model.forward_head(tokens, pre_logits=True)
        patches = model.fc_norm(tokens[:, model.num_prefix_tokens :])
        path = save(change(dict(model.state_dict())), folder / "x.pth")
        return Written(path, X, wanted, patches=patches.detach(), options=how or {"heads": 4})

    return build


def under(*keys: str, prefix: str = "module.") -> Callable[[dict], dict]:
    """Tensors as a file has them under the first key, other weights under the others, as I-JEPA and MSN write."""

    def change(tensors: dict) -> dict:
        out: dict[str, Any] = {}
        for i, key in enumerate(keys):
            out[key] = {prefix + n: t + 0.1 * i for n, t in tensors.items() if not n.startswith("head.")}
        return out

    return change


def ijepa(tensors: dict) -> dict:
    out = under("target_encoder", "encoder")(tensors)
    return out | {"predictor": {"module.predictor_embed.weight": torch.ones(8, 64)}, "epoch": 300}


def msn(tensors: dict) -> dict:
    out = under("target_encoder", "encoder")(tensors)
    for part in ("target_encoder", "encoder"):
        out[part]["module.fc.fc1.weight"] = torch.ones(8, 64)
    return out | {"prototypes": torch.ones(16, 8), "epoch": 100}


def openmmlab(tensors: dict) -> dict:
    """timm's names -> mmpretrain's."""
    rules = [
        (r"^norm\.", "ln1."), (r"^fc_norm\.", "ln2."), (r"^patch_embed\.proj", "patch_embed.projection"),
        (r"^blocks\.", "layers."), (r"\.norm(\d)", r".ln\1"), (r"\.mlp\.fc1", ".ffn.layers.0.0"),
        (r"\.mlp\.fc2", ".ffn.layers.1"), (r"\.ls1\.gamma", ".attn.gamma1.weight"),
        (r"\.ls2\.gamma", ".ffn.gamma2.weight"),
    ]  # fmt: skip
    out = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        out["backbone." + name if not name.startswith("head.") else "head.layers." + name] = tensor
    return {"state_dict": out, "meta": {"epoch": 100}}


def torchvision_vit(folder: Path) -> Written:
    from torchvision.models.vision_transformer import VisionTransformer

    model: Any = VisionTransformer(64, 16, 2, 4, 64, 128, num_classes=7)
    model = random_values(model)
    path = save(model.state_dict(), folder / "x.pth")
    model.heads = torch.nn.Identity()
    with torch.no_grad():
        return Written(path, X, model(X), options={"heads": 4})


def clip_tower(
    change: Callable[[dict], dict] = dict, quick: bool = True, heads: int = 1, told: dict | None = None,
    options: dict[str, Any] | None = None, **tower: Any
):  # fmt: skip
    """open_clip's CLIP; the feature wanted is CLS before the projection. `told` is its configuration's file."""

    def build(folder: Path) -> Written:
        from open_clip.model import CLIP

        vision = {"image_size": 64, "layers": 2, "width": 64, "head_width": 64 // heads, "patch_size": 16, **tower}
        text = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
        model = random_values(CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=quick))
        path = save(change(dict(model.state_dict())), folder / "open_clip_pytorch_model.bin")
        if told is not None:
            cfg = {"model_cfg": {"embed_dim": 16, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}, **told}
            (folder / "open_clip_config.json").write_text(json.dumps(cfg))
        model.visual.proj = None
        with torch.no_grad():
            return Written(path, X, model.visual(X), options=options or {})

    return build


def marked(tensors: dict) -> dict:
    """What OpenAI's files hold beside the weights."""
    return tensors | {
        "input_resolution": torch.tensor(64), "context_length": torch.tensor(8), "vocab_size": torch.tensor(32)
    }  # fmt: skip


def huggingface(
    kind: str, *, take: Callable[[Any], torch.Tensor] | None = None, changed: Callable[[dict], dict] | None = None,
    memory: bool = False, config: bool = True, how: dict[str, Any] | None = None, scores: bool = False, **options: Any
):  # fmt: skip
    """`save_pretrained` of one of transformers' models; `memory`: its state_dict by torch.save instead.

    `take` makes the feature from its output, `changed` edits config.json, `scores` is for models with attention.
    """

    def build(folder: Path) -> Written:
        import transformers

        name = "CLIPVision" if kind == "CLIPVision" else kind
        settings = getattr(transformers, f"{name}Config")(**options)
        settings._attn_implementation = "eager"
        model = random_values(getattr(transformers, f"{kind}Model")(settings))
        model.save_pretrained(folder)
        path = folder / "model.safetensors"
        if memory:
            path.unlink()
            path = save(dict(model.state_dict()), folder / "pytorch_model.bin")
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").unlink()
        if config:
            (folder / "config.json").write_text(json.dumps(changed(written) if changed else written))
        mask = {"noise": torch.arange(16).repeat(len(X), 1)} if kind == "ViTMAE" else {}
        with torch.no_grad():
            out = model(X, output_attentions=scores, **mask)
        wanted = take(out) if take else out.last_hidden_state[:, 0]
        attention = out.attentions[-1][:, :, 0, -16:] if scores else None
        return Written(path, X, wanted, attention, options=how or {})

    return build


def mean(out: Any) -> torch.Tensor:
    return out.last_hidden_state.mean(1)


def pooler(out: Any) -> torch.Tensor:
    return out.pooler_output


def first_two(out: Any) -> torch.Tensor:
    return out.last_hidden_state[:, :2].mean(1)


def without(*names: str) -> Callable[[dict], dict]:
    return lambda config: {n: v for n, v in config.items() if n not in names}


def clip_model(kind: str, folder: Path) -> Written:
    """A whole CLIPModel or SiglipModel: two towers in a file, the image's described inside `vision_config`."""
    import transformers

    text = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(vision_config=dict(HF), text_config=text)
    model = random_values(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    with torch.no_grad():
        return Written(folder / "model.safetensors", X, model.vision_model(X).pooler_output)


ASK_CLIP = "refused: give --arch, as in vit_"


def cases() -> list[Case]:
    hf, itself, heads = huggingface, "by itself", "--heads 4"
    return [
        Case("ViT", "timm, no CLS, mean of patches", heads,
             timm_vit(class_token=False, global_pool="avg", fc_norm=False)),
        Case("ViT", "timm, registers, no CLS", heads,
             timm_vit(class_token=False, global_pool="avg", fc_norm=False, reg_tokens=3, no_embed_class=True)),
        Case("ViT", "timm, registers with positions, no CLS", heads,
             timm_vit(class_token=False, global_pool="avg", fc_norm=True, reg_tokens=3)),
        Case("ViT", "timm, LayerScale and separate positions (DeiT III)", heads,
             timm_vit(init_values=1e-5, no_embed_class=True)),
        Case("DeiT III", "facebookresearch/deit", heads,
             timm_vit(lambda t: {"model": {re.sub(r"ls(\d)\.gamma", r"gamma_\1", n): v for n, v in t.items()}},
                      init_values=1e-5, no_embed_class=True)),
        Case("DeiT distilled", "facebookresearch/deit", heads, timm_vit(lambda t: {"model": t}, distilled=True)),
        Case("MAE fine-tuned", "facebookresearch/mae", heads, timm_vit(lambda t: {"model": t}, global_pool="avg")),
        Case("I-JEPA", "facebookresearch/ijepa", heads,
             timm_vit(ijepa, class_token=False, global_pool="avg", fc_norm=False)),
        Case("MSN", "facebookresearch/msn", heads, timm_vit(msn)),
        Case("SigLIP", "timm", "refused: give --arch, as in vit_base_patch16_siglip_224",
             timm_vit(class_token=False, global_pool="map")),
        Case("CLIP", "timm", ASK_CLIP, timm_vit(pre_norm=True)),
        Case("ViT", "torchvision", heads, torchvision_vit),
        Case("ViT", "OpenMMLab", heads, timm_vit(openmmlab)),
        Case("ViT", "OpenMMLab, LayerScale", heads, timm_vit(openmmlab, init_values=0.1)),
        Case("ViT", "OpenMMLab, mean of patches", heads, timm_vit(openmmlab, global_pool="avg")),
        Case("DeiT distilled", "OpenMMLab", heads, timm_vit(openmmlab, distilled=True)),
        Case("CLIP", "OpenAI", itself, clip_tower(marked)),
        Case("CLIP", "open_clip, with open_clip_config.json, quick GELU", itself, clip_tower(heads=4, told={})),
        Case("CLIP", "open_clip, with open_clip_config.json, GELU", itself, clip_tower(quick=False, heads=2, told={})),
        Case("CLIP", "open_clip, LayerScale", itself, clip_tower(quick=False, heads=2, told={}, ls_init_value=0.1)),
        Case("CLIP", "open_clip, training checkpoint", itself,
             clip_tower(lambda t: {"epoch": 3, "state_dict": {"module." + n: v for n, v in t.items()}}, told={})),
        Case("CLIP", "open_clip", ASK_CLIP, clip_tower(quick=False)),
        Case("CLIP", "Hugging Face", itself,
             hf("CLIPVision", take=pooler, scores=True, **HF)),
        Case("CLIP", "Hugging Face, GELU", itself, hf("CLIPVision", take=pooler, hidden_act="gelu", **HF)),
        Case("CLIP", "Hugging Face, config.json of defaults", itself,
             hf("CLIPVision", take=pooler, changed=without("hidden_act", "layer_norm_eps"), **HF)),
        Case("CLIP", "Hugging Face, both towers", itself, functools.partial(clip_model, "CLIP")),
        Case("CLIP", "Hugging Face, no config.json", ASK_CLIP, hf("CLIPVision", take=pooler, config=False, **HF)),
        Case("SigLIP", "Hugging Face", itself, hf("SiglipVision", take=pooler, **HF)),
        Case("SigLIP", "Hugging Face, config.json of defaults", itself,
             hf("SiglipVision", take=pooler, changed=without("hidden_act", "layer_norm_eps"), **HF)),
        Case("SigLIP", "Hugging Face, both towers", itself, functools.partial(clip_model, "Siglip")),
        Case("SigLIP", "Hugging Face, no config.json", heads,
             hf("SiglipVision", take=pooler, config=False, how={"heads": 4}, **HF)),
        Case("ViT", "Hugging Face", itself, hf("ViT", scores=True, hidden_act="gelu_new", **HF)),
        Case("ViT", "Hugging Face, names in memory", itself, hf("ViT", memory=True, scores=True, **HF)),
        Case("DeiT distilled", "Hugging Face", itself, hf("DeiT", take=first_two, scores=True, **HF)),
        Case("DINOv2", "Hugging Face", itself, hf("Dinov2", scores=True, **HF_DINOV2)),
        Case("DINOv2", "Hugging Face, SwiGLU", itself, hf("Dinov2", use_swiglu_ffn=True, **HF_DINOV2)),
        Case("DINOv2", "Hugging Face, names in memory", itself, hf("Dinov2", memory=True, **HF_DINOV2)),
        Case("DINOv2", "Hugging Face, registers", itself, hf("Dinov2WithRegisters", scores=True, **HF_DINOV2)),
        Case("MAE", "Hugging Face", itself, hf("ViTMAE", mask_ratio=0.0, **HF)),
        Case("I-JEPA", "Hugging Face", itself, hf("IJepa", take=mean, **HF)),
        Case("MSN", "Hugging Face", itself, hf("ViTMSN", **HF)),
    ]  # fmt: skip
