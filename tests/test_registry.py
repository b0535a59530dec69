from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.plugins import install, protocol

from dinobench import registry
from dinobench.errors import PluginFault, UserError, unknown_name
from dinobench.hashing import sha256_file


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


#: What is wrong with a protocol's module -> what a message says of it.
UNUSABLE = {
    "raise SystemExit(0)": "SystemExit: 0",
    "raise GeneratorExit": "GeneratorExit",
    "class Own(BaseException): pass\nraise Own('two\\nlines')": "Own: two lines",
    "def f(): f()\nf()": "RecursionError: maximum recursion depth",
    "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute": "Mute",
    "del summary": "lacks summary",
    "del metrics, run": "lacks metrics, run",
    "def __getattr__(name): raise RuntimeError('asked')\ndel run": "RuntimeError: asked",
    "name = 'other'": "its own name is 'other'",
    "version = '1'": "version is '1' (str), not a whole number",
    "version = True": "version is True (bool)",
    "summary = None": "summary is None",
    "data = 'pictures'": "data is 'pictures' (str), not one of classification",
    "data = ['videos']": "data is ['videos'] (list)",
    "requires = 'features'": "requires is 'features' (str), not a set",
    "requires = {'taste'}": "requires is {'taste'}",
    "profiles = [Config()]": "(list), not a mapping",
    "profiles = {}": "profiles is {} (dict)",
    "profiles = {1: Config()}": "profile 1 (int)",
    "profiles = {'default': {'k': 3}}": "profile 'default' is {'k': 3} (dict), not a dataclass's instance",
    "profiles = {'default': Config}": "not a dataclass's instance",
    "profiles = {'default': Config(object())}": "the settings of profile 'default' cannot be read: TypeError",
    "@dataclass\nclass Odd:\n    k: 'Nowhere' = 3\nprofiles = {'default': Odd()}": "NameError",
    "@dataclass\nclass Odd:\n    j: int = 3\nprofiles = {'default': Config(), 'odd': Odd()}": "other settings",
    "class Bare(Config):\n    j: int = 3\nprofiles = {'default': Bare()}": "Bare has settings of its own and lacks @",
    "metrics = ()": "metrics is () (tuple), not a function",
    "run = 'run'": "run is 'run' (str), not a function",
    "requests = 3": "requests is 3 (int), not a function",
    "def version_of(config): return '2'": "version_of gives '2' (str)",
}


@pytest.mark.parametrize("more", UNUSABLE)
def test_a_protocol_that_is_broken_or_of_wrong_types_is_refused_in_one_line(site, more):
    name = f"unusable{list(UNUSABLE).index(more)}"
    install(site, name, protocol(name, more))
    with pytest.raises(UserError, match=f"protocol '{name}' of {name}-dist 1.0 cannot be (used|imported): ") as caught:
        registry.load(name)
    assert UNUSABLE[more] in str(caught.value) and "\n" not in str(caught.value)


def test_a_whole_protocol_is_accepted(site):
    install(site, "whole", protocol("whole", "requests = lambda data, config, backbone: []\nsaves = 'masks'"))
    assert registry.load("whole").name == "whole"


def test_an_interruption_while_a_plugin_is_imported_is_no_fault_of_it(site):
    install(site, "halted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.load("halted")


@pytest.mark.parametrize("damage", [b"[dinobench.protocols]\nnonsense\n", b"\xff\xfe", b"no section\n= =\n"])
def test_entry_points_that_cannot_be_read_hide_no_others(site, damage):
    install(site, "sound", protocol("sound"))
    install(site, "damaged", None)
    (site / "damaged_dist-1.0.dist-info" / "entry_points.txt").write_bytes(damage)
    assert {"knn", "sound"} <= registry.available().keys() and registry.load("sound").name == "sound"


def fail(with_error):
    raise with_error


def test_what_a_plugin_raises_is_laid_at_its_door_and_nothing_else(site):
    install(site, "culprit", protocol("culprit", "def fail(error): raise error\ndef call(work): return work()"))
    import culprit_module as culprit  # type: ignore[import-not-found]

    for error in (ValueError("two\nlines"), SystemExit(0), FileNotFoundError("own.txt"), MemoryError()):
        named = pytest.raises(PluginFault, match=r"protocol 'culprit' of culprit-dist 1\.0 failed: ")
        with named as caught, registry.answering("protocol", "culprit"):
            culprit.fail(error)
        assert type(error).__name__ in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(type(error)), registry.answering("protocol", "knn"):
            fail(error)
    for error in (UserError("mend it"), KeyboardInterrupt()):
        with pytest.raises(type(error)), registry.answering("protocol", "culprit"):
            culprit.fail(error)
    with pytest.raises(FileNotFoundError), registry.answering("protocol", "culprit"):
        culprit.call(lambda: sha256_file("not there"))  # the machine refuses code of ours that the plug-in called
    with pytest.raises(ValueError, match="ours"), registry.answering("protocol", "culprit", own_code=True):
        fail(ValueError("ours"))
    with pytest.raises(PluginFault), registry.answering("protocol", "culprit", own_code=True):
        culprit.fail(ValueError("theirs"))


def test_listing_names_imports_nothing(site):
    distribution(site, "loud-dist", "loud = loud_module", "raise SystemExit('imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from dinobench import registry; "
        "assert 'loud' in registry.available() and 'knn' in registry.available(); "
        "assert not {'loud_module', 'torch', 'dinobench.protocols'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
