"""Fills README.md beside it from the records, histories and settings of this folder: `python page.py`.

Every number on the page comes from there, its tables from what writes those of `dinobench compare`; what has no record
yet is left out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dinobench.compare.all_pairs import all_pairs, difference_text
from dinobench.compare.all_pairs import to_markdown as triangle
from dinobench.compare.pair import PairResult, compare, corrected
from dinobench.compare.pair_files import LEVEL
from dinobench.compare.table import compare as table
from dinobench.compare.ties import TellByItems, tied
from dinobench.compare.writers import markdown_text, to_markdown
from dinobench.pretrain import run as runs
from dinobench.pretrain.history import read_metrics
from dinobench.report.charts import bars_of, groups
from dinobench.report.marks import put
from dinobench.report.svg import Bars, Point, Series, chart
from dinobench.report.svg_file import bars_to_svg, to_svg
from dinobench.results.listing import read_folder
from dinobench.stats.paired_tests import FEWEST
from dinobench.stats.rank_correlation import RankCorrelation, rank_correlation
from dinobench.types import RunRecord

#: The trainings of each question, as study.toml calls them.
DINO, START, PIXELS, SUPERVISED = "dino", "dino-start", "pixels16", "supervised"
METHODS = ("byol", "simclr", "mocov2", "mocov3", DINO, SUPERVISED)
ABLATIONS = ("no-multi-crop", "no-momentum-teacher", "no-centring", "no-sharpening", "sinkhorn", "mse", "predictor")
FINE, FINE_START = "other-patch", "other-patch-start"
#: Metrics of the tables about what images show, and of those about where.
WHAT, WHERE = ("top1@k20", "top1", "rankme", "cluster_accuracy"), ("jaccard", "J&F")
#: Where the second of these are scored.
PLACES = (("attention", "VOC2012"), ("attention", "shapes"), ("davis", "DAVIS"))
#: Of `representation`: what no label decides.
MEASURES = ("rankme", "lidar", "alpha_req", "uniformity", "alignment", "twonn")
#: The settings that trials of a method may differ in, as the table of them calls these.
TRIED = {"lr": "lr", "teacher_temperature": "teacher's τ", "temperature": "τ", "momentum": "momentum"}
NOTHING = "No record yet.\n"


class Study:
    """The records, histories and settings of a folder, by the names of trainings."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.records, self.trials = (read_folder(folder)[0] for folder in (home, home / "selection"))

    def of(self, protocol: str, names: Sequence[str], dataset: str = "") -> list[RunRecord]:
        """The records of a protocol, in the order of the names."""
        runs = [r for r in self.records if r.protocol == protocol and dataset in ("", r.dataset)]
        found = {r.checkpoint.name: r for r in runs}
        return [found[name] for name in names if name in found]

    def pair(self, protocol: str, a: str, b: str, dataset: str = "") -> PairResult | None:
        found = self.of(protocol, (a, b), dataset)
        return compare(self.home, found[0], self.home, found[1]) if len(found) == 2 else None

    def history(self, name: str) -> list[dict[str, Any]]:
        return read_metrics(self.home / "training" / f"{name}.jsonl")

    def run(self, name: str, home: Path | None = None) -> runs.Run | None:
        """What a training was, as its run.json says."""
        folder = (home or self.home) / "training" / name
        return runs.read(folder) if (folder / runs.SETTINGS).exists() else None


def made(study: Study) -> Iterator[tuple[str, str]]:
    """What stands between the page's marks, by mark."""
    yield "findings", findings(study)
    yield "trainings", trainings(study)
    yield "selection", selection(study)
    yield "methods", scores(study, (*METHODS, START, PIXELS), WHAT)
    yield "pairs", pairs(study, (*METHODS, START, PIXELS))
    yield "needs", scores(study, (DINO, *ABLATIONS), WHAT) + against(study, ABLATIONS)
    yield "collapse", collapse(study)
    yield "patches", scores(study, (DINO, FINE, START, FINE_START), WHAT) + against(study, (FINE,))
    yield "places", scores(study, (*METHODS, *ABLATIONS, FINE, START, FINE_START), WHERE) + places(study)
    yield "measures", measures(study)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def scores(study: Study, names: Sequence[str], metrics: Sequence[str]) -> str:
    """What `dinobench compare --intervals --format markdown` writes of these models."""
    chosen = [r for r in study.records if r.checkpoint.name in names and set(metrics) & r.metrics.keys()]
    if not chosen:
        return NOTHING
    there = [metric for metric in metrics if any(metric in r.metrics for r in chosen)]
    with TellByItems(study.home) as tell:
        return to_markdown(table(chosen, metrics=there, tell=tell), "intervals")


