"""What one command asks for: several protocols, each with its own settings and on the data sets of its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinobench import lazy, registry
from dinobench.config import Resolved, resolve_config, settings_of, with_limit
from dinobench.data import check_place, kinds_of
from dinobench.errors import UserError, nearest, unknown_name
from dinobench.evaluations.evaluation import Evaluation
from dinobench.types import EvalProtocol

with lazy.imports():
    from dinobench.data.limits import limited


def parse_profiles(given: Sequence[str], protocols: Sequence[str]) -> dict[str, str]:
    """What `--profile NAME` and `--profile PROTOCOL=NAME` were given, by protocol; NAME alone goes for all others.

    Raises UserError where a protocol is given two.

    >>> parse_profiles(["cached", "knn=dinov2"], ["knn", "linear"])
    {'knn': 'dinov2', 'linear': 'cached'}
    """
    named: dict[str, str] = {}
    for text in given:
        protocol, _, profile = text.partition("=") if "=" in text else ("", "", text)
        if protocol in named:
            of = f" of {protocol}" if protocol else ""
            raise UserError(
                f"--profile: {named[protocol]} and {profile}{of}; give one, or --profile PROTOCOL=PROFILE for each"
            )
        named[protocol] = profile
    for_others = named.pop("", None)
    return ({} if for_others is None else dict.fromkeys(protocols, for_others)) | named


def resolve_configs(
    protocols: Sequence[EvalProtocol], profile: str | Mapping[str, str] | None, settings: Mapping[str, Any]
) -> list[Resolved]:
    """`resolve_config` for several protocols asked for together.

    profile: one that all of them have, or of each its own by the protocol's name; the first of those not named.
    settings: a name is changed in every protocol that has it, `protocol.name` in that one, whatever goes for the
    others.

    Raises UserError where none has a setting, and for a protocol that is not among them.
    """
    names = [p.name for p in protocols]
    profiles = dict.fromkeys(names, profile) if profile is None or isinstance(profile, str) else dict(profile)
    for name in profiles:
        _among(f"the profile {name}={profiles[name]}", name, names)
    declared = {p.name: settings_of(next(iter(p.profiles.values()))) for p in protocols}
    known = list(dict.fromkeys(name for its in declared.values() for name in its))
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in settings.items():
        takers = [name for name in own if key in declared[name]]
        if "." not in key and not takers:
            raise unknown_name(f"setting of {' or '.join(own)}", key, known)
        for name in takers:
            own[name][key] = value
    for key, value in settings.items():
        name, dot, setting = key.partition(".")
        if dot:
            _among(f"the setting {key}", name, names)
            own[name][setting] = value
    return [resolve_config(p, profiles.get(p.name), own[p.name]) for p in protocols]


def _among(what: str, name: str, names: Sequence[str]) -> None:
    """Raises UserError where `name`, which goes before `what`, is no protocol that was asked for."""
    if name not in names:
        hint = nearest(name, names)
        asked = ", ".join(names)
        raise UserError(f"{what}: {name!r} is not among the protocols asked for ({asked}){hint and f'; {hint}'}")


def evaluations(
    pairs: Sequence[tuple[EvalProtocol, Resolved]],
    sets: Mapping[str, Sequence[Any]],
    backbones: Sequence[Any],
    seed: int,
    precision: str,
    limit: int | None = None,
) -> list[Evaluation]:
    """Every protocol with every backbone, on the data that the protocol chooses: at most `limit` items of each split.

    sets: the data sets by kind. Raises UserError where two of a kind have one name.
    """
    for kind, found in sets.items():
        names = [data.name for data in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(
                f"{names.count(twice[0])} data sets of kind {kind} are called {twice[0]!r}: name them, as in "
                f"--data a=PATH --data b=PATH"
            )

    def chosen(protocol: EvalProtocol, resolved: Resolved) -> list[Any]:
        select = getattr(protocol, "select_data", lambda data, config: data)
        with registry.answering("protocol", protocol.name):
            selected = [select(data, resolved.config) for data in sets[protocol.data]]
        for data in selected if not getattr(protocol, "several_classes", False) else ():
            if getattr(data, "verdicts", None) is not None:
                raise UserError(f"{protocol.name}: an image of {data.name} shows several classes; take logreg for it")
        return selected if limit is None else [limited(data, protocol.data, limit) for data in selected]

    return [
        Evaluation(p, with_limit(r, limit), d, b, seed, precision)
        for p, r in pairs for d in chosen(p, r) for b in backbones
    ]  # fmt: skip


def data_by_kind(protocols: Sequence[EvalProtocol], specs: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The data sets named by `specs` for each kind that protocols score on, and in a line each what no protocol gets.

    Only names and layouts are looked at. Raises UserError for one that none of the protocols can be scored on.
    """
    kinds = list(dict.fromkeys(p.data for p in protocols))
    if len(kinds) == len(specs) == 1:  # reading it says more about what is wrong
        check_place(specs[0], kinds[0])
        return {kinds[0]: list(specs)}, []
    of_spec = {spec: kinds_of(spec, kinds) for spec in specs}
    return {kind: [spec for spec, taken in of_spec.items() if kind in taken] for kind in kinds}, [
        f"{protocol.name} is not run on {spec}, which is not {protocol.data}"
        for protocol in protocols for spec, taken in of_spec.items() if protocol.data not in taken
    ]  # fmt: skip
