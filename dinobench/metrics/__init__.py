"""Metrics: pure functions of predictions and ground truth, one file per family."""
