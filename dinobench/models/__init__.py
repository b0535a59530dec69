"""From a checkpoint, whatever wrote it, to a Backbone."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = [
    "inspect_checkpoint",
    "load_backbone",
    "read_checkpoint",
    "resample_abs_pos_embed",
    "weights_digest",
    "write_checkpoint",
]

__getattr__ = attach(
    __name__,
    {
        "load_backbone": "loading",
        "inspect_checkpoint": "loading",
        "read_checkpoint": "checkpoint",
        "write_checkpoint": "checkpoint",
        "weights_digest": "key_mapping",
        "resample_abs_pos_embed": "pos_embed",
    },
)
