"""A suite's file is read as written, and a typo in any place of it is one line with the place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinobench.errors import UserError
from dinobench.suite.file import Compute, Resources, RunSpec, read
from dinobench.suite.mistakes import Mistakes
from dinobench.types import ComputeOptions, LoadOptions

GOOD = """\
name = "paper"
out = "results"
[models]
ours = "runs/*.pth"
floor = ["pixels", "random:vit_tiny_patch16_224"]
dino = "timm:vit_small_patch16_224.dino"
[data]
photos = "digits"
[[run]]
protocol = "knn"
profile = ["dino2021", "dinov2"]
set = { k = [10, 20], temperature = 0.1 }
seeds = [0, 1]
data = ["photos", "digits"]
models = ["ours", "pixels"]
limit = 10
[[run]]
protocol = "davis"
data = "shapes"
[resources]
default = { devices = 1, cpus = 8, memory = "32GB", hours = 4 }
davis = { hours = 0.5 }
[slurm]
partition = "gpu"
[compute]
precision = "bf16"
batch_size = 8
[[run]]
protocol = "logreg"
compute = { precision = "32", skip_broken = true, workers = 2, ram_cache = 0.5, no_cache = true }
[models.teacher]
path = "runs/*.pth"
arch = "vit_small_patch16_224"
key = "teacher"
heads = 6
pool = "cls"
grid = "14x14"
allow_partial = true
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two checkpoints, and what `read` makes of a text there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DINOBENCH_DATA", raising=False)
    (tmp_path / "runs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "runs" / f"{name}.pth").write_bytes(name.encode())

    def call(text, **options):
        (tmp_path / "paper.toml").write_text(text, encoding="utf-8")
        return read("paper.toml", **options)

    return call


def test_all_of_a_file(here):
    suite = here(GOOD)
    assert suite.name == "paper" and suite.path == Path("paper.toml") and suite.out == Path("results")
    assert suite.models == {
        "ours-a": "runs/a.pth", "ours-b": "runs/b.pth", "pixels": "pixels",
        "random_vit_tiny_patch16_224": "random:vit_tiny_patch16_224", "dino": "timm:vit_small_patch16_224.dino",
        "teacher-a": "runs/a.pth", "teacher-b": "runs/b.pth",
    }  # fmt: skip
    read_so = LoadOptions(
        arch="vit_small_patch16_224", key="teacher", heads=6, pool="cls", grid="14x14", allow_partial=True
    )
    assert suite.loading == {"teacher-a": read_so, "teacher-b": read_so}
    assert suite.loading_of("teacher-b") == read_so and suite.loading_of("ours-b") == LoadOptions()
    assert suite.runs[0] == RunSpec(
        "knn", ("dino2021", "dinov2"), {"k": [10, 20], "temperature": 0.1}, (0, 1), ("photos", "digits"),
        ("ours-a", "ours-b", "pixels"), (), 10, Compute(precision="bf16", batch_size=8),
    )  # fmt: skip
    assert suite.runs[1] == RunSpec("davis", data=("shapes",), compute=suite.runs[0].compute)
    assert suite.runs[2].compute == Compute("32", True, 8, 2, 0.5, True)
    assert suite.data_of(suite.runs[0]) == ["photos=digits", "digits"]
    assert suite.resources_of("davis") == Resources(1, 8, "32GB", 0.5) and suite.slurm == {"partition": "gpu"}
    assert list(suite.models_of(suite.runs[1])) == list(suite.models)


def test_the_command_line_goes_before_the_file(here):
    suite = here(GOOD, ckpt=["mine=pixels:8", "runs/*.pth"], out="elsewhere", limit=5)
    assert suite.models == {"mine": "pixels:8", "a": "runs/a.pth", "b": "runs/b.pth"}
    assert suite.runs[0].models == () and suite.runs[0].limit is None
    assert suite.out == Path("elsewhere") and suite.limit == 5


#: What is written in the place of what, the line, and words of the message.
TYPOS = {
    "key": ('out = "r', 'outt = "r', 2, ["unknown key 'outt'", "did you mean 'out'"]),
    "table": ("[data]", "[dataa]", 7, ["unknown key 'dataa'", "did you mean 'data'"]),
    "key of a run": ("profile =", "profil =", 11, ["[[run]] 1 profil", "did you mean 'profile'"]),
    "protocol": ('"knn"', '"kmn"', 10, ["[[run]] 1 protocol", "did you mean 'knn'"]),
    "no protocol": ('protocol = "davis"', "", 17, ["[[run]] 2 protocol", "is missing"]),
    "profile": ('"dinov2"', '"dinov3"', 11, ["[[run]] 1 profile", "unknown profile of knn 'dinov3'"]),
    "setting": ("temperature", "temprature", 12, ["[[run]] 1 set.temprature", "did you mean 'temperature'"]),
    "value": ("0.1 }", "-1.0 }", 12, ["[[run]] 1 set", "temperature", "above 0"]),
    "value's type": ("0.1 }", '"warm" }', 12, ["[[run]] 1 set.temperature", "is a number, not 'warm'"]),
    "a switch for a number": ("0.1 }", "true }", 12, ["set.temperature", "no switch"]),
    "a table for a value": ("0.1 }", "{ a = 1 } }", 12, ["set.temperature", "not a table"]),
    "seed": ("[0, 1]", "[0, -1]", 13, ["[[run]] 1 seeds", "-1"]),
    "seeds": ("[0, 1]", "3", 13, ["[[run]] 1 seeds", "a list", "not the whole number 3"]),
    "a seed twice": ("[0, 1]", "[1, 1]", 13, ["seeds", "twice"]),
    "data": ('"photos", ', '"photo", ', 14, ["[[run]] 1 data", "did you mean 'photos'"]),
    "data of another kind": ('data = "shapes"', 'data = "photos"', 19, ["digits is an embedded set of classification"]),
    "an embedded set": ('data = "shapes"', 'data = "shape"', 19, ["[[run]] 2 data", "did you mean 'shapes'"]),
    "model": ('["ours", "pixels"]', '["ours", "pixel"]', 15, ["[[run]] 1 models", "did you mean 'pixels'"]),
    "limit": ("limit = 10", "limit = 0", 16, ["[[run]] 1 limit", "below 1"]),
    "glob": ('"runs/*.pth"', '"run/*.pth"', 4, ["[models] ours", "no file fits"]),
    "two of one name": ('"pixels", "r', '"dino=pixels", "r', 6, ["two models called 'dino'"]),
    "a model's type": ('"timm:vit_small_patch16_224.dino"', "3", 6, ["[models] dino", "a text or a list of them"]),
    "an empty list": ('["ours", "pixels"]', "[]", 15, ["[[run]] 1 models", "empty list"]),
    "a name with a slash": ("dino = ", '"a/b" = ', 6, ["'a/b' is no name"]),
    "resource": ("cpus", "cpu", 21, ["[resources] default.cpu", "did you mean 'cpus'"]),
    "resource's protocol": ("davis = {", "davs = {", 22, ["[resources] davs", "did you mean 'davis'"]),
    "memory": ('"32GB"', '"lots"', 21, ["[resources] default.memory", "'lots' is no amount"]),
    "hours": ("hours = 0.5", "hours = -1", 22, ["[resources] davis.hours", "-1"]),
    "devices": ("devices = 1", "devices = 1.5", 21, ["default.devices", "a whole number is needed"]),
    "slurm": ("partition", "partitoin", 24, ["[slurm] partitoin", "did you mean 'partition'"]),
    "slurm's type": ('"gpu"', "3", 24, ["[slurm] partition", "a text is needed, not the whole number 3"]),
    "syntax": ("[0, 1]", "[0, 1", 14, ["not TOML"]),
    "quotes": ('"davis"\n', '"davis\n', 18, ["not TOML"]),
    "a key twice": ('out = "results"', 'name = "x"', 2, ["not TOML", "overwrite"]),
    "tests": ('data = "shapes"', 'data = "shapes"\ntests = ["imagenet-a"]', 20, ["[[run]] 2 tests", "davis"]),
    "compute": ("[compute]", "[computee]", 25, ["unknown key 'computee'", "did you mean 'compute'"]),
    "key of compute": ("batch_size", "batchsize", 27, ["[compute] batchsize", "did you mean 'batch_size'"]),
    "precision": ('"bf16"', '"bf61"', 26, ["[compute] precision", "did you mean 'bf16'"]),
    "a precision that is none": ('"bf16"', '"auto"', 26, ["[compute] precision", "say which it is"]),
    "precision's type": ('"bf16"', "16", 26, ["[compute] precision", "a text is needed, not the whole number 16"]),
    "batch": ("batch_size = 8", "batch_size = 0", 27, ["[compute] batch_size", "below 1"]),
    "a table for a number": ("batch_size = 8", "batch_size = {}", 27, ["[compute] batch_size", "not a table"]),
    "a run's compute": ("compute = {", "comput = {", 30, ["[[run]] 3 comput", "did you mean 'compute'"]),
    "compute's type": ("compute = {", "compute = 3 #", 30, ["[[run]] 3 compute", "a table is needed"]),
    "key of a run's compute": ("workers", "worker", 30, ["[[run]] 3 compute.worker", "did you mean 'workers'"]),
    "a run's precision": ('"32"', '"bf32"', 30, ["[[run]] 3 compute.precision", "available: 32, bf16, 16"]),
    "workers": ("workers = 2", "workers = -2", 30, ["[[run]] 3 compute.workers", "below 1"]),
    "skip_broken": ("broken = true", 'broken = "yes"', 30, ["compute.skip_broken", "true or false is needed"]),
    "ram_cache": ("0.5, no", "-0.5, no", 30, ["[[run]] 3 compute.ram_cache", "from 0 on"]),
    "ram_cache's type": ("0.5, no", "true, no", 30, ["compute.ram_cache", "a number is needed, not true"]),
    "no_cache": ("no_cache = true", "no_cache = 1", 30, ["compute.no_cache", "true or false is needed"]),
    "a model's key": ("path =", "pth =", 32, ["[models] teacher.pth", "did you mean 'path'"]),
    "no path": ('path = "runs/*.pth"\n', "", 31, ["[models] teacher.path", "is missing"]),
    "path": ('path = "runs', 'path = "run', 32, ["[models] teacher.path", "no file fits"]),
    "path's type": ('path = "runs/*.pth"', "path = 3", 32, ["[models] teacher.path", "a text or a list of them"]),
    "arch": ('"vit_small_', '"vit_smal_', 33, ["[models] teacher.arch", "near it: vit_small_patch16_224"]),
    "an empty arch": ('"vit_small_patch16_224"', '""', 33, ["[models] teacher.arch", "an empty text"]),
    "option": ("key = ", "kye = ", 34, ["[models] teacher.kye", "did you mean 'key'"]),
    "key's type": ('key = "teacher"', "key = true", 34, ["[models] teacher.key", "a text is needed, not true"]),
    "heads": ("heads = 6", "heads = 0", 35, ["[models] teacher.heads", "below 1"]),
    "heads' type": ("heads = 6", 'heads = "6"', 35, ["[models] teacher.heads", "a whole number is needed"]),
    "pool": ('"cls"', '"clss"', 36, ["[models] teacher.pool", "did you mean 'cls'"]),
    "grid": ('"14x14"', '"14 by 14"', 37, ["[models] teacher.grid", "height x width"]),
    "allow_partial": ("partial = true", "partial = 1", 38, ["teacher.allow_partial", "true or false is needed"]),
    "trust": ("allow_partial", "trust_repo", 38, ["[models] teacher.trust_repo", "give --trust-repo to the command"]),
    "test": ("limit = 10", 'tests = ["imagenet-b"]', 16, ["[[run]] 1 tests", "unknown test set 'imagenet-b'"]),
}  # fmt: skip
#: Typos that make something else wrong too: nothing is known of the data sets any more.
WIDER = ("table", "two of one name")


@pytest.mark.parametrize("name", TYPOS)
def test_a_typo_is_one_line_with_its_place(here, name):
    old, new, line, words = TYPOS[name]
    assert old in GOOD
    with pytest.raises(Mistakes) as told:
        here(GOOD.replace(old, new, 1))
    first, *others = told.value.lines
    assert first.startswith(f"paper.toml:{line}: ") and "\n" not in first
    assert all(word in first for word in words), first
    assert not others or name in WIDER


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(here):
    text = GOOD.replace("cpus", "cpu").replace('"knn"', '"kmn"').replace("out =", "outt =").replace("heads", "head")
    with pytest.raises(Mistakes) as told:
        here(text.replace('"bf16"', '"bf61"'))
    assert [line.split(":")[1] for line in told.value.lines] == ["2", "10", "21", "26", "35"]


def test_every_place_of_the_file_has_a_typo(here):
    """Of every key that is in it, one line at least is tried with a mistake."""
    tried = {line for _, _, line, _ in TYPOS.values()}
    assert {n for n, text in enumerate(GOOD.splitlines(), 1) if "=" in text} - tried <= {1, 5, 8, 29}


def test_what_the_computing_is_asked_for_becomes_options_of_a_run(here):
    suite = here(GOOD)
    where = ComputeOptions(device="cpu", devices=2)
    expected = ComputeOptions(device="cpu", devices=2, precision="32", batch_size=8, workers=2, ram_gb=0.5, cache=False)
    assert suite.runs[2].compute.on(where) == expected
    assert suite.runs[2].compute.on(ComputeOptions(batch_size=4)).batch_size == 4
    assert Compute().on(where) == where and not Compute().on(ComputeOptions(cache=False)).cache


def test_a_stranger_s_code_is_for_the_command_line_to_allow(here):
    suite = here(GOOD, trust_repo=True)
    assert all(suite.loading_of(model).trust_repo for model in suite.models)
    assert suite.loading_of("teacher-a").key == "teacher"
    assert here(GOOD, ckpt=["torchhub:a/b:c"], trust_repo=True).loading_of("c").trust_repo


@pytest.mark.parametrize("text, words", [("", "[[run]]"), ("models = 3\nrun = 4", "a table is needed"),
                                         ("run = [1]", "write [[run]]")])  # fmt: skip
def test_what_is_no_suite_is_told(here, text, words):
    with pytest.raises(Mistakes, match=r"paper.toml:1: ") as told:
        here(text)
    assert any(words in line for line in told.value.lines)


def test_a_folder_s_name_is_the_files_where_none_is_written(here, tmp_path):
    here(GOOD)
    (tmp_path / "my paper.toml").write_text(GOOD.replace('name = "paper"', ""))
    assert read("my paper.toml").name == "my-paper"
    with pytest.raises(Mistakes, match=r"paper.toml:1: name: '..' is no name for a folder"):
        here(GOOD.replace('"paper"', '".."'))


PUT = ["", "\n", "[[run]]\n", "true", "'''", '"""', *'x"[]{}=#1-.\\é*']
EDITS = st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 8), st.sampled_from(PUT)), min_size=1, max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EDITS)
def test_whatever_was_mistyped_is_told_in_lines_of_the_file(tmp_path_factory, edits):
    text = GOOD.replace("runs/*.pth", "pixels:3")
    for start, length, put in edits:
        text = text[:start] + put + text[start + length :]
    path = tmp_path_factory.getbasetemp() / "mistyped.toml"
    path.write_text(text, encoding="utf-8")
    try:
        read(path)
    except Mistakes as mistakes:
        for line in mistakes.lines:
            number = line.removeprefix(f"{path}:").partition(":")[0]
            assert "\n" not in line and 1 <= int(number) <= text.count("\n") + 1


def test_what_is_no_text_is_told(here, tmp_path):
    (tmp_path / "x.toml").write_bytes(b"a = 1\nb = \xff")
    with pytest.raises(Mistakes, match=r"x.toml:2: not UTF-8"):
        read("x.toml")


def test_a_file_that_is_not_there_is_told_with_the_likeliest(here, tmp_path):
    here(GOOD)
    with pytest.raises(UserError, match=r"no such file.*did you mean 'paper.toml'"):
        read("paper.tml")
    with pytest.raises(UserError, match=r"no such file.*did you mean 'quick'.*built-in suites are dino2021"):
        read("quik")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)


def test_no_model_is_needed_in_the_file_where_the_command_line_gives_one(here):
    text = '[[run]]\nprotocol = "knn"\n'
    with pytest.raises(Mistakes, match=r"paper.toml:1: \[models\]: names no model"):
        here(text)
    suite = here(text, ckpt=["pixels"])
    assert suite.models == {"pixels": "pixels"} and suite.runs[0].data == ("digits",)
