from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.coco import make_coco
from helpers.images import write_images
from helpers.weights import save, vit
from PIL import Image

import dinobench
from dinobench import console, registry
from dinobench.data.transforms import ImageTransform
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.features import service
from dinobench.features.residents import Residents
from dinobench.models.adapters import ModuleBackbone
from dinobench.results.provenance import git_state, peak_memory_mb, versions
from dinobench.results.records import read, read_all
from dinobench.runner import with_intervals
from dinobench.types import ComputeOptions, FeatureRequest, Metric, Result, setting

CPU = ComputeOptions(device="cpu")
SMALL = {"resize": 32, "crop": 32, "k": (1, 3)}


def items(**columns):
    return pd.DataFrame({"id": [str(i) for i in range(len(next(iter(columns.values()))))], **columns})


def test_scores_get_their_interval_from_their_items():
    right = np.repeat([1.0, 0.0], [70, 30])
    metric = with_intervals("p", [Metric("top1")], Result({"top1": 70.0}, items(top1=right)), seed=0)["top1"]
    assert (metric.value, metric.n, metric.unit) == (70.0, 100, "%")
    assert metric.ci_low == pytest.approx(61, abs=1.1) and metric.ci_high == pytest.approx(79, abs=1.1)


def test_items_that_do_not_count_are_left_out():
    column = np.array([1.0, 0.0, np.nan, 1.0])
    metric = with_intervals("p", [Metric("a", unit="m")], Result({"a": 2 / 3}, items(a=column)), seed=0)["a"]
    assert metric.n == 3 and metric.ci_low is not None


def test_clusters_are_resampled_together():
    column = np.repeat([1.0, 0.0], 50)
    frame = items(a=column, video=np.repeat(["x", "y"], 50))
    alone = with_intervals("p", [Metric("a")], Result({"a": 50.0}, frame), seed=0)["a"]
    together = with_intervals("p", [Metric("a")], Result({"a": 50.0}, frame, cluster="video"), seed=0)["a"]
    assert (together.ci_low, together.ci_high) == (0.0, 100.0) and alone.ci_low > 30


def test_given_intervals_stand_and_metrics_without_items_have_none():
    declared = [Metric("a"), Metric("std", unit="points")]
    metrics = with_intervals("p", declared, Result({"std": 1.0, "a": 3.0}, None, intervals={"a": (2.0, 4.0)}), seed=0)
    assert list(metrics) == ["a", "std"]  # in the order of the declaration
    assert (metrics["a"].ci_low, metrics["a"].ci_high, metrics["a"].n) == (2.0, 4.0, 0)
    assert (metrics["std"].ci_low, metrics["std"].ci_high) == (None, None)


def test_a_declared_name_may_be_a_pattern():
    metrics = with_intervals(
        "p", [Metric("mAP_*"), Metric("x")], Result({"x": 1.0, "mAP_b": 2.0, "mAP_a": 3.0}), seed=0
    )
    assert list(metrics) == ["mAP_b", "mAP_a", "x"]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Result({"a": float("nan")}), "a = nan"),
        (Result({"a": 1.0, "b": 2.0}), "undeclared metrics: b"),
        (Result({}), "none at all"),
        (Result({"a": 60.0}, items(a=[1.0, 0.0])), "a = 60.0 is not the mean of its items, 50.0"),
        (Result({"a": 60.0}, items(a=[np.nan, np.nan])), "not the mean"),
    ],
)
def test_a_protocol_that_is_wrong_is_caught(result, words):
    with pytest.raises(ValueError, match=words):
        with_intervals("p", [Metric("a")], result, seed=0)


@dataclasses.dataclass(frozen=True)
class Config:
    layers: int = setting(1, "blocks")
    mean_patches: bool = setting(False, "patches")


