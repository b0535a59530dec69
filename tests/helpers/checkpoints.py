"""Checkpoints as the programs that train backbones write them, around one small ViT."""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from helpers.weights import args, dino_head, huggingface, prefixed, shifted, vit

VIT = vit()
HF = huggingface(VIT)
X = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))


def dino_full():
    student = prefixed(shifted(VIT), "module.backbone.") | dino_head("module.head.")
    return {
        "student": student,
        "teacher": prefixed(VIT, "backbone.") | dino_head("head."),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": np.float64(5e-4)}]},
        "epoch": 7,
        "args": args(),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def lightning(prefix):
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed(VIT, prefix) | {"criterion.center": torch.zeros(8)},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{}],
    }


MAE = VIT | {"mask_token": torch.ones(1, 1, 64), "decoder_embed.weight": torch.ones(8, 64)}
MAE |= {"decoder_pos_embed": torch.ones(1, 17, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}


def resnet(block=torchvision.models.resnet.BasicBlock, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.ResNet(block, [1, 1, 1, 2], **kwargs).eval()
    for module in model.modules():  # running statistics that matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model
