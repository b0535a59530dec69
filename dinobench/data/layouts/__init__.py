"""Data sets as they lie on disks: one file a layout."""