def protocol(requires=("features",), fails=None):
    """A protocol in memory that measures the first feature's sign."""
    small = ImageTransform(resize=32, crop=32)

    def requests(data, config, backbone):
        return [(data.test, FeatureRequest(small, config.layers, config.mean_patches))]

    def run(backbone, data, config, ctx):
        if fails:
            raise fails
        (asked,) = requests(data, config, backbone)
        features = ctx.features(backbone, *asked)
        right = (features.cls[:, -1, 0] > 0).astype(float)
        draw = torch.rand(1).item()
        return Result({"positive": 100 * right.mean()}, items(positive=right), notes=[f"drew {draw:.6f}"])

    return SimpleNamespace(
        name="signs", version=3, summary="s", data="classification", requires=frozenset(requires),
        profiles={"only": Config()}, metrics=lambda config: (Metric("positive", primary=True),), requests=requests,
        run=run,
    )  # fmt: skip


@pytest.fixture
def fake_protocol(monkeypatch):
    def use(**kwargs):
        monkeypatch.setattr(registry, "load", lambda name: protocol(**kwargs))

    use()
    return use


def test_run_returns_the_records_it_writes(tmp_path, fake_protocol):
    (record,) = dinobench.run("signs", "pixels", out=tmp_path, compute=CPU)
    assert isinstance(record, dinobench.RunRecord) and read(tmp_path, record.run_id) == record
    assert (record.protocol, record.protocol_version, record.profile) == ("signs", 3, "only")
    assert record.config == {"layers": 1, "mean_patches": False} and record.primary == "positive"
    assert record.dataset == "digits" and record.metrics["positive"].n == 450


def test_what_the_data_leave_out_is_noted_in_the_record(tmp_path):
    make_coco(tmp_path)
    ckpt = save(vit(), tmp_path / "tiny.pth")
    (record,) = dinobench.run(
        "attention", ckpt, data=str(tmp_path), settings={"image_size": 64}, out=tmp_path / "out", compute=CPU
    )
    note = "1 of 2 images are left out because no object is marked in them, such as 000002.jpg"
    assert note in record.notes and read(tmp_path / "out", record.run_id).notes == record.notes


def test_images_that_leave_a_network_silent_are_noted_in_the_record(tmp_path):
    names = [f"{s}/{c}/{i}.png" for s in ("train", "val") for c in "uv" for i in range(3)]
    write_images(tmp_path, names)
    Image.new("RGB", (48, 48)).save(tmp_path / "val/u/1.png")
    black_is_zero = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "k": (1,)}
    for _ in range(2):  # extracted, and from the cache
        (record,) = dinobench.run("knn", "pixels:4", data=str(tmp_path), settings=black_is_zero, out=None, compute=CPU)
        note = "the feature of 1 images is zeros alone, whose similarity to all others is 0: val/u/1.png"
        assert note in record.notes and record.metrics["top1@k1"].n == 6


