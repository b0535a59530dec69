"""What the user chooses of a run reaches every protocol: precision, batch size, threads, leaving out broken images."""

from __future__ import annotations

import dataclasses
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.weights import save, vit

import dinobench
from dinobench.config import resolve_config
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.boxes import BoxSplits
from dinobench.data.subsets import Subset
from dinobench.errors import UserError
from dinobench.registry import available, load
from dinobench.types import ImageClassification

#: Every built-in protocol, its data and settings that make it quick.
SMALL = {
    "attention": ("shapes", {"image_size": 64}),
    "copydetect": ("tiles", {"image_size": 32, "ranks": 6, "distractors": "none", "whitening": "none"}),
    "correspondence": ("shapes", {"size": 32}),
    "davis": ("shapes", {"short_side": 64, "multiple": 32, "videos": ("shapes-0", "shapes-1")}),
    "depth": ("shapes", {"scale": 0.25, "iterations": 2, "batch": 2, "train_images": 8}),
    "discovery": ("shapes", {}),
    "finetune": ("digits", {"epochs": 1, "warmup_epochs": 0, "batch": 32, "crop": 32, "resize": 32, "repeats": 1}),
    "incontext": ("shapes", {"size": 32, "augment": "none", "k": 3}),
    "knn": ("digits", {"crop": 32, "resize": 32}),
    "linear": ("digits", {"epochs": 1, "crop": 32, "resize": 32}),
    "logreg": ("digits", {"crop": 32, "resize": 32}),
    "navi": ("shapes", {"size": 32, "points": 20}),
    "representation": ("digits", {"crop": 32, "resize": 32, "split": "test", "alpha_range": (2, 8)}),
    "retrieval": ("tiles", {"image_size": 48}),
    "saliency": ("shapes", {}),
    "segmentation": ("shapes", {"side": 32, "crop": 32, "stride": 16, "iterations": 2, "batch": 2}),
}
#: Profiles that are quick, where the first one is not.
QUICK = {"finetune": "small", "depth": "cached", "segmentation": "cached"}


class Watched:
    """A split, mask set or video that notes which threads decode it, and of which some images are broken."""

    def __init__(self, inner: Any, threads: set[int], broken: Any = ()) -> None:
        self._inner, self._threads, self._broken = inner, threads, broken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def load(self, which: Any) -> Any:
        self._threads.add(threading.get_ident())
        if which in self._broken:
            raise OSError("broken")
        return self._inner.load(which)

    def frame(self, index: int) -> Any:
        self._threads.add(threading.get_ident())
        return self._inner.frame(index)


def watched(name: str, threads: set[int], broken: Any = ()) -> Any:
    """The data of a protocol, small, with its images under watch; the first part of it has `broken` ones."""
    kind = load(name).data
    data = load_dataset(SMALL[name][0], kind)
    if kind == "masks":
        return Watched(data, threads, {data.ids("instances")[i] for i in broken})
    if kind == "videos":
        return dataclasses.replace(data, videos=tuple(Watched(v, threads) for v in data.videos))
    if isinstance(data, ImageClassification):
        parts = {n: Subset(s, np.arange(64), n) for n, s in (("train", data.train), ("test", data.test))}
        return dataclasses.replace(
            data, train=Watched(parts["train"], threads), test=Watched(parts["test"], threads, broken)
        )
    if kind == "boxes":
        chosen = data.select()
        watching = Watched(SimpleNamespace(load=chosen.open_image), threads, {chosen.ids[i] for i in broken})
        under_watch = dataclasses.replace(chosen, open_image=watching.load)
        return BoxSplits(data.name, data.layout, {"all": lambda: under_watch}, "all")
    if kind in ("label_maps", "depth"):
        return dataclasses.replace(data, train=Watched(data.train, threads), test=Watched(data.test, threads, broken))
    if kind == "keypoints":
        return Watched(data, threads, {data.pairs[2 * i].target for i in broken})
    if kind == "navi":  # of which every fourth view looks for a partner
        return Watched(data, threads, {4 * i for i in broken})
    if kind == "copies":
        return dataclasses.replace(
            data,
            originals=Watched(data.originals, threads, broken),
            blocks=tuple(Watched(b, threads) for b in data.blocks),
        )
    return dataclasses.replace(data, database=Watched(data.database, threads, broken), queries=data.queries)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny ViT, and what its forward passes saw: (images, precision)."""
    tiny = dinobench.load_backbone(save(vit(depth=4), tmp_path_factory.mktemp("weights") / "tiny.pth"))
    passes: list[tuple[int, str]] = []

    def note(module: Any, inputs: Any) -> None:
        precision = str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else "torch.float32"
        passes.append((len(inputs[0]), precision))

    tiny.module.blocks[0].register_forward_pre_hook(note)
    return SimpleNamespace(backbone=tiny, passes=passes)


def score(name: str, backbone: Any, data: Any, ctx: LocalContext) -> Any:
    protocol: Any = load(name)
    config = resolve_config(protocol, QUICK.get(name), SMALL[name][1]).config
    return protocol.run(backbone, data, config, ctx)


def test_every_built_in_protocol_is_here():
    assert set(SMALL) == set(available())


@pytest.mark.parametrize("name", SMALL)
def test_precision_and_batch_size_reach_every_forward_pass(name, backbone):
    backbone.passes.clear()
    score(name, backbone.backbone, watched(name, set()), LocalContext(precision="bf16", batch_size=3))
    sizes, precisions = {n for n, _ in backbone.passes}, {p for _, p in backbone.passes}
    assert precisions == {"torch.bfloat16"}
    assert max(sizes) in (2, 3)  # images that are mixed in pairs stay together


@pytest.mark.parametrize("name", SMALL)
def test_images_are_decoded_by_as_many_threads_as_asked_for(name, backbone):
    threads: set[int] = set()
    score(name, backbone.backbone, watched(name, threads), LocalContext(workers=1))
    assert threads and threading.get_ident() not in threads


@pytest.mark.parametrize("name", [n for n in SMALL if n != "davis"])
def test_broken_images_are_all_named_or_left_out_and_counted(name, backbone):
    data = watched(name, set(), broken=(1, 3))
    with pytest.raises(UserError, match="cannot be read"):
        score(name, backbone.backbone, data, LocalContext())
    ctx = LocalContext(skip_broken=True)
    result = score(name, backbone.backbone, data, ctx)
    assert len(ctx.broken) == 2 and all(np.isfinite(v) for v in result.metrics.values())
