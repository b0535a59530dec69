"""Data sets: what `--data` accepts, and how a folder's layout is recognised from its content.

What there is stands in `layouts` (by kind, for folders) and `embedded` (by name, for sets that need no path).
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from dinobench.data.embedded import EMBEDDED
from dinobench.data.layouts import ANY_IMAGES, KINDS, UNLABELLED
from dinobench.errors import UserError, nearest
from dinobench.files import user_path

if TYPE_CHECKING:
    from dinobench.data.layouts.labelled.listing import Draw
    from dinobench.types import ImageClassification

#: What goes before the name of one of torchvision's classes, which may be followed by `:` and the root of its files.
TORCHVISION = "torchvision:"
#: Kinds that are read from them, and that a share can be drawn from.
_WITH_CLASSES = ("classification", UNLABELLED, ANY_IMAGES)
#: A share to be drawn, after the name of a data set without a split.
_DRAW = re.compile(r"(?P<rest>.+)@split=(?P<share>[^,@/]*)(?:,seed=(?P<seed>[^,@/]*))?")
#: Endings of archives, which are not looked into.
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".zip", ".7z")


def load_dataset(
    spec: str, kind: str = "classification", *, progress: Callable[..., Any] | None = None, masks_only: bool = False
) -> Any:
    """The data set that `spec` names: a path, `name=path`, `torchvision:Class:root`, or an embedded name as `digits`.

    `@split=0.2` or `@split=0.2,seed=1` at its end has that share of each class drawn to score on, where the images have
    labels and no split.

    A path that does not exist as given is looked for under each folder of the environment variable `DINOBENCH_DATA`
    (separated as in PATH). An embedded name goes before a folder of that name; write `./digits` for the folder.
    `progress(iterable, description, total)` wraps the long loops. `masks_only` asks for the annotations that are scored
    alone, of videos or label maps, whose frames or images need not be there. For kind "classification" the result is an
    `ImageClassification`, for kinds of any images that or a `TrainingImages`. Raises UserError when nothing is found,
    the layout is unknown or the data are at fault.
    """
    modules = _layout_modules(kind)
    name, target, path, draw = _place(spec, kind)
    if path is None:
        return EMBEDDED[kind][target].make(name or target)
    options = {"masks_only": True} if masks_only else {}
    try:
        if draw is not None or target.startswith(TORCHVISION):
            return _of_kind(kind, _labelled(name, target, path, draw, progress), path, progress)
        for module in modules:
            if module.recognises(path, **options):
                load = getattr(module, "load_images", module.load) if kind == UNLABELLED else module.load
                takes_progress = "progress" in inspect.signature(load).parameters
                return load(
                    path,
                    name or _name_of(module, path),
                    **options,
                    **({"progress": progress} if takes_progress else {}),
                )
        raise UserError(_unknown_layout(path, kind, modules))
    except OSError as error:
        raise _unreadable(error, path) from error


def _labelled(
    name: str, target: str, path: Path, draw: Draw | None, progress: Callable[..., Any] | None
) -> ImageClassification:
    """One of torchvision's sets, or one that a share is drawn from."""
    if target.startswith(TORCHVISION):
        from dinobench.data.layouts.labelled import torchvision_sets

        return torchvision_sets.load_class(target.removeprefix(TORCHVISION), path, name, draw, progress)
    from dinobench.data.layouts.labelled import listing

    assert draw is not None
    modules = _layout_modules("classification")
    for module in modules:
        if module.recognises(path) or getattr(module, "undivided", lambda path: False)(path):
            if not hasattr(module, "listed"):
                raise UserError(f"{path}: reads as {module.NAME}, with a split of its own; leave out @{draw}")
            return listing.divided(module.listed(path), draw, name or _name_of(module, path), progress)
    raise UserError(_unknown_layout(path, "classification", modules))


def _of_kind(kind: str, data: ImageClassification, path: Path, progress: Callable[..., Any] | None) -> Any:
    """The data set, or what pretraining learns from in it."""
    if kind != UNLABELLED or data.train.in_memory:
        return data
    from dinobench.types import TrainingImages

    digests = data.train.hashed(path, progress)  # type: ignore[attr-defined]
    return TrainingImages(data.name, data.layout, data.classes, data.train, digests, data.notes)


def load_datasets(
    spec: str, kind: str, tests: Sequence[str], *, progress: Callable[..., Any] | None = None
) -> list[Any]:
    """The data set that `spec` names, or where there are `tests` as many, each scored on the images of one of them.

    A test is `NAME=PATH`, or NAME alone where it lies under that name or needs no path: see `other_tests`. Raises
    UserError as `load_dataset` does.
    """
    data = load_dataset(spec, kind, progress=progress)
    if not tests:
        return [data]
    from dinobench.data import other_tests

    places = [_test_place(test) for test in tests]
    try:
        return [other_tests.replaced(data, name, path, _place(spec, kind).path, progress) for name, path in places]
    except OSError as error:
        raise _unreadable(error, tests[0]) from error