def pairs(study: Study, names: Sequence[str]) -> str:
    found = {protocol: study.of(protocol, names) for protocol in ("knn", "linear")}
    parts = [
        f"`{protocol}`, {records[0].primary}, in points:\n\n{triangle(all_pairs(study.home, records))}"
        for protocol, records in found.items() if len(records) > 1
    ]  # fmt: skip
    return "\n".join(parts) or NOTHING


def changes(
    study: Study, protocol: str, names: Sequence[str], other: str = DINO, dataset: str = ""
) -> Sequence[PairResult]:
    """Each training less `other`, with p corrected over all of them."""
    return corrected([pair for name in names if (pair := study.pair(protocol, name, other, dataset))])


def against(study: Study, names: Sequence[str]) -> str:
    """`changes` as a table."""
    rows = [
        [protocol, markdown_text(pair.run_a.checkpoint.name), difference_text(pair)]
        for protocol in ("knn", "linear") for pair in changes(study, protocol, names)
    ]  # fmt: skip
    head = ["protocol", "training", f"less {DINO}, in points (p: Holm's over a protocol's rows)"]
    return "\n" + grid(head, rows) if rows else ""


def trainings(study: Study) -> str:
    """What was trained, and what it took."""
    path = study.home / "costs.csv"
    costs = {row["name"]: row["cpu_minutes"] for row in csv.DictReader(path.open())} if path.exists() else {}
    rows = []
    for name in (*METHODS, *ABLATIONS, FINE):
        if (run := study.run(name)) is None:
            continue
        base = study.run(DINO) if run.method == DINO and name != DINO else None
        told = run.config if base is None else {k: v for k, v in run.config.items() if v != base.config[k]}
        if base is None:
            told = {k: told[k] for k in ("lr", "teacher_temperature", "temperature", "momentum") if k in told}
        if base is not None and run.patch_size != base.patch_size:
            told["patch size"] = run.patch_size
        rows.append([
            markdown_text(name), run.method, views(run), ", ".join(f"{k} {plain(v)}" for k, v in told.items()),
            costs.get(name, ""),
        ])  # fmt: skip
    head = ["training", "method", "views of an image", "chosen settings; of ablations what is changed", "CPU minutes"]
    return grid(head, rows) if rows else NOTHING


def views(run: runs.Run) -> str:
    method = runs.load_method(run.method)
    made = method.views(runs.configure(method, run.config), run.image_size)
    sizes: dict[int, int] = {}
    for view in made:
        side = math.ceil(view.size / run.patch_size) * run.patch_size if run.patch_size else view.size
        sizes[side] = sizes.get(side, 0) + view.count
    return ", ".join(f"{count} of {side} px" for side, count in sizes.items())


def plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "–".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def selection(study: Study) -> str:
    """The trials of every method; those with the settings of its training are bold."""
    home, rows = study.home / "selection", []
    found = {r.checkpoint.name: r for r in study.trials if r.protocol == "knn"}
    for method in METHODS:
        trials = {name: run for name in found if (run := study.run(name, home)) is not None and run.method == method}
        tried = [k for k in TRIED if len({trial.config.get(k) for trial in trials.values()}) > 1]
        final = study.run(method)
        for name, trial in sorted(trials.items(), key=lambda item: [item[1].config[k] for k in tried]):
            m = found[name].metrics[found[name].primary]
            score = f"{m.value:.1f} [{m.ci_low:.1f}, {m.ci_high:.1f}]"
            taken = final is not None and all(final.config[k] == trial.config[k] for k in tried)
            told = ", ".join(f"{TRIED[k]} {plain(trial.config[k])}" for k in tried)
            rows.append([method, told, f"**{score}**" if taken else score])
    return grid(["method", "trial", "held-out k-NN (top-1, %)"], rows) if rows else NOTHING


