"""Where dinobench keeps what it can make again."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def cache_root() -> Path:
    """The folder for everything that may be deleted at any time.

    `DINOBENCH_CACHE` if set, else `dinobench` under the platform's cache folder (`XDG_CACHE_HOME` or `~/.cache`,
    `~/Library/Caches`, `%LOCALAPPDATA%`), else under the temporary folder for accounts without a home.
    The folder need not exist yet.
    """
    if chosen := os.environ.get("DINOBENCH_CACHE"):
        return Path(chosen).expanduser()
    try:
        home = Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "dinobench"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "dinobench"
    variable, fallback = ("LOCALAPPDATA", "AppData/Local") if os.name == "nt" else ("XDG_CACHE_HOME", ".cache")
    return Path(os.environ.get(variable) or home / fallback) / "dinobench"
