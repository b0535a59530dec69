from __future__ import annotations

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
from helpers import heads
from helpers.contexts import WatchedContext
from helpers.fakes import FakeBackbone
from helpers.forked import two_processes, typed_by_two
from helpers.paths import GOLDEN
from helpers.weights import save, vit
from hypothesis import given, settings
from hypothesis import strategies as st

import dinobench
from dinobench import runtime
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.errors import UserError
from dinobench.features.service import compute_features
from dinobench.models.loading import load_backbone
from dinobench.protocols.linear import GRID, Config, metrics, profiles, requests, run
from dinobench.results.items import read_items
from dinobench.results.records import read_file
from dinobench.signals import Interrupted
from dinobench.training.linear_classifiers import FeatureLayout
from dinobench.types import ComputeOptions, Features

SIDE = {"resize": 8, "crop": 8}
CACHED = dataclasses.replace(
    profiles["cached"], lr=(1e-3, 1e-1), blocks=(1, 2), epochs=3, minimum_steps=10, batch=128, **SIDE
)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def colors():
    return heads.colors()


def test_blocks_and_mean_patch_stand_in_the_reference_order(tmp_path):
    golden = np.load(GOLDEN / "vit_forward.npz")
    prefix = "vit_tiny_p16_224x224/"
    cls, mean = golden[prefix + "layer_cls"], golden[prefix + "avgpool_last"]
    rng = np.random.default_rng(224 * 1000 + 224)
    x = torch.from_numpy(rng.standard_normal((2, 3, 224, 224)).astype(np.float32))
    backbone = load_backbone(save(vit(width=192, depth=12, patch=16, image=224), tmp_path / "v.pth"))
    layout = FeatureLayout(4, True, 192)
    extracted = Features(*compute_features(backbone, x, 4, True), np.arange(2))
    for joined in (layout.compute(backbone, x), layout.join(extracted, slice(None))):
        for blocks in (1, 2, 4):
            oldest_first = cls[:, -blocks:].reshape(2, -1)
            np.testing.assert_allclose(joined[:, layout.columns(blocks, False)], oldest_first, atol=1e-4)
            both = np.concatenate([oldest_first, mean], axis=1)
            np.testing.assert_allclose(joined[:, layout.columns(blocks, True)], both, atol=1e-4)


def test_profiles_are_the_papers():
    assert len(profiles["dinov2"].classifiers()) == len(profiles["cached"].classifiers()) == 52 and len(GRID) == 13
    old, new = profiles["dino2021"].probe_config(), profiles["dinov2"].probe_config()
    order = old.order(1_281_167, seed=0)
    assert (order.steps_per_epoch, old.epochs, old.batch, len(old.classifiers)) == (1252, 100, 1024, 1)
    factors = old.factors(1252)
    assert (factors[0] == 1).all() and factors[50, 0] == pytest.approx(0.5) and np.ptp(factors[7]) == 0
    assert new.order(9469, seed=0).steps_per_epoch == 1250
    assert new.factors(1250)[5, 0] == pytest.approx(0.5) and np.ptp(new.factors(1250)[5]) > 0
    cached = profiles["cached"].probe_config()
    assert cached.order(8522, 0).steps_per_epoch == 125 and cached.order(1_153_051, 0).steps_per_epoch == 1127


def test_the_grid_learns_and_reports_the_papers_ways_beside(colors):
    result = run(FakeBackbone(), colors, CACHED, LocalContext())
    assert set(result.metrics) == {m.name for m in metrics(CACHED)}
    assert result.metrics["top1"] > 60  # a third by chance
    assert result.metrics["top1_val_chosen"] >= result.metrics["top1"] <= result.metrics["top1_best_epoch"]
    assert (result.items["top1"] == (result.items["prediction"] == result.items["label"])).all()
    assert "head chosen on 12 held-out images: blocks=" in result.notes[0]


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**16))
def test_test_labels_have_no_say_in_the_choice(colors, seed):
    shuffled = dataclasses.replace(colors.test, labels=np.random.default_rng(seed).permutation(colors.test.labels))
    plain, other = (run(FakeBackbone(), data, CACHED, LocalContext())
                    for data in (colors, dataclasses.replace(colors, test=shuffled)))  # fmt: skip
    assert plain.notes[0].split(";")[0] == other.notes[0].split(";")[0]
    assert (plain.items["prediction"] == other.items["prediction"]).all()