def collapse(study: Study) -> str:
    """Entropy and KL over the epochs, drawn and at the end."""
    trained = {name: run for name in (DINO, *ABLATIONS) if (run := study.run(name)) is not None}
    histories = {name: epochs for name in trained if (epochs := study.history(name))}
    if not histories:
        return NOTHING
    parts = []
    for key, title in (("teacher_entropy", "teacher's entropy"), ("kl", "KL(teacher ‖ student)")):
        lines = [
            Series(name, [Point(row["epoch"], row[key]) for row in histories[name]], tone)
            for tone, name in enumerate(histories)
        ]  # fmt: skip
        parts.append(draw(study, key, chart(f"{title} (nats)", lines, "epoch", "")))
    rows = []
    for name, history in histories.items():
        last, outputs = history[-1], trained[name].config["out_dim"]
        rows.append([
            markdown_text(name), f"{last['teacher_entropy']:.2f}", f"{math.log(outputs):.2f}", f"{last['kl']:.3f}",
            f"{math.exp(last['teacher_mean_entropy']):.0f} of {outputs}", f"{last['teacher_effective_rank']:.1f}",
        ])  # fmt: skip
    head = ["training, last epoch", "teacher's entropy", "log K", "KL", "outputs in use", "effective rank of features"]
    return "\n".join(parts) + "\n\n" + grid(head, rows)


def draw(study: Study, name: str, drawn: Any) -> str:
    """The picture's file is written; returns what shows it."""
    folder = study.home / "pictures"
    folder.mkdir(exist_ok=True)
    text = bars_to_svg(drawn) if isinstance(drawn, Bars) else to_svg(drawn)
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    return f"![{drawn.title}](pictures/{name}.svg)"


def places(study: Study) -> str:
    """Every training less the untrained network and less the one that learnt from labels."""
    rows = [
        [protocol, dataset, markdown_text(pair.run_a.checkpoint.name), other, difference_text(pair)]
        for protocol, dataset in PLACES for other in (START, SUPERVISED)
        for pair in changes(study, protocol, [name for name in METHODS if name != SUPERVISED], other, dataset)
    ]  # fmt: skip
    head = ["protocol", "data", "training", "less", "in points (p: Holm's over the rows of one data and one network)"]
    return "\n" + grid(head, rows) if rows else ""


def measures(study: Study) -> str:
    """Spearman's correlation of each measure with k-NN, over the trainings and over the trials, and a scatter."""
    sets = {"trainings and starts": measured(study.records), "trials": measured(study.trials)}
    sets = {name: both for name, both in sets.items() if len(both) > 2}
    if not sets:
        return NOTHING
    rows = []
    for measure in MEASURES:
        cells = []
        for both in sets.values():
            found = correlation(both, measure)
            spread = "" if found.low is None or found.high is None else f" [{found.low:+.2f}, {found.high:+.2f}]"
            cells.append(f"{found.rho:+.2f}{spread}")
        rows.append([f"`{measure}`", *cells])
    head = ["Spearman's ρ with k-NN", *(f"{len(both)} {name}" for name, both in sets.items())]
    lines = [
        Series(name, [Point(r.metrics["rankme"].value, k.metrics[k.primary].value) for r, k in both], tone)
        for tone, (name, both) in enumerate(sets.items())
    ]
    scatter = chart("RankMe and k-NN", lines, "RankMe", "top1@k20 (%)")
    assert scatter is not None
    dots = replace(scatter, lines=[replace(line, path="", band="") for line in scatter.lines])
    return f"{grid(head, rows)}\n{draw(study, 'rankme', dots)}\n"


def correlation(both: Sequence[tuple[RunRecord, RunRecord]], measure: str) -> RankCorrelation:
    values = [r.metrics[measure].value for r, _ in both]
    return rank_correlation(np.array(values), np.array([k.metrics[k.primary].value for _, k in both]))


