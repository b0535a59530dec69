"""Wide tables of records: models by protocols, the best and the second marked only among what can be compared.

Every column holds runs of one test: one comparable key (see `dinobench.results.comparability`) and one metric. Runs of
the same protocol and data set that differ in anything that decides the number stand in columns of their own, with the
reason.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import groupby
from string import ascii_lowercase
from typing import Any

from dinobench.compare.published import PublishedScore
from dinobench.compare.ties import NOTE, Tell, tied
from dinobench.compare.writers import DECIMALS, TIED, Cell, Header, Table, transposed
from dinobench.errors import UserError, unknown_name
from dinobench.results.comparability import higher_is_better, key, reasons
from dinobench.results.records import uncollected
from dinobench.types import MetricValue, RunRecord

#: What rows or columns can be led by: whose scores they are, and scores of what.
SUBJECTS = ("model", "method", "arch")
TESTS = ("protocol", "dataset", "profile", "metric")
#: Stands behind scores that are tied with the best.
TIED_MARK = "="
#: Differences that a note names before it only counts them.
NAMED = 4


@dataclass(frozen=True)
class Test:
    """A column of scores that can be ranked: a comparable key and a metric, or figures that were published."""

    __test__ = False  # pytest takes a class of this name for one of its own

    key: Any
    metric: str
    unit: str
    # The key says more than these names, and one test can go by several of them.
    protocol: str = field(compare=False)
    dataset: str = field(compare=False)
    profile: str = field(compare=False)
    published: bool = False

    @property
    def place(self) -> tuple[str, str, str]:
        """What people take for the same test."""
        return self.protocol, self.dataset, self.metric

    def labels(self, lead: str) -> tuple[str, ...]:
        metric = f"{self.metric} ({self.unit})" if self.unit else self.metric
        parts = {"protocol": self.protocol, "dataset": self.dataset, "profile": self.profile, "metric": metric}
        # What was changed in a profile is told in a note: headings are narrow.
        parts["profile"] = "published" if self.published else self.profile.partition("+")[0]
        return tuple(parts[name] for name in _led(TESTS, lead))


@dataclass(frozen=True)
class Subject:
    """A row of scores: weights, and what sets apart several runs of the same ones over the same test."""

    model: str
    method: str
    arch: str
    weights: str
    variant: str = ""
    published: bool = False

    def labels(self, lead: str, ambiguous: bool) -> tuple[str, ...]:
        details = ", ".join(filter(None, [f"weights {self.weights[:8]}" if ambiguous else "", self.variant]))
        model = f"{self.model} ({details})" if details else self.model
        return (model,) if lead == "model" else ({"method": self.method, "arch": self.arch}[lead], model)


@dataclass
class _Notes:
    """Letters for notes: the same text has the same letter."""

    letters: dict[str, str] = field(default_factory=dict)

    def mark(self, text: str) -> str:
        return self.letters.setdefault(text, _letter(len(self.letters)))


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    before, last = divmod(number, 26)
    return (_letter(before - 1) if before else "") + ascii_lowercase[last]


def _led(names: Sequence[str], lead: str) -> list[str]:
    return [lead, *(n for n in names if n != lead)]


@uncollected()
def compare(
    records: Sequence[RunRecord],
    *,
    rows: str = "model",
    columns: str | None = None,
    metrics: Sequence[str] = (),
    flags: Mapping[str, Sequence[str]] | None = None,
    figures: Sequence[PublishedScore] = (),
    tell: Tell | None = None,
) -> Table:
    """The records as a table of their primary metrics, or of those that match one of `metrics` (patterns).

    rows and columns: one of SUBJECTS and one of TESTS, either way round. flags: remarks by run id, that become notes.
    figures: published ones, in columns of their own. tell: whether a test can tell two runs apart; where it cannot tell
    the best from the next, nothing is called the best, and all down to the first that it can tell are marked as tied.

    Raises UserError for names that are not there.
    """
    lead, by, turned = _axes(rows, columns)
    latest = _found(records, metrics)
    published = {(_author(f), _paper(f)): f for f in figures}
    subjects = sorted(
        {s for s, _ in [*latest, *published]}, key=lambda s: (s.published, s.labels(lead, ambiguous=True))
    )
    grouped: dict[Test, list[RunRecord]] = defaultdict(list)
    for (_, test), record in latest.items():
        grouped[test].append(record)
    main = _main(grouped)
    tests = sorted({t for _, t in [*latest, *published]}, key=lambda t: _order(t, by, main))
    notes = _Notes()
    marks = {t: _reasons(t, main[t.place], grouped, notes) for t in tests if not t.published}
    places = _places(latest, tell)
    weights = {(s.model, s.weights) for s in subjects if not s.published}
    ambiguous = {name for name, n in Counter(name for name, _ in weights).items() if n > 1}

    def cell(subject: Subject, test: Test) -> Cell | None:
        at = subject, test
        if at in published:
            return _figure_cell(published[at], notes)
        return _cell(latest[at], test, places.get(at, 0), (flags or {}), notes) if at in latest else None

    cells = tuple(tuple(cell(s, t) for t in tests) for s in subjects)
    table = Table(
        corner=("model",) if lead == "model" else (lead, "model"),
        rows=tuple(Header(s.labels(lead, s.model in ambiguous), (), s.published) for s in subjects),
        columns=tuple(Header(t.labels(by), tuple(marks.get(t, ())), t.published) for t in tests),
        cells=cells,
        notes=(
            *([(TIED_MARK, NOTE)] if TIED in places.values() else []),
            *((letter, text) for text, letter in notes.letters.items()),
        ),
    )
    return transposed(table, tuple(_led(TESTS, by))) if turned else table


def _axes(rows: str, columns: str | None) -> tuple[str, str, bool]:
    """What leads the subjects, what leads the tests, and whether the tests are the rows."""
    for name, option in ((rows, "--rows"), (columns, "--columns")):
        if name is not None and name not in (*SUBJECTS, *TESTS):
            raise unknown_name(f"{option} value", name, [*SUBJECTS, *TESTS])
    turned = rows in TESTS
    columns = columns or ("model" if turned else "protocol")
    if turned == (columns in TESTS):
        own, other = (TESTS, SUBJECTS) if turned else (SUBJECTS, TESTS)
        raise UserError(
            f"--rows {rows} --columns {columns}: with one of {', '.join(own)} in the rows, the columns are one of "
            f"{', '.join(other)}"
        )
    return (columns, rows, True) if turned else (rows, columns, False)


def _found(records: Sequence[RunRecord], patterns: Sequence[str]) -> dict[tuple[Subject, Test], RunRecord]:
    """Each score's row and column."""
    known = dict.fromkeys(name for r in records for name in r.metrics)
    for pattern in patterns:
        if records and not any(fnmatchcase(name, pattern) for name in known):
            raise unknown_name("metric", pattern, list(known))
    crowded: dict[tuple[Subject, Test], list[RunRecord]] = defaultdict(list)
    tests: dict[Test, Test] = {}
    for record in records:
        c, same = record.checkpoint, key(record)
        subject = Subject(c.name, c.method, c.arch, c.weights_digest)
        for name in _wanted(record, patterns):
            unit = record.metrics[name].unit
            test = Test(same, name, unit, record.protocol, record.dataset, record.profile)
            crowded[subject, tests.setdefault(test, test)].append(record)
    several = {subject for (subject, _), runs in crowded.items() if len(runs) > 1}
    latest = {}
    for (subject, test), runs in crowded.items():
        for variant, record in _variants(runs) if subject in several else [("", runs[0])]:
            latest[replace(subject, variant=variant), test] = record
    return latest


