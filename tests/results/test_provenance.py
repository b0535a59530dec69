"""What a record says of the process that made it."""

from __future__ import annotations

import subprocess
import sys

CHILD = "from dinobench.results.provenance import peak_memory_mb; print(peak_memory_mb())"
PARENT = f"""
import subprocess, sys
held = bytearray(1_500_000_000)
print(subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True, text=True, check=True).stdout)
"""


def test_the_memory_of_the_process_that_started_this_one_is_not_its_own():
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < 1200
