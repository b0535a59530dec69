"""Test images from elsewhere: a data set learnt from as it is, and scored on another one of the same classes.

Each of the sets that robustness is measured on is a module with `NAMES` (the first one is what records say), `SUMMARY`
as a layout has it, and `load(path, data, progress) -> OtherTest`; `path` is None where none was given or found, which
only some can do without.
"""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from dinobench.data import fingerprint, leaks
from dinobench.data.image_split import FileSplit
from dinobench.data.other_tests.other_test import OtherTest
from dinobench.errors import UserError, unknown_name
from dinobench.types import ImageClassification

#: By name, and by the name without `imagenet-`.
MODULES = {
    name: f"dinobench.data.other_tests.{module}"
    for module, names in {
        "imagenet_v2": ("imagenet-v2", "v2"),
        "imagenet_a": ("imagenet-a", "a"),
        "imagenet_r": ("imagenet-r", "r"),
        "imagenet_sketch": ("imagenet-sketch", "sketch"),
        "imagenet_real": ("imagenet-real", "real"),
        "objectnet": ("objectnet",),
        "imagenet_c": ("imagenet-c", "c"),
    }.items()
    for name in names
}


def split_spec(spec: str) -> tuple[str, str]:
    """`NAME=PATH` or `NAME` -> (the set's full name, what it is called on the disk). Raises UserError if unknown."""
    name, _, target = spec.partition("=")
    short = name.strip().lower()
    if short not in MODULES:
        raise unknown_name("test set", name.strip(), full_names())
    return next(full for full, module in MODULES.items() if module == MODULES[short]), target.strip()


def full_names() -> list[str]:
    """The name of every set that records have."""
    return list({module: name for name, module in reversed(MODULES.items())}.values())[::-1]


def module_of(name: str) -> ModuleType:
    return import_module(MODULES[name])


def replaced(
    data: ImageClassification,
    name: str,
    path: Path | None,
    remember: Path | None = None,
    progress: fingerprint.Progress | None = None,
) -> ImageClassification:
    """`data` with the test images of the set `name`, which lies at `path`, and with its rules.

    `remember` is where `data` lies, under which its files' digests are kept: they tell which test images are in train
    too. Raises UserError for a set that does not fit these classes.
    """
    module = module_of(name)
    if path is None and not getattr(module, "PATHLESS", False):
        raise UserError(f"--test {name}: where is it? Give {name}=PATH, or put it into a folder of DINOBENCH_DATA")
    other: OtherTest = module.load(path, data, progress)
    leak = data.leak if other.digests is None else None
    if other.digests is not None and isinstance(data.train, FileSplit) and remember is not None:
        own = data.train.hashed(remember, progress)
        leak = leaks.note(other.split.ids, leaks.leaked(own, other.digests))
    splits = [(split.fingerprint, split.labels) for split in (data.train, other.split)]
    total = hashlib.sha256(fingerprint.of_dataset(data.classes, splits).encode() + name.encode())
    for array in (other.among, other.answers):
        total.update(b"\0" + (b"" if array is None else np.ascontiguousarray(array, "<i8").tobytes()))
    return dataclasses.replace(
        data, name=f"{data.name}+{name}", layout=f"{data.layout}; test: {other.layout}", test=other.split,
        fingerprint=total.hexdigest(), leak=leak, notes=(*data.notes, *other.notes), among=other.among,
        answers=other.answers, report=other.report,
    )  # fmt: skip