def _wanted(record: RunRecord, patterns: Sequence[str]) -> list[str]:
    if not patterns:
        return [record.primary]
    return [name for name in record.metrics if any(fnmatchcase(name, p) for p in patterns)]


def _variants(runs: Sequence[RunRecord]) -> Iterable[tuple[str, RunRecord]]:
    """Runs of the same weights over the same test, told apart by seed and precision or, if need be, numbered."""

    def how(record: RunRecord) -> tuple[int, str]:
        return record.seed, record.precision

    for (seed, precision), same in groupby(sorted(runs, key=lambda r: (how(r), r.run_id)), key=how):
        for number, record in enumerate(same, 1):
            rest = (f", precision {precision}" if precision != "32" else "") + (f", run {number}" if number > 1 else "")
            yield f"seed {seed}{rest}", record


def _main(grouped: Mapping[Test, Sequence[RunRecord]]) -> dict[tuple[str, str, str], Test]:
    """Of the tests that people take for the same, the one with most records; an unchanged profile before others."""
    main: dict[tuple[str, str, str], Test] = {}
    for test in sorted(grouped, key=lambda t: (-len(grouped[t]), "+" in t.profile, t.profile, str(t.key))):
        main.setdefault(test.place, test)
    return main


def _order(test: Test, by: str, main: Mapping[tuple[str, str, str], Test]) -> tuple[Any, ...]:
    names = {"protocol": test.protocol, "dataset": test.dataset, "profile": test.profile, "metric": test.metric}
    aside = not test.published and main[test.place] != test
    return (names[by], test.protocol, test.published, test.dataset, aside, test.profile, test.metric, str(test.key))


