"""What can be trained, and how it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dinobench.pretrain import backbones


@pytest.mark.parametrize(
    ("arch", "options", "name", "width", "patch"),
    [
        ("vit_small", {}, "vit_small", 384, 16),
        ("vit_tiny", {"patch_size": 8, "depth": 2}, "vit_w192_d2_patch8", 192, 8),
        ("vit_w96", {"patch_size": 8, "depth": 2}, "vit_w96_d2_patch8", 96, 8),
        ("resnet18", {}, "resnet18", 512, None),
        ("vit_tiny_patch16_224", {}, "vit_tiny_patch16_224", 192, 16),
    ],
)
def test_architectures(arch, options, name, width, patch):
    chosen = backbones.choose(arch, 32, **options)
    assert (chosen.arch, chosen.embed_dim, chosen.patch_size) == (name, width, patch)
    assert chosen.build(0.1)(torch.randn(2, 3, 32, 32)).shape == (2, width)


def test_vits_start_as_the_release_does():
    torch.manual_seed(0)
    vit = backbones.choose("vit_tiny", 32, 8).build(0.1)
    for name, parameter in vit.named_parameters():
        if "norm" in name or name.endswith("bias"):
            continue
        if not name.startswith("patch_embed"):
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.15), name
    assert [round(b.drop_path1.drop_prob, 3) for b in vit.blocks[1:]] == [round(0.1 * i / 11, 3) for i in range(1, 12)]
    assert vit.norm.eps == 1e-6


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_what_the_last_block_leaves_out_is_nothing_that_cls_needs(drop_path):
    torch.manual_seed(0)
    vit: Any = backbones.choose("vit_w96", 32, 8, depth=2).build(drop_path).double()
    x, weights = torch.randn(3, 3, 32, 32).double(), torch.randn(3, 96)  # their squares all add up to one sum
    found = []
    for forward in (vit, lambda images: vit.forward_features(images)[:, 0]):  # the second is timm's own, of all tokens
        torch.manual_seed(1)  # the same residuals are dropped
        vit.zero_grad()
        cls = forward(x)
        (cls * weights).sum().backward()
        found.append([cls.detach(), *(p.grad for p in vit.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
