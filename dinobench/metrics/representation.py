"""What features tell without a probe: their spectrum, their spread, their clusters, their likeness to others.

Everything is computed in float64. Arrays are numpy's, or what numpy can read as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from dinobench import lazy

with lazy.imports():
    from scipy import linalg, optimize, spatial

#: Added to every share before its logarithm: Garrido et al. 2023 (arXiv 2210.02885), section 3.
EPSILON = 1e-7
#: Added to the diagonal of the scatter within images: Thilak et al. 2023 (arXiv 2312.04000).
LIDAR_DELTA = 1e-4
#: 0-based eigenvalues that the power law is fitted to, half open: Agrawal et al. 2022 (arXiv 2202.05808).
ALPHA_RANGE = 10, 100
#: Share of the smallest distance ratios that TwoNN's line is fitted to: Facco et al. 2017 (arXiv 1803.06992).
TWONN_KEPT = 0.9
#: Squared distances held at a time, in numbers: 64 MB.
AT_ONCE = 2**23


class PowerLaw(NamedTuple):
    """Eigenvalues that fall as index ** -alpha, and how well they do: the share of the variance of their logarithms."""

    alpha: float
    r2: float


def rankme(Z: np.ndarray, epsilon: float = EPSILON) -> float:
    """The effective rank of features Z (n, D), neither centred nor normalised: exp of the entropy of singular values.

    (Garrido et al. 2023, arXiv 2210.02885, section 3.) Between 1 and min(n, D); features without a direction of their
    own lower it.

    >>> round(rankme(np.eye(3)), 3), round(rankme(np.ones((3, 2))), 3)
    (3.0, 1.0)
    """
    return _effective_number(np.linalg.svd(_matrix(Z), compute_uv=False), epsilon)


def rankme_reptrix(Z: np.ndarray, epsilon: float = EPSILON) -> float:
    """The same of the eigenvalues of the centred covariance, as the package reptrix computes what it calls RankMe.

    Squares count what is large twice: about half of the paper's value.
    """
    return _effective_number(covariance_eigenvalues(Z), epsilon)


def covariance_eigenvalues(Z: np.ndarray) -> np.ndarray:
    """The eigenvalues of the covariance of Z (n, D), descending, as shares of their sum: (min(n, D),).

    Raises ValueError where all rows are the same.
    """
    Z = _matrix(Z)
    values = np.linalg.svd(Z - Z.mean(axis=0), compute_uv=False) ** 2
    if not values.sum() > 0:
        raise ValueError("all features are the same: they have no spectrum")
    return values / values.sum()


def alpha_req(Z: np.ndarray, lo: int = ALPHA_RANGE[0], hi: int = ALPHA_RANGE[1]) -> float:
    """alpha-ReQ of features Z (n, D): how fast the eigenvalues of their covariance fall. See `power_law`.

    (Agrawal et al. 2022, arXiv 2202.05808.) Good features have it near 1.
    """
    return power_law(covariance_eigenvalues(Z), lo, hi).alpha


def power_law(eigenvalues: np.ndarray, lo: int = ALPHA_RANGE[0], hi: int = ALPHA_RANGE[1]) -> PowerLaw:
    """ln(eigenvalue) = -alpha ln(index) + c, fitted to the 0-based places lo to hi - 1 with the weights 1 / index.

    (Stringer et al. 2019, whose fit the authors of alpha-ReQ take over.) The share explained is of the places lo + 1 to
    99, as in the package reptrix. Raises ValueError where there are fewer than hi eigenvalues above 0, or hi - lo < 2.

    >>> round(power_law(np.arange(1, 201) ** -1.5).alpha, 6)
    1.5
    """
    positive = int((eigenvalues > eigenvalues[0] * np.finfo(np.float64).eps).sum())
    if not 0 <= lo <= hi - 2 or hi > positive:
        raise ValueError(f"a power law of the eigenvalues {lo} to {hi}, of which {positive} are above 0")
    index, logs = np.log(np.arange(1, positive + 1)), np.log(eigenvalues[:positive])
    # polyfit squares its weights
    slope, level = np.polyfit(index[lo:hi], logs[lo:hi], 1, w=np.exp(-index[lo:hi] / 2))
    seen = slice(lo + 1, 100)
    residual, spread = logs[seen] - slope * index[seen] - level, logs[seen] - logs[seen].mean()
    return PowerLaw(-float(slope), 1 - float((residual**2).sum() / (spread**2).sum()))


def lidar(E: np.ndarray, delta: float = LIDAR_DELTA, epsilon: float = EPSILON) -> float:
    """The effective rank of a linear discriminant between images, from embeddings E (images, views, D).

    (Thilak et al. 2023, arXiv 2312.04000, section 3.) The eigenvalues are those of the scatter between images, whitened
    by the scatter within them plus `delta` on its diagonal. Raises ValueError where all images are the same.
    """
    between, within = _scatters(E, delta)
    values = linalg.eigh(between, within, eigvals_only=True)
    return _effective_number(values.clip(0), epsilon)


def lidar_reptrix(E: np.ndarray, delta: float = 1e-6, epsilon: float = EPSILON) -> float:
    """What the package reptrix calls LiDAR: the spectrum of the columns of the whitened scatter, squared and centred.

    Much smaller than the paper's.
    """
    between, within = _scatters(E, delta)
    values, vectors = np.linalg.eigh(within)
    whiten = (vectors * values**-0.5) @ vectors.T
    return _effective_number(covariance_eigenvalues(whiten @ between @ whiten), epsilon)


def _scatters(E: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """(images, views, D) -> the scatter between images (D, D), and within them with `delta` on its diagonal."""
    E = np.asarray(E, np.float64)
    if E.ndim != 3 or E.shape[0] < 2 or E.shape[1] < 2:
        raise ValueError(f"embeddings of two or more views of two or more images are (images, views, D), not {E.shape}")
    means = E.mean(axis=1)
    apart, around = means - means.mean(axis=0), (E - means[:, None]).reshape(-1, E.shape[2])
    return apart.T @ apart / len(apart), around.T @ around / len(around) + delta * np.eye(E.shape[2])


def _effective_number(values: np.ndarray, epsilon: float) -> float:
    """exp(-sum p ln p) of p = values / sum + epsilon. Raises ValueError where all are 0."""
    if not values.sum() > 0:
        raise ValueError("all values of the spectrum are 0")
    p = values / values.sum() + epsilon
    return float(np.exp(-(p * np.log(p)).sum()))


def alignment(x: np.ndarray, y: np.ndarray, alpha: float = 2.0) -> float:
    """The mean over images of the distance of two views' features, x and y (n, D), brought to length 1, ** alpha.

    (Wang and Isola 2020, arXiv 2005.10242.) 0 is best.
    """
    return float(alignment_terms(x, y, alpha).mean())


def alignment_terms(x: np.ndarray, y: np.ndarray, alpha: float = 2.0) -> np.ndarray:
    """What every image adds to `alignment`: (n,)."""
    terms: np.ndarray = np.linalg.norm(unit(x) - unit(y), axis=1) ** alpha
    return terms


def uniformity(x: np.ndarray, t: float = 2.0) -> float:
    """ln of the mean over pairs of images of exp(-t distance ** 2), of features x (n, D) brought to length 1.

    (Wang and Isola 2020, arXiv 2005.10242.) 0 where all features are the same; lower is better.

    >>> round(uniformity(np.array([[1, 0], [-1, 0]])), 6)
    -8.0
    """
    return float(np.log(uniformity_terms(x, t).mean()))


def uniformity_terms(x: np.ndarray, t: float = 2.0) -> np.ndarray:
    """The mean over all other images of exp(-t distance ** 2), for each of x (n, D): (n,)."""
    x = unit(x)
    if len(x) < 2:
        raise ValueError("pairs of images need two")
    terms = np.zeros(len(x))
    step = max(1, AT_ONCE // len(x))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        near = x[rows] @ x[start:].T  # every pair once: with those of the block and with those after it
        near -= 1
        near *= 2 * t
        np.exp(np.minimum(near, 0, out=near), out=near)
        np.fill_diagonal(near, 0)  # itself
        terms[rows] += near.sum(axis=1)
        terms[rows.stop :] += near[:, rows.stop - start :].sum(axis=0)
    return terms / (len(x) - 1)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows (n, D) brought to length 1, float64."""
    x = _matrix(x)
    lengths: np.ndarray = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(lengths, 1e-12)


