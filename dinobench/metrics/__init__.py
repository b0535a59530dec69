"""Metrics: pure functions of predictions and ground truth, one file per family."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["average_precision", "frame_scores", "label_rank", "object_table", "rankme"]

__getattr__ = attach(
    __name__,
    {
        "label_rank": "classification",
        "frame_scores": "segmentation",
        "average_precision": "retrieval",
        "object_table": "video",
        "rankme": "representation",
    },
)
