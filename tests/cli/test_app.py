from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import families_dino_eva
from helpers.command_lines import command_line
from helpers.forked import Command, typed
from helpers.hub import go_online, serving
from helpers.pickles import START, archive
from helpers.runs import run
from helpers.typed import assert_one_line
from helpers.weights import huggingface, save, vit
from PIL import Image
from safetensors.torch import save as safetensors

from dinobench import __version__, console, registry
from dinobench.cli import app
from dinobench.results.leaderboard import COLUMNS
from dinobench.results.records import read_all

SMALL = ("--set", "resize=32", "--set", "crop=32", "--set", "k=1,3", "--device", "cpu")
KNN = ("run", "--protocol", "knn", *SMALL)


def make_images(root: Path, classes: str = "abc", test: str | None = None) -> Path:
    """ImageFolder: 16 x 16 noise around a colour for each class, 6 train and 4 val images."""
    rng = np.random.default_rng(0)
    for split, names, count in (("train", classes, 6), ("val", test or classes, 4)):
        for name in names:
            (root / split / name).mkdir(parents=True)
            color = np.random.default_rng(ord(name)).integers(60, 190, 3)
            for i in range(count):
                pixels = (color + rng.normal(0, 25, (16, 16, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "colors")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(vit(), tmp_path_factory.mktemp("ckpt") / "vit.pth")


def test_a_run_writes_records_items_and_leaderboard_and_shows_a_table(command, images, checkpoint, tmp_path):
    code, out, err = command(
        *KNN, "--ckpt", checkpoint, "--ckpt", "pixels", "--ckpt", "random:resnet18", "--data", images
    )
    assert code == 0, err
    assert "knn · dino2021+crop=32+k=1,3+resize=32 · colors · n = 12" in out
    lines = out.splitlines()
    assert lines[1].split()[:4] == ["model", "arch", "top1@k1", "top5@k1"]
    assert {line.split()[0] for line in lines[2:]} == {"vit", "pixels16", "random_resnet18"}
    assert "records and leaderboard.csv are in results/" in err
    records, broken = read_all(tmp_path / "results")
    assert not broken and len(records) == 3
    board = pd.read_csv(tmp_path / "results" / "leaderboard.csv")
    assert tuple(board.columns) == COLUMNS and len(board) == 12
    for record in records:
        items = pd.read_parquet(tmp_path / "results" / "items" / f"{record.run_id}.parquet")
        for name, metric in record.metrics.items():
            assert 100 * items[name].mean() == pytest.approx(metric.value)
            assert metric.ci_low is not None and metric.ci_low <= metric.value <= metric.ci_high and metric.n == 12
        assert record.seed == 0 and record.device == "cpu" and record.processes == 1 and record.broken_images == 0
        assert record.versions["torch"] and record.dinobench_version == __version__ and record.duration_s > 0


def test_json_is_the_records_and_a_second_run_finds_them(command, images, checkpoint):
    arguments = (*KNN, "--ckpt", checkpoint, "--ckpt", "pixels", "--data", images, "--json")
    code, out, err = command(*arguments)
    assert code == 0, err
    first = json.loads(out)
    assert out.startswith("[\n") and [r["checkpoint"]["name"] for r in first] == ["vit", "pixels16"]
    assert set(first[0]["metrics"]["top1@k3"]) == {"value", "ci_low", "ci_high", "n", "unit"}
    written = Path("results/leaderboard.csv").read_bytes()

    code, out, err = command(*arguments)
    assert code == 0 and json.loads(out) == first
    assert err.count("finished before, taken from results; --force runs it again") == 2
    assert Path("results/leaderboard.csv").read_bytes() == written

    before = {path.stat().st_mtime_ns for path in Path("results/runs").iterdir()}
    code, out, err = command(*arguments, "--force")
    assert code == 0 and "finished before" not in err
    again = json.loads(out)
    assert [r["run_id"] for r in again] == [r["run_id"] for r in first]
    assert [r["metrics"] for r in again] == [r["metrics"] for r in first]
    assert not before & {path.stat().st_mtime_ns for path in Path("results/runs").iterdir()}
    assert Path("results/leaderboard.csv").read_bytes() == written


def test_as_typed_stdout_holds_the_json_alone(images, checkpoint, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dinobench", *KNN, "--ckpt", str(checkpoint), "--data", str(images), "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1 and "Traceback" not in done.stderr


def test_what_is_another_run_gets_another_record(command, images, checkpoint):
    variants = [(), ("--seed", 1), ("--set", "k=1,4"), ("--set", "temperature=0.1"), ("--profile", "dinov2")]
    ids = set()
    for extra in variants:
        code, out, err = command(*KNN, "--ckpt", checkpoint, "--data", images, "--json", *extra)
        assert code == 0 and "finished before" not in err
        ids.add(json.loads(out)[0]["run_id"])
    assert len(ids) == len(variants)


def test_names_given_to_checkpoints_and_data(command, images, checkpoint):
    code, out, err = command(
        *KNN, "--ckpt", f"ours={checkpoint}", "--ckpt", f"other={checkpoint}", "--data", f"paint={images}", "--json"
    )
    assert code == 0, err
    records = json.loads(out)
    assert [(r["checkpoint"]["name"], r["dataset"]) for r in records] == [("ours", "paint"), ("other", "paint")]
    assert records[0]["metrics"] == records[1]["metrics"]
    code, _, err = command(*KNN, "--ckpt", checkpoint, "--ckpt", checkpoint, "--data", images)
    assert code == 2 and "2 checkpoints called 'vit'" in err and "--ckpt a=" in err


def test_more_neighbours_than_train_images_is_a_result_with_a_note(command, images):
    code, out, err = command(*KNN, "--ckpt", "pixels", "--data", images, "--set", "k=10,50", "--json")
    assert code == 0
    (record,) = json.loads(out)
    assert record["notes"] == ["k = 50: only 18 train images, all of them vote"]
    assert "pixels16: k = 50: only 18 train images" in err


def test_broken_images_stop_the_run_or_are_counted(command, tmp_path):
    data = make_images(tmp_path / "colors")
    (data / "val" / "a" / "1.png").write_bytes(b"no image")
    (data / "train" / "b" / "0.png").write_bytes((data / "train" / "b" / "1.png").read_bytes()[:90])
    code, out, err = command(*KNN, "--ckpt", "pixels", "--data", data)
    assert_one_line(code, out, err, "--skip-broken")
    assert "train/b/0.png" in err or "val/a/1.png" in err
    code, out, err = command(*KNN, "--ckpt", "pixels", "--data", data, "--skip-broken", "--json")
    (record,) = json.loads(out)
    assert code == 0 and record["broken_images"] == 2 and record["metrics"]["top1@k1"]["n"] == 11


def test_without_cache_nothing_is_kept(command, images, own_cache):
    code, _, err = command(*KNN, "--ckpt", "pixels", "--data", images, "--no-cache")
    assert code == 0, err
    assert not own_cache.exists()


def test_cache_ls_and_prune(command, images, own_cache):
    assert command(*KNN, "--ckpt", "pixels", "--data", images)[0] == 0
    code, out, err = command("cache", "ls")
    assert code == 0 and out.count("pixels16") == 4 and out.count("complete") == 2 and "2 entries" in err
    code, _, err = command("cache", "prune", "--days", 1)
    assert code == 0 and "0 entries deleted" in err
    code, _, err = command("cache", "prune")
    assert code == 0 and "2 entries deleted" in err
    assert "0 entries" in command("cache", "ls")[2]


def test_leaderboard_is_rebuilt_and_broken_records_are_named(command, images):
    assert command(*KNN, "--ckpt", "pixels", "--data", images)[0] == 0
    written = Path("results/leaderboard.csv").read_bytes()
    Path("results/leaderboard.csv").unlink()
    Path("results/runs/half.json").write_text('{"schema"')
    code, out, err = command("leaderboard")
    assert code == 0 and out.count("pixels16") == 8 and "half.json: left out" in err
    assert Path("results/leaderboard.csv").read_bytes() == written
    code, out, err = command("leaderboard", "elsewhere")
    assert code == 2 and "elsewhere: no runs/ folder" in err


def test_inspect(command, checkpoint):
    code, out, _ = command("inspect", checkpoint)
    assert code == 0 and "weights digest" in out and "missing" in out
    code, out, _ = command("inspect", checkpoint, "--json")
    assert code == 0 and json.loads(out)["info"]["embed_dim"] == 64 and json.loads(out)["missing"] == []


@pytest.mark.parametrize("reference", ["pixels:4", "random:vit_tiny_patch16_224", "mine=random:resnet18"])
def test_inspect_takes_models_by_name(command, reference):
    code, out, _ = command("inspect", reference)
    assert code == 0 and re.search(r"loaded from +the whole model\n", out) and "weights digest" in out
    code, out, _ = command("inspect", reference, "--json")
    info = json.loads(out)["info"]
    assert info["path"] == reference.removeprefix("mine=") and (info["name"] == "mine") == ("=" in reference)


def test_a_run_with_a_model_of_the_hub(command, images, monkeypatch, tmp_path):
    with serving() as hub:
        go_online(monkeypatch, hub.url, tmp_path / "hub")
        sha = hub.add("us/vit-tiny", {"config.json": b"{}", "model.safetensors": safetensors(huggingface(vit()))})
        code, out, err = command(
            *KNN, "--data", images, "--ckpt", "hf:us/vit-tiny", "--ckpt", "ours=hf:us/vit-tiny@main"
        )
        assert code == 0 and re.search(r"^vit-tiny +vit_w64_d2_patch16 ", out, re.M) and "ours" in out, err
        [one, two] = sorted((r.checkpoint for r in read_all(Path("results"))[0]), key=lambda c: c.name)
        assert (
            one.path == two.path == f"hf:us/vit-tiny@{sha}" and one.sha256 and one.weights_digest == two.weights_digest
        )
        hub.gated["us/vit-tiny"] = 401
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "other"))
        for line in ((*KNN, "--data", images, "--ckpt", "hf:us/vit-tiny"), ("inspect", "hf:us/vit-tiny")):
            assert_one_line(
                *command(*line), "hf:us/vit-tiny: its owners ask for consent: accept their terms on http://"
            )


def test_list(command):
    code, out, _ = command("list")
    assert code == 0 and re.search(r"knn .*top1@k20 .*dinobench", out)
    code, out, _ = command("list", "profiles")
    assert code == 0 and re.search(r"temperature +0\.07 .*temperature T of the weights exp", out)
    code, out, _ = command("list", "layouts")
    assert code == 0 and "imagefolder (classification)" in out and "digits" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "knn",
            ("knn (version", "metrics: top1@k10", "settings of dino2021", "profile dinov2-fewshot: weight"),
        ),
        ("simclr", ("simclr: contrasts", "Temperature of the softmax")),
    ],
)
def test_one_protocol_or_method_is_listed_a_setting_a_line(command, monkeypatch, name, words):
    monkeypatch.setattr(console.stdout, "width", 80)
    code, out, _ = command("list", name)
    assert code == 0 and all(word in out for word in words)
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"^temperature +0\.(07|1) +[tT]emperature ", out, re.M) and "retrieval" not in out


