from __future__ import annotations

import json
import math
import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from helpers.contexts import WatchedContext
from helpers.fakes import FakeSplit
from helpers.forked import Command, typed, typed_by_two
from helpers.weights import save, vit

import dinobench
from dinobench.config import replace_settings, settings_of
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.image_split import assemble
from dinobench.data.subsets import Subset
from dinobench.errors import UserError
from dinobench.models.key_mapping import weights_digest
from dinobench.models.loading import load_backbone
from dinobench.protocols.finetune import Config, metrics, profiles, run
from dinobench.runner import with_intervals
from dinobench.signals import ENDING, Interrupted
from dinobench.training import resume
from dinobench.training.finetuning import FineTuning
from dinobench.types import ComputeOptions

SIDE = {"resize": 16, "crop": 16}
#: Everything of the recipe at once. Adam divides by the gradient's size: a large eps keeps rounding from growing in it.
FULL = replace_settings(
    profiles["deit"], epochs=2, warmup_epochs=1, batch=16, lr=0.02, eps=1e-3, ema=0.5, layer_decay=0.8, clip=5.0,
    min_scale=0.5, schedule="step", drop_path=0.3, erasing=0.7, **SIDE,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    """48 and 40 of the digits."""
    digits = load_dataset("digits")
    parts = [Subset(digits.train, np.arange(48), "train"), Subset(digits.test, np.arange(40), "test")]
    return assemble("few", "array", digits.classes, *parts)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    return load_backbone(save(vit(width=64, depth=2, patch=8, image=32), path))


def weights_of(file):
    """The backbone's and the head's tensors in a checkpoint file."""
    content = torch.load(file, weights_only=True)
    return {**content["backbone"], **{f"head.{n}": t for n, t in content["head"].items()}}


def trained(backbone, data, folder, config=FULL, batch_size=None, **context):
    """(Result, final weights) of a run with its state in `folder`."""
    ctx = WatchedContext(scratch=folder / "scratch", folder=folder / "saved", batch_size=batch_size, **context)
    result = run(backbone, data, config, ctx)
    return result, weights_of(folder / "saved" / "model.pth")


@pytest.fixture(scope="module")
def whole(backbone, data, tmp_path_factory):
    """An uninterrupted run in one piece."""
    return trained(backbone, data, tmp_path_factory.mktemp("whole"))


def test_profiles_are_the_published_recipes():
    deit = profiles["deit"]
    train, mix = deit.train, deit.regularisation
    assert (train.lr * train.batch / train.lr_batch, train.epochs, train.warmup_epochs) == (1e-3, 300, 5)
    assert (deit.optimizer.weight_decay, deit.augmentation.erasing) == (0.05, 0.25)
    assert (mix.smoothing, mix.mixup, mix.cutmix, mix.drop_path) == (0.1, 0.8, 1.0, 0.1)
    for name in ("cifar10", "cifar100"):
        cifar = profiles[name].train
        assert cifar.lr * cifar.batch / cifar.lr_batch == pytest.approx(7.5e-6)
        assert (cifar.batch, cifar.epochs, profiles[name].optimizer.weight_decay) == (768, 1000, 0.05)
    assert (profiles["inat"].train.lr, profiles["inat"].train.epochs) == (5e-5, 300)
    assert next(iter(profiles)) == "deit" and [m.name for m in metrics(deit) if m.primary] == ["top1"]
    assert all(s.doc and s.source for s in settings_of(Config()).values())


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"warmup_epochs": 300}, {"betas": (0.9,)}, {"erasing_area": (0.5, 0.1)}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace_settings(Config(), **wrong)


def rates(backbone, data, folder, config, ctx=None):
    """The learning rate of the head's weights at every step."""
    tuning = FineTuning(backbone, data, config, ctx or LocalContext(scratch=folder))
    steps = tuning.steps if config.train.schedule == "step" else 1
    values = []
    for t in range(config.train.epochs * steps):
        tuning.schedule.step(t)
        values.append(tuning.optimizer.param_groups[-1]["lr"])
    return values


def test_learning_rate_warms_up_then_falls_by_a_cosine_and_follows_the_total_batch(backbone, data, tmp_path):
    config = replace_settings(Config(), epochs=20, batch=16, **SIDE)
    values = rates(backbone, data, tmp_path, config)
    peak = 5e-4 * 16 / 512
    rising = [1e-6 + (peak - 1e-6) * t / 5 for t in range(5)]
    falling = [1e-5 + (peak - 1e-5) * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(5, 20)]
    assert values == pytest.approx(rising + falling, rel=1e-9)
    again = LocalContext(scratch=tmp_path)
    again.processes, again.batch_size = 4, 2  # neither devices nor micro-batches have a say in it
    assert rates(backbone, data, tmp_path, config, again) == values
    # a step cannot hold more images than there are, and learns by those it holds
    assert FineTuning(backbone, data, Config(), LocalContext(scratch=tmp_path)).lr == pytest.approx(5e-4 * 48 / 512)


