"""In-context segmentation's search beside the bare matrix product, and the memory it takes."""

from __future__ import annotations

import numpy as np
import torch

from dinobench.algorithms.incontext import attend
from dinobench.bench.measure import BenchRow, added_mb, anonymous_mb, in_turn

#: Classes of VOC; neighbours and temperature of the protocol's profile.
CLASSES, K, TEMPERATURE = 21, 30, 0.02
#: Rows of the memory that the bare product multiplies at a time.
BLOCK = 65_536


def incontext(
    repeats: int = 3, device: str = "cpu", rows: int = 1_000_000, width: int = 384, queries: int = 4096
) -> list[BenchRow]:
    """The patches of four images of 512 x 512 at patch 16 among `rows`, their labels included, against the product."""
    on = torch.device("cpu" if device == "auto" else device)
    rng = np.random.default_rng(0)
    memory = torch.empty(rows, width)
    for start in range(0, rows, BLOCK):
        block = torch.from_numpy(rng.standard_normal((min(BLOCK, rows - start), width), dtype=np.float32))
        memory[start : start + BLOCK] = torch.nn.functional.normalize(block, dim=1)
    labels = torch.from_numpy(rng.integers(0, 256, (rows, CLASSES), dtype=np.int16))
    probes = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((queries, width), dtype=np.float32)))

    def ours() -> None:
        attend(probes, memory, labels, K, TEMPERATURE, normalise=False, device=on)

    def product() -> None:
        left = probes.to(on)
        for start in range(0, rows, BLOCK):
            left @ memory[start : start + BLOCK].to(on).T

    a, b = in_turn([ours, product], repeats)
    what = f"incontext, {queries:,} patches among {rows:,} x {width}, k = {K}"
    found = [BenchRow(what, f"{a:.2f} s", f"{b:.2f} s bare matrix product", a / b, "at most 1.3", a / b <= 1.3)]
    if on.type == "cpu" and anonymous_mb():
        added, held = added_mb(ours), memory.nbytes / 1e6
        limit = f"{held:,.0f} MB of patches"
        found.append(BenchRow("its memory", f"{added:,.0f} MB", limit, added / held, "under 1,500 MB", added < 1500))
    return found
