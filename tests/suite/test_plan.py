"""A plan holds every cell against what is there: records, failures, cached features, weights and data."""

from __future__ import annotations

import dataclasses
import json

import pytest
from helpers.samples import record
from helpers.weights import save, shifted, vit
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.errors import UserError
from dinobench.features import pace
from dinobench.files import cache_root
from dinobench.results import records
from dinobench.suite.cells import State
from dinobench.suite.file import Resources, RunSpec, Suite, read
from dinobench.suite.plan import cells_of, plan
from dinobench.types import LoadOptions

TEXT = """\
[models]
ours = "runs/*.pth"
conv = "conv.pth"
[[run]]
protocol = "knn"
profile = ["dino2021", "dinov2"]
[[run]]
protocol = "attention"
data = "shapes"
"""


@pytest.fixture
def models(remembered):
    remembered("ours-1", "runs/1.pth")
    remembered("ours-2", "runs/2.pth")
    remembered("conv", "conv.pth", ("features", "map"), arch="conv")


def states(found):
    return [(c.protocol, c.label, c.model, c.state.value) for c in found.cells]


def done(out, cell, **changes):
    """The record of a cell, as if it had been run."""
    info = dataclasses.replace(record().checkpoint, name=cell.model)
    made = record(cell.run_ids[0], protocol=cell.protocol, profile=cell.label, checkpoint=info, **changes)
    records.write(out, made, None)


def test_every_cell_has_its_state_and_its_run(suite, models):
    found = plan(suite(TEXT))
    assert states(found) == [
        ("knn", "dino2021", "ours-1", "to do"), ("knn", "dino2021", "ours-2", "to do"),
        ("knn", "dino2021", "conv", "to do"),
        ("knn", "dinov2", "ours-1", "to do"), ("knn", "dinov2", "ours-2", "to do"), ("knn", "dinov2", "conv", "to do"),
        ("attention", "dino2021", "ours-1", "to do"), ("attention", "dino2021", "ours-2", "to do"),
        ("attention", "dino2021", "conv", "not applicable"),
    ]  # fmt: skip
    assert all(len(c.run_ids) == 1 for c in found.cells) and len({c.run_ids for c in found.cells}) == 9
    assert found.cells[-1].reason == "no attention" and found.unknown == 8 and found.seconds == 0
    assert [[c.protocol for c in g.cells] for g in found.groups] == [
        ["knn", "knn"], ["knn", "knn"], ["knn", "knn"], ["attention"], ["attention"],
    ]  # fmt: skip


def test_cells_and_tasks_of_a_file_that_says_no_more_are_called_as_ever(suite, models):
    found = plan(suite(TEXT))
    assert (found.cells[0].key, found.cells[7].key, found.groups[0].key) == ("f1788766d6", "d48e87256e", "cbec0b2917")


HOW = """\
[models]
a = { path = "a.pth", key = "teacher" }
b = "b.pth"
[[run]]
protocol = "knn"
[[run]]
protocol = "knn"
compute = { batch_size = 4, workers = 1, ram_cache = 1, no_cache = true }
[[run]]
protocol = "knn"
compute = { precision = "bf16" }
[[run]]
protocol = "knn"
compute = { skip_broken = true }
"""


def test_what_decides_a_model_or_a_number_makes_another_cell(suite, remembered, tmp_path):
    remembered("a", "a.pth", loading=LoadOptions(key="teacher")), remembered("b", "b.pth")
    found = plan(suite(HOW))
    assert [(c.model, *c.decisive.items()) for c in found.cells] == [
        ("a", ("key", "teacher")), ("b",),
        ("a", ("key", "teacher"), ("precision", "bf16")), ("b", ("precision", "bf16")),
        ("a", ("key", "teacher"), ("skip_broken", True)), ("b", ("skip_broken", True)),
    ]  # fmt: skip
    assert len({c.key for c in found.cells}) == 6 and len({c.run_ids for c in found.cells}) == 4
    assert [[c.model for c in g.cells] for g in found.groups] == [["a"] * 3, ["b"] * 3]
    assert len({g.key for g in found.groups}) == 2
    done(tmp_path / "results", found.cells[1], broken_images=3)
    done(tmp_path / "results", found.cells[2], precision="bf16")
    states = [c.state.value for c in plan(suite(HOW)).cells]
    assert states == ["to do", "to do", "done", "to do", "to do", "done"]  # broken images are left out where allowed


