"""Data sets with a value for every pixel: label maps and depth, as they lie on disks."""