def cluster_accuracy(pred: np.ndarray, y: np.ndarray, one_to_one: bool = True) -> float:
    """The share of items whose cluster's class is theirs, clusters pred (n,) and classes y (n,) by any numbers.

    One to one (the usual accuracy): the matching of clusters and classes with the most items right; clusters that are
    left over are wrong. Else every cluster has its commonest class: purity.

    >>> cluster_accuracy([5, 5, 7, 8], [0, 0, 1, 1]), cluster_accuracy([5, 5, 7, 8], [0, 0, 1, 1], one_to_one=False)
    (0.75, 1.0)
    """
    matched = match_clusters(pred, y, one_to_one)
    return float(np.mean([matched.get(c) == label for c, label in zip(_ints(pred), _ints(y), strict=True)]))


def match_clusters(pred: np.ndarray, y: np.ndarray, one_to_one: bool = True) -> dict[int, int]:
    """The class of every cluster that has one, see `cluster_accuracy`."""
    clusters, row = np.unique(pred, return_inverse=True)
    classes, column = np.unique(y, return_inverse=True)
    counts = np.zeros((len(clusters), len(classes)), np.int64)
    np.add.at(counts, (row, column), 1)
    if one_to_one:
        rows, columns = optimize.linear_sum_assignment(counts, maximize=True)
    else:
        rows, columns = np.arange(len(clusters)), counts.argmax(axis=1)
    return dict(zip(_ints(clusters[rows]), _ints(classes[columns]), strict=True))


