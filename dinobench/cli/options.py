"""Options and arguments that several commands share, each declared once."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dinobench.types import LoadOptions


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

#: An option for each field of LoadOptions.
LOADING: dict[str, Any] = {
    "arch": Arch, "key": Key, "heads": Heads, "pool": Pool, "grid": Grid, "allow_partial": AllowPartial,
    "trust_repo": TrustRepo,
}  # fmt: skip


def with_loading(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with an option for each field of LoadOptions, `without` some, in the place of its parameter `loading`.

    One list for all commands: what one of them can say of a checkpoint, the others can too.
    """
    options = [
        inspect.Parameter(
            name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=getattr(LoadOptions(), name), annotation=kind
        )
        for name, kind in LOADING.items() if name not in without
    ]  # fmt: skip

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            loading = LoadOptions(**{o.name: given.pop(o.name, o.default) for o in options})
            return command(**given, loading=loading)

        signature = inspect.signature(command, eval_str=True)
        parameters = []
        for parameter in signature.parameters.values():
            parameters += options if parameter.name == "loading" else [parameter]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


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
