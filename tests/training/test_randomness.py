from __future__ import annotations

import torch

from dinobench.training.randomness import own_randomness


def test_own_randomness_leaves_no_trace():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    drawn = []
    for numbers in ((1, 2), (1, 2), (2, 1)):
        with own_randomness(cpu, *numbers):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.rand(3), expected)
