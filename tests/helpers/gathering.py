"""What each of two processes does that gather rows."""

from __future__ import annotations

import torch

from dinobench.distributed import gather_rows


def gather(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for dtype in (torch.float32, torch.float64, torch.int64, torch.int16, torch.bool):
        for shape in ((), (3,), (2, 3)):
            own = [torch.ones(n, *shape).cumsum(0).add(n).to(dtype) for n in (4, 0)]
            assert torch.equal(gather_rows(own[rank]), torch.cat(own)), (dtype, shape)
    torch.distributed.destroy_process_group()