def test_features_are_there_in_their_precision_and_for_who_reads_the_cache(suite, remembered):
    from dinobench.suite import standing

    remembered("a", "a.pth")
    run = '[[run]]\nprotocol = "knn"\ncompute = {{ {} }}\n'
    text = '[models]\na = "a.pth"\n' + run.format("precision = 'bf16'")
    (cell,) = cells_of(spec := suite(text))
    (evaluation,) = standing._Lookup(spec, [cell]).evaluations()[cell.key].values()
    for wanted in standing._wanted(evaluation):
        folder = cache_root() / "features" / wanted.key[:2] / wanted.key
        folder.mkdir(parents=True)
        (folder / "complete.json").write_text("{}")
    assert [c.state for c in plan(spec).cells] == [State.CACHED]
    for other in ("precision = '32'", "precision = 'bf16', no_cache = true"):
        assert [c.state for c in plan(suite(text.split("[[")[0] + run.format(other))).cells] == [State.TODO]


def test_what_a_file_cannot_be_read_with_is_told_with_the_place_of_the_option(suite, tmp_path, own_cache):
    network = vit(width=64, depth=1, patch=8, image=16)
    save({"student": network, "teacher": shifted(network)}, tmp_path / "x.pth")
    text = '[models.a]\npath = "x.pth"\nkey = "teachr"\n[models.b]\npath = "x.pth"\nheads = 5\n'
    lines = plan(suite(text + '[[run]]\nprotocol = "knn"\n')).missing()
    assert [line.partition(": x.pth")[0] for line in lines] == [
        "s.toml:3: [models] a.key",
        "s.toml:6: [models] b.heads",
    ]
    assert lines[0].endswith("no backbone under --key teachr; there is: teacher, student")


def test_weights_that_are_drawn_beside_a_part_of_a_file_are_others_with_every_seed(suite, remembered):
    remembered("a", "a.pth", seeds=(0, 1), loading=LoadOptions(allow_partial=True))
    text = '[models]\na = { path = "a.pth", allow_partial = true }\n[[run]]\nprotocol = "knn"\nseeds = [0, 1]\n'
    assert [len(g.cells) for g in plan(suite(text)).groups] == [1, 1]


def test_a_cell_is_done_if_and_only_if_its_record_is_there(suite, models, tmp_path):
    first = plan(suite(TEXT))
    done(tmp_path / "results", first.cells[0], duration_s=12.0)
    done(tmp_path / "results", first.cells[1], broken_images=3)
    (tmp_path / "results" / "runs" / f"{first.cells[2].run_ids[0]}.json").write_text("{")
    found = plan(suite(TEXT))
    assert [c.state for c in found.cells[:4]] == [State.DONE, State.TODO, State.TODO, State.TODO]
    assert found.cells[0].seconds == 12.0 and "leaves out 3 broken images" in found.cells[1].reason
    assert [c.key for c in found.cells] == [c.key for c in first.cells]
    assert first.cells[0].key not in {c.key for g in found.groups for c in g.cells}


def test_what_failed_says_why_and_what_lacked_something_is_not_applicable(suite, models, tmp_path):
    keys = [cell.key for cell in plan(suite(TEXT)).cells]
    (tmp_path / "results" / "failed").mkdir(parents=True)
    for key, kind, line in ((keys[0], "memory", "out of memory"), (keys[1], "not applicable", "no keys")):
        text = json.dumps({"kind": kind, "lines": ["before", line], "attempts": 1})
        (tmp_path / "results" / "failed" / f"{key}.json").write_text(text)
    (tmp_path / "results" / "failed" / f"{keys[2]}.json").write_text("[")
    found = plan(suite(TEXT))
    assert (found.cells[0].state, found.cells[0].reason) == (State.FAILED, "memory: out of memory")
    assert (found.cells[1].state, found.cells[1].reason) == (State.NOT_APPLICABLE, "no keys")
    assert found.cells[2].state is State.TODO


