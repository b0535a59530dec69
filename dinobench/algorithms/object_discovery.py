"""Objects in one image without labels: graphs over its patches, cut into an object and the rest.

LOST (Siméoni et al. 2021, arXiv 2109.14279; valeoai/LOST at fcedbec), TokenCut (Wang et al. 2022, arXiv 2202.11539;
YangtaoWANG95/TokenCut at fed52cd) and DINO-seg, LOST's baseline of thresholded attention. Patches are numbered row by
row on a grid of (rows, columns).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.ndimage import label
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from dinobench.metrics.segmentation import kept_mass_masks

#: Patches of smallest degree that may join the seed; arXiv 2109.14279, section 3.3.
CANDIDATES = 100
#: Cosine above which two patches are joined; arXiv 2202.11539, section 4.1.
TAU = 0.2
#: Weight of an edge between patches that are not; YangtaoWANG95/TokenCut `object_discovery.py`, `ncut`.
EPS = 1e-5
#: Of the largest entry of an eigenvector: entries this near to it are as large, and the first of them is the seed.
LEVEL = 1e-7
#: Patches up to which the whole problem is as quick as the iteration, whose space has 20 vectors.
FEW = 20


class Object(NamedTuple):
    """The patches of an object, `mask` (rows, columns) bool, and the number of the patch that it grew from."""

    mask: np.ndarray
    seed: int


def lost(features: torch.Tensor, grid: tuple[int, int], candidates: int = CANDIDATES) -> Object:
    """Features (N, D) of patches -> the object around the patch that resembles the fewest others.

    Two patches resemble each other where their inner product is above 0. Of patches of equal degree the first counts.
    """
    product = _products(features)  # (N, N)
    alike = product > 0
    degree = alike.sum(dim=1) - alike.diagonal().int()
    order = torch.argsort(degree, stable=True)[:candidates]
    seed = int(order[0])
    similar = order[alike[seed, order]]
    mask = (product[similar].sum(dim=0) > 0).reshape(grid).cpu().numpy()
    return Object(component(mask, seed), seed)


def tokencut(features: torch.Tensor, grid: tuple[int, int], tau: float = TAU) -> Object:
    """Features (N, D) of patches -> the object that the normalized cut of their graph leaves around its seed."""
    vector = second_eigenvector(joined(features, tau))
    seed, side = bipartition(vector)
    return Object(component(side.reshape(grid), seed), seed)


def joined(features: torch.Tensor, tau: float = TAU) -> np.ndarray:
    """Features (N, D) -> (N, N) bool: which patches have a cosine above `tau`."""
    return (_products(torch.nn.functional.normalize(features, dim=1)) > tau).cpu().numpy()


def _products(features: torch.Tensor) -> torch.Tensor:
    """(N, D) -> (N, N) in the features' own precision: under autocast signs, which decide the graphs, would be lost."""
    with torch.autocast(features.device.type, enabled=False):
        return features @ features.T


def second_eigenvector(edges: np.ndarray) -> np.ndarray:
    """Edges (N, N) bool -> (N,) float64: the second smallest generalized eigenvector of (D - W, D).

    W is 1 along edges and `EPS` elsewhere, D the diagonal of its row sums. With y = D^1/2 x it is the second largest
    eigenvector of D^-1/2 W D^-1/2, whose largest, D^1/2 1, is known and moved out of the way; the Lanczos iteration
    from a fixed start gives the same bits each time. Where it does not converge, the dense solver decides.
    """
    n = len(edges)
    if n <= FEW:
        return dense_second_eigenvector(edges)
    weights = np.where(edges, 1.0, EPS)
    root = np.sqrt(weights.sum(axis=1))
    first = root / np.linalg.norm(root)
    weights /= root[:, None]
    weights /= root

    def product(y: np.ndarray) -> np.ndarray:
        y = y.ravel()
        return weights @ y - 2 * first * (first @ y)  # the known eigenvalue goes from 1 to -1, the smallest there is

    rng = np.random.default_rng(0)  # for the start, and for going on where its Krylov space is exhausted
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    try:
        _, vectors = eigsh(operator, k=1, which="LA", v0=rng.standard_normal(n), rng=rng)
    except ArpackNoConvergence:
        return dense_second_eigenvector(edges)
    return vectors[:, 0] / root


def dense_second_eigenvector(edges: np.ndarray) -> np.ndarray:
    """As `second_eigenvector`, as published: from the whole generalized problem, in time of N^3."""
    weights = np.where(edges, 1.0, EPS)
    degrees = np.diag(weights.sum(axis=1))
    if len(edges) < 2:
        return np.ones(len(edges))
    _, vectors = eigh(degrees - weights, degrees, subset_by_index=[1, 1])
    return vectors[:, 0]


def bipartition(vector: np.ndarray) -> tuple[int, np.ndarray]:
    """Eigenvector (N,) -> its seed, the largest entry in size, and the seed's side of the mean (N,) bool."""
    size = np.abs(vector)
    seed = int(np.argmax(size >= size.max() * (1 - LEVEL)))
    side = vector > vector.mean()
    return seed, side if side[seed] else ~side


def dinoseg(attention: np.ndarray, grid: tuple[int, int], keep: float) -> tuple[np.ndarray, np.ndarray]:
    """One head's attention (N,) -> masks (rows, columns) bool: the object as the release finds it, and the largest.

    Candidates are the 4-connected components of the patches that hold `keep` of the attention. The release forgets the
    last one, and where there is one only it takes what is not attended to.
    """
    labels, count = label(kept_mass_masks(attention, keep).reshape(grid))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = labels == 1 + int(sizes.argmax())
    released = labels == (1 + int(sizes[:-1].argmax()) if count > 1 else 0)
    return released if released.any() else largest, largest


def component(mask: np.ndarray, seed: int) -> np.ndarray:
    """The 4-connected part of a mask (rows, columns) that holds a patch; that patch alone where the mask does not."""
    labels, _ = label(mask)
    own = labels.flat[seed]
    return labels == own if own else np.arange(mask.size).reshape(mask.shape) == seed


def box_of(mask: np.ndarray, cell: tuple[int, int], size: tuple[int, int] | None = None) -> np.ndarray:
    """A mask (rows, columns) of patches -> (4,) int64 x1, y1, x2, y2 in pixels, within `size` (height, width) if given.

    `cell`: the height and width of a patch, in pixels.

    >>> box_of(np.array([[False, True], [False, True]]), (16, 16), (30, 40)).tolist()
    [16, 0, 32, 30]
    """
    height, width = cell
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([width * columns[0], height * rows[0], width * (columns[-1] + 1), height * (rows[-1] + 1)])
    return box if size is None else np.minimum(box, [size[1], size[0], size[1], size[0]])
