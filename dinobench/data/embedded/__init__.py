"""Data that comes with the package, or is drawn when asked for: everything runs with nothing downloaded."""