def check_tests(tests: Sequence[str]) -> None:
    """Raises UserError where one of `tests` is no set, or there is nothing at its path."""
    for test in tests:
        _test_place(test)


def _test_place(spec: str) -> tuple[str, Path | None]:
    from dinobench.data import other_tests

    name, target = other_tests.split_spec(spec)
    path = _find(target or name)
    if target and path is None:
        raise UserError(_not_found(target, []))
    return name, path


def check_place(spec: str, kind: str) -> None:
    """Raises UserError, as `load_dataset` does, where there is nothing that `spec` names."""
    _place(spec, kind)


def kinds_of(spec: str, kinds: Sequence[str]) -> list[str]:
    """Those of `kinds` that `spec` names a data set of, by a quick look. Raises UserError where it is of none."""
    rest, draw = _split_draw(spec)
    _, target = _split_spec(rest)
    if draw is not None or target.startswith(TORCHVISION):
        found = [kind for kind in kinds if kind in _WITH_CLASSES]
        _place(spec, found[0] if found else kinds[0])
        return found
    path = _find(target)
    try:
        found = [
            kind for kind in kinds
            if target in EMBEDDED.get(kind, {})
            or (path is not None and any(module.recognises(path) for module in _layout_modules(kind)))
        ]  # fmt: skip
    except OSError as error:
        raise _unreadable(error, target) from error
    if found:
        return found
    if path is None:
        raise UserError(_not_found(target, sorted({known for kind in kinds for known in EMBEDDED.get(kind, {})})))
    if len(kinds) == 1:
        raise UserError(_unknown_layout(path, kinds[0], _layout_modules(kinds[0])))
    raise UserError(f"{path}: in no layout for {' or '.join(kinds)} ({_holds(path)}); see `dinobench list layouts`")


def plain_folder(spec: str, kind: str, *, masks_only: bool = False) -> Path | None:
    """The path that `spec` names, where it is in no layout of the kind and no embedded set; else None.

    Raises UserError where there is nothing that `spec` names.
    """
    path = _place(spec, kind).path
    options = {"masks_only": True} if masks_only else {}
    return None if path is None or any(m.recognises(path, **options) for m in _layout_modules(kind)) else path


def known_layouts() -> Iterator[tuple[str, str, str]]:
    """Every embedded set and every layout as (kind, name, summary), each under the first kind that takes it."""
    seen: set[Any] = set()
    for kind in KINDS:
        for name, embedded in EMBEDDED.get(kind, {}).items():
            if embedded not in seen:
                yield kind, name, embedded.summary
            seen.add(embedded)
        for module in _layout_modules(kind):
            if module not in seen:
                yield kind, module.NAME, module.SUMMARY
            seen.add(module)
    from dinobench.data import other_tests

    for name in other_tests.full_names():
        yield "--test", name, other_tests.module_of(name).SUMMARY


def _layout_modules(kind: str) -> list[ModuleType]:
    if kind not in KINDS:
        raise UserError(f"unknown kind of data set {kind!r}{_hint(kind, list(KINDS))}; known: {', '.join(KINDS)}")
    return [import_module(module) for module in KINDS[kind]]


def _split_spec(spec: str) -> tuple[str, str]:
    """`name=path` -> (name, path); a path that holds an equals sign itself stays whole."""
    name, equals, target = spec.partition("=")
    if not equals or os.sep in name or "/" in name or _find(spec) is not None:
        name, target = "", spec
    name = name.strip()
    if not target.strip():
        raise UserError(f"--data {spec!r} names nothing: give a path, name=path or an embedded name such as digits")
    return name, target


class _Place(NamedTuple):
    """What a spec names: its own name or "", what stands for the data, its path or None for an embedded set, a draw."""

    name: str
    target: str
    path: Path | None
    draw: Draw | None = None


def _place(spec: str, kind: str) -> _Place:
    """Raises UserError where there is no such thing, or nothing can be drawn from it."""
    spec, draw = _split_draw(spec)
    name, target = _split_spec(spec)
    embedded = EMBEDDED.get(kind, {})
    if draw is not None and kind not in _WITH_CLASSES:
        raise UserError(f"{spec}@{draw}: nothing is drawn from data sets of {kind}; leave out @{draw}")
    if target in embedded:
        if draw is not None:
            raise UserError(f"{target}: has a split of its own; leave out @{draw}")
        return _Place(name, target, None)
    path = _torchvision_root(target, kind) if target.startswith(TORCHVISION) else _find(target)
    if path is None:
        raise UserError(_not_found(target, sorted(embedded)))
    return _Place(name, target, path, draw)


