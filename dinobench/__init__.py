"""dinobench: a checkpoint goes in, comparable numbers come out.

>>> import dinobench
>>> backbone = dinobench.load_backbone("random:vit_tiny_patch16_224")
>>> backbone.info.embed_dim
192

`load_backbone` reads a checkpoint and adapts it; `run` scores checkpoints with a protocol and returns the records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["RunRecord", "__version__", "load_backbone", "run"]

if TYPE_CHECKING:
    from dinobench.models.loading import load_backbone
    from dinobench.runner import run
    from dinobench.types import RunRecord


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import dinobench` and `--help` do not wait for torch."""
    from importlib import import_module

    homes = {"load_backbone": "dinobench.models.loading", "run": "dinobench.runner", "RunRecord": "dinobench.types"}
    if name not in homes:
        raise AttributeError(f"module 'dinobench' has no attribute {name!r}")
    return getattr(import_module(homes[name]), name)
