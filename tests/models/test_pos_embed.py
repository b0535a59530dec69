from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.models.pos_embed import resample_abs_pos_embed


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(1, 14), st.integers(1, 14), st.booleans())
def test_resampled_positions(side, h, w, registers):
    flat = torch.ones(1, side * side, 3)
    resampled = resample_abs_pos_embed(flat, (side, side), (h, w), registers)
    assert resampled.shape == (1, h * w, 3)
    torch.testing.assert_close(resampled, torch.ones(1, h * w, 3), atol=1e-5, rtol=0)  # bicubic weights sum to 1
    ramp = torch.arange(side * side, dtype=torch.float32).reshape(1, -1, 1).repeat(1, 1, 2)
    assert resample_abs_pos_embed(ramp, (side, side), (side, side), registers) is ramp
    turned = ramp.reshape(side, side, 2).transpose(0, 1).reshape(1, -1, 2)
    across = (
        resample_abs_pos_embed(turned, (side, side), (w, h), registers)
        .reshape(w, h, 2)
        .transpose(0, 1)
        .reshape(1, -1, 2)
    )
    torch.testing.assert_close(
        resample_abs_pos_embed(ramp, (side, side), (h, w), registers), across, atol=1e-3, rtol=1e-4
    )


def test_offset_decides_without_registers():
    rows = torch.randn(1, 49, 4, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.interpolate(rows.reshape(1, 7, 7, 4).permute(0, 3, 1, 2), size=(9, 9), mode="bicubic")
    plain = plain.permute(0, 2, 3, 1).reshape(1, 81, 4)
    assert float((resample_abs_pos_embed(rows, (7, 7), (9, 9), False) - plain).abs().max()) > 1e-3
