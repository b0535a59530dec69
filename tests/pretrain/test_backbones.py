"""What can be trained, and how it starts."""

from __future__ import annotations

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
