from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from weights import save, vit

from dinobench.backbone import load_backbone

GOLDEN = Path(__file__).parent / "golden"


def golden_input(n: int, height: int, width: int) -> torch.Tensor:
    rng = np.random.default_rng(height * 1000 + width)
    return torch.from_numpy(rng.standard_normal((n, 3, height, width)).astype(np.float32))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {
        p: load_backbone(save(vit(width=192, depth=12, patch=p, image=224), folder / f"p{p}.pth")) for p in (16, 8)
    }


@pytest.mark.parametrize(
    ("patch", "height", "width"),
    [(16, 224, 224), (16, 96, 96), (16, 224, 160), (16, 480, 832), (8, 224, 224), (8, 96, 144)],
)
def test_vit_meets_the_reference(tiny, patch, height, width):
    golden = np.load(GOLDEN / "vit_forward.npz")
    prefix = f"vit_tiny_p{patch}_{height}x{width}"
    want = {k.split("/")[1]: golden[k] for k in golden if k.startswith(prefix + "/")}
    x = golden_input(len(want["cls"]), height, width)
    layers, attention = tiny[patch].layers_and_attention(x, 4)
    patches = layers[-1][1]
    got = {
        "cls": tiny[patch].features(x),
        "layer_cls": torch.stack([cls for cls, _ in layers], 1),
        "avgpool_last": patches.mean(1),
        "patch_first5_last5": torch.cat([patches[:, :5], patches[:, -5:]], 1),
    }
    for key, value in got.items():
        np.testing.assert_allclose(value.numpy(), want[key], atol=1e-4, rtol=0, err_msg=key)
    shown = want["cls_attention"].shape[-1]
    np.testing.assert_allclose(attention[..., :shown].numpy(), want["cls_attention"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_meets_the_reference(tmp_path, registers):
    golden = np.load(GOLDEN / "vit_forward_dinov2.npz")
    tensors = vit(width=384, depth=12, patch=14, image=518, registers=registers, v2=True)
    backbone = load_backbone(save(tensors, tmp_path / "v2.pth"))
    ((cls, patches),) = backbone.layers(golden_input(1, 224, 224))
    prefix = f"dinov2_vit_small_p14_reg{registers}_224x224"
    np.testing.assert_allclose(cls.numpy(), golden[f"{prefix}/cls"], atol=1e-4, rtol=0)
    ends = torch.cat([patches[:, :5], patches[:, -5:]], 1)
    np.testing.assert_allclose(ends.numpy(), golden[f"{prefix}/patch_first5_last5"], atol=1e-4, rtol=0)
    assert (backbone.info.method, backbone.info.registers, backbone.info.heads) == ("dinov2", registers, 6)
