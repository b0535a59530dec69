"""From an entry of [models] to models, each with its name.

A glob is one model a file, called by its entry's name and by what stands in the place of the wildcards. So a model's
name, which is part of what its runs are called, doesn't depend on which other files there are: a training may go on
writing checkpoints while the suite scores those that are there.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence

from dinobench.errors import UserError
from dinobench.files import user_path
from dinobench.models.sources import references

#: What stands for other characters in a path.
WILD = re.compile(r"\*\*/|\*+|\?|\[!?\]?[^\]/]*\]")
#: What a name can't hold: what parts it from a reference, or folders from each other.
PARTS = re.compile(r"[^\w.+@-]+")


def models_of(name: str, entry: str | Sequence[str]) -> list[tuple[str, str]]:
    """(the model's name, its reference) of an entry called `name`, in the order of the file and of the files' numbers.

    A single reference has the entry's name; in a list, a reference has the name that it has in a command of its own.
    A glob without a name (`name` is "") gives what its wildcards stand for.
    Raises UserError for a glob that no file fits.
    """
    if isinstance(entry, str):
        return [*matches(name, entry)] if is_glob(entry) else [(name, entry)]
    found: list[tuple[str, str]] = []
    for item in entry:
        own, reference = references.split_name(item)
        if is_glob(reference):
            found += matches(own or name, reference)
        else:
            found.append((own or usual_name(reference), reference))
    return found


def is_glob(reference: str) -> bool:
    """Whether a reference is a path with wildcards; a file of that very name isn't one.

    >>> is_glob("runs/*.pth"), is_glob("runs/a.pth"), is_glob("timm:vit_*")
    (True, False, False)
    """
    return not references.kind(reference) and bool(WILD.search(reference)) and not os.path.lexists(user_path(reference))


def matches(name: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Every file that fits a glob, with its name."""
    found = sorted(glob.glob(os.fspath(user_path(pattern)), recursive=True), key=in_numbers)
    if not found:
        raise UserError(f"{pattern}: no file fits; check the path, which starts from the folder you are in")
    fits = _expression(os.fspath(user_path(pattern)))
    for path in found:
        match = fits.fullmatch(path)
        different = [clean(part) for part in match.groups() if part] if match else [clean(usual_name(path))]
        yield "-".join(filter(None, [name, *different])) or usual_name(path), path


def in_numbers(text: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in a text by their size.

    >>> sorted(["a10", "a9", "b1"], key=in_numbers)
    ['a9', 'a10', 'b1']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def usual_name(reference: str) -> str:
    """What a model is called by itself, as far as its reference tells.

    >>> usual_name("random:vit_tiny_patch16_224"), usual_name("pixels"), usual_name("hf:facebook/dino-vits16")
    ('random_vit_tiny_patch16_224', 'pixels', 'dino-vits16')
    >>> usual_name("runs/dino/checkpoint0040.pth"), usual_name("timm:vit_small_patch16_224.dino")
    ('dino-checkpoint0040', 'vit_small_patch16_224.dino')
    """
    kind, rest = references.kind(reference), reference.partition(":")[2]
    if kind == "random":
        return f"random_{clean(rest.partition('.')[0])}"
    if kind == "pixels":
        return f"pixels{rest}"
    if kind:
        return clean(rest.rpartition("/")[2].rpartition(":")[2]) or kind
    return clean(references.default_name(user_path(reference)))


def clean(text: str) -> str:
    """
    >>> clean("lr=1e-3/last"), clean("vit@v2")
    ('lr-1e-3-last', 'vit@v2')
    """
    return PARTS.sub("-", text).strip("-.")


def _expression(pattern: str) -> re.Pattern[str]:
    """The glob as an expression whose groups are what wildcards stand for; neighbours are one group."""
    pieces, at, open_ = [], 0, False
    for match in WILD.finditer(pattern):
        if match.start() > at:
            pieces += [")" if open_ else "", re.escape(pattern[at : match.start()])]
            open_ = False
        pieces += ["" if open_ else "(", _wildcard(match[0])]
        open_, at = True, match.end()
    return re.compile("".join([*pieces, ")" if open_ else "", re.escape(pattern[at:])]), re.DOTALL)


def _wildcard(text: str) -> str:
    if text == "**/":
        return "(?:.*/)?"
    if text.startswith("*"):
        return "[^/]*"
    if text == "?":
        return "[^/]"
    body = text[1:-1]
    negated = body.startswith("!")
    escaped = re.sub(r"([\\^\[])", r"\\\1", body[negated:])
    return f"[{'^' if negated else ''}{escaped}]"
