"""Golden values that several tests read."""

from __future__ import annotations

import json

from helpers.paths import GOLDEN

NUMBERS = json.loads((GOLDEN / "numbers.json").read_text())
