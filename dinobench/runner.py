"""One run from line to line: resolve, load, extract, score, check, put intervals on, record.

The only place that seeds, times and writes; a protocol's `run` does none of these.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import dinobench
from dinobench import console, lazy, registry, runtime, tracking
from dinobench.config import flat
from dinobench.data import check_tests, load_datasets
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.escaping import ShownRecords
from dinobench.evaluations.asked import data_by_kind, evaluations, resolve_configs
from dinobench.evaluations.evaluation import Evaluation
from dinobench.evaluations.kept import Kept
from dinobench.files import file_name, writable_folder
from dinobench.inputs import reading_lines, recorded
from dinobench.models.sources import references
from dinobench.results import known_runs, leaderboard, records
from dinobench.results.provenance import git_state, peak_memory_mb, versions
from dinobench.types import (
    ComputeOptions,
    ImageClassification,
    LoadOptions,
    Metric,
    MetricValue,
    Result,
    RunRecord,
)

with lazy.imports():
    import pandas as pd

    from dinobench.context import RunContext, cache_folder
    from dinobench.features.service import FeatureService
    from dinobench.results import reports
    from dinobench.stats import intervals


def run(
    protocol: str | Sequence[str] = "knn",
    ckpt: str | Path | Sequence[str | Path] = (),
    data: str | Sequence[str] = "digits",
    *,
    test: str | Sequence[str] = (),
    profile: str | Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = "results",
    save: str | Path | None = None,
    force: bool = False,
    skip_broken: bool = False,
    finished: Callable[[list[RunRecord]], None] | None = None,
    track: str | Sequence[str] = (),
    loading: LoadOptions = LoadOptions(),
    compute: ComputeOptions = ComputeOptions(),
    kept: Kept | None = None,
) -> list[RunRecord]:
    """Score checkpoints with protocols; returns the records in the order of the checkpoints, protocol by protocol.

    Several data sets come one after the other within a protocol, each for the protocols that score its kind.

    ckpt: a path, `hf:<owner>/<model>`, `timm:<model>`, `random:<model>`, `pixels` or another reference, any of them as
    `name=...`, or several. data: a path, `name=path` or an embedded set, or several. test: `name=path` of images from
    elsewhere to score on in the place of data's own, such as `imagenet-a=path`, or several. profile: a named set of
    settings, or one for each protocol by its name. settings change the profile's values by name in every protocol that
    has them, by `protocol.name` in that one, as `--set` does. limit: use so many items of every split, the same ones
    everywhere (`dinobench.data.limits`); it goes into the profile's name, and such scores are never ranked with those
    of all items. Records, per-item scores and the leaderboard are written to `out` (nowhere when None); a run
    found there is not repeated unless `force`. save: a folder for the files that runs make, such as DAVIS's masks or a
    fine-tuned model; asking for them runs again what is finished. skip_broken: leave out images that cannot be read,
    and count them in the record.
    finished: called with the records of a protocol on a data set as soon as they are all there.
    track: trackers that show the records too: `tensorboard=DIR`, `mlflow=URI`, `wandb=PROJECT` (`dinobench.tracking`).
    kept: what earlier runs of this process have left, and this one leaves to the next; the leaderboard then follows as
    often as is cheap, and the caller rebuilds it at the end.
    Evaluations that a backbone cannot fill (attention of a ResNet) are left out with a note.

    Raises UserError for anything the caller can put right.
    """
    follow, kept = (_rebuild, Kept()) if kept is None else (kept.follow, kept)
    names = [protocol] if isinstance(protocol, str) else protocol
    protocols = [kept.once("protocol", p, partial(registry.load, p)) for p in names]
    resolve = partial(resolve_configs, protocols, profile, settings or {})
    pairs = list(zip(protocols, kept.once("config", repr((names, profile, settings)), resolve), strict=True))
    for one, its in pairs:
        registry.metrics_of(one, its.config)  # what fails here would fail after hours of work
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: a whole number from 0 to 2^63 - 1 is needed")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least one item of every split is needed")
    specs = [ckpt] if isinstance(ckpt, str | Path) else list(ckpt)
    if not specs:
        raise UserError(
            "no checkpoint given: --ckpt takes a path, hf:<owner>/<model>, timm:<model>, random:<model> or pixels"
        )
    named = [references.split_name(str(spec)) for spec in specs]
    folder = Path(out) if out is not None else None
    tests = [test] if isinstance(test, str) else list(test)
    for deaf in [p.name for p in protocols if tests and not getattr(p, "other_tests", False)]:
        raise UserError(f"--test: {deaf} scores the test images of --data alone; protocols such as knn score others")

    tracks = [track] if isinstance(track, str) else list(track)

    @cache
    def places() -> tuple[dict[str, list[str]], list[str]]:
        return data_by_kind(protocols, [data] if isinstance(data, str) else list(dict.fromkeys(data)))

    @cache
    def data_sets() -> dict[str, Sequence[Any]]:
        def load(kind: str, spec: str) -> Sequence[Any]:
            make = partial(load_datasets, spec, kind, tests, progress=console.progress)
            return kept.once("data", (kind, spec, *tests, os.getcwd()), make)

        return {kind: [d for spec in specs for d in load(kind, spec)] for kind, specs in places()[0].items()}

    def tell_left_out() -> None:
        for line in places()[1]:
            console.warn(line)

    def asked(backbones: Sequence[Any], precision: str) -> list[Evaluation]:
        return evaluations(pairs, data_sets(), backbones, seed, precision, limit)

    if not runtime.launched():  # before anything is imported that takes seconds
        runtime.check(compute.device, compute.devices, compute.precision)
        for _, spec in named:
            references.check(spec)
        places()
        check_tests(tests)
        tracking.check(tracks)
        unasked = compute.cache and not force and save is None and compute.precision != "auto"
        if folder is not None and unasked and not kept.has("runtime"):  # with it, what is done is found below
            infos = [known_runs.recalled(spec, name=name, seed=seed, **vars(loading)) for name, spec in named]
            if earlier := known_runs.all_of(
                [p.name for p in protocols if places()[0][p.data]], infos, folder, skip_broken,
                lambda backbones: asked(backbones, compute.precision),
            ):  # fmt: skip
                tell_left_out()
                follow(folder)
                with closing(tracking.open_trackers(tracks)) as trackers:
                    trackers.records(earlier)
                return ShownRecords(earlier)
    where = compute.device, compute.devices, compute.precision
    started = kept.once("runtime", where, partial(runtime.start, *where))
    console.silent = started.rank > 0
    tell_left_out()
    runtime.seed_everything(seed)
    if folder is not None:
        started.run_on_first(lambda: kept.once("folder", folder, lambda: records.prepare(folder)))
    if save is not None and any(getattr(p, "saves", "") for p in protocols):
        started.run_on_first(lambda: writable_folder(Path(save)))
    # Hashing a large data set is done once by the first process; the others find the sums remembered.
    started.run_on_first(data_sets)
    remember = compute.cache and started.rank == 0
    backbones = started.run_on_all(lambda: kept.backbones(named, loading, seed, remember))
    wanted = started.run_on_all(lambda: asked(backbones, started.precision))
    trackers = started.run_on_first(lambda: tracking.open_trackers(tracks)) or tracking.Trackers()

    def done_with(records: list[RunRecord]) -> None:
        if finished is not None:
            finished(records)
        trackers.records(records)

    with cache_folder(compute.cache, started) as root, closing(trackers):
        options: dict[str, Any] = {
            "skip_broken": skip_broken, "batch_size": compute.batch_size, "workers": compute.workers,
        }  # fmt: skip
        make = partial(FeatureService, started, root, **options)
        service = kept.once("service", (*where, root, *options.values()), make)
        ram_bytes = None if compute.ram_gb is None else int(compute.ram_gb * 1e9)
        ctx = RunContext(started, service, seed, root, Path(save) if save else None, ram_bytes=ram_bytes, **options)
        done = _run_all(wanted, ctx, folder, force or save is not None, done_with)
        trackers.records(done)
    if folder is not None:
        started.run_on_first(lambda: follow(folder))
    return ShownRecords(done)


def _rebuild(folder: Path) -> None:
    _, broken = leaderboard.rebuild(folder)
    for path, reason in broken:
        console.warn(f"{path}: left out of the leaderboard: {reason}")


def _run_all(
    evaluations: list[Evaluation],
    ctx: RunContext,
    out: Path | None,
    force: bool,
    finished: Callable[[list[RunRecord]], None],
) -> list[RunRecord]:
    done: dict[str, RunRecord] = {}
    if out is not None and not force and ctx.rank == 0:
        done = known_runs.earlier(evaluations, out, ctx.skip_broken)
    done = ctx.runtime.broadcast(done)
    known_runs.tell(done, out)
    pending = []
    for evaluation in evaluations:
        name, info = evaluation.protocol.name, evaluation.backbone.info
        if lacks := evaluation.lacks():
            console.warn(f"{name} is not applicable to {info.name} ({info.arch}): no {', '.join(lacks)}")
        elif evaluation.run_id not in done:
            pending.append(evaluation)
    for name in dict.fromkeys(e.protocol.name for e in pending if ctx.saves and not getattr(e.protocol, "saves", "")):
        console.note(f"--save: {name} makes no files to keep")
    for line in reading_lines([e.backbone for e in pending]):
        console.note(line)
    ctx.service.prepare([(e.backbone, split, request) for e in pending for split, request in e.requests()])
    for position, evaluation in enumerate(pending):
        own = dataclasses.replace(
            ctx,
            scratch=ctx.scratch.parent / "scratch" / evaluation.run_id,
            folder=_folder(ctx.folder, evaluation, evaluations),
            broken=set(),
            zeros=set(),
        )
        ctx.service.residents.only([evaluation.backbone])
        try:
            record, result = score(evaluation, own)
        except UnsupportedCapability as error:
            console.warn(f"{evaluation.protocol.name} is not applicable: {error}")
            continue
        if out is not None:
            record = ctx.runtime.run_on_first(partial(write, out, record, result)) or record
        if ctx.rank == 0:  # what a training kept to go on from has served
            shutil.rmtree(own.scratch, ignore_errors=True)
        done[evaluation.run_id] = record
        if all(e.table != evaluation.table for e in pending[position + 1 :]):
            finished([done[e.run_id] for e in evaluations if e.table == evaluation.table and e.run_id in done])
    return [done[e.run_id] for e in evaluations if e.run_id in done]


def write(out: Path, record: RunRecord, result: Result) -> RunRecord:
    """The record as written, which knows the digest of its items."""
    return records.read_file(records.write(out, record, result.items))


def _folder(save: Path | None, evaluation: Evaluation, evaluations: Sequence[Evaluation]) -> Path | None:
    """Where an evaluation's files go: into folders by protocol, data set and model as far as there are several."""
    if save is None:
        return None
    protocol = evaluation.protocol.name
    if len({e.protocol.name for e in evaluations}) > 1:
        save = save / file_name(protocol)
    if len({e.data.name for e in evaluations if e.protocol.name == protocol}) > 1:
        save = save / file_name(evaluation.data.name)
    if len({e.backbone.info.name for e in evaluations}) > 1:
        save = save / file_name(evaluation.backbone.info.name)
    return save


