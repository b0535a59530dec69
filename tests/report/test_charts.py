from __future__ import annotations

import dataclasses

from helpers.reports import SEVERAL, made
from helpers.samples import INFO, record

from dinobench.report import charts as report_charts
from dinobench.report import svg
from dinobench.types import MetricValue


def attended(model: str, keep: float, score: float, **sweep: float):
    """An attention record at one share kept, with other shares of its sweep."""
    values = {"jaccard": score, **{f"jaccard@{share}": v for share, v in sweep.items()}}
    return record(
        f"attention-{model}-{keep}",
        protocol="attention",
        config={"keep": keep, "masks": "instances", "sweep": list(map(float, sweep))},
        config_hash=f"{keep}" * 8,
        checkpoint=dataclasses.replace(INFO, name=model, weights_digest=model),
        metrics={name: MetricValue(v, None, None, 20, "%") for name, v in values.items()},
        primary="jaccard",
    )


def test_bars_start_at_zero_and_end_on_a_round_number():
    bars = report_charts.bars_of(report_charts.groups(SEVERAL)[0])
    assert (bars.start, bars.end, bars.hidden) == ("0", "80 %", 0)
    assert [(b.label, b.left, b.width, b.low, b.high, b.best) for b in bars.bars] == [
        ("dino", 0, 92.5, 90, 95, True), ("byol", 0, 88.12, 85.62, 90.62, False), ("random", 0, 25, 22.5, 27.5, False),
    ]  # fmt: skip
    many = report_charts.groups([made(f"m{i}", i) for i in range(30)])
    assert report_charts.bars_of(many[0]).hidden == 30 - svg.BARS
    below = report_charts.bars_of(report_charts.groups([made("a", -10.0)])[0])
    assert below.start != "0" and below.bars[0].left + below.bars[0].width == 100


def test_accuracy_over_k_is_drawn_where_there_are_several_k():
    tones = {"dino": 0, "byol": 1, "random": 2}
    charts = report_charts.over_k(report_charts.groups(SEVERAL), tones)
    assert [(c.title, [line.name for line in c.lines]) for c in charts] == [
        ("knn on digits", ["dino", "byol", "random"]), ("knn on shapes", ["dino"]),
    ]  # fmt: skip
    assert [label for _, label in charts[0].x_ticks] == ["10", "20"]
    assert [says for _, _, says in charts[0].lines[0].dots] == [
        "dino, k 10: 73 [71, 75]", "dino, k 20: 74 [72, 76]",
    ]  # fmt: skip
    assert charts[0].lines[0].band and charts[0].lines[1].tone == 1


def test_jaccard_over_mass_joins_sweeps_and_runs_that_differ_in_keep_only():
    found = [
        attended("dino", 0.6, 40.0, **{"0.2": 20.0, "0.4": 30.0}),
        attended("dino", 0.9, 45.0),
        attended("random", 0.6, 22.0),
        attended("random", 0.9, 21.0),
    ]
    other = dataclasses.replace(found[0], config={**found[0].config, "masks": "classes"}, run_id="classes")
    chart, alone = report_charts.over_mass([*found, other], {"dino": 0, "random": 1})
    assert {line.name: [says.split(" kept ")[1] for *_, says in line.dots] for line in chart.lines} == {
        "dino": ["0.2: 20", "0.4: 30", "0.6: 40", "0.9: 45"],
        "random": ["0.6: 22", "0.9: 21"],
    }
    assert len(alone.lines) == 1 and not report_charts.over_mass(found[2:3], {"random": 0})