def test_nothing_is_written_when_not_asked(tmp_path, fake_protocol, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(dinobench.run("signs", "pixels", out=None, compute=CPU)) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_to_save_in_that_cannot_be_made_is_refused_before_the_scoring(tmp_path, monkeypatch):
    saving = protocol(fails=AssertionError("scored"))
    saving.saves = "signs"
    monkeypatch.setattr(registry, "load", lambda name: saving)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/below: cannot be written"):
        dinobench.run("signs", "pixels", out=tmp_path / "out", save=tmp_path / "file" / "below", compute=CPU)


def test_each_cell_starts_from_the_seed(tmp_path, fake_protocol):
    ckpts = ["a=pixels", "b=pixels"]
    first = dinobench.run("signs", ckpts, out=None, compute=CPU, seed=7)
    assert first[0].notes == first[1].notes
    assert dinobench.run("signs", ckpts[1], out=None, compute=CPU, seed=7)[0].notes == first[1].notes
    assert dinobench.run("signs", ckpts[1], out=None, compute=CPU, seed=8)[0].notes != first[1].notes


@pytest.mark.parametrize(
    ("spec", "requires", "settings", "lacks"),
    [
        ("random:resnet18", ("features", "attention"), {}, "attention"),
        ("random:resnet18", ("features",), {"layers": 2}, "layers"),
        ("pixels", ("features",), {"mean_patches": True}, "patches"),
    ],
)
def test_cells_that_a_backbone_cannot_fill_are_not_applicable(
    tmp_path, fake_protocol, capsys, spec, requires, settings, lacks
):
    fake_protocol(requires=requires)
    ckpts = [f"small={spec}", "random:vit_tiny_patch16_224"]
    (record,) = dinobench.run("signs", ckpts, out=tmp_path, compute=CPU, settings=settings)
    assert record.checkpoint.arch.startswith("vit_tiny")
    assert re.search(rf"signs is not applicable to small \(\w+\): no {lacks}", capsys.readouterr().err)
    assert len(read_all(tmp_path)[0]) == 1


def test_a_protocol_may_find_out_late_what_a_backbone_lacks(tmp_path, fake_protocol, capsys):
    fake_protocol(fails=UnsupportedCapability("pixels16 has no depth"))
    assert dinobench.run("signs", "pixels", out=tmp_path, compute=CPU) == []
    assert "signs is not applicable: pixels16 has no depth" in capsys.readouterr().err


def test_several_protocols_share_one_pass(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(console, "progress", lambda items, text, total=None: (seen.append(text), iter(items))[1])
    ckpts = ["one=pixels", "two=pixels:4"]
    records = dinobench.run(
        ["knn", "knn"],
        ckpts,
        out=None,
        settings=SMALL,
        compute=ComputeOptions(device="cpu", cache=False),
    )
    assert [r.checkpoint.name for r in records] == ["one", "two", "one", "two"]
    assert [s for s in seen if "Extracting" in s and "one, two" in s].__len__() == 2  # train and test


def test_checkpoints_take_their_turns_on_the_device(tmp_path, monkeypatch):
    """Those of a pass are there together, then each while it is scored; one alone is moved once, and none for nothing.

    The device is one in name alone: the weights stay where they are.
    """
    there, moves, most = set(), [], []

    def to(backbone, device):
        (there.add if torch.device(device).type == "meta" else there.discard)(backbone.info.name)
        moves.append((backbone.info.name, str(device)))
        most.append(len(there))
        return backbone

    small = ImageTransform(resize=32, crop=32)
    signs = protocol()
    # Half of them see images of another size, hence in a pass of their own.
    signs.requests = lambda data, config, backbone: [
        (data.test, FeatureRequest(small if backbone.info.name < "c" else ImageTransform(resize=16, crop=16)))
    ]

    def run(backbone, data, config, ctx):
        assert there == {backbone.info.name}
        features = ctx.features(backbone, *signs.requests(data, config, backbone)[0])
        assert there == {backbone.info.name}
        return Result({"positive": 100.0}, items(positive=np.ones(len(features.cls))))

    signs.run = run
    monkeypatch.setattr(registry, "load", lambda name: signs)
    monkeypatch.setattr(ModuleBackbone, "to", to)
    monkeypatch.setattr(service, "Residents", lambda device: Residents(torch.device("meta")))
    names = list("abcd")
    options = {"out": tmp_path / "out", "compute": ComputeOptions(device="cpu", cache=False)}
    ckpts = ["a=pixels:4", "b=pixels:8", "c=pixels:4", "d=pixels:8"]
    first = dinobench.run("signs", ckpts, **options)
    assert [r.checkpoint.name for r in first] == names and max(most) == 2 and there == {"d"}
    there.clear(), moves.clear()
    dinobench.run(["signs", "signs"], "alone=pixels", **options)
    assert moves == [("alone", "meta")]
    moves.clear()
    dinobench.run("signs", ckpts, **options)
    assert not moves


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"ckpt": ()}, "no checkpoint given"), ({"seed": -1}, "--seed -1"), ({"seed": 2**63}, "2\\^63"),
     ({"profile": "x"}, "unknown profile"), ({"settings": {"k": []}}, "at least one value")],
)  # fmt: skip
def test_bad_arguments_raise_user_errors(arguments, words):
    with pytest.raises(UserError, match=words):
        dinobench.run(**{"protocol": "knn", "ckpt": "pixels", "out": None, "compute": CPU, **arguments})


def test_provenance_of_this_checkout():
    installed = versions()
    assert installed["torch"] == torch.__version__.split("+")[0] or installed["torch"] == torch.__version__
    assert set(installed) >= {"python", "numpy", "timm", "torchvision", "lightning-fabric"}
    commit, dirty = git_state()
    assert (commit is None) == (dirty is None)
    assert commit is None or len(commit) == 40
    assert peak_memory_mb() > 10
