"""Methods small enough to train in a test, and batches for them."""

from __future__ import annotations

import dataclasses
import importlib

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dinobench.pretrain.method import Method, NetworkSpec, StepInfo

SMALL = {"hidden": 32, "out": 16, "drop_path": 0.0}


#: Settings that make every method fit for images of 16 pixels.
SETTINGS = {
    "byol": SMALL,
    "simclr": SMALL | {"temperature": 0.5},
    "mocov2": SMALL | {"queue": 64, "momentum": 0.9},
    "mocov3": SMALL,
    "supervised": {"drop_path": 0.0},
    "distill": {"drop_path": 0.0, "teacher": "random:vit_tiny_patch16_224", "prototypes": 64},
}


#: How many views each wants of every image.
VIEWS = {"byol": 2, "simclr": 2, "mocov2": 2, "mocov3": 2, "supervised": 1, "distill": 1}


def vit(drop_path: float = 0.0) -> nn.Module:
    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=0, drop_path_rate=drop_path
    )


def convnet(drop_path: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 64)
    )


def make(name: str, backbone=vit, **changed) -> Method:
    torch.manual_seed(0)
    kind = importlib.import_module(f"dinobench.pretrain.methods.{name}").METHOD
    config = dataclasses.replace(kind.config_type(), **{**SETTINGS[name], **changed})
    return kind(config, NetworkSpec(backbone, 64, 4, backbone is vit, 16)).train()


def batch(n: int, seed: int = 0, views: int = 2) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Noisy views of images that are each one smooth pattern of its own; 4 classes of pattern."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    classes = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(99))
    images = F.interpolate(classes[labels] + torch.randn(n, 3, 4, 4, generator=rng), 16, mode="bilinear")
    return [images + 0.2 * torch.randn(images.shape, generator=rng) for _ in range(views)], labels


def now(step: int = 0) -> StepInfo:
    return StepInfo(step, step // 10, 10, 10)


def fit(method: Method, steps: int, n: int = 32, lr: float = 1e-3) -> list[float]:
    """Losses on the same images under new noise."""
    optimizer = torch.optim.AdamW([p for p in method.student.parameters() if p.requires_grad], lr)
    losses = []
    for step in range(steps):
        views, labels = batch(n, views=VIEWS[method.name])
        output = method(views, labels if method.labels else None, now(step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        method.after_step(now(step))
        losses.append(output.loss.item())
    return losses


def trained(name, backbone, rank=0, processes=1):
    """Two steps of plain gradient descent: losses, first gradients, and everything at the end."""
    method = make(name, backbone)
    parameters = [p for p in method.student.parameters() if p.requires_grad]
    losses, first = [], None
    for step in range(2):
        views, labels = batch(8, seed=step, views=VIEWS[name])
        shard = [v.chunk(processes)[rank] for v in views]
        output = method(shard, labels.chunk(processes)[rank] if method.labels else None, now(step))
        loss, *gradients = output.loss.detach(), *torch.autograd.grad(output.loss, parameters)
        for tensor in (loss, *gradients):
            if processes > 1:
                torch.distributed.all_reduce(tensor)
                tensor /= processes
        losses.append(loss)
        first = first or gradients
        with torch.no_grad():
            torch._foreach_sub_(parameters, [0.1 * g for g in gradients])
        method.after_step(now(step))
    return losses, first, method.state_dict()


CASES = [(n, b) for n in SETTINGS for b in (vit, convnet)]


def together(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save([trained(n, b, rank, 2) for n, b in CASES], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
