"""The folder `results/`: records, per-item scores, provenance and the leaderboard, written and read."""
