"""Suites: one file names models, protocols and data; a plan says what of it is done, and what is still to do."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["Cell", "Group", "Mistakes", "Plan", "State", "Suite", "read"]

__getattr__ = attach(
    __name__,
    {
        "Cell": "cells",
        "Group": "cells",
        "Plan": "cells",
        "State": "cells",
        "Mistakes": "mistakes",
        "Suite": "file",
        "read": "file",
    },
)
