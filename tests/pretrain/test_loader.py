"""The loader of views: the same batches whatever the parts, processes and threads, each image decoded once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.fakes import FakeSplit

from dinobench.data.decoding import in_order
from dinobench.data.image_split import array_split
from dinobench.errors import UserError
from dinobench.pretrain import loader as loaders
from dinobench.pretrain.loader import AHEAD, ViewLoader, one_ahead
from dinobench.pretrain.method import View

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")
VIEWS = (View(size=12, jitter_p=0.8, blur_p=0.5), View(count=2, size=6, scale=(0.05, 0.4), grayscale_p=0.2))


def split(n=22):
    images = np.random.default_rng(1).integers(0, 256, (n, 14, 11, 3), dtype=np.uint8)
    return array_split("noise", images, [str(i) for i in range(n)], np.arange(n) % 3)


def loader(data=None, **options) -> ViewLoader:
    return ViewLoader(
        data or split(), VIEWS, **{"batch": 8, "micro_batch": 8, "seed": 4, "device": CPU, "workers": 0, **options}
    )


def steps(batches):
    """(rows, labels, views) of every optimizer step."""
    whole_steps, parts = [], []
    for batch in batches:
        parts.append(batch)
        if batch.last:
            views = [torch.cat(copies) for copies in zip(*(p.views for p in parts), strict=True)]
            whole_steps.append((np.concatenate([p.rows for p in parts]), torch.cat([p.labels for p in parts]), views))
            parts = []
    assert not parts
    return whole_steps


def equal(some, others):
    assert len(some) == len(others)
    for (rows, labels, views), (other_rows, other_labels, other_views) in zip(some, others, strict=True):
        assert (rows == other_rows).all() and torch.equal(labels, other_labels)
        assert all(torch.equal(a, b) for a, b in zip(views, other_views, strict=True))


def test_an_epoch_is_full_batches_of_a_permutation():
    data, whole = split(), loader()
    assert whole.steps_per_epoch == 2
    epochs = [steps(whole.epoch(e)) for e in range(3)]
    for epoch in epochs:
        rows = np.concatenate([rows for rows, _, _ in epoch])
        assert len(rows) == 16 == len(set(rows.tolist()))
        assert all((labels.numpy() == data.labels[rows]).all() for rows, labels, _ in epoch)
        assert [tuple(v.shape) for v in epoch[0][2]] == [(8, 3, 12, 12), (8, 3, 6, 6), (8, 3, 6, 6)]
    assert len({tuple(np.concatenate([rows for rows, _, _ in epoch])) for epoch in epochs}) == 3
    assert len(set().union(*(set(rows.tolist()) for epoch in epochs for rows, _, _ in epoch))) > 18


def test_parts_and_shares_make_the_same_steps():
    whole = steps(loader().epoch(1))
    for micro_batch, sizes in ((3, [2, 3, 3]), (4, [4, 4]), (1, [1] * 8)):
        batches = list(loader(micro_batch=micro_batch).epoch(1))
        assert [len(b.rows) for b in batches[: len(sizes)]] == sizes
        equal(steps(batches), whole)
    shares = [steps(loader(rank=r, processes=2, micro_batch=3).epoch(1)) for r in (0, 1)]
    joined = [
        (np.concatenate([a[0], b[0]]), torch.cat([a[1], b[1]]), [torch.cat(v) for v in zip(a[2], b[2], strict=True)])
        for a, b in zip(*shares, strict=True)
    ]
    assert all(len(rows) == 4 for share in shares for rows, _, _ in share)
    equal(joined, whole)


def test_an_epoch_goes_on_from_any_step():
    whole = steps(loader().epoch(2))
    for first in range(3):
        equal(steps(loader().epoch(2, first)), whole[first:])


def test_worker_processes_make_the_same_batches_and_leave_random_numbers_alone():
    plain, busy = loader(micro_batch=3), loader(micro_batch=3, workers=2)
    expected = [steps(plain.epoch(e)) for e in range(2)]
    torch.manual_seed(0)
    equal(steps(busy.epoch(0)), expected[0])
    next(busy.epoch(1))  # left in the middle, as a training that is stopped does
    equal(steps(busy.epoch(1)), expected[1])
    equal(steps(busy.epoch(1, 1)), expected[1][1:])
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


def test_images_are_decoded_once_within_the_budget():
    images = FakeSplit(20)
    batches = loader(images, batch=20)
    first = [steps(batches.epoch(e)) for e in range(3)]
    assert set(images.loads.values()) == {1}
    images = FakeSplit(20)
    batches = loader(images, batch=20, ram_bytes=7 * 3 * 8 * 8)
    for epoch, expected in enumerate(first):
        equal(steps(batches.epoch(epoch)), expected)
    assert sorted(images.loads.values()) == [1] * 7 + [3] * 13
    images = FakeSplit(20)
    batches = loader(images, batch=20, workers=1)
    equal(steps(batches.epoch(0)), first[0])
    assert set(images.loads.values()) == {1}  # before the workers were started, which share them


def test_what_decoding_ahead_leaves_out_is_decoded_by_the_workers():
    expected = steps(loader(FakeSplit(20)).epoch(0))
    equal(steps(loader(FakeSplit(20), workers=2, ram_bytes=7 * 3 * 8 * 8).epoch(0)), expected)


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"workers": 1, "ram_bytes": 0}])
def test_an_image_that_cannot_be_read_is_named(options):
    with pytest.raises(
        UserError,
        match=r"^images/3\.png of test cannot be read \(broken\); repair it, or go on without it by --resume FOLDER ",
    ):
        list(loader(FakeSplit(20, broken=(3,)), batch=20, **options).epoch(0))


def test_batches_that_cannot_be_made_are_refused():
    with pytest.raises(UserError, match=r"noise holds 22 images.*batch of 23; use --set batch=22 or less"):
        loader(batch=23)
    with pytest.raises(UserError, match=r"batch of 8 cannot be shared evenly by 3 processes; use --set batch=6"):
        loader(processes=3)


def test_worker_processes_by_default(monkeypatch):
    for cores, processes, expected in ((1, 1, 0), (2, 1, 0), (4, 1, 1), (16, 1, 4), (16, 8, 0), (256, 1, 16)):
        monkeypatch.setattr(loaders, "usable_cpus", lambda cores=cores: cores)
        assert loaders._worker_processes(None, CPU, processes) == expected
    assert loaders._worker_processes(3, CPU, 1) == 3
    assert loaders._worker_processes(3, torch.device("cuda"), 1) == 0


@pytest.mark.parametrize("n", range(6))
def test_the_next_batch_is_staged_before_one_is_handed_over(n):
    """The order of work on a GPU, without one."""
    log = []

    def jobs():
        for i in range(n):
            log.append(f"load {i}")
            yield i

    def stage(loaded):
        log.append(f"stage {loaded}")
        return loaded

    loaded = in_order(lambda job: job, jobs(), threads=1, ahead=AHEAD + 1, overlap=True)
    for position, got in enumerate(one_ahead(map(stage, loaded))):
        assert got == position
        log.append(f"train {got}")
    for i in range(n):
        before = log[: log.index(f"train {i}")]
        assert f"stage {min(i + 1, n - 1)}" in before and f"load {min(i + 1 + AHEAD, n - 1)}" in before
    assert sorted(log) == sorted(f"{what} {i}" for what in ("load", "stage", "train") for i in range(n))
