"""What README.md and docs/suites.md show is typed here, on little data and small networks."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from helpers.documents import DOCS, README, commands
from helpers.paths import ROOT
from helpers.weights import save, shifted, vit

from dinobench.suite.file import read

SUITES = DOCS / "suites.md"
#: What stands for data that nobody can be asked to have.
INSTEAD = {"/data/imagenette": "digits", "/data/DAVIS": "shapes", "/data/VOCdevkit": "shapes"}
#: Options that make a protocol's run a matter of moments.
LESS = {
    "knn": "--set resize=16 --set crop=16 --limit 20",
    "linear": "--set resize=16 --set crop=16 --set blocks=1 --limit 20",
    "davis": "--set short_side=64 --limit 1",
    "attention": "--set image_size=32 --limit 2",
}
#: Beginnings of commands that are not typed here, and why.
LEFT = {
    "demo": "takes minutes; tests/test_demo.py has it with less of everything",
    "pretrain": "takes hours; so has tests/cli/test_pretrain.py",
    "run --protocol knn --ckpt x.pth --data imagenet --test": "images from elsewhere: tests/cli/test_other_tests.py",
    "compare results/studies/dino-findings": "the study kept here: below",
    "gate results --baseline main/results": "needs a main branch: tests/cli/test_compare.py",
    "suite run paper.toml": "below, with the file of README; on SLURM: tests/suite/slurm",
    "suite status paper.toml --watch": "waits for somebody else's run: tests/cli/test_suite_run.py",
}


def blocks(page, language=""):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [text for its_language, text in found if its_language == language]


def whole(page):
    """The commands of a page that are shown whole, without those of plain text that name a command alone."""
    return [c.arguments for c in commands(page) if not c.open]


def left(arguments):
    return next((beginning for beginning in LEFT if " ".join(arguments).startswith(beginning)), None)


@pytest.fixture
def folder(tmp_path, own_cache, monkeypatch):
    """Two checkpoints where the pages have theirs, and one called x.pth."""
    network = vit(width=64, depth=2, patch=8, image=16)
    for name in ("runs/dino-start", "runs/dino/checkpoint0020", "theirs", "x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(network, tmp_path / f"{name}.pth")
    for name in ("runs/dino-trained", "runs/dino/checkpoint0040"):
        save(shifted(network), tmp_path / f"{name}.pth")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_what_is_left_out_is_shown(command):
    shown = {left(arguments) for page in (README, SUITES) for arguments in whole(page)}
    assert shown - {None} == {*LEFT}


@pytest.mark.slow
def test_the_comparison_of_the_readme_is_what_it_shows(command, folder):
    """Its file gives its plan, word for word, and on less of everything its table, but for numbers and footnotes."""
    (suite,) = (text for text in blocks(README, "toml") if text.startswith("# paper.toml"))
    (shown,) = (text for text in blocks(README) if "suite plan paper.toml" in text)
    _, plan, table = re.split(r"^\$ .*\n", shown, flags=re.M)
    (folder / "paper.toml").write_text(suite)
    code, out, err = command("suite", "plan", "paper.toml")
    assert code == 0 and [line.rstrip() for line in out.splitlines()] == plan.splitlines(), err
    less = suite.replace("= 32", "= 16").replace("= 50", "= 5").replace("= 192", "= 64")
    less = less.replace('protocol = "davis"', 'protocol = "davis", limit = 1')
    (folder / "paper.toml").write_text(f"limit = 20\n{less}")
    code, _, err = command("suite", "run", "paper.toml", "--device", "cpu")
    assert code == 0 and "paper: 10 of 10 cells done" in err, err
    code, out, err = command("compare", "results", "--format", "latex")
    assert code == 0, err
    made, expected = (body(text) for text in (out, table))
    assert made == expected


def body(text):
    """A table in LaTeX without what differs from one run to another: numbers, footnotes, which is the best."""
    table = text[text.index("\\begin{tabular}") : text.index("\\end{tabular}")]
    table = re.sub(r"\\textsuperscript\{[^}]*\}|\+limit\d+", "", table)
    return re.sub(r"\\(?:textbf|underline)\{(.*?)\}", r"\1", re.sub(r"\d+\.\d", "0.0", table)).splitlines()


@pytest.mark.slow
def test_the_commands_of_the_readme_do_what_they_say(command, folder):
    for arguments in whole(README):
        if left(arguments) is not None or "paper.toml" in arguments or "latex" in arguments:
            continue
        protocol = dict(pairwise(arguments)).get("--protocol", "")
        line = [INSTEAD.get(word, word) for word in arguments] + LESS.get(protocol, "").split()
        code, out, err = command(*line)
        assert code == 0 and out, f"{line}: {err}"
    assert [*(folder / "masks").iterdir()]


def test_the_table_of_the_readme_is_that_of_the_study_kept_here(command, monkeypatch):
    (shown,) = (text for text in blocks(README) if "compare results/studies" in text)
    line, _, table = shown.partition("\n")
    words = [str(ROOT / word) if word.startswith("results") else word for word in line.split()[2:]]
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = command(*words)
    assert code == 0 and [text.rstrip() for text in out.splitlines()] == table.splitlines(), err


def test_the_files_of_the_page_on_suites_can_be_read(command, folder):
    first, second, third = (text.replace("/data/imagenet", "digits") for text in blocks(SUITES, "toml"))
    for text in (first, second):
        (folder / "paper.toml").write_text(text)
        suite = read("paper.toml")
    assert suite.loading["ours-0020"].key == "teacher" and suite.runs[0].compute.batch_size == 64
    (folder / "paper.toml").write_text(f'{third}\n[[run]]\nprotocol = "knn"\n[data]\nimages = "digits"\n')
    assert {"dino-s0", "dino-s1-start", "no-centring-s1"} <= read("paper.toml").models.keys()


def test_the_commands_of_the_page_on_suites_do_what_they_say(command, folder):
    first = blocks(SUITES, "toml")[0].replace("/data/imagenet", "digits")
    (folder / "paper.toml").write_text(first.replace("random:vit_small_patch16_224", "pixels:4"))
    for arguments in whole(SUITES):
        if left(arguments) is None or arguments[-1] == "--dry-run":
            code, out, err = command(*arguments)
            assert code == 0 and (out or err), f"{arguments}: {err}"
