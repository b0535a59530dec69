"""A suite at work: its processes on this machine, what they leave of their progress and failures, how it stands."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["Failure", "Folders", "Report", "Status", "run_locally", "status"]

__getattr__ = attach(
    __name__,
    {
        "Failure": "failures",
        "Folders": "folders",
        "Report": "running",
        "Status": "status",
        "run_locally": "local",
        "status": "status",
    },
)
