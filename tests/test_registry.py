from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinobench import registry
from dinobench.errors import UserError, unknown_name


def distribution(folder: Path, name: str, entry: str, source: str | None = None) -> None:
    """An installed distribution that provides one protocol, made by hand."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dinobench.protocols]\n{entry}\n")
    if source is not None:
        (folder / f"{entry.rpartition('= ')[2]}.py").write_text(source)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_built_in_protocols_come_through_the_same_group():
    assert registry.provider(registry.available()["knn"][0]).startswith("dinobench ")
    assert registry.load("knn").name == "knn"


def test_an_unknown_name_lists_the_options_and_the_nearest():
    with pytest.raises(UserError, match=r"unknown protocol 'kn': did you mean 'knn'\? available: .*knn"):
        registry.load("kn")
    assert str(unknown_name("thing", "x", [])) == "unknown thing 'x': available: none"


def test_two_providers_of_one_name_are_named(site):
    distribution(site, "first-dist", "doubled = first_module", "")
    distribution(site, "second-dist", "doubled = second_module", "")
    with pytest.raises(
        UserError, match=r"'doubled' is provided by (first|second)-dist 1\.0 and .*-dist 1\.0: uninstall one"
    ):
        registry.load("doubled")


def test_one_distribution_seen_twice_is_one_provider(site, monkeypatch, tmp_path):
    distribution(site, "seen", "once = once_module", "")
    distribution(tmp_path / "again", "seen", "once = once_module")
    monkeypatch.syspath_prepend(tmp_path / "again")
    assert len(registry.available()["once"]) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("raise RuntimeError('broken inside')", "RuntimeError: broken inside"),
        ("def (", "SyntaxError"),
        ("name = 'bad'", "lacks version, summary, data"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_with_its_distribution(site, source, words, request):
    module = f"bad_module_{abs(hash(source))}"
    distribution(site, "bad-dist", f"bad = {module}", source)
    with pytest.raises(UserError, match=r"'bad' of bad-dist 1\.0") as caught:
        registry.load("bad")
    assert words in str(caught.value)


def test_listing_names_imports_nothing(site):
    distribution(site, "loud-dist", "loud = loud_module", "raise SystemExit('imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from dinobench import registry; "
        "assert 'loud' in registry.available() and 'knn' in registry.available(); "
        "assert not {'loud_module', 'torch', 'dinobench.protocols'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