@pytest.mark.parametrize("features", ["extracted", "augmented"])
def test_an_interruption_changes_nothing(colors, tmp_path, features):
    class Interrupted(Exception):
        pass

    config = dataclasses.replace(CACHED, features=features, min_scale=0.5)
    seen = []

    def stop(item):
        seen.append(item)
        if len(seen) == 25:  # in the third of three epochs of ten steps
            raise Interrupted

    whole = run(FakeBackbone(), colors, config, LocalContext())
    with pytest.raises(Interrupted):
        run(FakeBackbone(), colors, config, WatchedContext(scratch=tmp_path, each=stop))
    rest = []
    again = run(FakeBackbone(), colors, config, WatchedContext(scratch=tmp_path, each=rest.append))
    assert len(rest) == 10 and rest[-1].says.startswith("epoch 3/3, loss 0.")
    assert again.metrics == whole.metrics and again.notes == whole.notes
    assert again.items.equals(whole.items)
    other = dataclasses.replace(config, momentum=0.5)
    fresh = []
    run(FakeBackbone(), colors, other, WatchedContext(scratch=tmp_path, each=fresh.append))
    assert len(fresh) == 30, "the state of another configuration is not taken up"


@pytest.mark.parametrize("features", ["extracted", "augmented"])
@pytest.mark.parametrize("at", [1, 10, 14, 30])  # of thirty steps, ten an epoch
def test_a_signal_saves_after_any_step(colors, tmp_path, features, at):
    config = dataclasses.replace(CACHED, features=features, min_scale=0.5)
    seen = []

    def ask(item):
        seen.append(item)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGUSR1)

    whole = run(FakeBackbone(), colors, config, LocalContext())
    # The signal comes as a step's count is shown, so that the one after it is the last.
    expected = min(at + 1, 30)
    if at < 30:
        with pytest.raises(Interrupted):
            run(FakeBackbone(), colors, config, WatchedContext(scratch=tmp_path, each=ask))
        rest = []
        again = run(FakeBackbone(), colors, config, WatchedContext(scratch=tmp_path, each=rest.append))
        assert len(rest) == 30 - expected
    else:
        again = run(FakeBackbone(), colors, config, WatchedContext(scratch=tmp_path))
    assert again.metrics == whole.metrics and again.items.equals(whole.items)


def test_a_state_of_whole_epochs_is_gone_on_from(colors, tmp_path):
    """As an earlier dinobench left it."""

    class Killed(Exception):
        pass

    def kill(item):
        if item.index == 20:
            raise Killed

    whole = run(FakeBackbone(), colors, CACHED, LocalContext())
    with pytest.raises(Killed):
        run(FakeBackbone(), colors, CACHED, WatchedContext(scratch=tmp_path, each=kill))
    (path,) = tmp_path.glob("linear-*.pt")
    state = torch.load(path, weights_only=True)
    assert state.pop("steps") == 20
    torch.save(state | {"epochs": 2}, path)
    rest = []
    again = run(FakeBackbone(), colors, CACHED, WatchedContext(scratch=tmp_path, each=rest.append))
    assert len(rest) == 10 and again.items.equals(whole.items)


