"""The suites that come with the package can be read, and do what they say."""

from __future__ import annotations

import pytest

from dinobench.data.embedded import EMBEDDED
from dinobench.registry import available, load
from dinobench.suite import builtin
from dinobench.suite.file import read


@pytest.mark.parametrize("name", builtin.names())
def test_each_is_sound_and_says_what_it_is(name):
    suite = read(name)
    assert suite.name == name and suite.path is None and suite.runs
    assert builtin.summary_of(name)[0].isupper()


@pytest.mark.parametrize("name", ["quick", "smoke"])
def test_embedded_data_and_no_download(name):
    suite = read(name)
    for run in suite.runs:
        assert all(data in EMBEDDED[load(run.protocol).data] for data in suite.data_of(run))
    assert all(reference.startswith(("random:", "pixels")) for reference in suite.models.values())


def test_quick_has_every_protocol_but_those_that_train_the_backbone():
    ours = {name for name, entries in available().items() if entries[0].value.startswith("dinobench.")}
    assert {run.protocol for run in read("quick").runs} == ours - {"finetune"}
