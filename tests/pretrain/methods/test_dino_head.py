"""DINO's head, with the names and values of the release."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dinobench.pretrain.methods.dino_head import DinoHead


def test_head_of_the_release():
    torch.manual_seed(0)
    head = DinoHead(384, 1000)
    shapes = {n: tuple(p.shape) for n, p in head.named_parameters()}
    assert shapes == {
        "mlp.0.weight": (2048, 384), "mlp.0.bias": (2048,), "mlp.2.weight": (2048, 2048), "mlp.2.bias": (2048,),
        "mlp.4.weight": (256, 2048), "mlp.4.bias": (256,),
        "last_layer.weight_g": (1000, 1), "last_layer.weight_v": (1000, 256),
    }  # fmt: skip
    assert [n for n, p in head.named_parameters() if not p.requires_grad] == ["last_layer.weight_g"]
    assert 0.0198 < float(head.mlp[0].weight.detach().std()) < 0.0202 and not head.mlp[0].bias.any()
    x = torch.randn(3, 384)
    hidden = F.gelu(head.mlp[2](F.gelu(head.mlp[0](x))))
    bottleneck = F.normalize(head.mlp[4](hidden), dim=-1)
    torch.testing.assert_close(head(x), bottleneck @ F.normalize(head.last_layer.weight_v, dim=1).T)
    assert head(x).abs().max() <= 1  # cosines
    release = nn.utils.weight_norm(nn.Linear(256, 1000, bias=False))  # whose names and values we share
    release.load_state_dict(head.last_layer.state_dict())
    torch.testing.assert_close(release(bottleneck), head(x))
    assert DinoHead(8, 16, norm_last_layer=False).last_layer.weight_g.requires_grad
    assert [type(m).__name__ for m in DinoHead(8, 16, layers=2, norm=nn.BatchNorm1d).mlp] == [
        "Linear", "BatchNorm1d", "GELU", "Linear",
    ]  # fmt: skip
    assert "mlp.weight" in DinoHead(8, 16, layers=1).state_dict()
