"""Training of a head: the release's losses step by step, and interruptions that leave no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contexts import WatchedContext
from helpers.golden import golden_values
from helpers.plain import arrays, trained_head
from helpers.weights import fill

from dinobench.context import LocalContext
from dinobench.dense.head import SegmentationHead, pixel_recipe
from dinobench.dense.head_training import Batch, HeadTraining
from dinobench.dense.rates import one_cycle
from dinobench.errors import UserError
from dinobench.signals import Interrupted

GOLDEN_TRAINING = golden_values("segmentation")["training"]


def golden_batches(seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((30, 4, 24, 7, 9)).astype(np.float32)
    classes = rng.standard_normal((6, 24)).astype(np.float32)
    cells = np.einsum("kc,nbchw->nbkhw", classes, features).argmax(2)
    labels = cells.repeat(16, axis=2).repeat(16, axis=3)
    labels = np.where(rng.random(labels.shape) < 0.1, 255, labels).astype(np.uint8)
    return [Batch(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(features, labels, strict=True)]


def small_batches(steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield Batch(
            torch.randn(3, 8, 2, 3, generator=generator),
            torch.randint(0, 4, (3, 9, 9), generator=generator).to(torch.uint8),
        )


class Listed:
    """Batches in a list; `told` are the images that it says it left out."""

    def __init__(self, batches, told=()):
        self.batches, self.broken = list(batches), set(told)

    def load(self, first):
        return iter(self.batches[first:])


def training(tmp_path, ctx, steps=8, dropout=0.5, rate=1e-3):
    head = SegmentationHead(8, 4, dropout, seed=1)
    recipe = pixel_recipe(one_cycle(rate, steps, 2, 1e-6), 1e-3)
    return HeadTraining("segmentation", head, recipe, tmp_path / "head.pt", ctx)


def test_the_released_losses(tmp_path):
    head = SegmentationHead(24, 6)
    with torch.no_grad():
        head.conv.weight.copy_(0.05 * fill("conv.weight", (6, 24, 1, 1)))
    recipe = pixel_recipe(one_cycle(1e-3, 30, 5, 1e-6), 1e-3)
    ours = HeadTraining("segmentation", head, recipe, tmp_path / "head.pt", LocalContext())
    losses = [float(ours.step(batch, step)) for step, batch in enumerate(golden_batches(GOLDEN_TRAINING["seed"]))]
    np.testing.assert_allclose(losses, GOLDEN_TRAINING["losses"], atol=1e-4)
    assert float(head.conv.weight.detach().abs().sum()) == pytest.approx(
        GOLDEN_TRAINING["conv_weight_sum_abs"], rel=1e-4
    )
    np.testing.assert_allclose(head.norm.running_mean[:5], GOLDEN_TRAINING["running_mean_first5"], atol=1e-6)
    np.testing.assert_allclose(head.norm.running_var[:5], GOLDEN_TRAINING["running_var_first5"], atol=1e-6)


def test_a_plain_training_has_the_released_losses():
    head = arrays(SegmentationHead(24, 6).state_dict()) | {"conv.weight": 0.05 * fill("conv.weight", (6, 24, 1, 1))}
    batches = [(batch.maps.numpy(), batch.truth.numpy()) for batch in golden_batches(GOLDEN_TRAINING["seed"])]
    state, losses = trained_head(arrays(head), batches, 1e-3, 30, 5, 1e-3)
    np.testing.assert_allclose(losses, GOLDEN_TRAINING["losses"], atol=1e-4)
    assert abs(state["conv.weight"]).sum() == pytest.approx(GOLDEN_TRAINING["conv_weight_sum_abs"], rel=1e-4)
    np.testing.assert_allclose(state["norm.running_mean"][:5], GOLDEN_TRAINING["running_mean_first5"], atol=1e-6)
    np.testing.assert_allclose(state["norm.running_var"][:5], GOLDEN_TRAINING["running_var_first5"], atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_the_plain_training_gives_the_same_head(tmp_path, seed):
    batches = list(small_batches(9, seed))
    for batch in batches:
        batch.truth[batch.truth == 3] = 255
    ours = training(tmp_path, LocalContext(), 9, dropout=0.0, rate=0.02)
    state, wanted = trained_head(
        arrays(ours.head.state_dict()), [(b.maps.numpy(), b.truth.numpy()) for b in batches], 0.02, 9, 2, 1e-3
    )
    losses = [float(ours.step(batch, step)) for step, batch in enumerate(batches)]
    np.testing.assert_allclose(losses, wanted, atol=1e-5)
    for name, value in arrays(ours.head.state_dict()).items():
        if name != "norm.num_batches_tracked":
            np.testing.assert_allclose(value.squeeze(), state[name].squeeze(), atol=2e-5, err_msg=name)


def test_an_interrupted_training_goes_on_exactly(tmp_path):
    def batches():
        return Listed(small_batches(8), told=("torn",))

    def validate(step):
        return {"at": torch.tensor(step)}

    whole = training(tmp_path / "whole", LocalContext())
    assert list(whole.run(batches, validate, every=3)) == [3, 6, 8]

    ctx = WatchedContext(lambda item: stop.append(item))
    stop: list[object] = []
    first = training(tmp_path / "parts", ctx)

    def until_the_fourth(item):
        if len(stop) == 4:
            first.stop.number = 15
        stop.append(item)

    ctx.each = until_the_fourth
    with pytest.raises(Interrupted):
        first.run(batches, validate, every=3)
    second = training(tmp_path / "parts", LocalContext())
    assert list(second.run(batches, validate, every=3)) == [3, 6, 8]
    for a, b in zip(whole.head.state_dict().values(), second.head.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert second.broken == {"torn"}
    finished = training(tmp_path / "parts", LocalContext())
    assert list(finished.run(lambda: None, validate, every=3)) == [3, 6, 8] and finished.broken == {"torn"}


def test_the_head_is_validated_as_it_scores(tmp_path):
    ours = training(tmp_path, LocalContext())
    seen = []
    ours.run(lambda: Listed(small_batches(8)), lambda step: seen.append(ours.head.training) or {}, every=4)
    assert seen == [False, False] and ours.head.training is False


def test_a_diverging_training_says_what_to_change(tmp_path):
    ours = training(tmp_path, LocalContext())

    def broken():
        return Listed(batch._replace(maps=batch.maps * np.inf) for batch in small_batches(8))

    with pytest.raises(UserError, match="not finite at step 1; lower the learning rate, as in --set lr=7e-05"):
        ours.run(broken, lambda step: {}, every=4)
