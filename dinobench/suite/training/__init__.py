"""Models that a suite trains: what its file asks for, how far each is, and the work itself."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["Look", "Planned", "Training"]

__getattr__ = attach(__name__, {"Look": "standing", "Planned": "standing", "Training": "asked"})