def _ints(values: np.ndarray) -> list[int]:
    return [int(v) for v in values]


def cka(
    X: np.ndarray, Y: np.ndarray, kind: Literal["linear", "debiased", "rbf"] = "linear", sigma: float = 1.0
) -> float:
    """How alike two sets of features X (n, D) and Y (n, E) of the same images are: 1 up to rotation and scale.

    `linear` (Kornblith et al. 2019, arXiv 1905.00414), which is higher the fewer images there are; `debiased`, without
    that (HSIC of Song et al. 2012, as in Nguyen et al. 2021, arXiv 2010.15327), which may be below 0; `rbf`, with
    Gaussian kernels as wide as `sigma` times the median distance (of all pairs, each image with itself included).
    Raises ValueError for features that do not differ.

    >>> round(cka(np.eye(4), 3 * np.eye(4)[::-1]), 6)
    1.0
    """
    if kind == "rbf":
        k, length = (_centred_gaussian(features, sigma) for features in (X, Y))
        return _ratio(float((k * length).sum()), float((k * k).sum()), float((length * length).sum()))
    return float(cka_table([X], [Y], debiased=kind == "debiased")[0, 0])


def cka_table(A: Sequence[np.ndarray], B: Sequence[np.ndarray], debiased: bool = False) -> np.ndarray:
    """`cka` of every pair of features (n, D) of the same n images: (len(A), len(B)). No matrix of n x n is made."""
    a, b = ([_centred(features) for features in each] for each in (A, B))
    own_a, own_b = ([_hsic(x, x, debiased) for x in each] for each in (a, b))
    table = [[_ratio(_hsic(x, y, debiased), p, q) for y, q in zip(b, own_b, strict=True)]
             for x, p in zip(a, own_a, strict=True)]  # fmt: skip
    return np.array(table)


def _centred(X: np.ndarray) -> np.ndarray:
    X = _matrix(X)
    return X - X.mean(axis=0)


