"""The gate's verdicts for CI: Markdown, JSON and JUnit files, GitHub's job summary and annotations.

JUnit is what GitLab, Jenkins and most other systems show beside a change; its fields are those of the schema of
Jenkins's xunit plugin (junit-10.xsd).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from xml.etree import ElementTree as ET

from dinobench.compare.gate import FAIL, PASS, UNSURE, UNTESTED, GateReport, GateRow
from dinobench.compare.writers import finite, markdown_text
from dinobench.errors import UserError

#: What XML 1.0 cannot hold, even escaped (section 2.2): control characters, halves of surrogate pairs, two others.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ORDER = (FAIL, UNTESTED, UNSURE, PASS)


def to_markdown(report: GateReport) -> str:
    """The report as GitHub renders it, what failed first."""
    bound = f"{100 * (1 - report.alpha):g} %"
    lines = [
        f"### {report.summary}", "",
        f"| verdict | model | protocol | data | metric | baseline | new | change | {bound} bounds | why |",
        "|---|---|---|---|---|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for row in sorted(report.rows, key=lambda r: _ORDER.index(r.verdict)):
        limits = "" if row.low is None else f"{row.low:+.2f} … {row.high:+.2f}"
        cells = [
            row.verdict, row.model, f"{row.protocol} {row.profile}", row.dataset,
            f"{row.metric} ({row.unit})", f"{row.baseline:.2f}", f"{row.new:.2f}", f"{row.change:+.2f}", limits,
            row.reason,
        ]  # fmt: skip
        verdict, *rest = map(markdown_text, cells)
        lines.append("| " + " | ".join([f"**{verdict}**", *rest]) + " |")
    for title, entries in (
        ("Vanished rows", report.vanished),
        ("Records of the baseline that cannot be read", report.unread),
        ("New rows", report.new),
        ("Notes", report.notes),
    ):
        if entries:
            lines += ["", f"**{title}**", "", *(f"- {markdown_text(str(entry))}" for entry in entries)]
    lines += [
        "", "Below 0 is worse. The chance that a build fails though no row has dropped by more than "
        f"{report.margin:g}, and the chance that it passes though one has, are at most {report.alpha:g} each.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def to_json(report: GateReport) -> str:
    """All of it for programs; a bound that is not finite, of a single group of items, is null."""
    fields = {"verdict": report.verdict, "exit_code": report.exit_code, **dataclasses.asdict(report)}
    return json.dumps(finite(fields), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_junit(report: GateReport) -> str:
    """A test case a row: a failure where it fails, an error where it is missing, skipped where nobody can tell."""
    cases = [_row(row) for row in report.rows]
    lost, said = ("skipped", "vanished, which is allowed") if report.allow_missing else ("error", "vanished")
    cases += [_case(v.protocol, v.name, lost, f"{said}: {v.why}" if v.why else said) for v in report.vanished]
    cases += [_case("baseline", line.partition(": ")[0], lost, f"cannot be read: {line}") for line in report.unread]
    cases += [_case(n.protocol, n.name, "skipped", f"new: {n.why or 'nothing to hold it against'}") for n in report.new]
    counts = {tag: sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error", "skipped")}
    totals = {
        "tests": str(len(cases)), "failures": str(counts["failure"]), "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
    }  # fmt: skip
    root = ET.Element("testsuites", {"name": "dinobench gate", **totals})
    suite = ET.SubElement(root, "testsuite", {"name": "dinobench gate", **totals, "time": "0"})
    suite.extend(cases)
    ET.SubElement(suite, "system-out").text = _xml("\n".join([report.summary, *report.notes]))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _row(row: GateRow) -> ET.Element:
    tag = {FAIL: "failure", UNTESTED: "error", UNSURE: "skipped"}.get(row.verdict)
    said = f"{row.metric} {row.baseline:.2f} -> {row.new:.2f} {row.unit}".rstrip()
    return _case(row.protocol, row.name, tag, f"{row.verdict}: {row.reason}", said)


def _case(protocol: str, name: str, tag: str | None, message: str, text: str = "") -> ET.Element:
    case = ET.Element("testcase", {"classname": _xml(f"gate.{protocol}"), "name": _xml(name), "time": "0"})
    if tag:
        found = ET.SubElement(case, tag, {"message": _xml(message)})
        if tag != "skipped":
            found.set("type", _xml(message.partition(":")[0]))
            found.text = _xml(f"{message}\n{text}".rstrip())
    if text:
        ET.SubElement(case, "system-out").text = _xml(text)
    return case


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


#: The files that the gate writes, by the option that asks for each.
FORMATS: dict[str, Callable[[GateReport], str]] = {"json": to_json, "markdown": to_markdown, "junit": to_junit}


def workflow_commands(report: GateReport) -> list[str]:
    """Workflow commands of GitHub Actions: an error per row that fails or is missing, a warning per undecided one."""
    levels = {FAIL: "error", UNTESTED: "error", UNSURE: "warning"}
    lines = [(levels[r.verdict], f"{r.name}: {r.reason}") for r in report.rows if r.verdict in levels]
    missing = "notice" if report.allow_missing else "error"
    lines += [(missing, f"vanished: {entry}") for entry in report.vanished]
    lines += [(missing, f"cannot be read: {entry}") for entry in report.unread]
    return [f"::{level} title=dinobench gate::{_escaped(text)}" for level, text in lines]


def _escaped(text: str) -> str:
    """As GitHub's toolkit escapes the message of a workflow command (actions/toolkit, core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def publish(report: GateReport, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Append the Markdown to the file that GITHUB_STEP_SUMMARY names; the lines for stdout where Actions runs us.

    Raises UserError when that file cannot be written.
    """
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(path, "a", encoding="utf-8", errors="replace", newline="\n") as file:
                file.write(to_markdown(report) + "\n")
        except OSError as error:
            raise UserError(f"{path} (GITHUB_STEP_SUMMARY): cannot be written: {error.strerror or error}") from error
    return workflow_commands(report) if environ.get("GITHUB_ACTIONS") else []
