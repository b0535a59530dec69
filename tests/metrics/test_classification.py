from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score

from dinobench.metrics.classification import first_argmax, label_rank

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