def test_listings_fit_a_terminal_of_80_columns(command, monkeypatch):
    monkeypatch.setattr(console.stdout, "width", 80)
    for view in ("protocols", "profiles", "methods", "layouts"):
        code, out, _ = command("list", view)
        assert code == 0 and max(map(len, out.splitlines())) <= 80, view


def _groups():
    yield ()
    for group in (*app.app.registered_groups,):
        yield (group.name,)
        commands = group.typer_instance.registered_commands
        yield from ((group.name, c.name or c.callback.__name__) for c in commands)
    for c in app.app.registered_commands:
        yield (c.name or c.callback.__name__,)


@pytest.mark.parametrize("path", [*_groups()])
def test_h_is_help_everywhere_and_refusals_name_the_right_one(command, path):
    code, out, err = command(*path, "-h")
    name = " ".join(("dinobench", *path))
    assert code == 0 and out.startswith(f"Usage: {name} ") and err == ""
    assert_one_line(*command(*path, "--no-such-option"), f"(see `{name} --help`)")


@pytest.mark.parametrize("words", ["run --protocol kn", "list simc", "gate --jun", "ru"])
def test_the_shell_completes_commands_options_and_names(words):
    typed = f"dinobench {words}"
    environ = {"_DINOBENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "from dinobench.cli import main; main()"], env={**os.environ, **environ},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.split() == [{"kn": "knn", "simc": "simclr", "--jun": "--junit"}.get(
        words.split()[-1], "run")], done.stderr  # fmt: skip


