"""How this machine does against the limits of correspondence: points found without an upsampled map, and with it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from dinobench.algorithms.correspondence import best_pixels, pixel_vectors
from dinobench.bench.measure import BenchRow, in_turn, memory_beside

#: Width and patches along a side of a ViT-B/16's map at 768 pixels, and a photo of SPair-71k's usual size.
WIDTH, GRID, SIZE = 768, 48, (375, 500)
POINTS = 12  # of a pair


def correspondence(repeats: int = 3, device: str = "cpu") -> list[BenchRow]:
    """All rows: one pair's points looked for as `dift` does, its time and memory against the map upsampled as a whole.

    The release looks through the map once a point; the dense search here does once for all points.
    """
    torch_device = torch.device("cpu" if device == "auto" else device)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, WIDTH, GRID + 4, GRID + 4, generator=generator)
    source, target = F.avg_pool2d(drawn, 5, 1).to(torch_device)  # neighbours alike, as a backbone's are
    target = source + 0.5 * target
    points = torch.randint(0, min(SIZE), (POINTS, 2), generator=generator)
    queries = pixel_vectors(source, points, SIZE)

    def ours() -> None:
        best_pixels(queries, target, SIZE)

    def dense() -> None:
        dense_pixels(queries, target, SIZE)

    memory = memory_beside(ours, dense, torch_device)
    a, b = in_turn([ours, dense], repeats)
    what = f"correspondence, {POINTS} points in {GRID} x {GRID} patches, {WIDTH} wide, as {SIZE[1]} x {SIZE[0]} pixels"
    rows = [BenchRow(what, f"{1000 * a:.0f} ms", f"{1000 * b:.0f} ms dense", b / a, "at least 4", b / a >= 4)]
    return rows + memory


@torch.no_grad()
def dense_pixels(queries: torch.Tensor, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`best_pixels` over the map (D, h, w) upsampled to (H, W): (K, 2) x and y."""
    upsampled = F.interpolate(features[None], size=size, mode="bilinear")[0].flatten(1)
    best = (F.normalize(queries, dim=1) @ F.normalize(upsampled, dim=0)).argmax(1)
    return torch.stack([best % size[1], best // size[1]], dim=1)
