from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.training.sampler import Order, RepeatedOrder


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
def test_an_epoch_is_one_pass(n, batch, epoch):
    order = Order(n, batch, seed=1)
    parts = [order(epoch, step) for step in range(order.steps_per_epoch)]
    assert sorted(np.concatenate([images for images, _ in parts])) == list(range(n))
    assert all(len(images) == batch for images, _ in parts[:-1])
    assert {int(p) for _, passes in parts for p in passes} == {epoch}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 6))
def test_endless_passes_lose_no_image(n, batch, steps):
    order = Order(n, batch, seed=1, steps=steps)
    taken = [order(epoch, step) for epoch in range(3) for step in range(steps)]
    images = np.concatenate([i for i, _ in taken])
    passes = np.concatenate([p for _, p in taken])
    assert len(images) == 3 * steps * batch
    for number in range(len(images) // n):
        assert sorted(images[passes == number]) == list(range(n))


def test_any_step_can_be_asked_for_first():
    walked = Order(30, 7, seed=3, steps=11)
    seen = {(e, s): walked(e, s)[0] for e in range(3) for s in range(11)}
    for at in ((2, 10), (0, 0), (1, 5)):
        assert (Order(30, 7, seed=3, steps=11)(*at)[0] == seen[at]).all()
    assert (Order(30, 7, seed=4, steps=11)(0, 0)[0] != seen[0, 0]).any()


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 60), batch=st.integers(1, 70), repeats=st.integers(1, 4), epoch=st.integers(0, 3))
def test_order_has_full_batches_of_repeated_images(n, batch, repeats, epoch):
    order = RepeatedOrder(n, batch, seed=3, repeats=repeats)
    steps = [order(epoch, s) for s in range(order.steps_per_epoch)]
    assert all(len(images) == min(batch, n) for images, _ in steps)
    images, views = (np.concatenate(part) for part in zip(*steps, strict=True))
    assert n - len(images) < batch and min(images) >= 0 and max(images) < n
    assert len(set(zip(images, views, strict=True))) == len(images)  # no view twice
    assert np.unique(images, return_counts=True)[1].max() <= repeats
    assert set(views) <= set(range(epoch * repeats, (epoch + 1) * repeats))  # nor in another epoch
