"""What the user's input can do wrong: errors of one clear line, with the file or the name and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is at fault: the message is one clear line with the file and the remedy (exit code 2)."""


class UnsupportedCapability(UserError):
    """A backbone is asked for what its kind does not have, such as the attention of a ResNet.

    The runner reports the evaluation as not applicable instead of failing.
    """


class PluginFault(Exception):
    """A third party's protocol or method failed: the message names it and its distribution (exit code 70)."""


class BrokenImage(UserError):
    """An image, or the annotation that belongs to it, cannot be read; a loop may leave it out if the user allows."""


def nearest(name: str, options: Iterable[str], cutoff: float = 0.6) -> str:
    """The hint "did you mean 'knn'?" for the option most like `name`, or "" where none is.

    `cutoff` is difflib's: 0 accepts anything, 1 only the same.

    >>> nearest("kn", ["knn", "linear"]), nearest("davis", ["knn", "linear"])
    ("did you mean 'knn'?", '')
    """
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else ""


def unknown_name(kind: str, name: str, options: Iterable[str]) -> UserError:
    """The error for a name that is not among `options`: it lists them and the nearest match."""
    options = list(options)
    hint = nearest(name, options)
    return UserError(f"unknown {kind} {name!r}: {hint + ' ' if hint else ''}available: {', '.join(options) or 'none'}")
