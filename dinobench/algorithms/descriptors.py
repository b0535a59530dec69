"""From patch tokens to one searchable vector per image: GeM pooling and whitening."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

#: Eigenvalues below this share of the largest are raised to it, lest noise directions be blown up.
EIGENVALUE_FLOOR = 1e-5


def gem(patches: torch.Tensor, power: float = 4.0, floor: float = 1e-6) -> torch.Tensor:
    """Generalised mean over positions (Radenovic et al. 2018, arXiv 1711.02512, equation 3).

    patches (B, N, D) -> (B, D): (mean of max(x, floor)^power)^(1/power); power 1 is the mean, infinity the maximum.
    The DINO paper's copy detection uses power 4.

    >>> gem(torch.tensor([[[1.0], [0.0], [-5.0]]]), power=1).round(decimals=3)
    tensor([[0.3330]])
    """
    return patches.clamp(min=floor).pow(power).mean(dim=1).pow(1 / power)


@dataclass(frozen=True)
class Whitening:
    """A linear map that equalises the variance of descriptors: centre (D,) float64, matrix (D, D) float64."""

    centre: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, sample: np.ndarray, power: float = 0.5) -> Whitening:
        """Learn from descriptors (n, D) of images that are in neither queries nor database.

        The mean is subtracted from what is projected, yet the directions come from the *uncentred* second moment
        XᵀX / n of the sample, as in the released evaluation of DINO; each direction is divided by its
        eigenvalue^power and none is dropped.
        """
        x = np.asarray(sample, dtype=np.float64)
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        values = np.maximum(values, EIGENVALUE_FLOOR * values[-1])
        return cls(x.mean(axis=0), vectors * values**-power)

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, D) float32, centred and projected, not normalised."""
        return ((np.asarray(rows, dtype=np.float64) - self.centre) @ self.matrix).astype(np.float32)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(n, D) -> rows of length 1 in float32; a row of zeros stays zero."""
    x = np.asarray(rows, dtype=np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
