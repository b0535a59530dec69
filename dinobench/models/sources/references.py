"""References to models, as `--ckpt` and `inspect` take them: a path, or a name with its kind before a colon.

Everything that takes one asks `resolve`, so that all of them know the same kinds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dinobench import lazy
from dinobench.errors import UserError, nearest
from dinobench.files import user_path
from dinobench.models.sources.files import FOLDER_FILES, weights_file

with lazy.imports():
    from dinobench.models.checkpoint import RawCheckpoint, read_checkpoint

if TYPE_CHECKING:
    from dinobench.models.factory import NamedModel

#: What a reference may look like, and what it is.
FORMS = {
    "PATH": "a checkpoint file, a model folder of Hugging Face's, or the index of a sharded save",
    "timm:MODEL[.TAG]": "timm's model with its pretrained weights",
    "timm:hf-hub:OWNER/MODEL[@REVISION]": "a model folder in timm's form on the Hugging Face hub",
    "timm:local-dir:FOLDER": "the same on disk",
    "hf:OWNER/MODEL[@REVISION]": "a model folder on the Hugging Face hub; a revision is a branch, a tag or a commit",
    "hf:FOLDER": "the same on disk, or the hub's cache of one",
    "torchhub:OWNER/REPO[:REF]:ENTRY": "what a repository's hubconf.py makes; runs its code: --trust-repo allows it",
    "random:MODEL": "a model of timm or torchvision with weights drawn from --seed",
    "pixels[:SIDE]": "no model: the image itself, averaged to SIDE x SIDE",
}
KINDS = tuple(dict.fromkeys(form.partition(":")[0].partition("[")[0] for form in FORMS if form != "PATH"))
HUB_NAME = re.compile(r"(?P<model>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^\s@]+))?")
TORCH_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+(?::[\w./-]+)?):(?P<entry>\w+)")
COMMIT = re.compile("[0-9a-f]{40}")
# Stems that say nothing of the model: the folder's name is put before them.
PLAIN_STEMS = ("checkpoint", "last", "model", "latest", "pytorch_model", "weights", "ckpt", "best", "final", "teacher")


@dataclass(frozen=True)
class Weights:
    """Tensors to look for a backbone in.

    `path` is the file or folder, `record` what a record calls it where that is another, `name` what tables call it
    where its path does not say, `raw` the tensors where no file of ours holds them.
    """

    path: Path
    record: str = ""
    name: str = ""
    raw: RawCheckpoint | None = None

    def read(self) -> RawCheckpoint:
        """The tensors by name. Raises UserError as `read_checkpoint` does."""
        return self.raw or read_checkpoint(self.path)


def split_name(text: str) -> tuple[str | None, str]:
    """`name=reference` -> (name, reference); the name is None for a reference alone, or a path that holds an `=`.

    >>> split_name("ours=runs/x.pth"), split_name("timm:resnet18"), split_name("hf:./lr=1/x")
    (('ours', 'runs/x.pth'), (None, 'timm:resnet18'), (None, 'hf:./lr=1/x'))
    """
    name, equals, rest = text.partition("=")
    if equals and name and "/" not in name and not name.startswith(tuple(f"{k}:" for k in KINDS)) and not _exists(text):
        return name, rest
    return None, text


def kind(text: str) -> str:
    """The kind that a reference begins with, "" for a path.

    >>> kind("hf:facebook/dino-vits16"), kind("pixels"), kind("./pixels"), kind("runs/x.pth")
    ('hf', 'pixels', '', '')
    """
    before, colon, _ = text.partition(":")
    return before if before in KINDS and (colon or before == "pixels") and not _exists(text) else ""


def resolve(
    text: str, *, seed: int = 0, name: str | None = None, trust_repo: bool = False, pool: str | None = None
) -> Weights | NamedModel:
    """What a reference stands for: weights to be recognised, or a whole model.

    `seed` is that of random weights, `name` what tables call a whole model, `trust_repo` lets a repository's code run,
    `pool` what the feature of a whole model is made of.
    Raises UserError, one line, for a reference that is none or leads nowhere.
    """
    from dinobench.models import factory

    which, rest = kind(text), text.partition(":")[2]
    if which == "hf":
        return _hub_or_folder(text, rest)
    if which == "torchhub":
        return _torch_hub(text, rest, trust_repo)
    if which == "pixels":
        return factory.load_pixels(rest, name)
    source, colon, inner = rest.partition(":")
    if which == "timm" and colon:
        return _timm_folder(text, source, inner, name, pool)
    if which:
        return factory.load_named(which, rest, seed, name, pool)
    path = user_path(text)
    if not _exists(text):
        _refuse_unknown(text)
    return Weights(cached_snapshot(path))


def check(text: str) -> None:
    """Raises UserError where a path leads to no weights, before anything is imported that would read them."""
    if not kind(text):
        weights_of(text)


def weights_of(text: str) -> Path:
    """The file that a path leads to; nothing of it is read. Raises UserError where there is none."""
    if not _exists(text):
        _refuse_unknown(text)
    return weights_file(cached_snapshot(user_path(text)))


def cached_snapshot(folder: Path) -> Path:
    """The latest snapshot in a folder of the hub's cache (`models--OWNER--MODEL`); any other path as it is.

    Raises UserError where it holds several and no branch says which is the latest.
    """
    snapshots = folder / "snapshots"
    try:
        if not snapshots.is_dir() or any((folder / name).is_file() for name in FOLDER_FILES):
            return folder
    except (OSError, ValueError):  # a name too long, or with a zero byte: for the reader to refuse
        return folder
    found = sorted(p for p in snapshots.iterdir() if p.is_dir())
    main = folder / "refs" / "main"
    if main.is_file() and main.stat().st_size <= 200:
        commit = main.read_text(encoding="utf-8", errors="replace").strip()
        found = [p for p in found if p.name == commit] or found
    if len(found) != 1:
        raise UserError(f"{folder}: {len(found)} snapshots in it; give one of the folders in {snapshots}")
    return found[0]


def _hub_or_folder(text: str, rest: str) -> Weights:
    if (folder := _folder(text, rest)) is not None:
        return Weights(cached_snapshot(folder), name=folder.absolute().name)
    from dinobench.models.sources.hub import fetch

    model, revision = _hub_name(text, rest)
    found = fetch(text, model, revision)
    return Weights(found.folder, f"hf:{model}@{found.commit}", _short(model, revision))


def _timm_folder(text: str, source: str, inner: str, name: str | None, pool: str | None) -> NamedModel:
    from dinobench.models.sources.hub import fetch
    from dinobench.models.sources.timm_folder import load_timm_folder

    if source in ("hf-hub", "hf_hub"):  # the older spelling is timm's too
        model, revision = _hub_name(text, inner)
        found = fetch(text, model, revision)
        folder, short, record = found.folder, _short(model, revision), f"timm:hf-hub:{model}@{found.commit}"
    elif source == "local-dir":
        folder = user_path(inner)
        if not folder.is_dir():
            raise UserError(f"{text}: no such folder; check the path")
        folder, short, record = cached_snapshot(folder), folder.absolute().name, text
    else:
        raise UserError(f"{text}: timm has no source {source!r}; there are hf-hub: and local-dir:")
    return load_timm_folder(read_checkpoint(folder), folder, name or short, record, pool)


def _torch_hub(text: str, rest: str, trusted: bool) -> Weights:
    """The state_dict of what a repository's entry point makes, to be recognised like a file's tensors."""
    import torch

    from dinobench.models.sources.hub import one_line

    match = TORCH_HUB.fullmatch(rest)
    if match is None:
        raise UserError(f"{text}: write torchhub:OWNER/REPO:ENTRY, as in torchhub:facebookresearch/dino:dino_vits16")
    if not trusted:
        raise UserError(
            f"{text}: runs the Python code of github.com/{match['repo'].partition(':')[0]}; "
            "say --trust-repo if you trust its owners, or download the weights and give their path"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = torch.hub.load(match["repo"], match["entry"], trust_repo=True, verbose=False)
        tensors = {str(n): t.detach().cpu() for n, t in module.state_dict().items() if isinstance(t, torch.Tensor)}
    except (Exception, SystemExit) as error:  # whatever a download or a stranger's code raises
        raise UserError(f"{text}: could not be made ({one_line(error)}); check the network and the name") from None
    if not tensors:
        raise UserError(f"{text}: makes a model without tensors; choose another entry of its hubconf.py")
    return Weights(Path(text), text, match["entry"], RawCheckpoint(Path(text), "", "torchhub", tensors, {}))


def _folder(text: str, rest: str) -> Path | None:
    """The folder that `hf:` stands before, or None for a name of the hub's. UserError for a path to nowhere."""
    path = user_path(rest)
    if rest and _exists(rest):
        return path
    if rest.startswith((".", "/", "~", "\\")) or Path(rest).is_absolute():
        at = " (what is on disk has no revisions)" if "@" in rest else ""
        raise UserError(f"{text}: no such folder; check the path{at}")
    return None