def test_diverging_heads_are_dropped_and_named(colors):
    mixed = dataclasses.replace(CACHED, lr=(0.1, 1e38), blocks=(1,), batch=1024)  # times four: infinite
    result = run(FakeBackbone(), colors, mixed, LocalContext())
    assert "2 of 4 heads diverged and were dropped: blocks=1 mean_patch=off lr=1e+38" in result.notes[0]
    assert "lr=0.1 (" in result.notes[1] and result.metrics["top1"] > 60
    for config in (dataclasses.replace(mixed, lr=(2e38, 3e38)),
                   dataclasses.replace(mixed, lr=(1e38,), mean_patch=(False,))):  # fmt: skip
        with pytest.raises(UserError, match=r"from step \d+ on, .* not finite; .*--set lr="):
            run(FakeBackbone(), colors, config, LocalContext())


def test_micro_batches_and_threads_do_not_change_the_schedule(colors):
    config = dataclasses.replace(Config(), epochs=3, batch=50, lr=(0.1,), blocks=(1,), min_scale=0.5, **SIDE)
    seen = []
    plain, small = LocalContext(), WatchedContext(seen.append, batch_size=7, workers=3)
    one, other = (run(FakeBackbone(), colors, config, ctx) for ctx in (plain, small))
    assert len(seen) == 9 and [len(s.labels) for s in seen[:3]] == [50, 50, 20], "batches are whole however loaded"
    assert one.items.equals(other.items) and "top1_val_chosen" not in one.metrics
    assert one.metrics["top1"] > 50 and one.notes == other.notes


def test_broken_train_images(colors):
    class Torn:
        """Train images of which one cannot be decoded."""

        def __getattr__(self, name):
            return getattr(colors.train, name)

        def __len__(self):
            return len(colors.train)

        def load(self, index):
            if index == 5:
                raise OSError("torn")
            return colors.train.load(index)

    data = dataclasses.replace(colors, train=Torn())
    config = Config(epochs=1, lr=(0.1,), blocks=(1,), **SIDE)
    with pytest.raises(UserError, match="train/5 of train cannot be read"):
        run(FakeBackbone(), data, config, LocalContext())
    ctx = LocalContext()
    ctx.skip_broken = True
    assert len(run(FakeBackbone(), data, config, ctx).items) == 60


def test_a_convnet_has_the_part_of_the_grid_that_it_can(colors):
    backbone = FakeBackbone()
    backbone.capabilities = frozenset({"features"})
    result = run(backbone, colors, CACHED, LocalContext())
    assert result.notes[0] == "a fake has one feature: blocks=1, mean_patch=off"
    asked = requests(colors, CACHED, backbone)
    assert [(s.name, r.layers, r.mean_patches) for s, r in asked] == [("train", 1, False), ("test", 1, False)]
    assert [r.layers for _, r in requests(colors, CACHED, FakeBackbone())] == [2, 2]
    assert len(requests(colors, Config(), FakeBackbone())) == 1  # augmented: the train images change every time


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_released_head_is_scored(colors, tmp_path, interleaved):
    """DINO's format; the head is built so that it is right on the mean patch and blind to the CLS token."""
    eye = torch.tensor(np.eye(3) - 1 / 3, dtype=torch.float32)
    cls, mean = torch.zeros(3, 3), eye
    weight = torch.stack([cls, mean], dim=2).flatten(1) if interleaved else torch.cat([cls, mean], dim=1)
    path = tmp_path / "head.pth"
    head = {"module.linear.weight": weight, "module.linear.bias": torch.zeros(3)}
    torch.save({"epoch": 100, "state_dict": head}, path)
    config = Config(head=str(path), blocks=(1,), mean_patch=(True,), interleaved=interleaved, **SIDE)
    result = run(FakeBackbone(), colors, config, LocalContext())
    color = LocalContext().features(FakeBackbone(), colors.test, config.request()).cls[:, 0]
    assert result.metrics["top1"] == pytest.approx(100 * (color.argmax(1) == colors.test.labels).mean())
    assert [m.name for m in metrics(config)] == ["top1", "top5"] and "sha256" in result.notes[0]
    with pytest.raises(UserError, match=r"3 classes on 6 columns.* give 12 columns"):
        run(FakeBackbone(), colors, Config(head=str(path), **SIDE), LocalContext())


