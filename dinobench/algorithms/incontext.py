"""Segmentation by example: a patch gets the labels of the patches of other images that look most like it.

(Balažević et al. 2023, arXiv 2306.01667, section 3.2; as released by vpariza/open-hummingbird-eval.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dinobench.algorithms.nearest_neighbours import search

#: Numbers of neighbours' labels gathered at a time: 64 MB.
GATHERED = 2**24


def patch_counts(labels: np.ndarray, patch: int, classes: int) -> np.ndarray:
    """Labels (S, S) of 0 … `classes` - 1, S a multiple of `patch` -> pixels of each class per patch (N, classes) int64.

    >>> patch_counts(np.array([[0, 0], [0, 1]]), 2, 3).tolist()
    [[3, 1, 0]]
    """
    grid = labels.shape[0] // patch
    number = np.arange(grid * grid).reshape(grid, grid).repeat(patch, 0).repeat(patch, 1)
    keys = number * classes + labels
    return np.bincount(keys.ravel(), minlength=grid * grid * classes).reshape(-1, classes)


def patch_scores(counts: np.ndarray) -> np.ndarray:
    """Pixels of each class per patch of one image (N, C) -> (N,) int64: how common the classes in a patch are.

    Over the classes present in it, the sum of the numbers of patches of the image that hold each.
    """
    present = (counts > 0).astype(np.int64)
    return present @ present.sum(axis=0)


def drawn_patches(counts: np.ndarray, keep: int, rng: np.random.Generator) -> np.ndarray:
    """The patches of one image that go into a bounded memory: (min(keep, N),) int64, ascending.

    Those with the smallest score times a number drawn from 0..1: rare classes are kept more often.
    """
    if keep >= len(counts):
        return np.arange(len(counts))
    weighted = patch_scores(counts) * rng.random(len(counts))
    return np.sort(np.argpartition(weighted, keep)[:keep])


def weighted_labels(
    similarity: torch.Tensor, index: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Cosines (Q, k) and rows (Q, k) of the neighbours, their labels (M, C) -> (Q, C) float32.

    The mean of the neighbours' labels, weighted by softmax(cosine / temperature). `labels` may be of any type.
    """
    weights = torch.softmax(similarity / temperature, dim=1)
    out = torch.empty(len(index), labels.shape[1])
    step = max(1, GATHERED // max(1, index.shape[1] * labels.shape[1]))
    for start in range(0, len(index), step):
        rows = slice(start, start + step)
        near = labels[index[rows].flatten()].view(-1, index.shape[1], labels.shape[1]).float()  # (q, k, C)
        out[rows] = torch.bmm(weights[rows, None], near)[:, 0]
    return out


def attend(
    queries: torch.Tensor,
    memory: torch.Tensor,
    labels: torch.Tensor,
    k: int,
    temperature: float,
    *,
    normalise: bool = True,
    device: torch.device | str = "cpu",
    progress: Callable[..., Iterator[Any]] | None = None,
) -> torch.Tensor:
    """Queries (Q, D), memory (M, D) with labels (M, C) -> (Q, C): `weighted_labels` of the k nearest by cosine.

    `normalise` False says that all rows have unit length already. k is at most M.
    """
    similarity, index = search(queries, memory, k, normalise=normalise, device=device, progress=progress)
    return weighted_labels(similarity, index, labels, temperature)


def class_map(soft: torch.Tensor, size: int) -> np.ndarray:
    """Labels of one image's patches (N, C), N a square, none negative and none all zero -> (size, size) uint8.

    Upsampled bilinearly (align_corners false), the largest wins, the first of equal ones.
    """
    present = soft.amax(dim=0).nonzero().flatten()  # a class that is nowhere wins nowhere
    grid = round(len(soft) ** 0.5)
    planes = soft.T[present].reshape(1, len(present), grid, grid)
    full = F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False)[0]
    best, winner = full[0], torch.zeros(full.shape[1:], dtype=torch.int64, device=soft.device)
    for channel in range(1, len(full)):  # an argmax over the first dimension takes 30 times as long on a CPU
        winner.masked_fill_(full[channel] > best, channel)
        best = torch.maximum(best, full[channel])
    return present[winner].to(torch.uint8).cpu().numpy()
