"""What is the same for the arguments of every command: `~` is expanded in paths, and nothing is dropped.

Typer keeps the last of an option that is given twice, and a shell expands `~` only where a word begins with it.
"""

from __future__ import annotations

import functools
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from dinobench.errors import UserError
from dinobench.files import user_path

#: Options of how to compute, which people append to a command of theirs: the last one counts.
LAST_COUNTS = ("--device", "--devices", "--precision", "--batch-size", "--workers", "--ram-cache", "--seed")


def install(app: typer.Typer) -> None:
    """Let every command of an app, and of the groups in it, expand `~` in its paths."""
    for _, command in commands(app):
        command.callback = _expanding(command.callback)


def commands(app: typer.Typer, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    for command in app.registered_commands:
        assert command.callback is not None
        yield (*names, command.name or command.callback.__name__.replace("_", "-")), command
    for group in app.registered_groups:
        assert group.typer_instance is not None and group.name
        yield from commands(group.typer_instance, *names, group.name)


def refuse_repeated(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Raises UserError for an option that is given twice and of which one would be dropped."""
    command = next((c for words, c in commands(app) if tuple(arguments[: len(words)]) == words), None)
    if command is None:
        return
    once = _options_that_take_one_value(command.callback)
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    given = Counter(once[name] for a in arguments[:ends] if (name := a.partition("=")[0]) in once)
    for option, times in given.items():
        if times > 1:
            raise UserError(f"{option} is given {times} times and takes one value; run the command once for each")


def _options_that_take_one_value(callback: Callable[..., Any]) -> dict[str, str]:
    """Every spelling of an option that is neither a flag nor a list -> its long name."""
    spellings = {}
    for name, hint in typing.get_type_hints(callback, include_extras=True).items():
        kind, *extras = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        option = next((e for e in extras if isinstance(e, typer.models.OptionInfo)), None)
        accepted = typing.get_args(kind) or (kind,)
        if option is None or bool in accepted or any(typing.get_origin(k) is list for k in (kind, *accepted)):
            continue
        # The first spelling stands where other options have their default, as typer takes it from an annotation.
        declared = [d for d in (option.default, *(option.param_decls or ())) if isinstance(d, str) and d[:1] == "-"]
        declared = declared or [f"--{name.replace('_', '-')}"]
        spellings.update(dict.fromkeys(declared, declared[-1]))
    return {spelling: name for spelling, name in spellings.items() if name not in LAST_COUNTS}


def _expanding(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return callback(*args, **{k: user_path(v) if isinstance(v, Path) else v for k, v in kwargs.items()})

    return wrapper
