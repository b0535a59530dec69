"""The report: all records of a results folder as one HTML page that needs nothing else, to read, send and print."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinobench import __version__
from dinobench.compare.sanity import flags
from dinobench.compare.ties import TellByItems, tied
from dinobench.config import settings_of
from dinobench.errors import UserError
from dinobench.files import write_output
from dinobench.report.charts import Group, bars_of, groups, over_k, over_mass, primary
from dinobench.report.files import curves, evaluation_charts, named, owner, pictures, trainings
from dinobench.report.packing import PLAIN, finite, packed, records_json
from dinobench.report.svg import number, percent, scale
from dinobench.results.comparability import read_records
from dinobench.results.records import as_dict, uncollected
from dinobench.types import MetricValue, RunRecord

#: Of all pictures together: a page of this size still goes by mail.
PICTURE_BYTES = 20_000_000
#: Groups of comparable rows that are drawn; the table shows all of them.
GROUPS = 60
#: Trainings that are drawn.
TRAININGS = 24


@dataclass(frozen=True)
class ReportRow:
    """A record as the leaderboard shows it; positions of value and interval in % of its group's range.

    `best_of` and `tied_of`: among how many it is the best, or tied with the best; else 0.
    """

    index: int
    group: int
    record: RunRecord
    best_of: int
    tied_of: int
    flags: list[str]
    metric: MetricValue
    dot: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass
class Written:
    """What went into a page, and what did not, in lines to show."""

    runs: int
    bytes: int
    left_out: list[str] = field(default_factory=list)


def write(results: Path, output: Path, *, title: str = "", picture_bytes: int = PICTURE_BYTES) -> Written:
    """Write the page of `results` to `output`.

    Raises UserError when there are no records, or the page cannot be written.
    """
    text, done = page(results, title=title, picture_bytes=picture_bytes)
    content = text.encode("utf-8", "replace")  # file names may hold what is no text
    write_output(output, content)
    done.bytes = len(content)
    return done


@uncollected()
def page(results: Path, *, title: str = "", picture_bytes: int = PICTURE_BYTES) -> tuple[str, Written]:
    """The page as text, and what went into it: a pure function of the folder."""
    records, broken = read_records(results)
    protocols = _protocols(records)
    ranked = groups(records)
    with TellByItems(results) as tell:
        for group in ranked:
            group.tied = tied(group.records, group.records[0].primary, tell)
    records = [r for g in ranked for r in g.records]
    tones = {name: i for i, name in enumerate(dict.fromkeys(r.checkpoint.name for r in records))}
    trained, untold = trainings(results, records)
    shown, left_out = pictures(results, records, picture_bytes)
    left_out = [f"record {path.name}: {reason}" for path, reason in broken] + [
        *(f"picture {x}" for x in left_out),
        *(f"training {x}" for x in untold),
    ]
    if len(trained) > TRAININGS:
        left_out.append(f"{len(trained) - TRAININGS} trainings after the first {TRAININGS}")
    kept = {id(g) for g in sorted(ranked, key=lambda g: len(g.records) == 1)[:GROUPS]}  # those with rivals first
    drawn = [g for g in ranked if id(g) in kept]
    if len(ranked) > len(drawn):
        left_out.append(f"plots of {len(ranked) - len(drawn):,} groups of comparable runs, which the table has")
    over_kept = over_mass(records, tones)
    if len(over_kept) > GROUPS:
        left_out.append(f"{len(over_kept) - GROUPS:,} plots of Jaccard over the attention kept")
    environment = _environment()
    rows = rows_of(ranked, flags(results, records))
    compressed = {}
    if len(rows) > PLAIN:
        board_row = environment.get_template("rows.html").module.board_row
        rest = "".join(map(board_row, rows[PLAIN:]))
        compressed = {"rows": packed(re.sub(r"\n\s*", "\n", rest)), "records": packed(records_json(records))}
    text = environment.get_template("report.html").render(
        title=title or "dinobench report",
        version=__version__,
        rows=rows[:PLAIN],
        total=len(rows),
        packed=compressed,
        records=records,
        facts=_facts(records),
        bars=[bars_of(g) for g in drawn],
        over_k=over_k(drawn, tones),
        over_mass=over_kept[:GROUPS],
        together=evaluation_charts(trained[:TRAININGS]),
        trainings=[(t, curves(t)) for t in trained[:TRAININGS]],
        pictures=shown,
        left_out=named(left_out),
        data={
            "records": [] if compressed else [finite(as_dict(r)) for r in records],
            "docs": _docs(protocols),
            "pictures": [p.rows for p in shown],
            "trainings": [owner(t.name, records)[1] for t in trained[:TRAININGS]],
        },
        **_inlined(),
    )
    return text, Written(len(records), 0, left_out)


def _environment() -> Any:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":")
    }  # the order of metrics and settings means something
    environment.filters.update(number=number, breakable=_breakable)
    return environment


def _inlined() -> dict[str, Any]:
    """Style and script, and the script's hash: the page's policy lets no other script run, whatever a record holds."""
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    css, js = ((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    sha = base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()
    return {"css": Markup(css), "js": Markup(js), "js_sha": sha}


@functools.cache
def _breakable(text: str) -> Any:
    """Long names may break after the signs that join their parts."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([+/])", r"\1<wbr>", str(escape(text))))


def _protocols(records: Iterable[RunRecord]) -> dict[str, Any]:
    """The protocols of the records, as far as they are installed here."""
    from dinobench import registry

    protocols = {}
    for name in sorted({r.protocol for r in records}):
        try:
            protocols[name] = registry.load(name)
        except UserError:
            continue  # its records can be read all the same
    return protocols


def rows_of(ranked: Sequence[Group], flagged: dict[str, list[str]]) -> list[ReportRow]:
    rows: list[ReportRow] = []
    for at, group in enumerate(ranked):
        metrics = [primary(r) for r in group.records]
        best = metrics[0].value
        bounds = [v for m in metrics for v in (m.value, m.ci_low, m.ci_high) if v is not None and math.isfinite(v)]
        compared = len(group.records) > 1
        low, high = scale(bounds or [0.0], zero=False)

        def place(x: float | None, low: float = low, high: float = high, compared: bool = compared) -> float | None:
            return percent(x, low, high) if compared and x is not None and math.isfinite(x) else None

        for rank, (record, m) in enumerate(zip(group.records, metrics, strict=True)):
            leads = rank <= group.tied if group.tied else compared and m.value == best
            best_of, tied_of = (len(group.records) if leads and tie == bool(group.tied) else 0 for tie in (False, True))
            reasons = flagged.get(record.run_id, [])
            spots = [place(x) for x in (m.value, m.ci_low, m.ci_high)]
            rows.append(ReportRow(len(rows), at, record, best_of, tied_of, reasons, m, *spots))
    return rows


def _facts(records: Sequence[RunRecord]) -> list[tuple[str, int]]:
    counts = [
        ("run", len(records)),
        ("model", len({r.checkpoint.name for r in records})),
        ("protocol", len({r.protocol for r in records})),
        ("data set", len({(r.dataset, r.dataset_fingerprint) for r in records})),
    ]
    return [(name if n == 1 else f"{name}s", n) for name, n in counts]


def _docs(protocols: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """What every setting means and where its default is from, by protocol and name."""
    docs = {}
    for name, protocol in protocols.items():
        config = next(iter(protocol.profiles.values()))
        if dataclasses.is_dataclass(config):
            docs[name] = {s.name: [s.doc, s.source] for s in settings_of(config).values()}
    return docs