def _zeros(images: Sequence[str]) -> list[str]:
    """What is said of images of which a backbone's ReLU has left nothing."""
    if not images:
        return []
    from dinobench.features.extraction import NAMED

    listed = ", ".join(images[:NAMED]) + ", …" * (len(images) > NAMED)
    return [f"the feature of {len(images):,} images is zeros alone, whose similarity to all others is 0: {listed}"]


def score(evaluation: Evaluation, ctx: RunContext) -> tuple[RunRecord, Result]:
    """Run the protocol on one cell and make its record."""
    runtime.seed_everything(evaluation.seed)
    started_at, began = datetime.now(UTC), time.monotonic()
    with registry.answering("protocol", evaluation.protocol.name):
        result = evaluation.protocol.run(evaluation.backbone, evaluation.data, evaluation.resolved.config, ctx)
        if not isinstance(result, Result):
            raise TypeError(f"run returned {registry.shortened(result)}, not a dinobench.types.Result")
        if result.items is not None and not (isinstance(result.items, pd.DataFrame) and "id" in result.items):
            raise TypeError(f"items is {registry.shortened(result.items)}, not a DataFrame with a column id")
    declared: Sequence[Metric] = registry.metrics_of(evaluation.protocol, evaluation.resolved.config)
    if report := getattr(evaluation.data, "report", None):
        declared = reports.extend(report, result, declared)
    duration = time.monotonic() - began
    leak = evaluation.data.leak if isinstance(evaluation.data, ImageClassification) else None
    with registry.answering("protocol", evaluation.protocol.name):  # for what it returned
        result.notes.extend([*getattr(evaluation.data, "notes", ()), *([leak] if leak else [])])
        result.notes.extend(_zeros([name for _, name in sorted(set().union(*ctx.runtime.gather_objects(ctx.zeros)))]))
        if result.items is not None and result.cluster:
            result.items.attrs["cluster"] = result.cluster  # kept in the file, for tests of one run against another
        values = with_intervals(evaluation.protocol.name, declared, result, evaluation.seed)
    for message in result.notes:
        console.note(f"{evaluation.backbone.info.name}: {message}")
    commit, dirty = git_state()
    broken = set().union(*ctx.runtime.gather_objects(ctx.broken))
    record = RunRecord(
        schema=records.SCHEMA,
        run_id=evaluation.run_id,
        protocol=evaluation.protocol.name,
        protocol_version=evaluation.resolved.version(evaluation.protocol),
        profile=evaluation.resolved.profile,
        config=flat(evaluation.resolved.config),
        config_hash=evaluation.resolved.hash(evaluation.protocol),
        dataset=evaluation.data.name,
        dataset_layout=evaluation.data.layout,
        dataset_fingerprint=evaluation.data.fingerprint,
        checkpoint=recorded(evaluation.backbone.info),
        seed=evaluation.seed,
        precision=evaluation.precision,
        metrics=values,
        primary=next((m.name for m in declared if m.primary and m.name in values), next(iter(values))),
        started_at=started_at.isoformat(timespec="seconds"),
        duration_s=round(duration, 3),
        device=runtime.device_name(ctx.device),
        processes=ctx.processes,
        peak_memory_mb=peak_memory_mb(),
        broken_images=len(broken),
        notes=tuple(result.notes),
        versions=versions(),
        dinobench_version=dinobench.__version__,
        git_commit=commit,
        git_dirty=dirty,
        leak=leak,
        lower_is_better=tuple(
            name for name in values if any(fnmatchcase(name, m.name) and not m.higher_is_better for m in declared)
        ),
    )
    return record, result


