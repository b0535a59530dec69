"""dinobench: a checkpoint goes in, comparable numbers come out.

>>> import dinobench
>>> backbone = dinobench.load_backbone("random:vit_tiny_patch16_224")
>>> backbone.info.embed_dim
192

`load_backbone` reads a checkpoint and adapts it, `load_dataset` a folder of images; `run` scores checkpoints with a
protocol and returns the records, which `read_results` reads again, as a table of pandas with a row a score;
`run_suite` runs what a file lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dinobench.lazy import attach

__version__ = "0.1.0"
__all__ = ["RunRecord", "__version__", "load_backbone", "load_dataset", "read_results", "run", "run_suite"]

if TYPE_CHECKING:
    from dinobench.data import load_dataset
    from dinobench.models.loading import load_backbone
    from dinobench.results.frames import read_results
    from dinobench.runner import run
    from dinobench.suite.run import run_suite
    from dinobench.types import RunRecord

__getattr__ = attach(
    __name__,
    {
        "load_backbone": "models.loading",
        "load_dataset": "data",
        "read_results": "results.frames",
        "run": "runner",
        "run_suite": "suite.run",
        "RunRecord": "types",
    },
)