def test_settings_that_make_no_sense():
    for wrong in (
        {"lr": (0.0,)}, {"lr": (float("inf"),)}, {"lr": (0.1, 0.1)}, {"blocks": (0,)}, {"holdout": 0.0},
        {"epochs": 0}, {"min_scale": 0.0}, {"interleaved": True}, {"head": "x", "blocks": (1, 4)},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            Config(**wrong)


@pytest.mark.slow
def test_beats_chance_on_digits_with_every_profile(own_cache, tmp_path):
    shorter = {"dino2021": {"epochs": 4, "batch": 64, "lr": 0.03, "blocks": 1},
               "dinov2": {"epochs": 2, "steps_per_epoch": 6, "batch": 256, "blocks": "1,2"},
               "cached": {"epochs": 2, "minimum_steps": 30}}  # fmt: skip
    for profile, changes in shorter.items():
        vit_tiny, small = "random:vit_tiny_patch16_224", {**changes, "crop": 32, "resize": 32}
        (record,) = dinobench.run("linear", vit_tiny, "digits", profile=profile, settings=small, out=tmp_path)
        value = record.metrics["top1"]
        assert value.ci_low > 20, (profile, value)
        assert record.profile.startswith(profile + "+") and value.n == 450


#: Settings of each profile's run, in one process and in two.
SHORT = {
    profile: {"crop": 16, "resize": 16, "blocks": "1,2", "epochs": 2, "batch": 100, steps: 3}
    for profile, steps in (("dinov2", "steps_per_epoch"), ("cached", "minimum_steps"))
}


@pytest.mark.slow
def test_two_processes_equal_one(own_cache, tmp_path):
    model = str(save(vit(width=64, depth=2, patch=8, image=32), tmp_path / "small.pth"))
    with runtime.one_thread():
        alone = [
            dinobench.run("linear", model, "digits", profile=profile, settings=short, out=tmp_path / "one",
                          compute=ComputeOptions(device="cpu"))[0]
            for profile, short in SHORT.items()
        ]  # fmt: skip
    for profile, short in SHORT.items():
        line = ["run", "--protocol", "linear", "--ckpt", model, "--data", "digits", "--profile", profile, "--device",
                "cpu", "--out", tmp_path / "two", *(f"--set={n}={v}" for n, v in short.items())]  # fmt: skip
        code, _, err = typed_by_two(tmp_path, *line, DINOBENCH_CACHE=str(tmp_path / "cache2"))
        assert code == 0, err
    for record in alone:
        second = read_file(tmp_path / "two" / "runs" / f"{record.run_id}.json")
        first, items = (read_items(tmp_path / name, r) for name, r in (("one", record), ("two", second)))
        assert second.processes == 2 and first is not None and first.equals(items), record.profile


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice")
    two_processes(heads.run_twice, str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("features", "stop", "left"), heads.ENDS)
def test_two_processes_share_the_heads_and_go_on_exactly(twice, tmp_path, features, stop, left):
    """What two began two end and one ends, with the numbers of one."""
    folder, whole = twice / f"{features}-{stop}", heads.alone(features, scratch=tmp_path / "one")
    for rank in (0, 1):
        result = torch.load(folder / f"result-{rank}.pt", weights_only=True)
        assert result == {"steps": left, "metrics": whole.metrics, "notes": whole.notes}
        assert (folder / f"items-{rank}.json").read_text() == whole.items.to_json(double_precision=15)
    (one,), (two,) = ((*path.glob("linear-*.pt"),) for path in (tmp_path / "one", folder / "scratch"))
    assert one.name == two.name
    torch.testing.assert_close(*(torch.load(path, weights_only=True) for path in (one, two)), rtol=0, atol=0)
    rest, half = [], tmp_path / "half"
    half.mkdir()
    (half / one.name).write_bytes((folder / "interrupted.pt").read_bytes())
    again = heads.alone(features, scratch=half, each=rest.append)
    assert len(rest) == left and again.items.equals(whole.items) and again.notes == whole.notes
