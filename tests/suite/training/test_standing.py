"""A training's folder tells how far it is, whether it is the one that the file asks for, and how long others take."""

from __future__ import annotations

import dataclasses
import json

import pytest
from helpers.trained import TEXT, trained

from dinobench.errors import UserError
from dinobench.pretrain import history
from dinobench.pretrain import run as runs
from dinobench.suite.cells import State
from dinobench.suite.plan import plan
from dinobench.suite.training import standing
from dinobench.suite.training.standing import look


@pytest.fixture
def here(tmp_path, monkeypatch, own_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DINOBENCH_DATA", raising=False)
    return tmp_path


def begun(training, epochs=1, seconds=5.0, **changes):
    """The folder of a training after some epochs, as far as it is looked at without reading weights."""
    folder = training.file.parent
    run = dataclasses.replace(training.run(), precision="32", fingerprint="f")
    runs.write(folder, dataclasses.replace(run, config={**run.config, **changes}))
    training.file.write_bytes(b"")
    for epoch in range(epochs):
        history.append_metrics(folder / history.METRICS, {"epoch": epoch + 1, "seconds": seconds + epoch})


def test_how_far_it_is_is_told_by_its_folder(here):
    dino = trained(here).trainings["dino"]
    assert look(dino) == standing.Look(False, 0, 2)
    begun(dino)
    assert look(dino) == standing.Look(False, 1, 2, (5.0,))
    history.append_metrics(dino.file.parent / history.METRICS, {"epoch": 2, "seconds": 6.0})
    assert look(dino) == standing.Look(True, 2, 2, (5.0, 6.0))
    dino.file.unlink()
    assert look(dino) == standing.Look(False, 0, 2)


def test_another_training_in_its_place_is_one_line_with_what_differs(here):
    suite = trained(here)
    begun(suite.trainings["dino"], lr=0.25)
    found = plan(suite)
    assert [(c.model, c.state) for c in found.cells] == [
        ("dino", State.MISSING), ("dino-start", State.MISSING), ("byol", State.TODO),
    ]  # fmt: skip
    assert found.missing() == [
        "t.toml:12: [train] dino: results/training/dino: holds another training (lr 0.25, not 0.0005): delete it, or "
        "give this one another name or the suite another out"
    ]


def test_what_decides_nothing_may_differ(here):
    dino = trained(here).trainings["dino"]
    begun(dino)
    run = runs.read(dino.file.parent)
    runs.write(dino.file.parent, dataclasses.replace(run, results="x", evals=("knn",), save_every=3, lost=("a.png",)))
    assert look(dino).epochs == 1
    runs.write(dino.file.parent, dataclasses.replace(run, precision="bf16"))
    assert look(dino).epochs == 1
    with pytest.raises(UserError, match="precision bf16, not 32"):
        look(dataclasses.replace(dino, precision="32"))


def test_the_same_images_by_another_path_are_the_same(here):
    dino = trained(here).trainings["dino"]
    begun(dino)
    run = runs.read(dino.file.parent)
    runs.write(dino.file.parent, dataclasses.replace(run, data="./photos"))
    with pytest.raises(UserError, match=r"data ./photos, not photos"):
        look(dino)
    identity = standing.load_dataset("photos", "images").train.fingerprint
    runs.write(dino.file.parent, dataclasses.replace(run, data="./photos", fingerprint=identity))
    assert look(dino).epochs == 1


def test_a_checkpoint_that_says_nothing_of_itself_is_left_alone(here):
    dino = trained(here).trainings["dino"]
    dino.file.parent.mkdir(parents=True)
    dino.file.write_bytes(b"")
    with pytest.raises(UserError, match=r"no run\.json in it"):
        look(dino)


def test_images_that_are_not_there_are_told_with_the_place(here):
    found = plan(trained(here, TEXT.replace('"photos"', '"./nowhere"')))
    assert any(line.startswith("t.toml:12: [train] dino: ./nowhere") for line in found.missing())


def test_durations_are_those_of_its_own_epochs_or_of_others_alike(here):
    more = '[train.soft]\nlike = "dino"\nepochs = 7\nset = { lr = 0.1 }\n'
    more += '[train.wide]\nlike = "dino"\nset = { out_dim = 16 }\n'
    suite = trained(here, TEXT.replace("[train.byol]", f"{more}[train.byol]"))
    begun(suite.trainings["dino"])
    found = {t.training.name: (t.look.epochs, t.seconds, t.basis) for t in plan(suite).trainings}
    assert found == {
        "dino": (1, 5.0, "1 epoch of its own"), "soft": (0, 35.0, "1 epoch of dino"),
        "wide": (0, None, "unknown"), "byol": (0, None, "unknown"),
    }  # fmt: skip


def test_a_plan_counts_trainings_and_the_cells_that_wait(here):
    suite = trained(here)
    found = plan(suite)
    assert [(c.model, c.state, c.run_ids, c.reason) for c in found.cells] == [
        ("dino", State.TODO, (), "trains dino first"),
        ("dino-start", State.TODO, (), "draws the start of dino first"),
        ("byol", State.TODO, (), "trains byol first"),
    ]  # fmt: skip
    assert [(t.training.name, t.waiting, t.pending) for t in found.trainings] == [("dino", 1, True), ("byol", 1, True)]
    begun(suite.trainings["dino"])
    found = plan(suite)
    assert found.seconds == 5.0 and found.unknown == 3
    with pytest.raises(UserError, match="--max-hours"):
        found.refuse_above(0.001)
    unused = plan(trained(here, TEXT + 'models = ["byol"]\n'))
    assert [(t.training.name, t.pending) for t in unused.trainings] == [("dino", False), ("byol", True)]


def test_what_a_training_cannot_give_is_known_before(here):
    text = TEXT.replace('arch = "vit_w32"\ndepth = 1\npatch_size = 8', 'arch = "resnet18"')
    found = plan(trained(here, text + '[[run]]\nprotocol = "attention"\ndata = "shapes"\n'))
    assert [c.reason for c in found.cells if c.state is State.NOT_APPLICABLE] == ["no attention"] * 3


def test_as_shown(here):
    from dinobench.cli.display import suites

    suite = trained(here)
    begun(suite.trainings["dino"])
    found = plan(suite)
    assert suites.summary(found) == (
        "3 cells: 3 to do; 3 tasks, 5 s and 1 training and 3 cells of unknown duration on one device"
    )
    told = json.loads(suites.plan_json(found))["trainings"]
    assert [(t["name"], t["epochs"], t["of"], t["seconds"]) for t in told] == [
        ("dino", 1, 2, 5.0),
        ("byol", 0, 2, None),
    ]