def test_a_missing_data_set_is_asked_for_where_the_digits_are_none(command):
    assert_one_line(
        *command("run", "--protocol", "knn", "--protocol", "davis", "--ckpt", "pixels"),
        "--data is missing: davis scores videos; give a path in a layout of `dinobench list layouts`, or an embedded "
        "set: shapes, drawings",
    )
    assert_one_line(*command("run", "--protocol", "retrieval", "--ckpt", "pixels"), "or an embedded set: tiles")


def test_each_protocols_table_is_shown_as_soon_as_it_is_done(command, images, monkeypatch):
    """The second protocol fails, and the first one's numbers are on the screen."""
    small = SMALL[:4]
    two = ("run", "--protocol", "knn", "--protocol", "logreg", *small, "--ckpt", "pixels", "--data", images)
    with monkeypatch.context() as broken:
        broken.setattr(registry.load("logreg"), "run", lambda *_: 1 / 0)
        code, out, _ = command(*two)
    assert code == 70 and out.startswith("knn · ") and "pixels16" in out and "logreg" not in out
    code, out, _ = command(*two, "--json")
    assert code == 0 and [r["protocol"] for r in json.loads(out)] == ["knn", "logreg"]
    code, out, _ = command(*two)
    assert code == 0 and out.count("knn · ") == out.count("logreg · ") == 1


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("cache",), ("run", "--help"), ("score",), ("visualize",), ("data",)]
)
def test_help(command, arguments):
    code, out, err = command(*arguments)
    assert code == 0 and out.startswith("Usage: dinobench") and err == ""


