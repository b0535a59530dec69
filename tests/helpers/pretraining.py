"""A small method and its checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from dinobench.pretrain import backbones, checkpoints, optim
from dinobench.pretrain.method import NetworkSpec, StepInfo
from dinobench.pretrain.methods.dino import Config, Dino

CONFIG = Config(out_dim=16, hidden_dim=8, bottleneck_dim=8, local_crops=1)


def loop_now() -> StepInfo:
    return StepInfo(0, 0, 5, 10)


def make(seed: int = 0, arch: str = "vit_tiny", image_size: int = 16, depth: int | None = 1, config=CONFIG):
    torch.manual_seed(seed)
    chosen = backbones.choose(arch, image_size, 8 if arch.startswith("vit") else None, depth)
    method = Dino(config, NetworkSpec(chosen.build, chosen.embed_dim, 10, chosen.is_vit, image_size))
    optimizer = optim.make_optimizer(method.student, config)
    method([torch.randn(2, 3, image_size, image_size)] * 3, None, loop_now()).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return method, optimizer, chosen


def save(path: Path, method: Dino, optimizer, chosen, step: int = 10) -> Path:
    args = {"arch": chosen.arch, "patch_size": chosen.patch_size, "method": "dino", "blur_p": (1.0, 0.5)}
    checkpoints.save(path, method, optimizer, args, checkpoints.Progress(step, {"epoch": 2, "loss": 1.5}), 5)
    return path


TINY = {
    "epochs": "2", "batch": "32", "out_dim": "32", "hidden_dim": "16", "bottleneck_dim": "8", "local_crops": "1",
    "warmup_epochs": "1", "lr": "0.01",
}  # fmt: skip