def test_features_that_are_cached_are_told(suite, models):
    from dinobench.suite import standing

    spec = suite(TEXT)
    evaluations = standing._Lookup(spec, cells_of(spec)).evaluations()
    (evaluation,) = evaluations[cells_of(spec)[0].key].values()
    for wanted in standing._wanted(evaluation):
        folder = cache_root() / "features" / wanted.key[:2] / wanted.key
        folder.mkdir(parents=True)
        (folder / "complete.json").write_text("{}")
    found = plan(spec)
    cached = [c for c in found.cells if c.state is State.CACHED]
    assert [(c.protocol, c.label, c.model) for c in cached] == [
        ("knn", "dino2021", "ours-1"), ("knn", "dinov2", "ours-1"),
    ]  # fmt: skip


def test_a_model_or_data_set_that_is_missing_is_told_with_its_place(suite, models):
    text = TEXT + 'models = ["conv"]\n[data]\nphotos = "nowhere"\n'
    found = plan(suite(text.replace('conv = "conv.pth"', 'conv = "convv.pth"')))
    assert {c.state for c in found.cells} == {State.MISSING} and not found.groups
    missing = {"s.toml:3: [models] conv: convv.pth", "s.toml:12: [data] photos: nowhere"}
    assert {line.partition(": no such")[0] for line in found.missing()} == missing
    both = [c for c in found.cells if "\n" in c.reason]
    assert {c.model for c in both} == {"conv"} and {c.protocol for c in both} == {"knn"}


