"""The scales of a suite: tables of [scales], of which one is merged over the file, key by key.

So one file says what is compared, and a table for each size of machine by which means. Whatever is wrong in a scale is
told with its own line, of those that are not chosen too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dinobench.errors import UserError, unknown_name
from dinobench.suite.mistakes import Source
from dinobench.suite.places import Place
from dinobench.suite.table import said

#: The key that says which scale is meant, and the table of all.
CHOICE, TABLE = "scale", "scales"


def applied(document: Mapping[str, Any], source: Source, asked: str | None) -> tuple[dict[str, Any], str]:
    """(the document with a scale merged over it, the scale's name); `asked` is that of the command line.

    The lines of `source` become those of the merged document. A file without [scales] stays as it is, and its scale is
    "". Raises UserError for an asked one that is not there.
    """
    plain = {key: value for key, value in document.items() if key not in (CHOICE, TABLE)}
    given, name = document.get(TABLE), document.get(CHOICE) if asked is None else asked
    known = _known(given, source) if TABLE in document else {}
    if asked is not None and asked not in known:
        raise unknown_name("scale", asked, known) if known else UserError(f"--scale {asked}: {source.shown} has none")
    if not known:
        if CHOICE in document and TABLE not in document:
            source.wrong((CHOICE,), f"there is no [scales.{name}]: write one, or leave the key out")
        return plain, ""
    if type(name) is not str or name not in known:
        if name is None:
            source.wrong((TABLE,), f"write scale = {next(iter(known))!r} at the top of the file, or give --scale")
        elif type(name) is str:
            source.unknown((CHOICE,), "scale", name, known)
        else:
            source.wrong((CHOICE,), f"a text is needed, not {said(name)}")
        return plain, ""
    return _over(plain, known[name], (TABLE, name), source), name


def others(document: Mapping[str, Any], source: Source, chosen: str) -> Iterator[tuple[dict[str, Any], Source, str]]:
    """(the document, where its mistakes go, the name) of every scale that is not chosen.

    Its models are left out: files that another machine has need not be here.
    """
    for name, table in (document.get(TABLE, {}) if chosen else {}).items():
        if name != chosen and isinstance(table, dict):
            own = {key: value for key, value in table.items() if key != "models"}
            probe = Source(source.shown, source.written)
            plain = {key: value for key, value in document.items() if key not in (CHOICE, TABLE)}
            yield _over(plain, own, (TABLE, name), probe), probe, name


def _known(given: Any, source: Source) -> dict[str, Mapping[str, Any]]:
    if not isinstance(given, dict) or not given:
        source.wrong((TABLE,), f"tables are needed, as in [scales.cpu], not {said(given) if given else 'an empty one'}")
        return {}
    for name, table in given.items():
        if not isinstance(table, dict):
            source.wrong((TABLE, name), f"a table is needed, not {said(table)}")
    return {name: table for name, table in given.items() if isinstance(table, dict)}


def _over(plain: Mapping[str, Any], scale: Mapping[str, Any], origin: Place, source: Source) -> dict[str, Any]:
    """The document under a scale; a table `run` there has changes to every [[run]] of a protocol, by its name."""
    lines = dict(source.lines)
    rest = {key: value for key, value in scale.items() if key != "run" or not isinstance(value, dict)}
    merged = _merged(plain, rest, (), origin, lines)
    runs = merged.get("run")
    if isinstance(scale.get("run"), dict) and isinstance(runs, list):
        merged["run"] = runs = list(runs)
        protocols = [run.get("protocol") for run in runs if isinstance(run, dict)]
        for protocol, changes in scale["run"].items():
            place: Place = (*origin, "run", protocol)
            if protocol not in protocols:
                source.unknown(place, "protocol of a [[run]]", protocol, [p for p in protocols if isinstance(p, str)])
            elif not isinstance(changes, dict):
                source.wrong(place, f"a table is needed, not {said(changes)}")
            else:
                for index, run in enumerate(runs):
                    if isinstance(run, dict) and run.get("protocol") == protocol:
                        runs[index] = _merged(run, changes, ("run", index), place, lines)
    source.lines = lines
    return merged


def _merged(
    base: Mapping[str, Any], over: Mapping[str, Any], place: Place, origin: Place, lines: dict[Place, int]
) -> dict[str, Any]:
    """`over`, which stands at `origin` in the file, over `base`, which stands at `place`; `lines` follow."""
    merged = dict(base)
    for key, value in over.items():
        at, to = (*origin, key), (*place, key)
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value, to, at, lines)
            continue
        merged[key] = value
        for old in [old for old in lines if old[: len(to)] == to]:
            del lines[old]
        lines.update({(*to, *old[len(at) :]): line for old, line in list(lines.items()) if old[: len(at)] == at})
    return merged
