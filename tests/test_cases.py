"""Situations that people met with tools of this field, each made anew by a script and run as typed.

The scripts lie beside the test data and are not part of the project; the kinds that they stand for have tests beside
the modules. Here every one of them meets the outcome that its notes ask for.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEST_DATA = os.environ.get("DINOBENCH_TEST_DATA")
CASES = Path(TEST_DATA).parent / "cases" if TEST_DATA else Path("absent")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CASES.is_dir(), reason="no cases beside DINOBENCH_TEST_DATA")]

#: Of every case and line: the exit code, and what the output must hold.
OUTCOMES: dict[str, list[tuple[int, str]]] = {
    "01": [(0, "checkpoint.pth"), (0, "checkpoint.pth")],
    "03": [(0, "checkpoint.pth")],
    "04": [(2, r"in/Annotations/480p/a/00000\.png: .*smoothed.*threshold")],
    "07": [(2, r"instances_val2017\.json: annotation 3"), (2, r"instances_val2017\.json: annotation 3")],
    "09": [(0, "n = 2")],
    "10": [(2, r"instances_val2017\.json: annotation 3")],
    "11": [(2, r"instances_val2017\.json: .*'1'")],
    "13": [(0, r"1 of 2 images have no instances")],
    "15": [(0, r"left out for their ending: 4 files")],
    "16": [(2, r"train/ant/scan\.png.*900,000,000 pixels, above the limit of 178,956,970")],
    "17": [(0, "top1"), (0, "top1"), (0, "top1"), (2, "part 1 of 2 of a sharded checkpoint")],
    "18": [(2, "dcp_to_torch_save"), (2, "dcp_to_torch_save")],
    "19": [(2, "square"), (2, "square"), (2, "square")],
    "22": [(0, "home/res")],
    "23": [(0, "top1"), (0, "top1"), (0, "top1")],
    "25": [(0, "map|mAP")],
    "26": [(0, "top1")],
    "27": [(2, r"val\.txt")],
    "30": [(0, "top1"), (0, "top1")],
    "31": [(0, "top1")],
    "32": [(0, "top1"), (0, "top1"), (0, "top1")],
    "34": [(2, "pos_embed")],
    "36": [(2, r"norm.*fc_norm")],
    "37": [(2, "no known backbone among its 2 tensors")],
    "38": [(0, "n = 12")],
    "40": [(2, r"zero\.jpg.*html\.jpg.*t\.jpg"), (0, "n = 12")],
    "42": [(2, r"in/val: .*images belong in val/<class>/")],
    "43": [(2, "val has 3 classes 1, 2, 3 that train lacks")],
    "45": [(0, "only 24 train images, all of them vote"), (0, "top1@k1"), (2, "k = ")],
    "46": [(0, "n = 8")],
    "47": [(0, "leaked images: 1 of 13")],
    "50": [(2, r"00002\.png"), (2, r"00001\.png"), (2, r"00001\.png"), (2, r"00001\.png")],
    "51": [(0, "J&F"), (0, "J&F")],
    "53": [(0, "checkpoint"), (2, "resume"), (2, "resume"), (2, "run")],
    "55": [(2, "batch"), (2, "size")],
    "56": [(2, "cannot write results"), (2, "cannot write results")],
    "58": [(2, "size"), (2, "size"), (2, "not recognised")],
    "59": [(0, "top1"), (0, "warning"), (0, "warning")],
    "60": [(2, r"full\.pt"), (2, r"t\.pth"), (2, r"e\.pth"), (2, r"lfs\.pth"), (2, r"nan\.pth")],
}


def test_every_case_has_its_outcome():
    assert {p.name for p in CASES.iterdir() if p.is_dir()} == set(OUTCOMES)


@pytest.mark.parametrize("case", OUTCOMES)
def test_case(case, tmp_path, monkeypatch, capfd):
    shutil.copy(CASES / "lib.py", tmp_path)
    here = Path(shutil.copytree(CASES / case, tmp_path / case))
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(tmp_path))
    runpy.run_path(str(here / "make.py"))
    lines = (here / "args.txt").read_text().splitlines()
    typed = [line.removeprefix("CLI:") for line in lines if line.strip() and not line.startswith("!")]
    for line, (code, words) in zip(typed, OUTCOMES[case], strict=True):
        environment, arguments = re.match(r"((?:[A-Z_0-9]+=\S+ )*)(.*)", line).groups()
        returned, out, err = in_environment(environment, arguments) if environment else called(arguments, capfd)
        assert returned == code and re.search(words, out + err), f"{line}\n{(out + err)[-2000:]}"
        assert "RuntimeWarning" not in err and not (here / "~").exists()
        if code == 2:
            assert sum("error:" in row for row in err.splitlines()) == 1


def called(arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The command in this process, which has torch imported already."""
    from dinobench.cli import main

    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(sys, "argv", ["dinobench", *shlex.split(arguments)])
        main()
    return int(stopped.value.code or 0), *capfd.readouterr()


def in_environment(environment: str, arguments: str) -> tuple[int, str, str]:
    """The command in a process of its own, with variables set as typed."""
    done = subprocess.run(
        f"env {environment} {sys.executable} -m dinobench {arguments}", shell=True, capture_output=True,
        encoding="utf-8", errors="replace", env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
