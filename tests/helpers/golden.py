"""Golden values that several tests read."""

from __future__ import annotations

import json
from typing import Any

from helpers.paths import GOLDEN

NUMBERS = json.loads((GOLDEN / "numbers.json").read_text())


def golden_values(name: str) -> Any:
    """What the file of this name holds of the dense, label-free and robustness protocols."""
    return json.loads((GOLDEN / "next" / f"{name}.json").read_text())
