"""Model folders in timm's form (`timm:hf-hub:`, `timm:local-dir:`): read by us, mapped to its architecture by timm."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch.nn.modules.module import register_module_module_registration_hook

from dinobench.errors import UserError, nearest
from dinobench.files import read_regular
from dinobench.models.checkpoint import RawCheckpoint, non_finite
from dinobench.models.factory import NamedModel, named, tag_method
from dinobench.models.sources.hub import CONFIG, one_line

MAX_CONFIG = 1 << 20  # bytes of a config.json
MAX_ARGUMENT = 10_000  # of a model's widths, depths and image sides
# What a folder's config.json has no say in: where weights come from, and what becomes of the classifier.
NOT_FROM_CONFIG = frozenset(
    ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "checkpoint_path", "cache_dir",
     "scriptable", "exportable", "no_jit", "features_only", "url", "file", "state_dict", "hf_hub_id",
     "hf_hub_filename", "source", "custom_load", "device", "dtype", "weight_init")
)  # fmt: skip


def load_timm_folder(raw: RawCheckpoint, folder: Path, name: str, path: str, pool: str | None = None) -> NamedModel:
    """A model folder in timm's form: its `config.json` names the architecture, and timm maps the tensors to it.

    `raw` are the folder's tensors, `name` and `path` what tables and records call it.
    Raises UserError for a config that is none of timm's, and for tensors that do not fit it.
    """
    config = folder / CONFIG
    model, arguments, pretrained = _timm_config(config)
    if broken := non_finite(raw.tensors):
        raise UserError(f"{raw.path}: NaN or infinity in {len(broken)} tensors ({broken[0]}, ...)")
    make = functools.partial(timm.create_model, model, num_classes=0, **arguments)
    try:
        with torch.device("meta"), _at_most(20 * len(raw.tensors) + 1000):
            whole = sum(p.numel() for p in make().parameters())
        found = sum(t.numel() for t in raw.tensors.values())
        if whole > 2 * found:  # sizes that only the config believes in would take all memory
            raise ValueError(f"{CONFIG} asks for {whole} weights, and {raw.path.name} has {found}")
        tensors = {n: t.float() if t.is_floating_point() else t for n, t in raw.tensors.items()}
        with torch.random.fork_rng(devices=[]):
            module = make(pretrained=True, pretrained_cfg={**pretrained, "state_dict": tensors})
    except Exception as error:  # whatever timm makes of a config that it did not write
        raise UserError(f"{raw.path}: cannot be loaded into timm's {model}: {one_line(error)}") from None
    base, _, tag = model.partition(".")
    method = tag_method(tag or str(pretrained.get("tag") or ""))
    return named(module, base, name, path, sha256=raw.sha256, source="timm", method=method, pool=pool)


@contextlib.contextmanager
def _at_most(modules: int) -> Iterator[None]:
    """Raises ValueError as soon as more are put together: a depth of thousands would take minutes."""
    left = modules

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"{CONFIG} asks for more than {modules} layers, of which the file has no weights")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _timm_config(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(architecture, the arguments that its maker takes, what is known of the weights) of a `config.json` of timm's."""
    try:
        config: Any = json.loads(read_regular(path, MAX_CONFIG))
        model = config["architecture"]
        arguments = config.get("model_args") or {}
        known = config.get("pretrained_cfg") or config
        usable = isinstance(arguments, Mapping) and isinstance(known, Mapping)
        if not (isinstance(model, str) and usable):
            raise TypeError
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; timm's model folders have one beside the weights") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{path}: names no architecture of timm's; folders of other libraries are hf:FOLDER or hf:OWNER/MODEL"
        ) from None
    if not timm.is_model(model.partition(".")[0]):
        hint = nearest(model[:60], timm.list_models())
        raise UserError(f"{path}: timm has no architecture {model!r:.60}; {hint or 'update timm'}")
    for argument, value in arguments.items():
        if argument in NOT_FROM_CONFIG or not _small(value):
            raise UserError(f"{path}: model_args has {argument!r:.40} = {value!r:.40}, which no model of ours takes")
    if arguments.get("in_chans") not in (None, 3):
        raise UserError(f"{path}: a model of {arguments['in_chans']} input channels; images have 3")
    takes = {f.name for f in fields(PretrainedCfg)} - NOT_FROM_CONFIG
    arguments = {n: v for n, v in arguments.items() if n not in ("num_classes", "in_chans")}
    return model, arguments, {n: v for n, v in known.items() if n in takes}


def _small(value: Any) -> bool:
    """Whether a model's argument is one that can be built in reasonable time."""
    if isinstance(value, list):
        return len(value) <= 100 and all(map(_small, value))
    if isinstance(value, Mapping):
        return len(value) <= 100 and all(map(_small, value.values()))
    return not isinstance(value, int | float) or abs(value) <= MAX_ARGUMENT
