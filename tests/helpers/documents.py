"""The pages in README.md and docs/: what of them is made from the code, the commands they show, their links."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from helpers.paths import ROOT

from dinobench.compare.table import compare
from dinobench.compare.ties import TellByItems
from dinobench.compare.writers import to_markdown
from dinobench.config import Setting, plain, settings_of
from dinobench.data import known_layouts
from dinobench.data.embedded import EMBEDDED
from dinobench.data.layouts import KINDS
from dinobench.pretrain.method import MethodConfig
from dinobench.pretrain.run import load_method
from dinobench.registry import GROUP, METHODS, available, load, metrics_of
from dinobench.results.listing import read_folder
from dinobench.types import EvalProtocol, Metric

DOCS = ROOT / "docs"
README = ROOT / "README.md"
#: Pages whose commands and links are looked at.
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
#: What stands beside networks that others have trained.
BESIDE = ("pixels16", "random_vit_tiny_patch16_224")


class Shown(NamedTuple):
    """A command that a page shows: where, its arguments without `dinobench`, and whether it is left open by `...`."""

    page: str
    line: str
    arguments: tuple[str, ...]
    open: bool


def built_in(group: str = GROUP) -> list[str]:
    """The protocols, or the methods, that come with the package, by name."""
    return [name for name, entries in available(group).items() if entries[0].value.startswith("dinobench.")]


def page_of(protocol: str) -> Path:
    return DOCS / "protocols" / f"{protocol}.md"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def value(setting: Setting) -> str:
    return f"`{cell(plain(setting.value))}`" if plain(setting.value) else "empty"


def settings(name: str) -> str:
    """A protocol's data, metrics and settings as they are declared, in Markdown."""
    protocol = load(name)
    first, *others = protocol.profiles
    declared = {profile: settings_of(config) for profile, config in protocol.profiles.items()}
    rows = [
        [f"`{s.name}`", value(s)]
        + ["" if declared[other][s.name].value == s.value else value(declared[other][s.name]) for other in others]
        + [cell(s.doc), cell(s.source)]
        for s in declared[first].values()
    ]
    kinds = [*EMBEDDED.get(protocol.data, {}), *(import_module(module).NAME for module in KINDS[protocol.data])]
    needs = ", ".join(sorted(protocol.requires))
    saves = f" `--save` keeps {protocol.saves}." if getattr(protocol, "saves", "") else ""
    about = (
        f"Version {protocol.version}. Of a backbone it needs: {needs}. Layouts: {', '.join(map(code, kinds))}.{saves}"
    )
    paragraphs = [about, f"Metrics: {_measured(protocol)}."]
    if others:
        paragraphs.append("Profiles after the first show what they change.")
    head = ["setting", *map(code, protocol.profiles), "meaning", "source"]
    return "".join(f"{_folded(paragraph)}\n\n" for paragraph in paragraphs) + table(head, rows)


def _folded(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _measured(protocol: EvalProtocol) -> str:
    """The metrics of all profiles; where not every profile has one, those that do."""
    by_profile = {p: {m.name: m for m in metrics_of(protocol, config)} for p, config in protocol.profiles.items()}
    metrics = {name: metric for found in by_profile.values() for name, metric in found.items()}
    told = []
    for name, metric in metrics.items():
        having = [code(profile) for profile, found in by_profile.items() if name in found]
        told.append(_metric(metric) + ("" if len(having) == len(by_profile) else f" in {', '.join(having)}"))
    return "; ".join(told)


def _metric(metric: Metric) -> str:
    name = f"**`{metric.name}`**" if metric.primary else f"`{metric.name}`"
    better = "" if metric.higher_is_better else ", less ranks first"
    return f"{name} ({metric.unit or 'no unit'}{better})"


def code(text: str) -> str:
    return f"`{text}`"


def methods() -> str:
    """What all pretraining methods declare, then of each what it adds or has otherwise, in Markdown."""
    shared = settings_of(MethodConfig())
    tables = [f"Of every method:\n\n{_declared(shared.values())}"]
    for name in built_in(METHODS):
        method = load_method(name)
        own = settings_of(method.config_type()).values()
        others = [s for s in own if s.name not in shared or shared[s.name].value != s.value]
        tables.append(f"`{name}`: {method.summary}. It adds, or has otherwise:\n\n{_declared(others)}")
    return "\n".join(tables)


def _declared(declared: Iterable[Setting]) -> str:
    rows = [[code(s.name), value(s), cell(s.doc), cell(s.source)] for s in declared]
    return table(["setting", "default", "meaning", "source"], rows)


def layouts() -> str:
    """Every layout, under the first kind of data that takes it."""
    return table(["layout", "kind", "what it is"], [[code(n), cell(k), cell(s)] for k, n, s in known_layouts()])


def trained() -> str:
    """The rows in results/ of networks that others have trained, beside pixels and an untrained one."""
    records, broken = read_folder(ROOT / "results")
    assert not broken
    theirs = [r for r in records if "efficientnet" in r.checkpoint.arch]
    asked = {(r.protocol, r.dataset, r.config_hash) for r in theirs}
    beside = [r for r in records if r.checkpoint.name in BESIDE and (r.protocol, r.dataset, r.config_hash) in asked]
    with TellByItems(ROOT / "results") as tell:
        return to_markdown(compare([*theirs, *beside], rows="protocol", columns="model", tell=tell), "intervals")


def made() -> list[tuple[Path, str, str]]:
    """What is made from the code and from records: the page, the mark around it, and the text."""
    pages = [(page_of(name), "settings", settings(name)) for name in built_in()]
    return [
        (DOCS / "data.md", "layouts", layouts()), (DOCS / "pretraining.md", "settings", methods()),
        (DOCS / "not-run.md", "trained", trained()), *pages,
    ]  # fmt: skip


def commands(page: Path) -> Iterator[Shown]:
    """The `dinobench` commands of a page: lines of its blocks without a language, and what its text sets as code."""
    name, text = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")
    parts = re.split(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    for prose, language, block in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
        for inline in (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)):
            if inline.startswith("dinobench ") and not re.search(r"[|\[…]", inline):
                yield from _parts(name, inline, always_open=True)
        lines = "" if language else block.replace("\\\n", " ")
        for line in lines.splitlines():
            yield from _parts(name, line.removeprefix("$ "))


def _parts(page: str, line: str, always_open: bool = False) -> Iterator[Shown]:
    if "dinobench" not in line:
        return
    reader = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
    reader.whitespace_split, reader.commenters = True, "#"
    try:
        tokens = list(reader)
    except ValueError:  # an apostrophe: output, not a command
        return
    part: list[str] = []
    for token in [*tokens, ";"]:
        if token.strip("&|;>"):
            part.append(token)
            continue
        if part[:1] == ["torchrun"] and "dinobench" in part:
            part = part[part.index("dinobench") :]
        if part[:1] == ["dinobench"]:
            left = tuple(word for word in part[1:] if word not in ("...", "…"))
            yield Shown(page, line, left, always_open or len(left) < len(part) - 1)
        part = []


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    """The relative links and pictures of a page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            yield target