def test_scores_every_image_and_leaves_the_backbone_alone(whole, backbone, data, tmp_path):
    before = weights_digest(backbone.module.state_dict())
    result, weights = whole
    checked = with_intervals("finetune", metrics(FULL), result, seed=0)
    assert set(checked) == {"top1", "top5", "top1_best_epoch"} and checked["top1"].n == 40
    assert result.metrics["top1_best_epoch"] >= result.metrics["top1"]
    assert list(result.items["id"]) == list(data.test.ids)
    right = result.items["label"] == result.items["prediction"]
    assert (right == result.items["top1"]).all() and "best epoch" in result.notes[-1]
    trained(backbone, data, tmp_path, replace_settings(FULL, epochs=1, warmup_epochs=0))
    assert not backbone.module.training and weights_digest(backbone.module.state_dict()) == before
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(weights[name], backbone.module.state_dict()[name])


@pytest.mark.parametrize("step", [1, 2, 3, 5])  # of six: within the first epoch, at its end, within the second
def test_an_interrupted_run_ends_in_the_same_numbers(whole, backbone, data, tmp_path, monkeypatch, step):
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)
    seen = []

    def stop(update):
        seen.append(update)
        if len(seen) == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(backbone, data, tmp_path, each=stop)
    torch.manual_seed(step)  # what the process has drawn since does not matter
    rest = []
    result, weights = trained(backbone, data, tmp_path, each=rest.append)
    assert len(rest) == 6 - step
    assert result.metrics == whole[0].metrics and result.items.equals(whole[0].items)
    assert all(torch.equal(t, weights[n]) for n, t in whole[1].items())


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_saves_after_the_step_it_comes_in(whole, backbone, data, tmp_path, number):
    def ask(update):
        os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stopped:
        trained(backbone, data, tmp_path, each=ask)
    assert stopped.value.number == number
    rest = []
    result, weights = trained(backbone, data, tmp_path, each=rest.append)
    assert len(rest) == 6 - 2  # the signal came as the first step was counted
    assert result.items.equals(whole[0].items) and all(torch.equal(t, weights[n]) for n, t in whole[1].items())


def test_a_state_of_other_settings_or_a_damaged_one_is_not_gone_on_from(whole, backbone, data, tmp_path):
    other = replace_settings(FULL, epochs=1, warmup_epochs=0, lr=0.1)
    trained(backbone, data, tmp_path, other)
    (state,) = (tmp_path / "scratch").iterdir()
    rest = []
    result, _ = trained(backbone, data, tmp_path, each=rest.append)
    assert len(rest) == 6 and result.items.equals(whole[0].items)
    (full_state,) = set((tmp_path / "scratch").iterdir()) - {state}
    full_state.write_bytes(full_state.read_bytes()[:1000])
    rest.clear()
    assert trained(backbone, data, tmp_path, each=rest.append)[0].items.equals(whole[0].items) and len(rest) == 6


@pytest.mark.parametrize("batch_size", [2, 6])
def test_micro_batches_change_nothing(whole, backbone, data, tmp_path, batch_size):
    result, weights = trained(backbone, data, tmp_path, batch_size=batch_size)
    assert result.items.equals(whole[0].items)
    for name, tensor in whole[1].items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=1e-4)


def test_the_schedule_and_the_seed_do_change_it(whole, backbone, data, tmp_path):
    _, weights = trained(backbone, data, tmp_path, seed=1)
    assert (weights["head.weight"] - whole[1]["head.weight"]).abs().max() > 1e-3


def test_divergence_names_the_step_and_the_setting(backbone, data, tmp_path):
    config = replace_settings(FULL, lr=1e30, warmup_lr=1e30, clip=0.0)
    with pytest.raises(UserError, match=r"not finite at step 2 of epoch 1.*--set lr=1e\+29"):
        trained(backbone, data, tmp_path, config)


def test_the_kept_weights_load_as_a_checkpoint(whole, backbone, data, tmp_path):
    result = run(backbone, data, FULL, LocalContext(scratch=tmp_path, folder=tmp_path))
    file = tmp_path / "model.pth"
    again = load_backbone(file)
    assert (again.info.arch, again.info.heads) == (backbone.info.arch, backbone.info.heads)
    assert again.info.method == "unknown-finetuned" and again.info.epoch == FULL.train.epochs
    head = torch.load(file, weights_only=True)["head"]
    transform = FULL.test_transform()
    x = transform.normalise(torch.from_numpy(np.stack([transform(data.test.load(i)) for i in range(40)])))
    scores = again.features(x) @ head["weight"].T + head["bias"]
    assert [data.classes[i] for i in scores.argmax(1)] == list(result.items["prediction"])


