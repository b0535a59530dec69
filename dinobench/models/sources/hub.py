"""Model folders of the Hugging Face hub, through its own client and cache; and what a missing network means for it.

Only what a model needs is fetched: its configuration, and its weights in one form. Nothing that is fetched is run.
"""

from __future__ import annotations

import contextlib
import http.client
import inspect
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinobench import console
from dinobench.errors import UserError
from dinobench.models import sharded
from dinobench.models.sources.files import FOLDER_FILES, is_index

CONFIG, INPUT = "config.json", "preprocessor_config.json"
MAIN = "main"  # the revision that the hub takes where none is named
SECONDS = 10  # to wait for the hub to answer, as its client does


@dataclass(frozen=True)
class Snapshot:
    """A model's files at one commit, in one folder of the hub's cache."""

    folder: Path
    commit: str  # 40 hexadecimal digits


def fetch(reference: str, model: str, revision: str | None) -> Snapshot:
    """The folder of `owner/model` at a branch, tag or commit, fetched as far as the cache lacks it.

    Raises UserError, one line that begins with `reference`, where the model cannot be had.
    """
    if revision and _is_commit(revision) and (here := _cached(model, revision)) is not None:
        return here  # a commit never changes: nobody need be asked
    with _quiet(), cache_only_if_offline() as offline:
        files = _Files(reference, model, revision or MAIN, offline)
        try:
            return files.snapshot()
        except UserError:
            raise
        except Exception as error:  # the client's kinds differ by version
            raise UserError(f"{reference}: {_reason(error, model, revision, offline)}") from None


def _cached(model: str, commit: str) -> Snapshot | None:
    """The snapshot where the cache has all of it, and knows what there is not."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    def look(name: str) -> Any:
        return try_to_load_from_cache(model, name, revision=commit)

    beside = [look(CONFIG), look(INPUT)]
    weights = next((found for name in FOLDER_FILES if (found := look(name)) is not _CACHED_NO_EXIST), None)
    if None in (*beside, weights) or weights is None:
        return None
    path = Path(weights)
    if is_index(path) and None in [look(part) for part in sharded.parts(path)]:
        return None
    return Snapshot(path.parent, commit)


class _Files:
    """The files of one model; the first that is found settles the commit, and the others are of the same."""

    def __init__(self, reference: str, model: str, revision: str, offline: str) -> None:
        self.reference, self.model, self.revision, self.offline = reference, model, revision, offline
        self.commit = ""
        self.folder = Path()

    def snapshot(self) -> Snapshot:
        from huggingface_hub.errors import EntryNotFoundError

        self.optional(CONFIG)
        weights = next(filter(None, map(self.optional, FOLDER_FILES)), None)
        if weights is None:
            if self.offline:
                raise UserError(f"{self.reference}: {_not_cached(self.offline)}")
            raise UserError(
                f"{self.reference}: holds none of {', '.join(FOLDER_FILES)}; check its name, or give a path"
            )
        if is_index(weights):
            for part in sharded.parts(weights):
                try:
                    self.required(part)
                except EntryNotFoundError as error:
                    if self.offline or _is_local(error):
                        raise
                    raise UserError(f"{self.reference}: its part {part} is not there; ask its owners") from None
        if self.optional(INPUT) is None and self.offline and not self.known_absent(INPUT):
            console.warn(
                f"{self.reference}: whether it has a {INPUT} is not known without a network; "
                "its mean and deviation of pixels may be others than taken"
            )
        if self.offline and not _is_commit(self.revision):
            console.note(f"{self.reference}: {self.offline}; the hub's cache has commit {self.commit}")
        return Snapshot(self.folder, self.commit)

    def optional(self, name: str) -> Path | None:
        """The file, or None where the model has no such file, or offline where the cache has not."""
        from huggingface_hub.errors import EntryNotFoundError

        if self.known_absent(name):
            return None
        try:
            return self.required(name)
        except EntryNotFoundError as error:
            if _is_local(error) and not self.offline:
                raise  # the network failed
            return None

    def required(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        options: dict[str, Any] = {"revision": self.commit or self.revision, "local_files_only": bool(self.offline)}
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
            options["tqdm_class"] = _bar(f"{self.reference} {name}, MB")
        path = Path(hf_hub_download(self.model, name, **options))
        self.folder, self.commit = path.parent, path.parent.name
        return path

    def known_absent(self, name: str) -> bool:
        """Whether the cache remembers that this commit has no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        revision = self.commit or self.revision
        if not (_is_commit(revision) or self.offline):  # a branch may have it by now
            return False
        return try_to_load_from_cache(self.model, name, revision=revision) is _CACHED_NO_EXIST


