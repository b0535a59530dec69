"""Options and arguments that several commands share, each declared once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def finite(value: float | None) -> float | None:
    """The value, where it is a number that can be counted with."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


# How a checkpoint is read
Ckpt = Annotated[str, typer.Option(help="A file, hf:<owner>/<model>, timm:<model> or another reference to a model.")]
Arch = Annotated[
    str | None, typer.Option(help="Architecture, where the file does not tell: a timm or torchvision name.")
]
Key = Annotated[str | None, typer.Option(help="Network of the file to read: student, teacher, ...")]
Heads = Annotated[int | None, typer.Option(help="Number of attention heads, which a file of weights cannot tell.")]
Pool = Annotated[
    str | None,
    typer.Option(help="The feature: cls, mean (of the patches), cls+mean or map; else as published."),
]
Grid = Annotated[
    str | None, typer.Option(help="Height x width in patches of a position embedding that is not square: 14x28.")
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Load in spite of missing or left-over tensors; records say so.")
]
TrustRepo = Annotated[
    bool, typer.Option("--trust-repo", help="Let torchhub: references run the Python code of their repositories.")
]

# Settings
Settings = Annotated[list[str] | None, typer.Option("--set", help="name=value changes a setting; may be repeated.")]

# Who else is shown what is done
Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=WHERE]",
        help="Show it in a tracker too: tensorboard=DIR, mlflow=URI or wandb=PROJECT; may be repeated.",
    ),
]

# Where a command computes
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda or mps.")]
Devices = Annotated[int, typer.Option(help="Processes to start on this machine, one per device.")]
RamCache = Annotated[
    float | None, typer.Option(min=0, callback=finite, help="GB of memory for decoded images in training.")
]

# What is read and written
Results = Annotated[Path, typer.Argument(help="Results folder.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Results folder.")]
Out = Annotated[Path, typer.Option(help="Results folder: runs/, items/ and leaderboard.csv.")]
Picture = Annotated[Path, typer.Option("-o", "--output", help="The picture to write: .png, .svg or .pdf.")]
Film = Annotated[Path, typer.Option("-o", "--output", help="The video to write: .gif or .mp4.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