def _hub_name(text: str, rest: str) -> tuple[str, str | None]:
    match = HUB_NAME.fullmatch(rest)
    if match is None or ".." in rest or "--" in match["model"]:
        start = text.removesuffix(rest)
        raise UserError(f"{text}: is no name of a model on the hub; write {start}OWNER/MODEL[@REVISION]")
    return match["model"], match["revision"]


def _short(model: str, revision: str | None) -> str:
    """What tables call a model of the hub: its own name, and the revision where one was asked for.

    >>> _short("facebook/dinov3-vits16", None), _short("us/vit", "v2"), _short("us/vit", "0123456789" * 4)
    ('dinov3-vits16', 'vit@v2', 'vit@01234567')
    """
    if revision is None:
        return model.rpartition("/")[2]
    return f"{model.rpartition('/')[2]}@{revision[:8] if COMMIT.fullmatch(revision) else revision}"


def default_name(path: Path) -> str:
    """A file's stem, with its folder where the stem says nothing.

    >>> default_name(Path("runs/dino_tiny/checkpoint0099.pth")), default_name(Path("dino_s16.pth"))
    ('dino_tiny/checkpoint0099', 'dino_s16')
    >>> default_name(Path("dinov2/model.safetensors.index.json"))
    'dinov2/model'
    """
    stem = path.stem.removesuffix(".index").removesuffix(".safetensors").removesuffix(".bin").removesuffix(".pth")
    word = stem.lower().rstrip("0123456789_-.=")
    plain = word in ("", *PLAIN_STEMS) or stem.lower().startswith("epoch")
    parent = path.absolute().parent.name
    return f"{parent}/{stem}" if plain and parent else stem


def _exists(text: str) -> bool:
    try:
        return user_path(text).exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _refuse_unknown(text: str) -> None:
    """Raises UserError for what looks like a reference of an unknown kind, or a hub's name without its own."""
    before, colon, _ = text.partition(":")
    if colon and re.fullmatch("[A-Za-z][A-Za-z0-9_-]+", before):
        hint = nearest(before, KINDS)
        known = ", ".join(KINDS)
        raise UserError(f"{text}: no such file, and {before!r} is none of {known}{hint and f'; {hint}'}")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and not Path(text).suffix and not Path(text).parent.exists():
        raise UserError(f"{text}: no such file; check the path (a model of the hub is written hf:{text})")
