"""What a user installs: every module is in the wheel, and it runs where the sources are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.paths import ROOT

FOLDERS = {"dinobench": "dinobench", "protocols": "dinobench/protocols", "pretrain": "dinobench/pretrain"}


def call(*arguments: object, cwd: Path, **environ: str) -> str:
    command = [str(a) for a in arguments]
    without = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env={**without, **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def source_files() -> dict[str, str]:
    """Files of the packages as they lie here -> as they must lie when installed."""
    found = {}
    for folder, target in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                found[path.relative_to(ROOT).as_posix()] = f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel made from that sdist), built from a copy so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", *FOLDERS):
        path, copy = ROOT / name, folder / "source" / name
        if path.is_dir():
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "source")
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_every_file_of_the_packages_is_in_wheel_and_sdist(built):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert not set(source_files().values()) - inside
    assert not {n.split("/")[0] for n in inside if ".dist-info/" not in n} - {"dinobench"}  # no bare `protocols`
    assert any(n.endswith("/licenses/LICENSE") for n in inside)
    with tarfile.open(sdist) as archive:
        members = {n.partition("/")[2] for n in archive.getnames()}
    assert not {*source_files(), "pyproject.toml", "LICENSE"} - members


@pytest.mark.slow
def test_the_wheel_runs_in_an_environment_of_its_own_from_an_unrelated_folder(built, tmp_path):
    _, wheel = built
    venv.create(tmp_path / "venv", with_pip=False)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    call(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet",
         "--no-deps", "--no-index", wheel, cwd=tmp_path)  # fmt: skip
    # The dependencies are borrowed: a folder named in a .pth file is searched, but .pth files in it (such as that of
    # an editable install of the sources) are not obeyed.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(call(python, "-c", code, cwd=tmp_path).strip())
    borrowed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site / "borrowed.pth").write_text("\n".join(sorted(borrowed)))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folders = sorted(
        {Path(f).parent.as_posix().replace("/", ".") for f in source_files().values() if f.endswith(".py")}
    )
    code = "import importlib, sys; [print(importlib.import_module(m).__file__) for m in sys.argv[1:]]"
    where = call(python, "-c", code, *folders, cwd=elsewhere).split()
    assert len(where) == len(folders) > 15 and all(Path(file).is_relative_to(site) for file in where)
    listed = call(scripts / "dinobench", "list", cwd=elsewhere)
    for name in ("knn", "top1@k20"):
        assert name in listed
    assert call(python, "-m", "dinobench", "--version", cwd=elsewhere)


@pytest.mark.parametrize("folder", [f for f in ("protocols", "pretrain") if (ROOT / f).is_dir()])
def test_a_bare_import_says_the_right_name(folder):
    code = f"try:\n import {folder}\nexcept ImportError as error:\n print(error)\nelse:\n raise SystemExit('imported')"
    said = call(sys.executable, "-c", code, cwd=ROOT)
    assert f"'dinobench.{folder}'" in said
