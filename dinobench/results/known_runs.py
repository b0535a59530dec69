"""Which runs are finished already, told without reading a checkpoint or importing torch.

A run is known again by the digest of its weights, which takes seconds to read anew: what a checkpoint turned out to be
is remembered while its files stay as they are. It is believed for the same words of the command, files of the same
size, times and inode, the same libraries and the same code of ours; a file that changed a moment ago is read again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dinobench import console
from dinobench.files import Signature, keep, recall, settled, signature_of, user_path
from dinobench.hashing import digest
from dinobench.models.sources.files import is_index
from dinobench.models.sources.references import kind, weights_of
from dinobench.results import records
from dinobench.types import CheckpointInfo, RunRecord

KIND = "checkpoints"
#: Kinds of references that lead to the same at any time.
DRAWN = ("random", "pixels")
#: Kinds of names on a hub.
BY_NAME = ("timm", "hf")
#: What may stand beside weights and say how they are read.
BESIDE = ("config.json", "preprocessor_config.json", "open_clip_config.json")
#: Libraries that decide what is drawn, built or read.
LIBRARIES = ("torch", "torchvision", "timm", "safetensors", "numpy")
#: Bytes of an index of a sharded save at most, and files that it lists.
INDEX, PARTS = 1 << 24, 1000


@dataclasses.dataclass(frozen=True)
class Sight:
    """A checkpoint before it is read: the key it is remembered by, and its files with their signatures."""

    key: str
    files: dict[str, Signature]


def look(spec: str, **how: Any) -> Sight | None:
    """What a checkpoint is remembered by, read as `how` says (name, seed, and what LoadOptions has).

    None where nothing on this disk says whether it is the same: pretrained weights by name. Take it before reading.
    Raises UserError where there is no such file.
    """
    how = _decisive(spec, how)
    if which := kind(spec):
        return Sight(digest(spec, how, _software()), {}) if which in DRAWN else None
    path = weights_of(spec)
    key = digest(spec, os.path.abspath(path), os.path.realpath(path), how, _software())
    files = {os.fspath(p): found for p in _files(path) if (found := signature_of(p))}
    return Sight(key, files) if all(map(settled, files.values())) else None


def look_again(spec: str, **how: Any) -> Sight | None:
    """What `look` says, and what pretrained weights by name are remembered by.

    That a name on a hub still leads to what it led to is for a plan to assume: whoever runs it reads the weights.
    """
    which, rest = kind(spec), spec.partition(":")[2]
    how = _decisive(spec, how)
    if which in BY_NAME and not rest.startswith("local-dir:") and not user_path(rest).exists():
        return Sight(digest("by name", spec, how, _software()), {})
    return look(spec, **how)


def _decisive(spec: str, how: Mapping[str, Any]) -> dict[str, Any]:
    """`how` with the seed of all others where none is drawn from: a checkpoint is the same by any, and known by all."""
    drawn = kind(spec) == "random" or how.get("allow_partial")
    return dict(how) if drawn else {**how, "seed": 0}


def recalled(spec: str, **how: Any) -> CheckpointInfo | None:
    """What `look` and `remembered` tell of a checkpoint. Raises UserError where there is no such file."""
    sight = look(spec, **how)
    return None if sight is None else remembered(sight)


def remembered(sight: Sight) -> CheckpointInfo | None:
    """What the checkpoint was when its files were as they are now, or None."""
    known = stand_in(sight)
    return None if known is None else known.info


def stand_in(sight: Sight) -> Known | None:
    """`remembered`, with what the backbone could give; of what was remembered before that was kept, nothing."""
    stored = recall(KIND, sight.key)
    try:
        if {path: tuple(found) for path, found in stored["files"].items()} != sight.files:
            return None
        return Known(records.checkpoint_info(stored["info"]), frozenset(stored.get("capabilities", ())))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def remember(sight: Sight, info: CheckpointInfo, capabilities: Iterable[str] = ()) -> None:
    """Keep what was read after `sight` was taken, unless the files have changed since."""
    if all(signature_of(path) == found for path, found in sight.files.items()):
        what = {"files": sight.files, "info": dataclasses.asdict(info), "capabilities": sorted(capabilities)}
        keep(KIND, sight.key, what)


def _files(path: Path) -> Iterator[Path]:
    """The file, what may say something of it, and those that it lists where it is the index of a sharded save."""
    yield path
    yield from (path.with_name(name) for name in BESIDE)
    if not is_index(path):
        return
    try:
        if path.stat().st_size > INDEX:
            return
        parts = {str(part) for part in json.loads(path.read_bytes())["weight_map"].values()}
        if len(parts) > PARTS:
            return
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # whoever reads it says what is wrong
    yield from (path.with_name(part) for part in sorted(parts) if os.sep not in part)


@functools.cache
def _software() -> tuple[Any, ...]:
    """The libraries' versions, and the state of our modules that read and build."""
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(version(library))
        except PackageNotFoundError:
            versions.append("")
    here = Path(__file__).parents[1]
    sources = sorted([*here.glob("*.py"), *(here / "models").rglob("*.py")])
    return (*versions, *((source.name, *(signature_of(source) or ())) for source in sources))


@dataclasses.dataclass(frozen=True)
class Known:
    """In a backbone's place, what tells whether it was scored before, and what can be asked of it.

    `capabilities` are the backbone's; empty where nobody kept them.
    """

    info: CheckpointInfo
    capabilities: frozenset[str] = frozenset()

    @property
    def embed_dim(self) -> int:
        return self.info.embed_dim

    @property
    def patch_size(self) -> int | None:
        return self.info.patch_size


def all_of(
    protocols: Sequence[str],
    infos: Sequence[CheckpointInfo | None],
    out: Path,
    skip_broken: bool,
    evaluations: Callable[[Sequence[Known]], Sequence[Any]],
) -> list[RunRecord]:
    """The records of a command all of whose runs are finished; empty where one may not be.

    `evaluations` are then made, of all protocols with all backbones, which takes finding the data.
    """
    known = [Known(info) for info in infos if info is not None]
    names = {(protocol, one.info.name) for protocol in protocols for one in known}
    if len(names) < len(protocols) * len(infos) or not all(records.begun(out, *pair) for pair in names):
        return []
    wanted = evaluations(known)
    done = earlier(wanted, out, skip_broken)
    if len(done) < len(wanted):
        return []
    tell(done, out)
    return [done[e.run_id] for e in wanted]


def earlier(evaluations: Sequence[Any], out: Path, skip_broken: bool) -> dict[str, RunRecord]:
    """What was finished before, by run id."""
    found = {e.run_id: r for e in evaluations if (r := records.read(out, e.run_id)) is not None}
    # A number that passed over broken images is no answer to those who did not allow that.
    return {run_id: r for run_id, r in found.items() if skip_broken or not r.broken_images}


def tell(done: Iterable[str], out: Path | None) -> None:
    for run_id in done:
        console.note(f"{run_id}: finished before, taken from {out}; --force runs it again")
