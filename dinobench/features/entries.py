"""Which entry of the cache holds the features of a request: told without torch, so that a plan can look for it."""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import PIL

from dinobench.data.transforms import fitted
from dinobench.features.cache import Entry
from dinobench.inputs import reading_of
from dinobench.types import Backbone, FeatureRequest, ImageSplit

#: Raised when extraction computes anything differently: older entries are then never read again.
VERSION = 1


def entry_of(root: Path, precision: str, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Entry:
    """The cache entry of a request: everything that decides its numbers, and the shapes of its arrays."""
    info, transform = backbone.info, fitted(request, backbone, split).transform
    read = reading_of(info)  # of which the transform has the input
    decides = ("arch", "patch_size", "embed_dim", "depth", "heads", "registers", "weights_digest", "missing")
    identity = {
        "version": VERSION,
        "backbone": {name: getattr(info, name) for name in decides} | {n: read[n] for n in ("pool",) if n in read},
        "transform": {"kind": type(transform).__name__, **dataclasses.asdict(transform)},
        "images": split.fingerprint,
        "count": len(split),
        "layers": request.layers,
        "mean_patches": request.mean_patches,
        "precision": precision,
        "torch": _torch().split("+")[0],
        "pillow": PIL.__version__,
    }
    shape = (len(split), request.layers, backbone.embed_dim)
    kind = f"CLS of {request.layers} block(s)" + (", mean patches" if request.mean_patches else "")
    label = {"model": info.name, "arch": info.arch, "images": split.name, "features": kind}
    arrays = ("cls", "mean_patches") if request.mean_patches else ("cls",)
    return Entry(root, identity, label, dict.fromkeys(arrays, shape))


def _torch() -> str:
    """torch's version, as it says itself where it is loaded."""
    return str(getattr(sys.modules.get("torch"), "__version__", None) or _installed("torch"))


@cache
def _installed(library: str) -> str:
    return version(library)
