"""[train] is read as written, and a typo in any place of it is one line with the place."""

from __future__ import annotations

import pytest

from dinobench.suite.mistakes import Mistakes
from dinobench.suite.plan import cells_of

TEXT = """\
[data]
images = "digits"
[train]
data = "images"
arch = "vit_w32"
patch_size = 4
image_size = 8
epochs = 3
set = { batch = 64 }
[train.dino]
method = "dino"
depth = 2
seeds = [0, 2]
start = true
set = { out_dim = 32, warmup_epochs = 1 }
[train.off]
like = "dino"
start = false
seeds = [1]
set = { centering = "off" }
[train.sup]
method = "supervised"
precision = "32"
[[run]]
protocol = "knn"
models = ["dino", "off"]
[[run]]
protocol = "attention"
data = "shapes"
models = ["dino-s2", "dino-start", "sup"]
"""


def test_all_of_a_table(suite):
    found = suite(TEXT)
    both = ("dino-s0", "dino-s2")
    assert list(found.trainings) == list(found.models) == [
        "dino-s0", "dino-s0-start", "dino-s2", "dino-s2-start", "off", "sup",
    ]  # fmt: skip
    assert found.runs[0].models == (*both, "off")
    assert found.runs[1].models == ("dino-s2", "dino-s0-start", "dino-s2-start", "sup")
    off, start = found.trainings["off"], found.trainings["dino-s2-start"]
    assert (off.method, off.data, off.arch, off.depth, off.image_size, off.precision) == (
        "dino", "digits", "vit_w32", 2, 8, None,
    )  # fmt: skip
    assert off.settings == {"batch": 64, "epochs": 3, "out_dim": 32, "warmup_epochs": 1, "centering": "off", "seed": 1}
    assert found.models["off"] == "results/training/off/checkpoint.pth"
    assert found.models["dino-s2-start"] == "results/training/dino-s2/start.pth" and start.name == "dino-s2"
    assert off.run().config["out_dim"] == 32 and off.run().results == "results"


def test_what_a_training_says_goes_before_what_it_inherits(suite):
    text = TEXT.replace("seeds = [1]\n", 'seeds = [1]\nepochs = 9\narch = "vit_tiny"\n')
    off = suite(text).trainings["off"]
    assert off.settings["epochs"] == 9 and off.arch == "vit_tiny" and off.depth == 2


def test_models_of_the_command_line_stand_for_trained_ones_too(suite):
    found = suite(TEXT, ckpt=["pixels:2"])
    assert not found.trainings and {cell.model for cell in cells_of(found)} == {"pixels2"}


def test_trainings_lie_in_the_results_folder_that_is_asked_for(suite):
    assert suite(TEXT, out="there").models["sup"] == "there/training/sup/checkpoint.pth"


