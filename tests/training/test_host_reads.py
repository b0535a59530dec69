"""Steps of a training, and batches of an extraction, do not make a GPU wait: counted on the CPU, line by line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.fakes import FakeBackbone
from helpers.host_reads import HostReads

from dinobench import runtime
from dinobench.algorithms.label_propagation import Propagator
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.subsets import Subset
from dinobench.data.transforms import ImageTransform
from dinobench.features.service import FeatureService
from dinobench.models.loading import load_backbone
from dinobench.pretrain import loop
from dinobench.pretrain import run as runs
from dinobench.pretrain.collapse import EpochMeter
from dinobench.pretrain.method import MethodOutput
from dinobench.protocols import finetune, linear
from dinobench.training.finetuning import FineTuning
from dinobench.training.linear_probe import Probe
from dinobench.types import FeatureRequest


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: float(x[0]), lambda x: x.tolist(),
        lambda x: x.cpu(), lambda x: x.to("cpu"), lambda x: x[x > 0], lambda x: torch.tensor([1], device=x.device),
        lambda x: x.nonzero(), lambda x: int(x.argmax()), lambda x: x.numpy(force=True),
    ],
)  # fmt: skip
def test_what_waits_is_counted(read):
    with HostReads() as reads:
        read(torch.ones(3))
    assert reads.lines and all("test_host_reads.py" in line for line in reads.lines)


def test_what_does_not_wait_is_not():
    with HostReads() as reads:
        x = torch.ones(3).to("cpu", non_blocking=True)
        x.index_select(0, torch.arange(2)).sum().add_(1)
        torch.tensor([1.0])
    assert not reads.lines


@pytest.mark.parametrize("features", ["extracted", "augmented"])
def test_a_step_of_the_probe(features):
    config = dataclasses.replace(
        linear.profiles["cached"], features=features, lr=(1e-3, 1e-1), blocks=(1, 2), epochs=1, minimum_steps=3,
        batch=96, resize=8, crop=8,
    )  # fmt: skip
    ctx, data, backbone = LocalContext(), load_dataset("digits"), FakeBackbone()
    augment = config.augment() if features == "augmented" else None
    probe = Probe(
        backbone, data, config.layout(backbone.embed_dim), config.request(), augment, config.probe_config(), ctx
    )
    steps = probe.steps(0)
    with HostReads("data/transforms.py") as reads:
        for step, _ in zip(steps, range(2), strict=False):
            probe.classifiers.step(step.x, step.labels, 1.0, step.index, step.counts)
    assert not reads.lines, reads


def test_a_step_of_fine_tuning():
    """With the lag of a GPU; what is read then is a step that is through."""
    config = finetune_small(finetune.profiles["small"])
    tuning = FineTuning(load_backbone("random:vit_tiny_patch16_224"), load_dataset("digits"), config, LocalContext())
    tuning.values.lag = 5
    batches = tuning.train_images.load(map(tuning._step_indices, range(2)), tuning._shard)
    with HostReads("data/transforms.py") as reads:
        for step in range(2):
            tuning._update(batches, step)
    assert not reads.lines, reads


def finetune_small(config):
    """At 32 pixels, in batches of eight."""
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch=8),
        transform=dataclasses.replace(config.transform, resize=32, crop=32),
    )


def test_an_epochs_meter():
    meter = EpochMeter()
    output = MethodOutput(torch.tensor(1.0), {"kl": torch.tensor(2.0)}, {"student": torch.randn(6, 4)})
    with HostReads() as reads:
        meter.add(output, 6)
        meter.add(output, 6)
    assert not reads.lines, reads


def test_extraction_reads_what_it_keeps_once_a_batch(tmp_path):
    """Of two backbones and several kinds of features: when a batch is through, and at no other line."""
    started = runtime.start("cpu")
    transform = ImageTransform(resize=32, crop=32)
    split = dataclasses.replace(
        digits := load_dataset("digits"), train=Subset(digits.train, np.arange(24), "few")
    ).train
    vits = [load_backbone("random:vit_tiny_patch16_224", seed=seed) for seed in (0, 1)]
    requests = [FeatureRequest(transform, layers, mean) for layers, mean in ((1, False), (3, True))]
    service = FeatureService(started, tmp_path, batch_size=8, workers=1)
    for vit in vits:  # positions at another size are made once, on the host, and kept
        vit.layers(torch.zeros(1, 3, 32, 32))
    with HostReads("data/transforms.py") as reads:
        service.prepare([(vit, split, request) for vit in vits for request in requests])
    tensors = 2 * len(vits)  # CLS and mean patches, which the requests share
    assert len(reads) == 3 * tensors and all("extraction.py" in line for line in reads.lines), reads


@pytest.mark.parametrize("method", ["dino", "simclr", "byol", "mocov2", "mocov3", "supervised"])
def test_steps_of_pretraining(method, tmp_path):
    """Views, both networks, loss, statistics, clipping and optimizer, with the lag of a GPU."""
    data = load_dataset("digits")
    kind = runs.load_method(method)
    given = {"epochs": "2", "batch": "32", "warmup_epochs": "1"}
    given |= (
        {"out_dim": "32", "hidden_dim": "16", "bottleneck_dim": "8", "local_crops": "1"} if method == "dino" else {}
    )
    config = dataclasses.asdict(runs.configure(kind, given))
    run = runs.Run(method, "vit_tiny", 16, 8, 1, "digits", config, "32", results=str(tmp_path / "results"))
    runs.begin(tmp_path / "run", run)
    training, meter = loop.Loop(run, tmp_path / "run", runtime.start("cpu"), data), EpochMeter()
    training.step_values.lag = 5
    steps = training.steps(0, 0, meter)
    next(steps)  # what is made once for all steps
    with HostReads() as reads:
        next(steps)
        next(steps)
    assert not reads.lines, reads


def test_propagation_reads_once_a_frame():
    """And gives what it gives when every tile is asked by itself, where there are ties too."""
    frames = torch.randn(4, 30, 40, 8, generator=torch.Generator().manual_seed(0))
    frames[:, :15] = frames[0, 0, 0]  # all alike
    masks = torch.rand(3, 30, 40).softmax(0)
    by_tile, by_frame = Propagator(frames[0], masks, window=4), Propagator(frames[0], masks, window=4)
    by_frame.tiles_at_once = 10**6
    for frame in frames[1:]:
        torch.testing.assert_close(by_frame.step(frame), by_tile.step(frame), rtol=0, atol=0)
    untied = torch.randn(2, 30, 40, 8, generator=torch.Generator().manual_seed(1))
    propagator = Propagator(untied[0], masks, window=4)
    propagator.tiles_at_once = 10**6
    with HostReads() as reads:
        propagator.step(untied[1])
    assert len(reads) == 1, reads
    assert np.isfinite(propagator.step(untied[0]).numpy()).all()
