"""Ranking measures of copy detection and retrieval: pure functions of ranks, similarities and labels.

Ranks are 0-based positions in a list sorted by descending similarity. Scores are fractions in 0..1; a query without
positives has no score and is NaN.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from dinobench import lazy

with lazy.imports():
    import numpy as np


#: Equal similarities in a row that are looked at one by one: float32 has a few among 30,000 by chance.
FEW_TIES = 32
#: Positives and ignored images of the three evaluation protocols of Revisited Oxford and Paris
#: (Radenovic et al. 2018, arXiv 1803.11285, section 3.3).
DIFFICULTIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def average_precision(ranks: Iterable[int], positives: int, trapezoid: bool = True) -> float:
    """Average precision of one query from the ranks of the positives found, in any order, out of `positives`.

    Oxford's measure (Philbin et al. 2007) interpolates precision linearly between one positive and the next: the i-th
    true positive at rank r adds the mean of i / r, the precision just before it (1 at r = 0), and (i + 1) / (r + 1).
    Without `trapezoid` it adds (i + 1) / (r + 1) alone, which is scikit-learn's definition.

    >>> average_precision([0, 1, 2], 3)
    1.0
    >>> average_precision([1], 1), average_precision([1], 1, trapezoid=False)
    (0.25, 0.5)
    >>> average_precision([], 2)
    0.0

    Raises ValueError when more positives are found than there are.
    """
    r = np.sort(np.fromiter(ranks, dtype=np.int64))
    if len(r) > positives:
        raise ValueError(f"{len(r)} positives found, but there are {positives}")
    return _average_precision(r, positives, trapezoid)


def _average_precision(r: np.ndarray, positives: int, trapezoid: bool) -> float:
    """Of ascending ranks."""
    if positives == 0:
        return float("nan")
    i = np.arange(len(r))
    right = (i + 1) / (r + 1)
    if not trapezoid:
        return float(right.sum() / positives)
    left = np.where(r == 0, 1.0, i / np.maximum(r, 1))
    return float((left + right).sum() / (2 * positives))


def ranks_without(positives: Iterable[int], ignored: Iterable[int]) -> np.ndarray:
    """Ranks (P,) ascending of the images at the places `positives` of a ranking without those at `ignored`.

    >>> ranks_without(positives=[3, 1], ignored=[0])
    array([0, 2])
    """
    out = np.unique(_indices(ignored))
    kept = np.setdiff1d(_indices(positives), out)
    return kept - np.searchsorted(out, kept)


def precision_at(ranks: np.ndarray, k: int) -> float:
    """Precision among the first k, where k ends at the last positive (Revisited Oxford and Paris's mP@k).

    `ranks` holds all positives' ranks: a query with three positives in front has precision 1 at 10, not 0.3.

    >>> precision_at(np.array([0, 3]), 1), precision_at(np.array([0, 3]), 10)
    (1.0, 0.5)
    """
    if not len(ranks):
        return float("nan")
    cut = min(int(np.max(ranks)) + 1, k)
    return float(np.count_nonzero(np.asarray(ranks) < cut) / cut)


def revisited_scores(
    rankings: Iterable[np.ndarray],
    truth: Sequence[Mapping[str, Any]],
    difficulty: str,
    ks: Sequence[int] = (1, 5, 10),
    trapezoid: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the Revisited benchmark, per query: average precision (Q,) and precision at `ks` (Q, len(ks)).

    `rankings` gives for each query all N database indices, most similar first; `truth[q]` maps "easy", "hard" and
    "junk" to database indices. Queries without positives at this `difficulty` are NaN: the means leave them out.

    >>> ap, p = revisited_scores([np.array([2, 0, 1])], [{"easy": [0], "hard": [], "junk": [2]}], "easy", ks=(1,))
    >>> float(ap[0]), float(p[0, 0])
    (1.0, 1.0)
    """
    places = []
    for ranking, of_query in zip(rankings, truth, strict=True):
        place = np.empty(len(ranking), np.int64)
        place[ranking] = np.arange(len(ranking))
        places.append({key: place[_indices(of_query[key])] for key in ("easy", "hard", "junk")})
    return scores_of_places(places, difficulty, ks, trapezoid)


def scores_of_places(
    places: Sequence[Mapping[str, Any]], difficulty: str, ks: Sequence[int] = (1, 5, 10), trapezoid: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """`revisited_scores` where `places[q]` maps "easy", "hard" and "junk" to where these images stand in the ranking.

    >>> ap, p = scores_of_places([{"easy": [1], "hard": [], "junk": [0]}], "easy", ks=(1,))
    >>> float(ap[0]), float(p[0, 0])
    (1.0, 1.0)
    """
    positive_keys, ignored_keys = DIFFICULTIES[difficulty]
    precision, at = [], []
    for of_query in places:
        positives = np.concatenate([_indices(of_query[key]) for key in positive_keys])
        ignored = np.concatenate([_indices(of_query[key]) for key in ignored_keys])
        ranks = ranks_without(positives, ignored)
        precision.append(average_precision(ranks, len(positives), trapezoid))
        at.append([precision_at(ranks, k) for k in ks])
    return np.array(precision, dtype=float), np.array(at, dtype=float).reshape(len(precision), len(ks))


def leave_one_out(
    similarity: np.ndarray,
    queries: np.ndarray,
    labels: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    trapezoid: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Every labelled image as a query among all the others: average precision (q,) and recall at `ks` (q, len(ks)).

    `similarity` (q, N) of the rows `queries` (q,) to all N images, `labels` (N,). Images of the query's label are its
    positives, the query itself is left out. Recall at k is 1 when one of the first k is a positive (as in metric
    learning, Jegou et al. 2011); equal similarities rank by index. The only one of its label is NaN.

    The rank of a positive is how many values are larger, read off the sorted values; all indices are sorted only where
    positives share many similarities with other images.

    >>> ap, recall = leave_one_out(np.eye(3), np.arange(3), np.array([0, 0, 1]), ks=(1,))
    >>> ap.tolist(), recall[:, 0].tolist()
    ([1.0, 1.0, nan], [1.0, 1.0, nan])
    """
    known, group = np.unique(labels, return_inverse=True)
    by_label = np.argsort(group, kind="stable")
    members = np.split(by_label, np.cumsum(np.bincount(group, minlength=len(known)))[:-1])

    def scores_of(rows: np.ndarray) -> list[tuple[float, float]]:
        """Average precision and the rank of the first positive; NaN without one."""
        room = np.empty_like(similarity, shape=len(labels))  # one for all: fresh memory takes a third of a sort's time
        found = []
        for row in rows:
            query = queries[row]
            ranks = _ranks_without_query(similarity[row], query, group, members[group[query]], room)
            first = float(ranks[0]) if len(ranks) else np.nan
            found.append((_average_precision(ranks, len(ranks), trapezoid), first))
        return found

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        shares = pool.map(scores_of, np.array_split(np.arange(len(queries)), threads))
        ap, best = np.array([*chain(*shares)], dtype=float).reshape(-1, 2).T
    recall = (best[:, None] < np.asarray(ks)).astype(float)
    recall[np.isnan(best)] = np.nan
    return ap, recall


def _ranks_without_query(
    similarity: np.ndarray, query: int, label: np.ndarray, members: np.ndarray, room: np.ndarray
) -> np.ndarray:
    """Ranks (P,) ascending, among all but `query`, of the other images of its label by similarity (N,).

    `label` (N,) is of every image, `members` (P + 1,) are those with the query's; `room` (N,) is overwritten.
    """
    room[:] = similarity
    room[query] = -np.inf  # sorts the query itself to the very end
    own = room.take(members[members != query])
    own.sort()
    room.sort()
    end = np.searchsorted(room, own, side="right")
    ranks = len(room) - end  # how many are larger
    tied = own[(end > 1) & (room[np.maximum(end - 2, 0)] == own)]
    values = set(tied.tolist())
    if len(values) > FEW_TIES:
        s = np.array(similarity)
        s[query] = -np.inf
        order = np.argsort(-s, kind="stable")
        return np.flatnonzero(label[order[:-1]] == label[query])
    for value in values:
        alike = np.flatnonzero(similarity == value)
        before = np.flatnonzero(label[alike[alike != query]] == label[query])  # those of a lower index come before it
        ranks[own == value] += before[::-1]  # turned round with all of them below
    return ranks[::-1]


def places_of(similarity: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The places (P,) of the images `wanted` (P,) in a ranking of all N by similarity (N,), equal ones by index.

    >>> places_of(np.array([0.1, 0.9, 0.5, 0.9]), np.array([3, 1, 0]))
    array([1, 0, 3])
    """
    ascending, own = np.sort(similarity), similarity[wanted]
    end = np.searchsorted(ascending, own, side="right")
    places = len(similarity) - end  # how many are larger
    tied = (end > 1) & (ascending[np.maximum(end - 2, 0)] == own)
    if tied.any():
        values = np.unique(own[tied])
        if len(values) > FEW_TIES:
            ranking = np.argsort(-similarity, kind="stable")
            order = np.empty_like(ranking)
            order[ranking] = np.arange(len(ranking))
            return order[wanted]
        for value in values:
            here = own == value  # those of a lower index come before
            places[here] += np.searchsorted(np.flatnonzero(similarity == value), wanted[here])
    return places


def micro_average_precision(similarity: np.ndarray, correct: np.ndarray, positives: int) -> float:
    """Micro-AP: one ranking of all (query, image) pairs by similarity, as if one threshold served every query.

    The measure of the image similarity challenge (DISC21, Douze et al. 2021, arXiv 2106.09672, equation 1), in steps
    and not trapezoids. `similarity` and `correct` (bool) are any arrays of one shape, the pairs put forward;
    `positives` counts the true pairs, also those not put forward. Among equal similarities wrong pairs come first,
    so that ties earn nothing.

    >>> micro_average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    0.8333333333333333
    """
    if positives == 0:
        return float("nan")
    right = correct.ravel()[np.lexsort((correct.ravel(), -similarity.ravel()))]
    ranks = np.flatnonzero(right)
    return average_precision(ranks, positives, trapezoid=False)


def micro_average_precision_interval(
    similarity: np.ndarray,
    correct: np.ndarray,
    positives: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap of micro-AP over queries: `similarity`, `correct` (Q, k), `positives` (Q,) per query.

    The pairs are sorted once; a resample weighs each pair by how often its query was drawn.
    """
    order = np.lexsort((correct.ravel(), -similarity.ravel()))
    at = np.flatnonzero(correct.ravel()[order])
    if not len(at):
        return 0.0, 0.0
    query = (order // correct.shape[1])[: at[-1] + 1]  # what comes after the last right pair changes nothing
    steps = np.concatenate([[0], at[:-1] + 1])  # from one right pair to the next
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, len(correct), len(correct)), minlength=len(correct))
        weight = times[query]
        seen, relevant = np.add.reduceat(weight, steps).cumsum(), weight[at].cumsum()
        gain = weight[at] * relevant / np.maximum(seen, 1)
        scores.append(gain.sum() / max((times * positives).sum(), 1))
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _indices(values: Any) -> np.ndarray:
    """Database indices as one flat int64 array; the published pickles hold arrays of several kinds, empty ones too."""
    return np.asarray(values).astype(np.int64).ravel()
