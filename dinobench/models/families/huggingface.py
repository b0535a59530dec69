"""ViT, DeiT and DINOv2 in the names of Hugging Face transformers; `config.json` tells what tensors do not."""

from __future__ import annotations

from dinobench.models.families import vit
from dinobench.models.families.family import Family
from dinobench.models.key_mapping import Rules

RULES: Rules = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers|encoder\.layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    # transformers 5 has other names in memory than it writes
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.|\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"(?<!attention)\.output\.dense\.|\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)

VIT = Family(
    "huggingface",
    ("embeddings.patch_embeddings.projection.weight",),
    vit.infer,
    rules=RULES,
    finish=vit.finish,
    label="huggingface",
)