def _reasons(test: Test, main: Test, grouped: Mapping[Test, Sequence[RunRecord]], notes: _Notes) -> list[str]:
    """The letters of what a column is: why it stands apart from another, or what was changed in its profile."""
    if test != main:
        first, this = grouped[main][0], grouped[test][0]
        why = reasons(first, this)
        more = f"; and {len(why) - NAMED} more" if len(why) > NAMED else ""
        alike = main.labels("profile") == test.labels("profile")
        name = main.profile if alike else main.labels("profile")[0]
        return [notes.mark(f"not ranked with {main.protocol} {name}: {'; '.join(why[:NAMED])}{more}")]
    name, plus, changed = test.profile.partition("+")
    return [notes.mark(f"{test.protocol} {name} with {changed.replace('+', ', ')}")] if plus else []


def _places(latest: Mapping[tuple[Subject, Test], RunRecord], tell: Tell | None) -> dict[tuple[Subject, Test], int]:
    """The best and the second of every test that has two or more scores, by what is shown: equal numbers tie.

    Where `tell` cannot tell the best from the next, these and those between are tied instead, and there is no second.
    """
    scores: dict[Test, dict[Subject, float]] = defaultdict(dict)
    higher: dict[Test, bool] = {}
    for (subject, test), record in latest.items():
        value = record.metrics[test.metric].value
        if math.isfinite(value):
            scores[test][subject] = round(value, DECIMALS)
            higher[test] = higher_is_better(record, test.metric)
    places = {}
    for test, values in scores.items():
        if len(values) < 2:
            continue
        if tell and (same := _tied(test, values, latest, higher[test], tell)):
            places.update({(subject, test): TIED for subject in same})
            continue
        order = sorted(set(values.values()), reverse=higher[test])
        for subject, value in values.items():
            if value in order[:2]:
                places[subject, test] = order.index(value) + 1
    return places


def _tied(
    test: Test,
    shown: Mapping[Subject, float],
    latest: Mapping[tuple[Subject, Test], RunRecord],
    higher: bool,
    tell: Tell,
) -> list[Subject]:
    """The best and those tied with it, with what is shown as the same number; none when the best stands alone."""
    sign = -1 if higher else 1
    order = sorted(shown, key=lambda s: sign * latest[s, test].metrics[test.metric].value)
    count = tied([latest[s, test] for s in order], test.metric, tell)
    if not count:
        return []
    return [s for i, s in enumerate(order) if i <= count or shown[s] == shown[order[0]]]


def _cell(record: RunRecord, test: Test, place: int, flags: Mapping[str, Sequence[str]], notes: _Notes) -> Cell:
    measured: MetricValue = record.metrics[test.metric]
    facts = {
        "model": record.checkpoint.name, "method": record.checkpoint.method, "arch": record.checkpoint.arch,
        "protocol": record.protocol, "profile": record.profile, "dataset": record.dataset, "metric": test.metric,
        "unit": measured.unit, "value": measured.value, "ci_low": measured.ci_low, "ci_high": measured.ci_high,
        "n": measured.n, "published": "no", "seed": record.seed, "run_id": record.run_id,
    }  # fmt: skip
    marks = (
        *([TIED_MARK] if place == TIED else []),
        *(notes.mark(flag) for flag in flags.get(record.run_id, ())),
    )
    return Cell(measured.value, measured.ci_low, measured.ci_high, place, marks, facts)


def _author(figure: PublishedScore) -> Subject:
    return Subject(figure.model, figure.method, figure.arch, "", published=True)


def _paper(figure: PublishedScore) -> Test:
    """A column of its own: whoever published a figure had other data, or at least no fingerprint of them."""
    at = "published", figure.protocol, figure.dataset
    return Test(at, figure.metric, "%", figure.protocol, figure.dataset, "", published=True)


def _figure_cell(figure: PublishedScore, notes: _Notes) -> Cell:
    source = figure.source if figure.checked else f"{figure.source}: unverified, from memory of the source"
    facts = {
        "model": figure.model, "method": figure.method, "arch": figure.arch, "protocol": figure.protocol,
        "dataset": figure.dataset, "metric": figure.metric, "unit": "%", "value": figure.value, "published": "yes",
        "source": figure.source,
    }  # fmt: skip
    return Cell(figure.value, marks=(notes.mark(f"published: {source}"),), facts=facts)