def _split_draw(spec: str) -> tuple[str, Draw | None]:
    """What goes before `@split=`, and the draw; a path that holds such a thing itself stays whole."""
    found = _DRAW.fullmatch(spec)
    if not found or _find(spec) is not None:
        return spec, None
    from dinobench.data.layouts.labelled.listing import parse_draw

    return found["rest"], parse_draw(found["share"], found["seed"] or "0")


def _torchvision_root(target: str, kind: str) -> Path:
    """The root of one of torchvision's classes: the one that is written, else the first that has its files."""
    from dinobench.data.layouts.labelled import torchvision_sets

    wanted, _, root = target.removeprefix(TORCHVISION).partition(":")
    torchvision_sets.check_class(wanted)
    if kind not in _WITH_CLASSES:
        raise UserError(f"{target}: images with classes, for no protocol that scores {kind}")
    if root:
        if (path := _find(root)) is None:
            raise UserError(_not_found(root, []))
        return path
    roots = [Path(), *_roots()]
    if (path := next((r for r in roots if torchvision_sets.is_there(wanted, r)), None)) is None:
        raise UserError(
            f"{target}: no {torchvision_sets.place_of(wanted)} here or in a folder of DINOBENCH_DATA; name the root "
            f"that the class takes: {TORCHVISION}{wanted}:ROOT"
        )
    return path


def _name_of(module: ModuleType, path: Path) -> str:
    name: str = getattr(module, "default_name", _folder_name)(path)
    return name


def _folder_name(path: Path) -> str:
    return path.resolve().name


def _roots() -> list[Path]:
    return [user_path(root) for root in os.environ.get("DINOBENCH_DATA", "").split(os.pathsep) if root]


def _find(target: str) -> Path | None:
    if not target:
        return None
    path = user_path(target)
    candidates = [path] if path.is_absolute() else [path, *(root / path for root in _roots())]
    return next((c for c in candidates if os.path.exists(c)), None)


def _unreadable(error: OSError, place: object) -> UserError:
    return UserError(f"{error.filename or place}: cannot be read: {error.strerror or error}")


def _hint(word: str, options: list[str]) -> str:
    hint = nearest(word, options, cutoff=0.5)
    return f" ({hint})" if hint else ""


def _not_found(target: str, embedded: list[str]) -> str:
    roots = _roots()
    beside = [user_path(target).parent, *roots]
    names = [entry.name for root in beside if root.is_dir() for entry in _visible(root)]
    hint = _hint(target, embedded) or _hint(Path(target).name, names)
    searched = f", nor under DINOBENCH_DATA ({os.pathsep.join(map(str, roots))})" if roots else ""
    known = f", nor an embedded data set ({', '.join(embedded)})" if embedded else ""
    advice = "" if roots else "; set DINOBENCH_DATA to search other folders"
    return f"{target}: no such file or folder{searched}{known}{hint}{advice}"


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _unknown_layout(path: Path, kind: str, modules: list[ModuleType]) -> str:
    if path.name.lower().endswith(ARCHIVES):
        return f"{path}: an archive; unpack it and give the folder"
    if kind == "classification":
        from dinobench.data.layouts.labelled import class_folders
        from dinobench.data.layouts.labelled.listing import NO_SPLIT

        if class_folders.undivided(path):
            return f"{path}: class folders without a split ({_why(path, kind, modules)}); {NO_SPLIT}"
    if path.suffix.lower() == ".parquet":
        return f"{path}: a Parquet file; write its images to files and give their folder, or a .tar to pretrain on"
    wanted = [f"{m.NAME}: {m.SUMMARY.split('. ')[0].rstrip('.')}" for m in modules]
    return f"{path}: layout not recognised ({_why(path, kind, modules)}); layouts for {kind} are {'; '.join(wanted)}"


def _why(path: Path, kind: str, modules: list[ModuleType]) -> str:
    """What there is instead, and what else it could be."""
    parent = path.resolve().parent
    readings = [f"its parent {parent} reads as {m.NAME}" for m in modules if m.recognises(parent)][:1]
    for other in KINDS:
        others = _layout_modules(other) if other not in (kind, UNLABELLED, ANY_IMAGES) else []
        readings += [f"it reads as {m.NAME}, for protocols on {other!r} data" for m in others if m.recognises(path)]
    return "; ".join([_holds(path), *readings])


def _holds(path: Path) -> str:
    if not path.is_dir():
        return "a file"
    names = [entry.name + "/" * entry.is_dir() for entry in _visible(path)]
    if not names:
        return "an empty folder"
    return f"it holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
