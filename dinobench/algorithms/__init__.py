"""What protocols compute with: tensors and arrays in, tensors and arrays out; no files, no context."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = ["Whitening", "fit_path", "gem", "propagate", "search"]

__getattr__ = attach(
    __name__,
    {
        "search": "nearest_neighbours",
        "fit_path": "logistic_regression",
        "propagate": "label_propagation",
        "gem": "descriptors",
        "Whitening": "descriptors",
    },
)
