"""The official scorer's files."""

from __future__ import annotations

import numpy as np

from dinobench.metrics.video import object_table, official_csv


def test_the_official_scorers_files_hold_fractions_by_object():
    values = np.array([[0.5, 0.6, 0.1, 0.7, 0.8, np.nan], [0.25, 0.3, 0.2, 0.35, 0.4, np.nan], [1, 1, 0, 1, 1, np.nan]])
    files = official_csv(object_table([("bike-packing", 2), ("dog", 1)], values))
    assert files["global_results-val.csv"].splitlines() == [
        "J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay", "0.633,0.583,0.633,0.100,0.683,0.733,",
    ]  # fmt: skip
    assert files["per-sequence_results-val.csv"].splitlines() == [
        "Sequence,J-Mean,F-Mean", "bike-packing_1,0.500,0.700", "bike-packing_2,0.250,0.350", "dog_1,1.000,1.000",
    ]  # fmt: skip
