"""How records, checkpoints, protocols and caches are shown to people, and as JSON to programs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dinobench import console
from dinobench.cli.display import layout
from dinobench.errors import PluginFault, UserError
from dinobench.inputs import input_of
from dinobench.types import MetricValue, RunRecord

if TYPE_CHECKING:
    from dinobench.bench.measure import BenchRow
    from dinobench.config import Setting
    from dinobench.models.loading import Inspection

T = TypeVar("T")


def records_json(runs: Sequence[RunRecord]) -> str:
    """The records as one JSON array."""
    from dinobench.results.records import as_dict

    return json.dumps([as_dict(r) for r in runs], indent=2, ensure_ascii=False)


def schema() -> None:
    """The JSON Schema of a record."""
    from dinobench.results.schema import record_schema

    console.text(json.dumps(record_schema(), indent=2))


def records(runs: Sequence[RunRecord], out: Path | None) -> None:
    """A table for every protocol, profile and data set: backbones down, metrics across."""

    def group(record: RunRecord) -> tuple[str, ...]:
        return record.protocol, record.profile, record.dataset, record.config_hash, record.dataset_fingerprint

    for (protocol, profile, dataset, *_), members in groupby(sorted(runs, key=group), key=group):
        rows = list(members)
        first = rows[0]
        names = [first.primary, *(n for n in first.metrics if n != first.primary)]
        primary = first.metrics[first.primary]
        layout.table(
            f"{protocol} · {profile} · {dataset} · n = {primary.n:,} · {primary.unit}, 95 % interval",
            ["model", "arch", *names],
            [[r.checkpoint.name, r.checkpoint.arch, *_cells(r, names)] for r in rows],
            right=names,
        )
    if out is not None:
        console.note(f"records and leaderboard.csv are in {out}/")


def _cells(record: RunRecord, names: Iterable[str]) -> list[str]:
    return [_cell(record.metrics.get(n), interval=n == record.primary) for n in names]


def _cell(metric: MetricValue | None, interval: bool) -> str:
    if metric is None:
        return ""
    if interval and metric.ci_low is not None and metric.ci_high is not None:
        return f"{metric.value:.1f} [{metric.ci_low:.1f}, {metric.ci_high:.1f}]"
    return f"{metric.value:.1f}"


def inspection(result: Inspection) -> None:
    """Format, architecture, coverage and digest of a checkpoint."""
    info = result.info
    facts = {
        "file": info.path,
        "format": info.format,
        "method": info.method,
        "loaded from": result.keys[0] if result.keys else "the whole model",
        "also in the file": ", ".join(result.keys[1:]) or "nothing",
        "architecture": info.arch,
        "patch size": info.patch_size,
        "width, depth, heads": f"{info.embed_dim}, {info.depth}, {info.heads}",
        "registers": info.registers,
        "image size": info.image_size,
        "input": input_of(info),
        **({} if info.pool is None else {"pool": info.pool}),
        "epoch": info.epoch,
        "file sha256": info.sha256 or None,
        "weights digest": info.weights_digest,
        "tensors matched": len(result.matched),
        "missing": _names(result.missing),
        "left over": _names(result.unexpected),
        "not of the backbone": _names(result.ignored),
        "not finite": _names(result.non_finite),
    }
    layout.table("", ["", ""], [[k, "-" if v is None else v] for k, v in facts.items()])
    told = [[name, _fact(value), origin] for name, value, origin in result.facts]
    layout.table("what no tensor tells", ["", "", "who says so"], told)


def _fact(value: Any) -> str:
    """A fact of a model in a cell: (14, 28) as 14 x 28, the numbers of channels with commas."""
    if isinstance(value, tuple):
        return (" x " if len(value) == 2 else ", ").join(f"{v:g}" for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _names(names: Sequence[str], shown: int = 8) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)}: {', '.join(names[:shown])}{more}" if names else "none"


def inspection_json(result: Inspection) -> str:
    info = dataclasses.replace(result.info, input=input_of(result.info))
    return json.dumps(dataclasses.asdict(dataclasses.replace(result, info=info)), indent=2, ensure_ascii=False)


def protocols() -> None:
    """Every protocol, who provides it, its profiles and what it measures."""
    from dinobench.registry import load, metrics_of

    def row(name: str, source: str) -> list[str]:
        protocol = load(name)
        default = next(iter(protocol.profiles.values()))
        primary = next((m.name for m in metrics_of(protocol, default) if m.primary), "")
        return [name, protocol.summary, ", ".join(protocol.profiles), primary, protocol.data, source]

    rows = [*_each(row)]
    layout.table("", ["protocol", "what it measures", "profiles", "primary metric", "data", "from"], rows)


def profiles() -> None:
    """Every setting of every protocol: its value in each profile, its meaning and its source."""
    from dinobench.config import plain, settings_of
    from dinobench.registry import load

    for protocol in _each(lambda name, source: load(name)):
        settings = {profile: settings_of(config) for profile, config in protocol.profiles.items()}
        default = next(iter(settings.values()))
        layout.table(
            f"{protocol.name} (version {protocol.version}): {protocol.summary}",
            ["setting", *settings, "meaning", "source"],
            [[s.name, *(plain(profile[s.name].value) for profile in settings.values()), s.doc, s.source]
             for s in default.values()],
        )  # fmt: skip


def one(name: str) -> None:
    """A protocol, or else a pretraining method: what it is for, and a line for each setting with default and meaning.

    Raises UserError for a name of neither.
    """
    from dinobench.config import plain, settings_of
    from dinobench.registry import METHODS, available, load, metrics_of

    if name in available(METHODS) and name not in available():
        from dinobench.pretrain.run import load_method

        method = load_method(name)
        console.text(f"{name}: {method.summary}\n")
        return _settings(settings_of(method.config_type()))
    protocol = load(name)
    default, *others = protocol.profiles
    settings = settings_of(protocol.profiles[default])
    measured = [m.name for m in metrics_of(protocol, protocol.profiles[default])]
    console.text(f"{name} (version {protocol.version}): {protocol.summary}")
    console.text(layout.folded(f"data: {protocol.data} · metrics: {', '.join(measured)}", console.stdout.width))
    console.text(f"\nsettings of {default}, the default:")
    _settings(settings)
    for other in others:
        changed = settings_of(protocol.profiles[other])
        differs = [s for s, had in zip(changed.values(), settings.values(), strict=True) if s.value != had.value]
        said = f"profile {other}: {', '.join(f'{s.name}={plain(s.value)}' for s in differs) or 'the same'}"
        console.text("\n" + layout.folded(said, console.stdout.width))
    return None


def _settings(settings: Mapping[str, Setting]) -> None:
    from dinobench.config import plain

    rows = [[s.name, layout.folded(plain(s.value), layout.NARROW), s.doc] for s in settings.values()]
    layout.table("", ["setting", "default", "meaning"], rows)


def methods() -> None:
    """Every pretraining method with its settings: default, meaning and source."""
    from dinobench.config import plain, settings_of
    from dinobench.pretrain.run import load_method
    from dinobench.registry import METHODS

    for method in _each(lambda name, source: load_method(name), METHODS):
        rows = [[s.name, plain(s.value), s.doc, s.source] for s in settings_of(method.config_type()).values()]
        layout.table(f"{method.name}: {method.summary}", ["setting", "default", "meaning", "source"], rows)


def _each(look: Callable[[str, str], T], group: str | None = None) -> Iterator[T]:
    """`look(name, distribution)` of every plug-in of a group; one that cannot be used is warned of and hides no other.

    The group is the protocols' where none is given.
    """
    from dinobench.registry import GROUP, available, provider

    for name, entries in available(group or GROUP).items():
        try:
            found = look(name, provider(entries[0]))
        except (UserError, PluginFault) as error:
            console.warn(str(error))
        else:
            yield found


def layouts() -> None:
    """Every layout of data sets that `--data` recognises."""
    from dinobench.data import known_layouts

    for kind, name, summary in known_layouts():
        console.text(f"{name} ({kind})\n{layout.prose(summary, indent=2)}\n")


def cache() -> None:
    """The entries of the feature cache."""
    from dinobench.features.cache import listing
    from dinobench.files import cache_root

    entries = listing(cache_root() / "features")
    if entries:
        columns = ["entry", "model", "arch", "images", "features", "MB", "state", "last used"]
        layout.table("", columns, [
            [e.folder.name[:12], *(e.label.get(c, "") for c in columns[1:5]), f"{e.bytes / 1e6:,.1f}",
             "complete" if e.complete else "unfinished", time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used_at))]
            for e in entries
        ], right=["MB"])  # fmt: skip
    console.note(
        f"{len(entries)} entries, {sum(e.bytes for e in entries) / 1e6:,.1f} MB in {cache_root() / 'features'}"
    )


def bench(rows: Sequence[BenchRow]) -> None:
    """Measurements beside the limit they are held against."""
    verdict = {None: "", True: "met", False: "not met"}
    layout.table(
        "", ["measured", "ours", "limit", "ratio", "bar", ""],
        [[r.what, r.ours, r.limit, f"{r.ratio:.2f}", r.bar, verdict[r.met]] for r in rows],
        right=["ours", "limit", "ratio"],
    )  # fmt: skip
