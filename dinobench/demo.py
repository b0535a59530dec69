"""The whole product in one command: every built-in protocol on embedded data, with nothing downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinobench import console
from dinobench.runner import run
from dinobench.types import RunRecord

#: A model that has learnt nothing, and no model at all: the floors that a trained backbone has to clear.
CHECKPOINTS = ("random:vit_tiny_patch16_224", "pixels")


@dataclass(frozen=True)
class Step:
    """One protocol of the demo; `settings` make it small enough for a laptop, and the rows say so."""

    protocol: str
    data: str
    settings: Mapping[str, Any]
    profile: str | None = None
    ckpts: tuple[str, ...] = field(default=CHECKPOINTS)


# The digits are 8 x 8 pixels: at 64 x 64 a ViT sees all there is, twelve times sooner than at 224 x 224.
SMALL = {"resize": 64, "crop": 64}
STEPS = (
    Step("knn", "digits", SMALL),
    Step("linear", "digits", SMALL, "cached"),
    Step("logreg", "digits", SMALL),
    Step("finetune", "digits", {"resize": 32, "crop": 32, "epochs": 2}, "small", CHECKPOINTS[:1]),
    Step("davis", "shapes", {"short_side": 192}, ckpts=CHECKPOINTS[:1]),
    Step("attention", "shapes", {"image_size": 192}, ckpts=CHECKPOINTS[:1]),
    Step("copydetect", "tiles", {"image_size": 160}),
    Step("retrieval", "tiles", {"image_size": 160}),
)


def demo(out: Path, device: str = "auto") -> list[RunRecord]:
    """Run every step into `out`; finished ones are taken from there, so that an interrupted demo goes on."""
    done = []
    for number, step in enumerate(STEPS, 1):
        console.note(f"[{number}/{len(STEPS)}] {step.protocol} on {step.data}")
        done += run(
            step.protocol, step.ckpts, step.data, profile=step.profile, settings=step.settings, out=out, device=device
        )
    return done
