"""README.md and docs/ beside the code; `DINOBENCH_WRITE_DOCS=1` writes what of them is made from it."""

from __future__ import annotations

import os
import re

import pytest
import typer.main
from helpers.documents import DOCS, PAGES, README, anchors, built_in, commands, links, made, page_of
from helpers.paths import ROOT

from dinobench.bench import BENCHES, GROUPS
from dinobench.cli.app import VIEWS, app
from dinobench.config import parse, parse_settings, settings_of
from dinobench.errors import UserError
from dinobench.evaluations.asked import parse_profiles, resolve_configs
from dinobench.pretrain.run import load_method
from dinobench.registry import METHODS, available, load
from dinobench.report.marks import put

SHOWN = [shown for page in PAGES for shown in commands(page)]
#: The whole protocol of CONTRIBUTING.md, which is not installed.
ELSEWHERE = {"class_means"}


def test_what_is_made_from_the_code_is_what_it_says():
    for page, mark, text in made():
        written = page.read_text(encoding="utf-8")
        if os.environ.get("DINOBENCH_WRITE_DOCS"):
            page.write_text(written := put(written, mark, text), encoding="utf-8")
        assert written == put(written, mark, text), (
            f"{page}: DINOBENCH_WRITE_DOCS=1 pytest tests/test_docs.py writes it"
        )


def leaf(arguments: tuple[str, ...]):
    """The command that the arguments name, what it is called, and the arguments that are left for it."""
    command, name, left = typer.main.get_command(app), "dinobench", list(arguments)
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        name = left.pop(0)
        assert name in command.commands, f"no command {name!r}"
        command = command.commands[name]
    return command, name, left


def option_names(command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("shown", SHOWN, ids=[f"{s.page}: {' '.join(s.arguments)[:60]}" for s in SHOWN])
def test_a_command_that_is_shown_parses(shown):
    command, name, left = leaf(shown.arguments)
    if hasattr(command, "commands"):  # dinobench --version, dinobench suite
        assert all(option in option_names(command) for option in left), shown.line
        return
    if "--help" in left:
        return
    try:
        given = command.make_context(name, left).params
    except Exception as error:  # typer has a click of its own
        assert shown.open and type(error).__name__ == "MissingParameter", f"{shown.line}: {error}"
        assert all(word in option_names(command) for word in left if word.startswith("--")), shown.line
        return
    check = {"run": a_run, "pretrain": a_training, "list": a_listing, "bench": a_bench}.get(shown.arguments[0])
    if check is not None:
        check(given)


def a_run(given):
    if not (names := [name for name in given["protocol"] if name not in ELSEWHERE]):
        return
    resolve_configs(
        [load(name) for name in names],
        parse_profiles(given["profile"] or (), names),
        parse_settings(given["set_"] or ()),
    )


def a_training(given):
    if given["method"] is None:
        return
    declared = settings_of(load_method(given["method"]).config_type())
    for name, value in parse_settings(given["set_"] or ()).items():
        parse(value, declared[name].type, name)
    protocols = [load(name) for name in given["eval_"] or ()]
    if protocols:
        resolve_configs(protocols, None, parse_settings(given["eval_set"] or ()))


def a_listing(given):
    assert given["what"] in {*VIEWS, "models", "schema", *available(), *available(METHODS)}


def a_bench(given):
    assert given["what"] in {*BENCHES, *GROUPS} or given["what"].isupper()  # WHAT


def test_what_is_not_there_is_found():
    for wrong in (("run", "--protocol", "knn", "--ckpt", "pixels", "--no-such"), ("nothing",)):
        command = next(iter(SHOWN))._replace(arguments=wrong, open=True, line=" ".join(wrong))
        with pytest.raises(AssertionError):
            test_a_command_that_is_shown_parses(command)
    with pytest.raises(UserError, match="nothing"):
        a_run({"protocol": ["knn"], "profile": None, "set_": ["nothing=1"]})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{page}: {target}"


def test_every_page_is_linked_from_another():
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    assert not {page for page in PAGES if page != README and page.resolve() not in linked}


def test_the_readme_is_short_and_has_every_protocol_with_its_profiles():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") < 200
    rows = re.findall(r"^\| \[`(\w+)`\]\((docs/protocols/\w+\.md)\) \|[^|]*\|([^|]*)\|", text, re.M)
    assert [(name, (ROOT / page)) for name, page, _ in rows] == [(name, page_of(name)) for name, *_ in rows]
    assert {name: set(re.findall(r"`([^`]+)`", told)) for name, _, told in rows} == {
        name: set(load(name).profiles) for name in built_in()
    }
    assert {page.stem for page in (DOCS / "protocols").glob("*.md")} - {"README"} == set(built_in())
