"""A run record to write and read; nothing here imports torch, so that many processes can start quickly."""

from __future__ import annotations

from typing import Any

from dinobench.types import CheckpointInfo, MetricValue, RunRecord

INFO = CheckpointInfo(
    name="fake", path="fake", sha256="0" * 64, weights_digest="f" * 64, format="fake", key="", arch="fake",
    patch_size=16, embed_dim=3, depth=2, heads=1, registers=0, method="none", epoch=None,
)  # fmt: skip


def record(run_id: str = "knn-a-b-0", **changes: Any) -> RunRecord:
    """A run record whose every field is filled."""
    fields: dict[str, Any] = {
        "schema": 1, "run_id": run_id, "protocol": "knn", "protocol_version": 1, "profile": "dino2021",
        "config": {"k": [10, 20], "temperature": 0.07, "flip": None}, "config_hash": "c" * 64, "dataset": "digits",
        "dataset_layout": "digits", "dataset_fingerprint": "d" * 64, "checkpoint": INFO, "seed": 0, "precision": "32",
        "metrics": {"top1@k20": MetricValue(74.512345678, 73.0, 76.0, 450, "%"),
                    "loss": MetricValue(0.125, None, None, 0, "nats")},
        "primary": "top1@k20", "started_at": "2024-05-01T12:00:00+00:00", "duration_s": 1.5, "device": "cpu",
        "processes": 1, "peak_memory_mb": 512.0, "broken_images": 0, "notes": ("k = 20 of «élève» ✓",),
        "versions": {"torch": "2.6.0"}, "dinobench_version": "0.1.0", "git_commit": None, "git_dirty": None,
    }  # fmt: skip
    return RunRecord(**{**fields, **changes})
