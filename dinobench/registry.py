"""Finding protocols by name through entry points: built-in ones and third parties' alike.

Listing names imports nothing. Two providers of one name, or a requested plugin that fails to import, is an error that
names the distributions.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dinobench.errors import UserError, unknown_name
from dinobench.types import EvalProtocol

GROUP = "dinobench.protocols"


def provider(entry: EntryPoint) -> str:
    """The distribution an entry point comes from, as 'name version'."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed distribution"


def available(group: str = GROUP) -> dict[str, list[EntryPoint]]:
    """Names and who provides each, without importing any of them; more than one provider is a conflict."""
    entries: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        if entry not in entries.setdefault(entry.name, []):
            entries[entry.name].append(entry)
    return dict(sorted(entries.items()))


def find(kind: str, name: str, group: str) -> Any:
    """What the entry point `name` of a group stands for, imported; `kind` is what messages call it.

    Raises UserError when it is unknown, provided twice or broken.
    """
    entries = available(group)
    if name not in entries:
        raise unknown_name(kind, name, list(entries))
    if len(entries[name]) > 1:
        raise UserError(
            f"{kind} {name!r} is provided by {' and '.join(provider(e) for e in entries[name])}: uninstall one of them"
        )
    entry = entries[name][0]
    try:
        return entry.load()
    except Exception as error:
        raise UserError(
            f"{kind} {name!r} of {provider(entry)} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def load(name: str, group: str = GROUP) -> EvalProtocol:
    """The protocol called `name`. Raises UserError when unknown, provided twice, broken or incomplete."""
    protocol: EvalProtocol = find("protocol", name, group)
    lacking = [a for a in EvalProtocol.__annotations__ if not hasattr(protocol, a)]
    if lacking:
        raise UserError(f"protocol {name!r} of {provider(available(group)[name][0])} lacks {', '.join(lacking)}")
    return protocol
