"""A training run as a folder: `run.json` says what is trained, so that `--resume` needs the folder alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinobench import registry
from dinobench.config import plain, resolve_config
from dinobench.errors import UserError
from dinobench.files import atomic_path
from dinobench.pretrain.history import METRICS
from dinobench.pretrain.method import Method, MethodConfig, MethodOutput

GROUP = registry.METHODS
SETTINGS = "run.json"
SCHEMA = 1
#: Settings that an earlier dinobench did not have, by method ("" for all), with what it did: its runs go on so.
EARLIER: dict[str, dict[str, Any]] = {"": {"decay_all": False}, "simclr": {"projector_norm": False}}


@dataclass(frozen=True)
class Run:
    """Everything that decides what a training ends with, and where it goes.

    `config` holds all of the method's settings. `accumulate` parts make up a step. `precision` is as resolved. `evals`
    are protocols run every `every` epochs, into the folder `results`, with `eval_settings`. `fingerprint` is of the
    training images.

    `eval_data` is the data set that `evals` score on, where it is not `data`. `left_out` names images that could not be
    read when the run began and were left out by `skip_broken`; `lost` those that it has gone on without since.
    """

    method: str
    arch: str
    image_size: int
    patch_size: int | None
    depth: int | None
    data: str
    config: dict[str, Any]
    precision: str
    accumulate: int = 1
    compile: bool = False
    evals: tuple[str, ...] = ()
    every: int = 10
    eval_settings: dict[str, str] = dataclasses.field(default_factory=dict)
    results: str = "results"
    save_every: int = 0
    init: str | None = None
    fingerprint: str = ""
    eval_data: str | None = None
    skip_broken: bool = False
    left_out: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def load_method(name: str) -> type[Method]:
    """The method called `name`, through the entry points. Raises UserError when there is none, or it is broken."""
    found = registry.find("method", name, GROUP)
    registry.refuse("method", name, GROUP, _faults(found, name))
    method: type[Method] = getattr(found, "METHOD", found)
    return method


def _faults(found: Any, name: str) -> Iterator[str]:
    method = getattr(found, "METHOD", found)
    if not (isinstance(method, type) and issubclass(method, Method)):
        yield "its module has no METHOD that is a dinobench.pretrain.method.Method"
    for field in ("name", "summary"):
        value = getattr(method, field, None)
        if not (isinstance(value, str) and value):
            yield f"{field} is {registry.shortened(value)}, not a text"
    if method.name != name:
        yield f"its entry point calls it {name!r}, its own name is {method.name!r}"
    if not isinstance(method.labels, bool):
        yield f"labels is {registry.shortened(method.labels)}, not True or False"
    if lacking := [field for field in ("views", "forward") if getattr(method, field) is getattr(Method, field)]:
        yield f"it lacks {', '.join(lacking)}"
    config = method.config_type
    if not (isinstance(config, type) and issubclass(config, MethodConfig)):
        yield f"config_type is {registry.shortened(config)}, not a dinobench.pretrain.method.MethodConfig"
    yield from registry.config_faults(config(), "config_type")


def answering(run: Run) -> AbstractContextManager[None]:
    """What a third party's method does wrong in the block is laid at its door: see `registry.answering`."""
    return registry.answering("method", run.method, GROUP, own_code=True)


def checked(run: Run, output: Any) -> MethodOutput:
    """What a method's `forward` gave. Raises PluginFault where a third party's gave no such thing."""
    if not isinstance(output, MethodOutput):
        with registry.answering("method", run.method, GROUP):
            raise TypeError(f"forward returned {registry.shortened(output)}, not a MethodOutput")
    return output


def configure(method: type[Method], settings: dict[str, Any]) -> MethodConfig:
    """The method's Config with `settings` changed; texts are parsed. Raises UserError for what does not fit."""
    shim: Any = dataclasses.make_dataclass("Named", ["name", "profiles"])(
        method.name, {"default": method.config_type()}
    )
    config: MethodConfig = resolve_config(shim, None, settings).config
    for name in ("epochs", "batch"):
        if getattr(config, name) < 1:
            raise UserError(f"{method.name} setting {name} must be at least 1")
    return config


def differences(earlier: Run, chosen: Run, but: Collection[str] = ()) -> list[str]:
    """What two runs differ in but for fields and settings of these names, as in "epochs 20, not 10"."""
    told = ({**dataclasses.asdict(run), **run.config, "config": None} for run in (earlier, chosen))
    a, b = (json.loads(json.dumps(one)) for one in told)  # which knows no tuples
    names = [name for name in {**a, **b} if name not in but and a.get(name) != b.get(name)]
    return [f"{name} {plain(a.get(name))}, not {plain(b.get(name))}" for name in names]


def refuse_taken(folder: Path) -> None:
    """Raises UserError where there is a run already."""
    from dinobench.pretrain.checkpoints import LATEST  # timm comes with it, and listing methods needs none

    if (folder / LATEST).exists():
        earlier = f" ({old.method} on {old.data})" if (old := _peek(folder)) else ""
        raise UserError(
            f"{folder}: holds a training run{earlier}; `dinobench pretrain --resume {folder}` goes on with it, "
            "or choose another --out"
        )


def begin(folder: Path, run: Run) -> None:
    """Make the folder of a new run. Raises UserError where there is a run already, or nothing can be written."""
    refuse_taken(folder)
    write(folder, run)
    (folder / METRICS).unlink(missing_ok=True)


def write(folder: Path, run: Run) -> None:
    """Keep what `run` is, in its folder. Raises UserError when nothing can be written."""
    try:
        with atomic_path(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps({"schema": SCHEMA, **dataclasses.asdict(run)}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}; choose another --out") from error


def read(folder: Path) -> Run:
    """The run that `folder` holds. Raises UserError when it holds none, or one of a later dinobench."""
    path = folder / SETTINGS
    try:
        values = json.loads(path.read_text())
        schema = values.pop("schema")
        if schema > SCHEMA:
            raise UserError(f"{path}: is of a later dinobench (schema {schema}); update dinobench")
        values["config"] = EARLIER[""] | EARLIER.get(values["method"], {}) | values["config"]
        return Run(**values | {name: tuple(values.get(name, ())) for name in ("evals", "left_out", "lost")})
    except FileNotFoundError:
        raise UserError(f"{folder}: no {SETTINGS} in it; --resume takes the --out of an earlier run") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a run's settings: {error}; start a new run") from None


def _peek(folder: Path) -> Run | None:
    try:
        return read(folder)
    except UserError:
        return None
