"""How sure a number is, and whether two differ."""

from __future__ import annotations

from dinobench.lazy import attach

__all__ = [
    "agreement_intervals",
    "bootstrap_interval",
    "bounds",
    "holm",
    "interval",
    "jackknife_interval",
    "paired_test",
    "stratified_interval",
    "wilson_interval",
]

__getattr__ = attach(
    __name__,
    {
        "interval": "intervals",
        "bootstrap_interval": "intervals",
        "wilson_interval": "intervals",
        "paired_test": "paired_tests",
        "bounds": "paired_tests",
        "holm": "paired_tests",
        "jackknife_interval": "jackknife",
        "agreement_intervals": "delete_one",
        "stratified_interval": "stratified",
    },
)
