"""How this machine does against the limit of depth heads: the bare forward passes of the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from dinobench.algorithms.depth_head import DepthHead, to_labels
from dinobench.bench.measure import BenchRow, in_turn
from dinobench.context import LocalContext
from dinobench.data.embedded.shape_depths import scenes
from dinobench.dense.depth.probe import DepthProbe
from dinobench.dense.head_training import Batch
from dinobench.models.loading import load_backbone
from dinobench.types import Backbone

#: Images of NYU's size, whole in tests and cut in training, and how many of them go at once on a CPU and elsewhere.
TEST_SIZE, TRAIN_SIZE, IMAGES = (480, 640), (416, 544), (2, 16)


def depth(arch: str = "vit_small_patch16_224", repeats: int = 3, device: str = "cpu") -> list[BenchRow]:
    """Scoring and a step of training, each with the heads of DINOv3 and of DINOv2's four blocks."""
    torch_device = torch.device("cpu" if device == "auto" else device)
    backbone = load_backbone(f"random:{arch}").to(torch_device)
    return [row for profile in ("dinov3", "dinov2-lin4") for row in _rows(backbone, profile, repeats, torch_device)]


def _rows(backbone: Backbone, profile: str, repeats: int, device: torch.device) -> list[BenchRow]:
    from dinobench.protocols import depth as protocol

    data = scenes()
    config = protocol.profiles[profile]
    blocks, _ = protocol.blocks_of(backbone, config)
    settings = protocol.probe_config(data, config, blocks)
    settings = dataclasses.replace(settings, batch=IMAGES[device.type != "cpu"])
    probe = DepthProbe(backbone, data, settings, LocalContext(device))
    return [_scoring(backbone, probe, profile, repeats, device), _training(backbone, probe, profile, repeats, device)]


def _scoring(backbone: Backbone, probe: DepthProbe, profile: str, repeats: int, device: torch.device) -> BenchRow:
    config = probe.config
    x = _images(config.batch, TEST_SIZE, device)
    head: DepthHead = probe.head.eval()

    @torch.inference_mode()
    def ours() -> None:
        straight, mirrored = head(probe.maps(x)).chunk(2)
        to_labels(straight, mirrored, TEST_SIZE, config.bins.low, config.bins.high, config.clamp).cpu()

    return _row(f"depth, scoring, {profile}", backbone, ours, x, repeats)


def _training(backbone: Backbone, probe: DepthProbe, profile: str, repeats: int, device: torch.device) -> BenchRow:
    """With the features' way from the forward pass to the head's backward pass and the optimizer's step."""
    config = probe.config
    x = _images(config.batch, TRAIN_SIZE, device)
    truth = torch.rand(config.batch, 1, *TRAIN_SIZE, generator=torch.Generator().manual_seed(1)).to(device) * 8

    def ours() -> None:
        with torch.inference_mode():
            features = probe.maps(x)
        probe.training.step(Batch(features.clone(), truth), config.loss.without_variance)

    return _row(f"depth, a step of training, {profile}", backbone, ours, x, repeats)


def _row(what: str, backbone: Backbone, ours: Callable[[], None], x: torch.Tensor, repeats: int) -> BenchRow:
    @torch.inference_mode()
    def forward() -> None:
        backbone.feature_map(x).cpu()

    a, b = in_turn([ours, forward], repeats)
    named = f"{what}, {backbone.info.arch}, {len(x)} images of {x.shape[-1]} x {x.shape[-2]}, {x.device.type}"
    return BenchRow(named, f"{a:.2f} s", f"{b:.2f} s bare forward", a / b, "at most 1.15", a / b <= 1.15)


def _images(count: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
