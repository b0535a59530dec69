"""Labelled images as archives, tables and programs keep them: class folders, shards, Parquet, torchvision's classes."""
