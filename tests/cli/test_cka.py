"""`dinobench compare --cka` as typed."""

from __future__ import annotations

import json

import pytest
from helpers.typed import assert_one_line
from helpers.weights import save, vit


def test_blocks_of_two_models(command, tmp_path):
    for name in ("a", "b"):
        save(vit(depth=2 if name == "a" else 3), tmp_path / f"{name}.pth")
    typed = ("compare", "--cka", "a.pth", "b.pth", "--data", "digits", "--images", 30, "--size", 32, "--device", "cpu")
    code, out, err = command(*typed)
    assert code == 0 and "linear CKA: A" in out and "debiased CKA: A" in out and "block 2" in out, err
    for name, begins in (("map.png", b"\x89PNG"), ("map.csv", b"block_a"), ("map.md", b"| linear")):
        code, _, err = command(*typed, "-o", name)
        assert code == 0 and f"written: {name}" in err, err
        assert (tmp_path / name).read_bytes().startswith(begins)
    code, out, _ = command(*typed, "--of", "patches", "--format", "json")
    assert code == 0 and json.loads(out)["tokens"] == "patches"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cka", "a.pth", "b.pth"), "give it with --data"),
        (("--cka", "a.pth", "b.pth", "--data", "digits"), "a.pth"),
        (("--cka", "pixels", "pixels", "--data", "digits", "--of", "patch"), "patches"),
        (("--cka", "pixels", "pixels", "--data", "digits", "--rows", "arch", "--pm"), "--rows, --pm: not of --cka"),
        (("--cka", "pixels", "pixels", "--data", "digits", "-o", "map.txt"), "which --format"),
        (("--size", "32"), "--size: of --cka A B only"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(command, words, said):
    assert_one_line(*command("compare", *words), said)