#: What is written in the place of what, the line, and words of the message.
TYPOS = {
    "shared key": ("arch =", "archh =", 5, ["[train] archh", "did you mean 'arch'"]),
    "key": ("depth =", "dept =", 12, ["[train] dino.dept", "did you mean 'depth'"]),
    "method": ('"supervised"', '"supervizd"', 22, ["[train] sup.method", "did you mean 'supervised'"]),
    "no method": ('method = "supervised"\n', "", 21, ["[train] sup.method", "is missing"]),
    "method's type": ('"supervised"', "3", 22, ["[train] sup.method", "a text is needed"]),
    "setting": ("out_dim", "out_dimm", 15, ["[train] dino.set.out_dimm", "did you mean 'out_dim'"]),
    "value": ('"off"', '"of"', 20, ["[train] off.set.centering", "'of'"]),
    "a switch for a number": ("out_dim = 32", "out_dim = true", 15, ["set.out_dim", "no switch"]),
    "a shared setting": ("batch = 64", "bach = 64", 9, ["[train] set.bach", "did you mean 'batch'"]),
    "a setting of others": ("batch = 64", "momentum = 0.9", 9, ["[train] set.momentum", "setting of supervised"]),
    "a setting twice": ("epochs = 3\nset = {", "epochs = 3\nset = { epochs = 4,", 9, ["give one of them"]),
    "seed as a setting": ("out_dim = 32", "seed = 3", 15, ["set.seed", "seeds = [3]"]),
    "seeds": ("[0, 2]", "[0, -2]", 13, ["[train] dino.seeds", "-2"]),
    "like": ('like = "dino"', 'like = "din"', 17, ["[train] off.like", "did you mean 'dino'"]),
    "like itself": ('like = "dino"', 'like = "off"', 17, ["off inherits from off itself"]),
    "architecture": ('"vit_w32"', '"vit_w33"', 5, ["[train] arch", "multiple of 32"]),
    "size": ("image_size = 8", "image_size = 9", 7, ["[train] image_size", "not a multiple of the patch size 4"]),
    "number": ("epochs = 3", "epochs = 0", 8, ["[train] epochs", "below 1"]),
    "precision": ('"32"', '"16"', 23, ["[train] sup.precision", "available: 32, bf16, auto"]),
    "data": ('data = "images"', 'data = "imagess"', 4, ["[train] data", "did you mean 'images'"]),
    "no data": ('data = "images"\n', "", 9, ["[train] dino.data", "is missing"]),
    "switch": ("start = true", 'start = "yes"', 14, ["[train] dino.start", "true or false"]),
    "model": ('"sup"]', '"supp"]', 30, ["[[run]] 2 models", "did you mean 'sup'"]),
    "name": ("[train.sup]", '[train."a/b"]\nmethod = "dino"\n[train.sup]', 21, ["'a/b' is no name"]),
}  # fmt: skip
#: Typos that are wrong for several trainings, or for what inherits them.
WIDER = ("no data", "a shared setting", "like itself", "seeds", "switch")


@pytest.mark.parametrize("name", TYPOS)
def test_a_typo_is_one_line_with_its_place(suite, name):
    old, new, line, words = TYPOS[name]
    assert TEXT.count(old) >= 1
    with pytest.raises(Mistakes) as told:
        suite(TEXT.replace(old, new, 1))
    first, *others = told.value.lines
    assert first.startswith(f"s.toml:{line}: ") and all(word in first for word in words), told.value
    assert not others or name in WIDER, others


@pytest.mark.parametrize("more, words", [
    ("[models]\nsup = 'pixels:2'\n", "two models called 'sup'"),
    ("[resources]\ntrain = { devices = 2 }\n", "one device each"),
    ("[data2]\n", "unknown key 'data2'"),
])  # fmt: skip
def test_what_does_not_go_together_is_told(suite, more, words):
    with pytest.raises(Mistakes, match=words):
        suite(TEXT + more)


def test_a_table_without_trainings_is_told(suite):
    with pytest.raises(Mistakes, match=r"s.toml:1: \[train\]: names no training"):
        suite('[train]\ndata = "digits"\n[[run]]\nprotocol = "knn"\n')


def test_a_training_asks_a_cluster_for_what_the_file_says(suite, own_cache):
    from dinobench.suite.file import Resources
    from dinobench.suite.plan import groups_of

    found = suite(TEXT + "[resources]\ntrain = { hours = 20 }\n")
    groups = [*groups_of(found, cells_of(found))]
    assert [g.cells[0].model for g in groups] == ["dino-s0", "dino-s2", "off", "dino-s0-start", "dino-s2-start", "sup"]
    assert all(g.resources == Resources(hours=20.0) for g in groups) and len(groups[1].cells) == 2


def test_the_defaults_are_those_of_the_command():
    import inspect

    from dinobench.cli.pretrain import pretrain
    from dinobench.suite.training.asked import Training

    typed = {name: p.default for name, p in inspect.signature(pretrain).parameters.items()}
    made = Training("a", "a", "dino", "digits")
    for name in ("arch", "image_size", "patch_size", "depth", "precision", "accumulate", "skip_broken"):
        assert getattr(made, name) == typed[name], name
