from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dinobench.data.limits.by_turns import by_turns


def plainly(ids, n, groups, together):
    """The rule as one would do it by hand: groups in a circle, each giving what it has next."""

    def order(name):
        return hashlib.blake2b(name.encode(), digest_size=8).digest()

    queues = {
        name: sorted((i for i, g in enumerate(groups) if g == name), key=lambda i: order(ids[i]))
        for name in sorted(set(groups), key=lambda name: order(str(name)))
    }
    taken, turn = [], together
    while any(queues.values()):
        for queue in queues.values():
            taken += queue[:turn]
            del queue[:turn]
        turn = 1
    return sorted(taken[:n])


NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), unique=True, max_size=30)


@given(NAMES, st.integers(1, 40), st.integers(1, 3), st.randoms(use_true_random=False))
def test_groups_give_theirs_by_turns(ids, n, together, random):
    groups = [random.randrange(5) for _ in ids]
    found = by_turns(ids, n, np.array(groups, np.int64), together)
    assert found.tolist() == plainly(ids, n, groups, together)
    assert len(found) == min(n, len(ids))
    assert by_turns(ids, n).tolist() == plainly(ids, n, [0] * len(ids), 1)


@given(NAMES, st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_order_of_the_items_does_not_matter(ids, n, random):
    groups = {name: random.randrange(4) for name in ids}
    shuffled = random.sample(ids, len(ids))
    chosen = {names[i] for names in (ids,) for i in by_turns(ids, n, np.array([groups[x] for x in ids], np.int64))}
    assert chosen == {shuffled[i] for i in by_turns(shuffled, n, np.array([groups[x] for x in shuffled], np.int64))}
    fewer = {ids[i] for i in by_turns(ids, max(1, n - 1), np.array([groups[x] for x in ids], np.int64))}
    assert fewer <= chosen  # more of them are these and others


def test_the_choice_is_the_same_for_ever():
    ids = [f"val/{c}/{i:04d}.jpg" for c in ("cat", "dog", "owl") for i in range(6)]
    assert by_turns(ids, 5).tolist() == GOLDEN
    assert by_turns(ids, 4, np.repeat([0, 1, 2], 6)).tolist() == GOLDEN_CLASSES


GOLDEN = [6, 7, 8, 14, 17]
GOLDEN_CLASSES = [0, 8, 14, 17]
