from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.golden import golden_values
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from dinobench.data.other_tests.other_test import timm_list
from dinobench.metrics.classification import Truth, answer_rank, first_argmax, label_rank

tables = st.integers(2, 6).flatmap(
    lambda classes: st.lists(st.lists(st.integers(0, 3), min_size=classes, max_size=classes), min_size=1, max_size=9)
)


@settings(deadline=None, max_examples=40)
@given(tables, st.randoms())
def test_rank_is_the_place_in_a_stable_descending_sort(rows, random):
    scores = torch.tensor(rows, dtype=torch.float32)
    labels = torch.tensor([random.randrange(scores.shape[1]) for _ in rows])
    order = scores.argsort(dim=1, descending=True, stable=True)
    assert label_rank(scores, labels).tolist() == [o.tolist().index(y) for o, y in zip(order, labels, strict=True)]
    assert first_argmax(scores).tolist() == order[:, 0].tolist()


def test_agrees_with_scikit_learn_where_no_scores_are_equal():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(200, 7, generator=generator), torch.randint(0, 7, (200,), generator=generator)
    ranks = label_rank(scores, labels)
    for k in (1, 3, 5):
        assert (ranks < k).double().mean() == top_k_accuracy_score(labels, scores, k=k, labels=range(7))


@given(tables, st.randoms())
def test_of_several_answers_the_best_counts(rows, random):
    scores = torch.tensor(rows, dtype=torch.float32)
    classes = scores.shape[1]
    sets = [sorted(random.sample(range(classes), random.randint(1, classes))) for _ in rows]
    answers = torch.tensor([[*own, *[-1] * (classes - len(own))] for own in sets])
    places = [
        [int(label_rank(row[None], torch.tensor([a]))) for a in own] for row, own in zip(scores, sets, strict=True)
    ]
    assert answer_rank(scores, answers).tolist() == [min(p) for p in places]
    three = torch.stack([scores, -scores], dim=2)  # of two classifiers
    assert answer_rank(three, answers)[:, 0].tolist() == [min(p) for p in places]
    assert torch.equal(answer_rank(three, answers)[:, 1], answer_rank(-scores, answers))


@given(tables, st.randoms())
def test_among_some_classes_is_as_if_there_were_no_others(rows, random):
    scores = torch.tensor(rows, dtype=torch.float32)
    among = torch.tensor(sorted(random.sample(range(scores.shape[1]), random.randint(1, scores.shape[1]))))
    answers = torch.tensor([random.randrange(len(among)) for _ in rows])
    truth, masked = Truth(answers, among), torch.full_like(scores, -torch.inf)
    masked[:, among] = scores[:, among]
    assert torch.equal(truth.ranks(scores), label_rank(masked, among[answers]))
    assert torch.equal(truth.chosen(scores), first_argmax(masked))


@pytest.mark.parametrize("which", ["imagenet_a", "imagenet_r"])
def test_the_golden_values_of_class_subsets(which):
    golden = golden_values("robustness")["class_subsets"]
    indices = np.sort([int(line) for line in timm_list(f"{which}_indices.txt")])
    r = np.random.default_rng(golden["seed"])
    logits = r.standard_normal((400, 1000))
    targets = {name: r.integers(0, 200, 400) for name in ("imagenet_a", "imagenet_r")}[which]
    logits[np.arange(400), indices[targets]] += 2.5
    scores, labels, rows = torch.from_numpy(logits), indices[targets], np.arange(400)
    test = SimpleNamespace(labels=labels)
    some = SimpleNamespace(test=test, answers=None, among=indices)
    right = Truth.of(some, rows).ranks(scores) == 0
    assert 100 * right.double().mean() == pytest.approx(golden[which]["top1_over_200_classes"])
    every = Truth.of(SimpleNamespace(test=test, answers=None, among=None), rows).ranks(scores) == 0
    assert 100 * every.double().mean() == pytest.approx(golden[which]["top1_over_1000_classes"])