@pytest.mark.parametrize("model", ["resnet18", "convnext_atto"])
def test_convnets_train_too(data, tmp_path, model):
    config = replace_settings(FULL, epochs=1, warmup_epochs=0, batch=24, ema=0.0, crop=32, resize=32)
    backbone = load_backbone(f"random:{model}")
    before = backbone.module.state_dict()
    result, weights = trained(backbone, data, tmp_path, config)
    assert len(result.items) == 40
    moved = [n for n, t in before.items() if t.is_floating_point() and not torch.equal(weights[n], t)]
    assert len(moved) > 0.9 * sum(t.is_floating_point() for t in before.values())


def test_it_learns(backbone, tmp_path):
    digits = load_dataset("digits")
    part = assemble("part", "array", digits.classes, Subset(digits.train, np.arange(600), "train"), digits.test)
    config = replace_settings(profiles["small"], epochs=6, flip=0.0, lr=4e-3, **SIDE)
    result = run(backbone, part, config, LocalContext(scratch=tmp_path))
    assert result.metrics["top1"] > 40, result.metrics  # chance is 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_where_the_context_says_so(whole, backbone, data, tmp_path, dtype):
    ctx = LocalContext(scratch=tmp_path)
    ctx.autocast = lambda: torch.autocast("cpu", dtype)
    tuning = FineTuning(backbone, data, FULL, ctx)
    assert tuning.scaler.is_enabled() == (dtype == torch.float16)  # whose gradients would underflow
    first = tuning.run()
    assert next(tuning.model.parameters()).dtype == torch.float32
    assert abs(first.metrics["top5"] - whole[0].metrics["top5"]) < 30
    if tuning.scaler.is_enabled():
        assert torch.load(tuning.state.path, weights_only=True)["scaler"]["scale"] > 0


def test_broken_images_stop_the_run_or_are_left_out(backbone, tmp_path):
    train, test = FakeSplit(20, broken=(3, 4)), FakeSplit(10, seed=1, broken=(5,))
    data = assemble("fake", "array", ["a", "b"], train, test)
    config = replace_settings(FULL, batch=20, repeats=1)
    ctx = LocalContext(scratch=tmp_path)
    with pytest.raises(UserError, match=r"images/[34].png of test cannot be read"):
        run(backbone, data, config, ctx)
    ctx.skip_broken = True
    result = run(backbone, data, config, ctx)
    assert list(result.items["id"]) == [i for i in test.ids if i != "images/5.png"]
    assert ctx.broken == {"test/images/3.png", "test/images/4.png", "test/images/5.png"}


#: Of a run in one process and in two.
TWO = dict(epochs=2, warmup_epochs=1, batch=600, crop=16, resize=16, repeats=1, lr=0.001, eps=0.001, ema=0.5,
           schedule="step")  # fmt: skip


@pytest.fixture
def small(tmp_path):
    """A file of a small ViT."""
    return str(save(vit(width=64, depth=2, patch=8, image=32), tmp_path / "small.pth"))


@pytest.mark.slow
def test_two_processes_equal_one(small, own_cache, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    compute = ComputeOptions(device="cpu")
    dinobench.run("finetune", small, "digits", profile="deit", out=one, save=one, settings=TWO, compute=compute)
    line = ["run", "--protocol", "finetune", "--ckpt", small, "--profile", "deit", "--device", "cpu", "--out", two,
            "--save", two, *(f"--set={n}={v}" for n, v in TWO.items())]  # fmt: skip
    code, _, err = typed_by_two(tmp_path, *line, DINOBENCH_CACHE=str(two / "cache"))
    assert code == 0, err
    start = load_backbone(small).module.state_dict()
    alone, shared = (weights_of(folder / "model.pth") for folder in (one, two))
    assert (alone["blocks.1.mlp.fc1.weight"] - start["blocks.1.mlp.fc1.weight"]).abs().max() > 1e-4
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(small, tmp_path):
    command = (
        "run", "--ckpt", small, "--protocol", "finetune", "--profile", "small", "--device", "cpu", "--set", "crop=16",
        "--set", "resize=16", "--set", "epochs=3", "--out",
    )  # fmt: skip

    def run(name):
        code, _, err = typed(tmp_path, *command, tmp_path / name, DINOBENCH_CACHE=str(tmp_path / name))
        assert code == 0, err
        (path,) = (tmp_path / name / "runs").glob("*.json")
        images = re.findall(r"Fine-tuning small: ([\d,]+) in", err) or ["0"]  # nothing is said of what takes no time
        return json.loads(path.read_text())["metrics"], int(images[0].replace(",", ""))

    a, b = tmp_path / "a", tmp_path / "b"
    deadline = time.monotonic() + 200
    with Command(tmp_path, *command, b, DINOBENCH_CACHE=str(b)) as process:
        while not list(b.rglob("finetune-*.pt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.err
    assert list(b.rglob("finetune-*.pt")) and not list((b / "runs").glob("*.json"))
    (whole, every), (resumed, rest) = run("a"), run("b")
    assert whole == resumed and rest < every
    assert not list(b.rglob("finetune-*.pt")) and not list(a.rglob("finetune-*.pt"))