def cached_models() -> set[str]:
    """Names of the models of which the hub's cache has weights."""
    from huggingface_hub import constants

    folder, start = Path(constants.HF_HUB_CACHE), "models--"
    found = folder.glob(f"{start}*/snapshots/*/*")
    return {
        p.parents[2].name.removeprefix(start).replace("--", "/")
        for p in found
        if p.suffix in (".safetensors", ".bin", ".pth", ".pt") and p.is_file()
    }


@contextlib.contextmanager
def cache_only_if_offline() -> Iterator[str]:
    """Without a network, let the hub's client look into its cache only: it would retry for a minute, loudly.

    Yields why, or "" where there is a network.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    why = "HF_HUB_OFFLINE is set" if before else ""
    if not before and not _reachable(constants.ENDPOINT):
        why = f"{constants.ENDPOINT} cannot be reached"
    constants.HF_HUB_OFFLINE = bool(why)
    try:
        yield why
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    """Whether somebody answers there, directly or through a proxy; what the answer is does not matter."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a port that is none
        return isinstance(getattr(error, "reason", error), ssl.SSLError)  # the client has certificates of its own


def _reason(error: Exception, model: str, revision: str | None, offline: str) -> str:
    """What is wrong and what to do about it, in one line."""
    from huggingface_hub import constants, errors

    place = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return (
            f"its owners ask for consent: accept their terms on {place}/{model}, "
            "then log in (`hf auth login`, or a token in HF_TOKEN)"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such model on {place}, or it is private: check the name, or log in (`hf auth login`)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision or MAIN}; give one of its branches, tags or commits"
    if isinstance(error, errors.HFValidationError):
        return "is no name of the hub's; write hf:OWNER/MODEL, as in hf:facebook/dino-vits16"
    if _is_local(error) and offline:
        return _not_cached(offline)
    cause = error.__cause__ if _is_local(error) and isinstance(error.__cause__, Exception) else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 401 or status == 403:
        return f"{place} refuses it ({status}): log in (`hf auth login`, or a token in HF_TOKEN) with leave to read it"
    said = f"status {status}" if status else one_line(cause)
    return f"could not be fetched from {place} ({said}); try again later, or download it and give its folder"


def _not_cached(offline: str) -> str:
    return f"is not, or not whole, in the hub's cache, and {offline}: go online, or give the folder of a copy"


def one_line(error: BaseException) -> str:
    """An exception in one short line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:157] + "..."


def _is_local(error: Exception) -> bool:
    """Whether the client gave up on the network and found nothing in its cache either."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return isinstance(error, LocalEntryNotFoundError)


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and not set(revision) - set("0123456789abcdef")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The client's own warnings are silent for the block: what it gives up on is said once, by us."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _bar(description: str) -> Any:
    """A class that takes tqdm's place in the client, and shows the megabytes as we show all progress."""
    from tqdm import tqdm

    class Bar(tqdm):
        """Draws nothing itself; what it is told goes to `console.progress`."""

        monitor_interval = 0  # no thread that watches over the drawing

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": False, "file": _Nowhere(), "leave": False})
            self._item, self._counted, self._over, self._guard = _Megabytes(), 0, False, threading.Lock()
            total = round(self.total / 1e6) if self.total else None
            self._shown = console.progress(self._items(), description, total, round(self.n / 1e6))
            next(self._shown)

        def _items(self) -> Iterator[_Megabytes]:
            while not self._over:
                yield self._item

        def update(self, n: float | None = 1) -> bool | None:
            with self._guard:
                self.n += n or 0
                whole = int(self.n / 1e6)
                self._item.n, self._counted = whole - self._counted, whole
                next(self._shown, None)
            return None

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            return True

        def close(self) -> None:
            if not getattr(self, "_over", True):
                self._over, self._item.n = True, 0
                next(self._shown, None)
            super().close()

    return Bar


class _Megabytes:
    n = 0


class _Nowhere:
    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...
