from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.contexts import clusters
from helpers.forked import two_processes
from helpers.heads import SPECS, train_apart, trained
from torch import nn

from dinobench.metrics.classification import Truth, label_rank
from dinobench.runtime import one_thread
from dinobench.training.linear_classifiers import ClassifierSpec, FeatureLayout, FeatureRows, LinearClassifiers
from dinobench.types import Features

CPU = torch.device("cpu")
LAYOUT = FeatureLayout(blocks=2, mean_patch=True, dim=5)
GRID = [ClassifierSpec(b, m, r) for b in (1, 2) for m in (False, True) for r in (0.01, 0.5)]
X, Y = (torch.from_numpy(a) for a in clusters(60, 4, LAYOUT.width, 1.0))
X = X.float()


def train(heads, steps=5, **settings):
    made = LinearClassifiers(LAYOUT, heads, 4, seed=3, device=CPU, **settings)
    losses = [made.step(X, Y, 1 - step / 10, step) for step in range(steps)]
    return made, torch.stack(losses)


def test_every_head_learns_as_torch_would():
    settings = {"scale": 2.0, "momentum": 0.8, "weight_decay": 0.01}
    made, losses = train(GRID, **settings)
    start = LinearClassifiers(LAYOUT, GRID, 4, seed=3, device=CPU)
    for i, head in enumerate(made.specs):
        columns = LAYOUT.columns(head.blocks, head.mean_patch)
        layer = nn.Linear(columns.stop - columns.start, 4)
        zero = torch.zeros(1, LAYOUT.width)
        with torch.no_grad():
            layer.bias.copy_(start.scores(zero, i)[0])
            layer.weight.copy_((start.scores(torch.eye(LAYOUT.width), i) - layer.bias).T[:, columns])
        assert 0.005 < float(layer.weight.detach().std()) < 0.02 and not layer.bias.detach().any()
        optimizer = torch.optim.SGD(
            [{"params": [layer.weight], "weight_decay": 0.01}, {"params": [layer.bias]}], lr=1, momentum=0.8
        )
        for step in range(5):
            for group in optimizer.param_groups:
                group["lr"] = 2 * head.rate * (1 - step / 10)
            loss = nn.functional.cross_entropy(layer(X[:, columns]), Y)
            torch.testing.assert_close(losses[step, i], loss.detach(), atol=1e-5, rtol=1e-5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(made.scores(X, i), layer(X[:, columns]).detach(), atol=1e-4, rtol=1e-4)


def test_a_head_learns_the_same_alone_or_among_others():
    together, losses = train(GRID)
    for i, head in enumerate(together.specs):
        alone, own = train([head])
        torch.testing.assert_close(own[:, 0], losses[:, i])
        torch.testing.assert_close(alone.scores(X, 0), together.scores(X, i), atol=1e-5, rtol=1e-5)


def test_a_dying_head_takes_no_other_with_it():
    mortal = [ClassifierSpec(1, False, 0.01), ClassifierSpec(1, False, 1e38), ClassifierSpec(2, True, 0.01)]
    made, losses = train(mortal, steps=8)
    diverged = dict(zip(made.specs, made.diverged_at.tolist(), strict=True))
    assert diverged[mortal[1]] > 0 and diverged[mortal[0]] == diverged[mortal[2]] == -1
    healthy, alone = train([mortal[0], mortal[2]], steps=8)
    kept = [made.specs.index(h) for h in healthy.specs]
    torch.testing.assert_close(losses[:, kept], alone)


def test_evaluation_agrees_with_the_plain_metrics(monkeypatch):
    monkeypatch.setattr("dinobench.training.linear_classifiers.SCORES", 4 * 2 * 7)  # chunks of seven rows
    made, _ = train(GRID)
    cls = X[:, :10].reshape(60, 2, 5).numpy()
    means = np.stack([np.full((60, 5), np.nan, np.float32), X[:, 10:].numpy()], axis=1)
    features = Features(cls, means, np.arange(60))
    for keep_bytes in (0, 1 << 20):
        rows = FeatureRows(features, LAYOUT, np.arange(60), CPU, keep_bytes)
        assert torch.equal(rows[np.array([5, 3])], X[[5, 3]])
        ranks, losses = made.evaluate(rows, Y)
        for i in range(len(made)):
            scores = made.scores(X, i)
            assert torch.equal(made.predict(rows, i, Truth(Y)), scores.argmax(1))
            assert torch.equal(ranks[:, i].long(), label_rank(scores, Y))
            torch.testing.assert_close(losses[i], nn.functional.cross_entropy(scores.double(), Y), atol=1e-5, rtol=1e-5)


def test_evaluation_among_some_classes_and_of_several_right_ones():
    made, _ = train(GRID)
    features = Features(X[:, :10].reshape(60, 2, 5).numpy(), np.stack([X[:, 10:].numpy()] * 2, axis=1), np.arange(60))
    rows = FeatureRows(features, LAYOUT, np.arange(60), CPU)
    both = torch.stack([Y % 2, 2 + 0 * Y], dim=1)
    for truth in (Truth(both), Truth(both % 2, torch.tensor([1, 3])), Truth(Y % 2, torch.tensor([0, 3]))):
        ranks, losses = made.evaluate(rows, truth)
        assert losses.isfinite().all()
        for i in range(len(made)):
            scores = made.scores(X, i)
            assert torch.equal(ranks[:, i].long(), truth.ranks(scores))
            assert torch.equal(made.predict(rows, i, truth), truth.chosen(scores))


def test_state_goes_on_where_it_was_taken():
    whole, _ = train(GRID, steps=6)
    first, _ = train(GRID, steps=4)
    second = LinearClassifiers(LAYOUT, GRID, 4, seed=99, device=CPU)
    second.restore(first.state())
    for step in (4, 5):
        second.step(X, Y, 1 - step / 10, step)
    assert all(torch.equal(second.scores(X, i), whole.scores(X, i)) for i in range(len(GRID)))


def test_images_counted_are_images_repeated():
    """Where every step sees all images; where they are few beside the columns, their shares in the weights move."""
    x, y = X[:12], Y[:12]  # heads read 5 to 15 columns, so that both ways are gone
    plain, counted = (LinearClassifiers(LAYOUT, GRID, 4, seed=3, device=CPU, whole=w) for w in (None, x))
    draws = np.random.default_rng(0)
    for step in range(12):
        images = np.concatenate([np.arange(12), draws.integers(0, 12, 5)])
        counts = torch.from_numpy(np.bincount(images, minlength=12).astype(np.float32))
        expected = plain.step(x[images], y[images], 1 - step / 20, step)
        torch.testing.assert_close(counted.step(x, y, 1 - step / 20, step, counts), expected, atol=1e-5, rtol=1e-4)
        if step == 6:  # from a state as well as without
            again = LinearClassifiers(LAYOUT, GRID, 4, seed=3, device=CPU, whole=x)
            assert again.restore(counted.state()) and not plain.restore(counted.state())
            counted = again
    counted.check(12)
    for i in range(len(GRID)):
        torch.testing.assert_close(counted.scores(X, i), plain.scores(X, i), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "own"), [("whole", (8, 8)), ("divided", (2, 2)), ("idle", (1, 0))])
def test_heads_are_split_over_processes(split, name, own):
    """Whole kinds of heads to the bit, parts of a kind as far as products of fewer columns round alike."""
    exact = {"rtol": 0, "atol": 0} if name != "divided" else {"rtol": 1e-4, "atol": 1e-5}
    for whole in (False, True):
        with one_thread():
            first = trained(name, whole)
            second = trained(name, whole, first["state"])
        assert (second["diverged_at"] >= 0).sum() == sum(spec.rate > 1 for spec in SPECS[name])
        for rank in (0, 1):
            apart = torch.load(split / f"{name}-{whole}-{rank}.pt")
            assert [a.pop("own") for a in apart] == [own[rank]] * 2
            for ours, expected in zip(apart, (first, second), strict=True):
                for key in ours:
                    torch.testing.assert_close(ours[key], expected[key], **exact, equal_nan=True)
            with one_thread():  # one process goes on from the state of two
                again = trained(name, whole, apart[0]["state"])
            torch.testing.assert_close(again["state"], second["state"], **exact, equal_nan=True)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    two_processes(train_apart, str(folder))
    return folder