def with_intervals(protocol: str, declared: Sequence[Metric], result: Result, seed: int) -> dict[str, MetricValue]:
    """The result's metrics, checked against those declared and given intervals; a bug in a protocol raises ValueError.

    A declared name may be a pattern (`mAP_jpegqual*`); the order is that of the declaration.
    """
    checked: dict[str, MetricValue] = {}
    for metric in declared:
        for name, value in result.metrics.items():
            if name in checked or not fnmatchcase(name, metric.name):
                continue
            if not math.isfinite(value):
                raise ValueError(f"protocol {protocol} returned {name} = {value}")
            scale = 100 if metric.unit == "%" else 1
            n, interval = 0, result.intervals.get(name)
            if result.items is not None and name in result.items:
                column = result.items[name].to_numpy(dtype=np.float64)
                counts = ~np.isnan(column)
                n = int(counts.sum())
                mean = scale * float(column[counts].mean()) if n else math.nan
                if not math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-6):
                    raise ValueError(f"protocol {protocol}: {name} = {value} is not the mean of its items, {mean}")
                if interval is None:
                    groups = result.items[result.cluster].to_numpy()[counts] if result.cluster else None
                    bounds = intervals.interval(column[counts], clusters=groups, seed=seed)
                    interval = bounds and (scale * bounds[0], scale * bounds[1])
            elif result.items is not None:
                n = result.counts.get(name, len(result.items))
            low_high = interval or (None, None)
            checked[name] = MetricValue(float(value), low_high[0], low_high[1], n, metric.unit)
    undeclared = set(result.metrics) - set(checked)
    if undeclared or not checked:
        raise ValueError(
            f"protocol {protocol} returned undeclared metrics: {', '.join(sorted(undeclared)) or 'none at all'}"
        )
    return checked
