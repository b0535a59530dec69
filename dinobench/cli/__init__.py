"""The `dinobench` command: one file a family of commands; what they show stands in `display/`."""

from dinobench.cli.app import main

__all__ = ["main"]