def _hsic(X: np.ndarray, Y: np.ndarray, debiased: bool) -> float:
    """Of centred X (n, D) and Y (n, E) with linear kernels, up to a factor of n alone.

    The unbiased one has kernels with zeros on their diagonals; as the features are centred, what is left of a row of
    the kernel sums up to minus its diagonal, so that sums over images do.
    """
    if len(X) != len(Y):
        raise ValueError(f"features of {len(X)} and of {len(Y)} images: CKA is of the same ones")
    product = float((X.T @ Y).ravel() @ (X.T @ Y).ravel())
    if not debiased:
        return product
    n = len(X)
    if n < 4:
        raise ValueError(f"{n} images: debiased CKA needs 4 or more")
    p, q = (X * X).sum(axis=1), (Y * Y).sum(axis=1)
    return product - float(p @ q) * n / (n - 2) + float(p.sum() * q.sum()) / ((n - 1) * (n - 2))


def _centred_gaussian(X: np.ndarray, sigma: float) -> np.ndarray:
    squares = spatial.distance.squareform(spatial.distance.pdist(_matrix(X), "sqeuclidean"))
    if not (width := sigma**2 * float(np.median(squares))) > 0:
        raise ValueError("half of all distances are 0: they give a kernel no width")
    kernel = np.exp(-squares / (2 * width))
    centred: np.ndarray = kernel - kernel.mean(axis=0) - kernel.mean(axis=1, keepdims=True) + kernel.mean()
    return centred


def _ratio(both: float, one: float, other: float) -> float:
    if not (one > 0 and other > 0):
        raise ValueError("all features of a set are the same: they are like nothing")
    return both / float(np.sqrt(one) * np.sqrt(other))


def twonn(X: np.ndarray, method: Literal["line", "likelihood"] = "line", kept: float = TWONN_KEPT) -> float:
    """The intrinsic dimension of points X (n, D), from the ratio of each one's two smallest distances to others.

    (Facco et al. 2017, arXiv 1803.06992.) `line`: the slope of a least-squares line through 0 over the `kept` share of
    the smallest ratios, as in the paper; `likelihood`: (n - 1) / sum of the logarithms. Of points that are the same one
    is looked at. Raises ValueError where fewer than 4 differ.
    """
    ratios = np.sort(np.log(_second_to_first(np.unique(_matrix(X), axis=0))))
    n = len(ratios)
    if method == "likelihood":
        return (n - 1) / float(ratios.sum())
    m = int(n * kept)
    below = -np.log1p(-np.arange(1, m + 1) / n)
    return float(ratios[:m] @ below / (ratios[:m] @ ratios[:m]))


def _second_to_first(X: np.ndarray) -> np.ndarray:
    """The distance of the second-nearest point over the nearest one's, for each of X (n, D), which all differ: (n,)."""
    if len(X) < 4:
        raise ValueError(f"{len(X)} different points: their dimension cannot be told from fewer than 4")
    X = X - X.mean(axis=0)
    squares, ratios = (X * X).sum(axis=1), np.empty(len(X))
    few = min(8, len(X) - 1)
    step = max(1, AT_ONCE // len(X))
    for start in range(0, len(X), step):
        rows = X[start : start + step]
        far = squares - 2 * rows @ X.T  # up to what is the same for a whole row
        far[np.arange(len(rows)), np.arange(start, start + len(rows))] = np.inf
        near = np.argpartition(far, few - 1, axis=1)[:, :few]
        # products lose the digits of small distances, differences do not
        exact = np.sort(np.linalg.norm(X[near] - rows[:, None], axis=2), axis=1)
        ratios[start : start + len(rows)] = exact[:, 1] / exact[:, 0]
    return ratios


def _matrix(X: np.ndarray) -> np.ndarray:
    """(n, D) float64. Raises ValueError for another shape."""
    X = np.asarray(X, np.float64)
    if X.ndim != 2 or not X.size:
        raise ValueError(f"features are (images, width), not {X.shape}")
    return X
