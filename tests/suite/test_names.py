"""Globs and lists of references become models, each with a name that no other file can change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinobench.errors import UserError
from dinobench.suite import names


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"x")

    return make


def test_a_glob_is_a_model_a_file_called_by_what_its_wildcards_stand_for(here):
    here("runs/a/checkpoint0100.pth", "runs/a/checkpoint20.pth", "runs/b/checkpoint20.pth", "runs/a/args.json")
    assert names.models_of("ours", "runs/a/checkpoint*.pth") == [
        ("ours-20", "runs/a/checkpoint20.pth"),
        ("ours-0100", "runs/a/checkpoint0100.pth"),
    ]
    assert [n for n, _ in names.models_of("ours", "runs/*/checkpoint*.pth")] == [
        "ours-a-20",
        "ours-a-0100",
        "ours-b-20",
    ]
    assert [n for n, _ in names.models_of("ours", "runs/**/checkpoint2?.pth")] == ["ours-a-0", "ours-b-0"]
    assert [n for n, _ in names.models_of("ours", "runs/a/checkpoint[0-9][0-9].pth")] == ["ours-20"]


def test_the_names_stay_when_more_files_come(here):
    here("runs/checkpoint0020.pth")
    before = names.models_of("ours", "runs/checkpoint*.pth")
    here("runs/checkpoint0040.pth", "runs/checkpoint.pth")
    assert before[0] in names.models_of("ours", "runs/checkpoint*.pth")
    assert ("ours", "runs/checkpoint.pth") in names.models_of("ours", "runs/checkpoint*.pth")


def test_a_single_reference_has_the_entrys_name_and_those_of_a_list_their_own(here):
    assert names.models_of("ours", "runs/x.pth") == [("ours", "runs/x.pth")]
    found = names.models_of("floor", ["random:vit_tiny_patch16_224", "pixels:8", "dino=timm:x.dino", "runs/a/last.pth"])
    assert [n for n, _ in found] == ["random_vit_tiny_patch16_224", "pixels8", "dino", "a-last"]
    assert found[2][1] == "timm:x.dino"


def test_a_glob_that_no_file_fits_is_refused(here):
    with pytest.raises(UserError, match=r"runs/\*\.pth: no file fits"):
        names.models_of("ours", "runs/*.pth")


def test_a_file_whose_name_has_brackets_is_itself(here):
    here("runs/[1].pth")
    assert names.models_of("ours", "runs/[1].pth") == [("ours", "runs/[1].pth")]


@given(st.lists(st.from_regex(r"[a-z]{0,3}[0-9]{0,3}", fullmatch=True), min_size=1, max_size=6, unique=True))
def test_files_of_one_wildcard_have_different_names(parts):
    """The expression takes apart what the glob has put together."""
    fits = names._expression("runs/checkpoint*.pth")
    shown = [fits.fullmatch(f"runs/checkpoint{part}.pth")[1] for part in parts]
    assert shown == parts


@given(st.text(min_size=1, max_size=12))
def test_a_cleaned_name_can_stand_before_an_equals_sign(text):
    cleaned = names.clean(text)
    assert not set(cleaned) & set("/= \t\n:") and names.clean(cleaned) == cleaned
