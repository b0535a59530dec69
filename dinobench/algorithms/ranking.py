"""Rankings of images by similarity on the device that holds them; nothing is read by the host.

On the CPU NumPy sorts: its sort of values alone is thirteen times as fast as torch's of values with their indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from dinobench.metrics import retrieval

#: Devices whose similarities the host ranks. Metal has no float64, which the sums are made in.
RANKED_BY_HOST = ("cpu", "mps")
#: Similarities at a time: 128 MB in float32. Ranking them on a GPU takes up to 2 GB.
SIMILARITIES = 2**25


class Wanted:
    """Which images' places tell the score of each query: `images` (Q, P) int64, rows filled up with image 0.

    `truth` gives for each query the images of every kind, the same kinds for all.

    >>> wanted = Wanted([{"easy": np.array([4]), "junk": np.array([1, 2])}, {"easy": np.array([3]), "junk": []}])
    >>> wanted.images.tolist()
    [[4, 1, 2], [3, 0, 0]]
    """

    def __init__(self, truth: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._kinds = tuple(truth[0])
        self._ends = np.cumsum([[len(of_query[kind]) for kind in self._kinds] for of_query in truth], axis=1)
        self.images = np.zeros((len(truth), self._ends[:, -1].max()), np.int64)
        for row, of_query, end in zip(self.images, truth, self._ends, strict=True):
            row[: end[-1]] = np.concatenate([of_query[kind] for kind in self._kinds])

    def by_kind(self, found: np.ndarray) -> list[dict[str, np.ndarray]]:
        """What was found (Q, P) of `images` -> of each query by kind."""
        return [
            dict(zip(self._kinds, np.split(row[: end[-1]], end[:-1]), strict=True))
            for row, end in zip(found, self._ends, strict=True)
        ]


def tiles(queries: int, database: int, shard: Callable[[int], slice]) -> list[slice]:
    """The queries that a process ranks at a time, `shard` being its part of so many items.

    They are cut alike whatever the number of processes, so that the products are. A process without any has an empty
    one: its scores have the shape and type of the others'.
    """
    at_once = max(1, min(256, SIMILARITIES // max(1, database)))
    cut = [slice(start, min(start + at_once, queries)) for start in range(0, queries, at_once)]
    return cut[shard(len(cut))] or [slice(0, 0)]


def similarities(queries: torch.Tensor, database: torch.Tensor) -> torch.Tensor:
    """Inner products (q, N) of rows (q, D) and (N, D).

    On the CPU they are NumPy's. Another library adds up in another order, and images that are all but alike would
    change places.
    """
    if queries.device.type == "cpu":
        return torch.from_numpy(queries.numpy() @ database.numpy().T)
    return queries @ database.T


def places(similarity: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Similarities (q, N), images (q, P) int64 -> their places (q, P) int64, 0 for the most similar of all N.

    Equal similarities rank by index.

    >>> places(torch.tensor([[0.1, 0.9, 0.5, 0.9]]), torch.tensor([[3, 1, 0]])).tolist()
    [[1, 0, 3]]
    """
    if similarity.device.type in RANKED_BY_HOST:
        found = [retrieval.places_of(s, w) for s, w in zip(_array(similarity), _array(wanted), strict=True)]
        return torch.from_numpy(np.array(found, dtype=np.int64).reshape(wanted.shape))
    ranking = similarity.sort(dim=1, descending=True, stable=True).indices
    place = torch.arange(ranking.shape[1], device=ranking.device).expand_as(ranking)
    return torch.empty_like(ranking).scatter_(1, ranking, place).gather(1, wanted)


def nearest_and_places(queries: torch.Tensor, database: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Rows (q, D) and (N, D), images (q, P) -> the index of the most similar image, then the `places` (q, 1 + P)."""
    similarity = similarities(queries, database)
    nearest = similarity.argmax(dim=1, keepdim=True)  # of equal ones the first
    return torch.cat([nearest, places(similarity, wanted).to(nearest.device)], dim=1)


def leave_one_out(
    similarity: torch.Tensor,
    queries: torch.Tensor,
    labels: torch.Tensor,
    ks: Sequence[int] = (1, 5, 10),
    trapezoid: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`dinobench.metrics.retrieval.leave_one_out` of tensors: float64 (q,) and (q, len(ks)), on the device.

    `similarity` (q, N) float and finite, `queries` (q,) and `labels` (N,) int64. What Metal holds is ranked, and given
    back, on the CPU.
    """
    if similarity.device.type in RANKED_BY_HOST:
        by_host = retrieval.leave_one_out(_array(similarity), _array(queries), _array(labels), ks, trapezoid)
        return torch.from_numpy(by_host[0]), torch.from_numpy(by_host[1])
    # Nothing is as small as the query is made, so that it ranks last, and is cut off.
    s = similarity.scatter(1, queries[:, None], -torch.inf)
    ranking = s.sort(dim=1, descending=True, stable=True).indices[:, :-1]
    match = labels[ranking] == labels[queries][:, None]
    rank = torch.arange(match.shape[1], dtype=torch.float64, device=match.device)
    before = match.cumsum(1, dtype=torch.int32) - match.int()  # positives of a lower rank
    gain = (before + 1) / (rank + 1)
    if trapezoid:
        gain = (gain + (before / rank.clamp(min=1)).masked_fill(rank == 0, 1)) / 2
    positives = match.sum(1)
    none = positives == 0
    ap = ((gain * match).sum(1) / positives.clamp(min=1)).masked_fill(none, torch.nan)
    found = [match[:, :k].any(1).double().masked_fill(none, torch.nan) for k in ks]
    return ap, torch.stack(found, dim=1)


def _array(x: torch.Tensor) -> np.ndarray:
    return x.numpy(force=True)
