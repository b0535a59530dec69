"""What produced a number besides its inputs: versions, source, memory."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import dinobench
from dinobench import lazy

with lazy.imports():
    import torch

#: Libraries whose version can move a number.
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn", "lightning-fabric")


def versions() -> dict[str, str]:
    """Python's and the libraries' versions; absent ones are left out."""
    numbers = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            numbers[library] = version(library)
        except PackageNotFoundError:
            continue
    return numbers


def git_state() -> tuple[str | None, bool | None]:
    """Commit and whether there are uncommitted changes, of the checkout that dinobench runs from; else (None, None)."""
    root = Path(dinobench.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # Results written by the very runs that ask are no change of the source.
        dirty = _git(root, "status", "--porcelain", "--", ".", ":!results")
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None, None
    return commit, bool(dirty)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in MB (10^6 bytes): the accelerator's where there is one."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return round(_peak_resident_bytes() / 1e6, 1)


def _peak_resident_bytes() -> int:
    """Linux keeps `VmHWM` of this very program; getrusage's figure starts from that of the process that started it."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