def measured(records: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    """The records of `representation` and of k-NN of each network that has both, by name."""
    by = {p: {r.checkpoint.name: r for r in records if r.protocol == p} for p in ("representation", "knn")}
    names = sorted(by["representation"].keys() & by["knn"].keys() - {PIXELS})
    return [(by["representation"][name], by["knn"][name]) for name in names]


def findings(study: Study) -> str:
    """The answers: who is above, level with and below what, by protocol; and which measures foretell k-NN."""
    if not study.records:
        return NOTHING
    networks = (*METHODS, START, PIXELS)
    methods = [name for name in METHODS if name != SUPERVISED]
    whole = {(p, ""): all_pairs(study.home, study.of(p, networks)) for p in ("knn", "linear")}
    rows: dict[str, list[Sequence[PairResult]]] = {
        f"against bare pixels (`{PIXELS}`)": [less(PIXELS, pairs, networks) for pairs in whole.values()],
        f"against the untrained network (`{START}`)": [less(START, pairs, networks) for pairs in whole.values()],
        f"without labels, against labels (`{SUPERVISED}`)": [less(SUPERVISED, p, methods) for p in whole.values()],
        f"without labels, against `{DINO}`": [less(DINO, pairs, methods) for pairs in whole.values()],
        f"`{DINO}` with one thing changed, against itself": [changes(study, p, ABLATIONS) for p, _ in whole],
        f"`{DINO}` with patches of 4, against itself": [changes(study, p, (FINE,)) for p, _ in whole],
    }
    first = ["top-1, %", *(ranking(study.of(p, networks)) for p, _ in whole)]
    parts = [grid(["", "k-NN", "linear"], [first, *answers(rows)]), pictured(study, "knn")]
    rows = {
        f"against the untrained network (`{START}`)": [changes(study, p, METHODS, START, data) for p, data in PLACES],
        f"without labels, against labels (`{SUPERVISED}`)": [
            changes(study, p, methods, SUPERVISED, data) for p, data in PLACES
        ],
    }
    if told := answers(rows):
        parts += [grid(["", *(f"{p}, {data}" for p, data in PLACES)], told), pictured(study, "davis")]
    level = f"In points; level: not told apart (p of {LEVEL:g} or more, Holm's over the table below it comes from).\n"
    return "\n".join([*parts, level, foretold(study)])


def pictured(study: Study, protocol: str) -> str:
    """The scores of all networks as bars."""
    drawn = groups(study.of(protocol, (*METHODS, *ABLATIONS, FINE, START, FINE_START, PIXELS)))
    with TellByItems(study.home) as tell:
        for group in drawn:
            group.tied = tied(group.records, group.records[0].primary, tell)
    return "".join(f"{draw(study, protocol, bars_of(group))}\n" for group in drawn)


def ranking(records: Sequence[RunRecord]) -> str:
    best = sorted(records, key=lambda r: -r.metrics[r.primary].value)
    return ", ".join(f"{r.checkpoint.name} {r.metrics[r.primary].value:.1f}" for r in best)


def answers(rows: dict[str, list[Sequence[PairResult]]]) -> list[list[str]]:
    return [[question, *map(sides, cells)] for question, cells in rows.items() if any(cells)]


def less(other: str, pairs: Sequence[PairResult], names: Sequence[str]) -> Sequence[PairResult]:
    """Those of all pairs that are of one of `names` less `other`, which stands behind them."""
    return [p for p in pairs if p.run_b.checkpoint.name == other and p.run_a.checkpoint.name in names]


def sides(pairs: Sequence[PairResult]) -> str:
    """Who is above, level with and below what they are held to, and by how much."""
    found: dict[str, list[str]] = {"above": [], "level": [], "below": []}
    for pair in sorted(pairs, key=lambda pair: -pair.primary.difference):
        m = pair.primary
        p = m.p if m.p_holm is None else m.p_holm
        side = "level" if p is None or p >= LEVEL else "above" if m.difference > 0 else "below"
        found[side].append(f"{pair.run_a.checkpoint.name} {m.difference:+.1f}")
    return "<br>".join(f"**{side}** {', '.join(who)}" for side, who in found.items() if who)


def foretold(study: Study) -> str:
    """Which measures without labels order the trainings as k-NN does; empty for too few."""
    both = measured(study.records)
    if len(both) < FEWEST:
        return ""
    told: dict[str, list[str]] = {"foretold by": [], "not told by": []}
    for measure in MEASURES:
        found = correlation(both, measure)
        sure = found.low is not None and found.high is not None and found.low * found.high > 0
        told["foretold by" if sure else "not told by"].append(f"{measure} ({found.rho:+.2f})")
    parts = "; ".join(f"{words} {', '.join(which)}" for words, which in told.items() if which)
    return f"How {len(both)} networks rank by k-NN is {parts} (Spearman's ρ; told: its interval leaves out 0).\n"


def write(home: Path) -> None:
    """Fill the page of a folder."""
    page = home / "README.md"
    text = page.read_text(encoding="utf-8")
    for mark, words in made(Study(home)):
        text = put(text, mark, words)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
