"""Suites on SLURM: what is missing is submitted, and told from what waits or runs in the queue."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["Array", "Job", "Submitted", "queued", "submit"]

__getattr__ = attach(
    __name__,
    {"Array": "submitting", "Job": "queue", "Submitted": "submitting", "queued": "queue", "submit": "submitting"},
)