def test_version(command):
    assert command("--version") == (0, __version__ + "\n", "")


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.pth"
    save(vit(), path)
    if kind == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("These are not weights.\n" * 50)
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "endless":
        path.unlink()
        path.symlink_to(path)
    elif kind == "deep":
        path.write_bytes(archive(START + b"]" * 100_000 + b"a" * 99_999 + b"."))
    elif kind == "part":
        path = path.rename(path.with_name("pytorch_model-00001-of-00002.bin"))
    elif kind == "distributed":
        path = path.rename(path.with_name("__0_0.distcp"))
    return path


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "truncated", "text", "folder", "pipe", "endless", "deep", "part", "distributed"],
)
@pytest.mark.parametrize("verb", ["run", "inspect"])
def test_a_bad_checkpoint_is_one_line_with_its_name(command, images, tmp_path, kind, verb):
    path = bad_file(kind, tmp_path)
    code, out, err = command(*((*KNN, "--data", images, "--ckpt", path) if verb == "run" else ("inspect", path)))
    assert_one_line(code, out, err, path.name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol", "kn"), "unknown protocol 'kn': did you mean 'knn'?"),
        (("--profile", "dino2012"), "did you mean 'dino2021'? available: dino2021, dinov2, dinov2-fewshot"),
        (("--set", "temprature=1"), "did you mean 'temperature'?"),
        (("--set", "temperature=warm"), "temperature is a number, not 'warm'"),
        (("--set", "temperature=0"), "temperature = 0.0 must be above 0"),
        (("--set", "temperature=nan"), "temperature is a number"),
        (("--set", "k=0"), "k = (0,)"),
        (("--set", "k"), "--set k: write it as name=value"),
        (("--set", "crop=0"), "crop 0"),
        (("--set", "resize=-3"), "resize -3"),
        (("--set", "interpolation=bicubik"), "did you mean 'bicubic'?"),
        (("--data", "nosuch"), "nosuch: no such file or folder"),
        (("--data", ""), "names nothing"),
        (("--data", "digit"), "did you mean 'digits'?"),
        (("--ckpt", ""), ""),
        (("--ckpt", "timm:vit_tinny"), "vit_tinny"),
        (("--ckpt", "random:nosuch"), "nosuch"),
        (("--ckpt", "pixels:0"), "whole number from 1 to 512"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("--devices", "0"), "at least one"),
        (("--precision", "64"), "unknown precision '64'"),
        (("--seed", "-1"), "--seed -1"),
        (("--seed", "x"), "--seed"),
        (("--batch-size", "0"), "--batch-size"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(command, arguments, words):
    needed = {"--ckpt": "pixels", "--protocol": "knn"}
    given = [a for option, value in needed.items() if option not in arguments for a in (option, value)]
    assert_one_line(*command("run", *given, "--device", "cpu", *arguments), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--protocol", "knn"), "Missing option '--ckpt'"),
        (("run", "--ckpt", "pixels"), "Missing option '--protocol'"),
        (("rum",), "No such command 'rum'"),
        (("inspect",), "Missing argument"),
        (("list", "protocol"), "did you mean 'protocols'?"),
        (("bench", "kn"), "did you mean 'knn'?"),
    ],
)
def test_a_command_typed_wrong_is_one_line(command, arguments, words):
    assert_one_line(*command(*arguments), words)


def test_bad_data_is_one_line(command, images, tmp_path):
    shifted = make_images(tmp_path / "shifted", "ab", "abz")
    assert_one_line(*command(*KNN, "--ckpt", "pixels", "--data", shifted), "class z that train lacks")
    single = make_images(tmp_path / "single", "a")
    assert_one_line(*command(*KNN, "--ckpt", "pixels", "--data", single), "one class only")
    (tmp_path / "nothing").mkdir()
    assert_one_line(*command(*KNN, "--ckpt", "pixels", "--data", tmp_path / "nothing"), "an empty folder")


def test_a_size_that_the_patches_do_not_fit_is_one_line(command, images, checkpoint):
    assert_one_line(*command(*KNN, "--ckpt", checkpoint, "--heads", "1", "--data", images, "--set", "crop=30"), "32")


def test_results_that_cannot_be_written_are_said_before_the_work(command, images, tmp_path, monkeypatch):
    monkeypatch.setattr("dinobench.features.service.FeatureService.prepare", lambda *_: pytest.fail("work began"))
    (tmp_path / "file").write_text("")
    assert_one_line(*command(*KNN, "--ckpt", "pixels", "--data", images, "--out", "file"), "choose another --out")


def test_a_cache_that_cannot_be_written_is_one_line(command, images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DINOBENCH_CACHE", str(tmp_path / "file"))
    assert_one_line(*command(*KNN, "--ckpt", "pixels", "--data", images), "DINOBENCH_CACHE")


def test_debug_anywhere_shows_the_traceback(command):
    for arguments in (
        ("--debug", "list", "protocol"),
        ("list", "protocol", "--debug"),
        ("list", "--debug", "protocol"),
    ):
        code, _, err = command(*arguments)
        assert code == 2 and "Traceback" in err and "app.py" in err
        assert err.rstrip().splitlines()[-1].startswith("error: unknown listing")


def raising(error: BaseException):
    def run(*_: object, **__: object) -> None:
        raise error

    return run


def test_a_fault_of_ours_is_told_from_bad_input(command, monkeypatch):
    monkeypatch.setattr("dinobench.runner.run", raising(ZeroDivisionError("no\nway")))
    code, out, err = command(*KNN, "--ckpt", "pixels")
    assert code == 70 and not out and err.count("\n") == 1
    assert err == "error: ZeroDivisionError: no way (a fault in dinobench: --debug shows where)\n"
    assert "Traceback" in command(*KNN, "--ckpt", "pixels", "--debug")[2]


def test_an_interrupt_says_how_to_go_on(command, monkeypatch):
    monkeypatch.setattr("dinobench.runner.run", raising(KeyboardInterrupt()))
    code, _, err = command(*KNN, "--ckpt", "pixels")
    assert code == 130 and "goes on from there" in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_interrupt_keeps_what_was_done(number, tmp_path):
    """Ctrl-C, or a scheduler's end of time, in the middle of an extraction; the same command then goes on."""
    line = ["run", "--protocol", "knn", "--ckpt", "random:vit_tiny_patch16_224", "--set", "resize=32", "--set",
            "crop=32", "--device", "cpu", "--json"]  # fmt: skip
    cache = tmp_path / "cache"

    def has_rows(file):
        with contextlib.suppress(ValueError, EOFError):  # as it is while the file is being made
            return np.load(file, mmap_mode="r").any()

    with Command(tmp_path, *line, DINOBENCH_CACHE=str(cache)) as began:
        began.wait_for(lambda: any(map(has_rows, cache.glob("features/*/*/cls.npy"))))
        began.send(number)
        code, err = began.wait(), began.err
    assert code == 128 + number and "goes on from there" in err and "Traceback" not in err
    code, out, err = typed(tmp_path, *line, DINOBENCH_CACHE=str(cache))
    assert code == 0 and len(json.loads(out)) == 1 and "images were done before; going on" in err


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    done = subprocess.run(
        f'"{sys.executable}" -m dinobench list layouts | true; echo "${{PIPESTATUS[0]}}"',
        shell=True, executable="/bin/bash", cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0" and done.stderr == ""


def test_files_that_a_run_makes_are_kept_where_asked(command, tmp_path):
    davis = ("run", "--protocol", "davis", "--data", "shapes", "--set", "short_side=64", "--set", "multiple=32",
             "--set", "videos=shapes-0", "--device", "cpu", "--out", tmp_path / "results")  # fmt: skip
    tiny = "random:vit_tiny_patch16_224"
    code, _, err = command(*davis, "--ckpt", f"a={tiny}", "--save", tmp_path / "one")
    assert code == 0 and list((tmp_path / "one" / "shapes-0").glob("*.png")), err
    code, _, err = command(*davis, "--ckpt", f"a={tiny}", "--ckpt", f"b={tiny}", "--save", tmp_path / "two")
    assert code == 0 and {p.parent.name for p in (tmp_path / "two").glob("*/shapes-0")} == {"a", "b"}, err
    (tmp_path / "file").write_text("in the way")
    code, _, err = command(*davis, "--ckpt", f"a={tiny}", "--save", tmp_path / "file")
    assert code == 2 and "cannot be written" in err
    code, _, err = command(*KNN, "--ckpt", "pixels", "--save", tmp_path / "none")
    assert code == 0 and "knn makes no files to keep" in err and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("protocol", "small"),
    [("davis", ("short_side=64", "multiple=32", "videos=shapes-0")), ("attention", ("image_size=32",))],
)
def test_dense_protocols_take_precision_and_batch_size(command, protocol, small):
    arguments = ["run", "--protocol", protocol, "--ckpt", "random:vit_tiny_patch16_224", "--data", "shapes",
                 "--device", "cpu", "--json", *(a for s in small for a in ("--set", s))]  # fmt: skip

    def score(*options: object) -> tuple[dict, str]:
        code, out, err = command(*arguments, *options)
        assert code == 0, err
        (record,) = json.loads(out)
        return record, err

    half, _ = score("--precision", "bf16", "--batch-size", 3)
    whole, _ = score("--batch-size", 3)
    assert (half["precision"], whole["precision"]) == ("bf16", "32") and half["run_id"] != whole["run_id"]
    again, err = score("--batch-size", 5)  # decides no number, and so no record of its own
    assert again == whole and "finished before" in err


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_odd_command_lines_end_with_a_known_code_and_one_line(command, tmp_path, own_cache, seed):
    """Fifty at a time: 0, 1, 2 or 3, and one error line where it is 2."""
    for folder in ("results", "baseline"):
        for model, scores in (("sound", [0.0, 1.0, 1.0, 1.0] * 10), ("other", [0.0, 0.0, 1.0, 1.0] * 10)):
            run(tmp_path / folder, model, scores)
    for name in ("empty", "pic"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty.json").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for i in range(2):
        Image.new("RGB", (40, 30), (50 * i, 0, 0)).save(tmp_path / "pic" / f"{i}.jpg")
    rng = random.Random(seed)
    for _ in range(50):
        line = command_line(rng)
        code, _, err = command(*line)
        errors = [text for text in err.splitlines() if text.startswith("error: ")]
        assert code in (0, 1, 2, 3), (line, code, err[-500:])
        assert len(errors) == (code == 2) and "Traceback" not in err, (line, code, err[-500:])


@pytest.mark.slow
def test_dinov3_is_evaluated_as_typed(command, tmp_path):
    """Features and CLS attention, from the file that its own program writes to a table."""
    tensors = families_dino_eva.original_dinov3(
        families_dino_eva.hf_dinov3(hidden_size=64, num_attention_heads=1, num_hidden_layers=1)
    )
    path = save(tensors, tmp_path / "v3.pth")
    knn = ("--protocol", "knn", "--data", "digits", "--set", "crop=32", "--set", "resize=32", "--set", "k=20")
    for protocol in (knn, ("--protocol", "attention", "--data", "shapes", "--set", "image_size=96")):
        code, out, err = command("run", *protocol, "--ckpt", path)
        assert code == 0, err
        assert "vit_w64_d1_patch16_dinov3" in out


def test_representation_of_pixels_and_its_refusals(command):
    typed = ("run", "--protocol", "representation", "--data", "digits", "--ckpt", "pixels:8", "--device", "cpu")
    small = [
        word for s in ("resize=8", "crop=8", "split=test", "alpha_range=5,40", "starts=1") for word in ("--set", s)
    ]
    code, out, _ = command(*typed, *small, "--json")
    (record,) = json.loads(out)
    assert code == 0 and record["primary"] == "rankme" and "uniformity" in record["lower_is_better"]
    assert_one_line(*command(*typed, "--set", "views=1"), "views = 1")
