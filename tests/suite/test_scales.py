"""A scale is merged over the file key by key, and what is wrong in any of them is told with its own line."""

from __future__ import annotations

import pytest

from dinobench.errors import UserError
from dinobench.suite.mistakes import Mistakes

TEXT = """\
scale = "small"
[scales.small]
data = { photos = "digits" }
[scales.small.run]
knn = { limit = 5, set = { k = [1] } }
[scales.large]
out = "large"
limit = 100
data = { photos = "/disk/photos" }
models = { tiny = "pixels:8", more = "pixels:9" }
[models]
tiny = "pixels:2"
[data]
photos = "nowhere"
others = "digits"
[[run]]
protocol = "knn"
set = { resize = 8, crop = 8 }
[[run]]
protocol = "logreg"
data = "photos"
"""


def test_the_chosen_scale_goes_before_the_file_and_the_command_line_before_both(suite):
    small, large = suite(TEXT), suite(TEXT, scale="large", limit=7)
    assert (small.scale, str(small.out), small.limit, small.models) == ("small", "results", None, {"tiny": "pixels:2"})
    assert small.data == {"photos": "digits", "others": "digits"} and small.runs[1].limit is None
    assert small.runs[0].limit == 5 and small.runs[0].settings == {"resize": 8, "crop": 8, "k": [1]}
    assert (large.scale, str(large.out), large.limit) == ("large", "large", 7)
    assert large.data["photos"] == "/disk/photos" and large.models == {"tiny": "pixels:8", "more": "pixels:9"}
    assert large.runs[0].settings == {"resize": 8, "crop": 8}
    assert str(suite(TEXT, scale="large", out="here").out) == "here"


def test_a_list_of_runs_stands_in_the_place_of_the_files(suite):
    text = TEXT.replace('out = "large"', 'out = "large"\nrun = [{ protocol = "davis", data = "shapes" }]')
    assert [run.protocol for run in suite(text, scale="large").runs] == ["davis"]


TYPOS = {
    "the choice": ('scale = "small"', 'scale = "smal"', 1, ["scale", "did you mean 'small'"]),
    "no choice": ('scale = "small"', "", 2, ["write scale = 'small'", "--scale"]),
    "the choice's type": ('scale = "small"', "scale = 3", 1, ["a text is needed, not the whole number 3"]),
    "a key": ("data = { photos = \"dig", "dat = { photos = \"dig", 3, ["unknown key 'dat'", "did you mean 'data'"]),
    "a setting": ("k = [1]", "kk = [1]", 5, ["[[run]] 1 set.kk", "unknown setting of knn"]),
    "a protocol": ("knn = {", "kn = {", 5, ["[scales] small.run.kn", "did you mean 'knn'"]),
    "a run's table": ("knn = { limit = 5, set = { k = [1] } }", "knn = 3", 5, ["a table is needed"]),
    "another scale": ("limit = 100", "limit = 0", 8, ["limit", "below 1"]),
    "another scale's key": ("limit = 100", "limt = 100", 8, ["did you mean 'limit'"]),
    "below": ('tiny = "pixels:2"', 'tiny = 3', 12, ["[models] tiny"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPOS)
def test_a_typo_is_one_line_with_its_place(suite, name):
    old, new, line, words = TYPOS[name]
    assert TEXT.count(old) == 1
    with pytest.raises(Mistakes) as told:
        suite(TEXT.replace(old, new))
    (only,) = told.value.lines
    assert only.startswith(f"s.toml:{line}: ") and all(word in only for word in words), only


@pytest.mark.parametrize("text", ['scale = "a"\n', "scales = 3\n", "scales = {}\n", "[scales]\na = 3\n"])
def test_what_are_no_scales_is_told(suite, text):
    with pytest.raises(Mistakes, match=r"s.toml:[12]: "):
        suite(text + '[models]\na = "pixels:2"\n[[run]]\nprotocol = "knn"\n')


def test_a_scale_that_is_not_there_is_refused(suite):
    with pytest.raises(UserError, match="unknown scale 'larg': did you mean 'large'"):
        suite(TEXT, scale="larg")
    with pytest.raises(UserError, match=r"--scale large: s.toml has none"):
        suite('[models]\na = "pixels:2"\n[[run]]\nprotocol = "knn"\n', scale="large")
