"""Pairs of images in which the same points are known: keypoints, and surfaces before calibrated cameras."""
