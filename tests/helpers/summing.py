"""What each of two processes does that sum gradients."""

from __future__ import annotations

import torch
from torch import nn

from dinobench.distributed import EarlySums, average_over_processes, sum_gradients


class Layers(nn.Module):
    """Four layers, and a parameter that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4)), nn.BatchNorm1d(5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).square().mean()


def gradients(early: EarlySums | None, model: Layers, parts: list[torch.Tensor], mean: bool) -> list[torch.Tensor]:
    """Over two processes, after a step on these parts of a process."""
    model.zero_grad(set_to_none=True)
    for at, part in enumerate(parts):
        if early is None:
            model(part).backward()
            continue
        begun: list[int] = []
        watch = model.layers[0].weight.register_post_accumulate_grad_hook(
            lambda _, seen=begun: seen.append(len(early._begun))
        )
        with early.during(at == len(parts) - 1):
            model(part).backward()
        watch.remove()
        # When the first layer's gradient comes, the sums of the layers after it are under way; of whole gradients only.
        assert begun == [0] if at < len(parts) - 1 else begun[0] >= 3
    totals = torch.tensor([1.0, len(parts)])
    if mean:
        totals = average_over_processes(list(model.parameters()), totals, 2, early)
    else:
        totals = sum_gradients(model, totals, 2, early)
    assert totals[0] == 2
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def sums(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images = torch.randn(2, 2, 8, 5, generator=torch.Generator().manual_seed(1))
    plain, model = Layers(), Layers()
    # What no loss depends on has a bucket of its own, behind all others, where it keeps none waiting.
    parameters = [model.unused, *model.layers.parameters()]
    early = EarlySums(parameters, 2, bucket=100)
    for mean in (True, False, True):
        for parts in ([*images[rank]], [images[rank, 0]]):
            expected = gradients(None, plain, parts, mean)
            found = gradients(early, model, parts, mean)
            assert len(found) == len(expected) == 10 + (not mean)
            assert all(map(torch.equal, found, expected))
    none = [images[0, 0]] if rank == 0 else []  # as where one process's images are at an end
    assert all(map(torch.equal, gradients(early, model, none, False), gradients(None, plain, none, False)))
    torch.distributed.destroy_process_group()
