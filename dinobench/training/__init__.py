"""What linear probes, fine-tuning and pretraining share, and the trainers of the first two."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["FineTuning", "ImageLoader", "Probe", "TrainingProgress", "TrainingState"]

__getattr__ = attach(
    __name__,
    {
        "Probe": "linear_probe",
        "FineTuning": "finetuning",
        "ImageLoader": "loader",
        "TrainingState": "resume",
        "TrainingProgress": "resume",
    },
)
