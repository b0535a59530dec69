"""Metrics: pure functions of predictions and ground truth, one file per family."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = [
    "areas",
    "average_precision",
    "best_iou",
    "class_iou",
    "depth_scores",
    "frame_scores",
    "label_rank",
    "mce",
    "object_table",
    "pck",
    "rankme",
    "saliency_scores",
]

__getattr__ = attach(
    __name__,
    {
        "label_rank": "classification",
        "frame_scores": "segmentation",
        "average_precision": "retrieval",
        "object_table": "video",
        "rankme": "representation",
        "areas": "semantic",
        "class_iou": "semantic",
        "best_iou": "localization",
        "depth_scores": "depth",
        "mce": "robustness",
        "pck": "correspondence",
        "saliency_scores": "saliency",
    },
)