def test_what_lies_beside_the_file_is_told_to_who_typed_elsewhere(suite, models, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    suite('[models]\nconv = "conv.pth"\n[data]\np = "photos"\n[[run]]\nprotocol = "knn"\ndata = ["p", "digits"]\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    lines = plan(read("../s.toml")).missing()
    assert len(lines) == 2 and all("it is in .., and paths start from the folder you are in" in line for line in lines)


def test_data_that_a_run_does_not_name_are_for_those_that_can_read_them(suite, models):
    text = '[data]\na = "digits"\n[models]\nconv = "conv.pth"\n[[run]]\nprotocol = "knn"\n[[run]]\nprotocol = "davis"\n'
    found = plan(suite(text))
    assert [(c.protocol, c.state) for c in found.cells] == [("knn", State.TODO), ("davis", State.NOT_APPLICABLE)]
    assert found.cells[1].reason == "a is no data of the kind 'videos'"


def test_durations_are_those_of_earlier_runs_alike_or_unknown(suite, models, tmp_path):
    first = plan(suite(TEXT))
    from dinobench.suite import standing

    spec = suite(TEXT)
    (e,) = standing._Lookup(spec, cells_of(spec)).evaluations()[first.cells[0].key].values()
    alike = {
        "config_hash": e.resolved.hash(e.protocol), "dataset_fingerprint": e.data.fingerprint,
        "checkpoint": dataclasses.replace(e.backbone.info, name="earlier"),
    }  # fmt: skip
    for i, seconds in enumerate((10.0, 30.0, 20.0)):
        records.write(tmp_path / "results", record(f"knn-earlier-{i}", duration_s=seconds, **alike), None)
    records.write(tmp_path / "results", record("knn-earlier-bf16", duration_s=900.0, precision="bf16", **alike), None)
    assert plan(spec).unknown == 8  # nothing tells how long the extraction takes
    for wanted in standing._wanted(e):
        pace.remember("vit_fake", wanted.split, wanted.transform, len(wanted.split), 100.0, "cpu")
    found = plan(spec)
    assert [c.seconds for c in found.cells[:4]] == [220.0, 220.0, None, None]
    assert found.cells[0].basis == "3 earlier records (cpu), features as timed before"
    assert found.seconds == 440.0 and found.unknown == 6
    found.refuse_above(1)
    with pytest.raises(UserError, match=r"s.toml: 0.1 h are to do, above --max-hours 0.1"):
        found.refuse_above(0.1)


def test_a_random_start_is_another_model_with_every_seed(suite, remembered):
    remembered("a", "a.pth", seeds=(0, 1))
    text = '[models]\na = "a.pth"\nr = "random:x"\n[[run]]\nprotocol = "knn"\nseeds = [0, 1]\n'
    spec = suite(text)
    from dinobench.suite.plan import groups_of

    assert [(g.cells[0].model, len(g.cells)) for g in groups_of(spec, cells_of(spec))] == [("a", 2), ("r", 1), ("r", 1)]


def test_tasks_ask_for_what_the_most_demanding_of_their_cells_does(suite, remembered):
    remembered("a", "a.pth")
    text = """
    [models]
    a = "a.pth"
    [[run]]
    protocol = "knn"
    [[run]]
    protocol = "logreg"
    [[run]]
    protocol = "linear"
    [resources]
    default = { memory = "900MB", hours = 1 }
    logreg = { memory = "2GB", cpus = 4 }
    linear = { devices = 4 }
    """
    found = plan(suite(text))
    assert [(len(g.cells), g.resources) for g in found.groups] == [
        (2, Resources(1, 8, "2GB", 1.0)), (1, Resources(4, 8, "900MB", 1.0)),
    ]  # fmt: skip


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)


@settings(max_examples=20)
@given(NAMES, st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
       st.lists(st.sampled_from(["dino2021", "dinov2", None]), min_size=1, max_size=3, unique=True))  # fmt: skip
def test_a_suite_is_the_product_of_what_its_runs_name(models, seeds, profiles):
    run = RunSpec("knn", tuple(profiles), {"k": [5]}, tuple(seeds), ("digits",))
    spec = Suite("s", None, {m: f"{m}.pth" for m in models}, {}, (run, run))
    cells = cells_of(spec)
    different = {p or "dino2021" for p in profiles}  # no profile is the first one
    assert len({c.key for c in cells}) == len(cells) == len(models) * len(seeds) * len(different)
    assert {(c.model, c.seed, c.label) for c in cells} == {
        (m, s, f"{p}+k=5") for m in models for s in seeds for p in different
    }


@pytest.mark.slow
def test_what_was_run_is_done_whole_and_limited(suite, own_cache, tmp_path):
    """A cell's run ids are those of the runner."""
    from dinobench.runner import run

    text = '[models]\na = "pixels:2"\nr = "random:vit_tiny_patch16_224"\n[[run]]\nprotocol = "knn"\nseeds = [0, 1]\n'
    text += "set = { k = [5], resize = 8, crop = 8 }\nlimit = 20\nmodels = ['a']\n"
    text += '[[run]]\nprotocol = "attention"\ndata = "shapes"\nlimit = 2\nset = { image_size = 64 }\n'
    spec = suite(text)
    for cell in plan(spec).cells:
        records_of = run(
            cell.protocol, cell.ckpt, cell.data, profile=cell.profile, settings=cell.settings, limit=cell.limit,
            seed=cell.seed, out=spec.out,
        )  # fmt: skip
        assert [r.run_id for r in records_of] == ([] if cell.state is State.NOT_APPLICABLE else list(cell.run_ids))
        assert all(r.profile == cell.label for r in records_of)
    assert [c.state for c in plan(spec).cells] == [State.DONE, State.DONE, State.NOT_APPLICABLE, State.DONE]
    whole = plan(dataclasses.replace(spec, runs=tuple(dataclasses.replace(r, limit=None) for r in spec.runs)))
    assert State.DONE not in whole.count() and whole.cells[0].label == "dino2021+crop=8+k=5+resize=8"
