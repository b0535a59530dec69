from __future__ import annotations

from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinobench.config import flat, parse, plain, replace_settings, resolve_config, settings_of
from dinobench.errors import UserError
from dinobench.types import setting


@dataclass(frozen=True)
class Config:
    k: tuple[int, ...] = setting((10, 20), "neighbours")
    temperature: float = setting(0.07, "T")
    flip: bool = setting(False, "mirror")
    weighting: Literal["exp", "softmax"] = setting("exp", "votes")
    rounds: Literal[1, 2] = setting(1, "rounds")
    limit: int | None = setting(None, "at most")
    path: str = setting("", "file")

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError("temperature must be above 0")


PROTOCOL = SimpleNamespace(name="sample", version=1, profiles={"first": Config(), "second": Config(k=(1,))})


def changed(**settings):
    return resolve_config(PROTOCOL, None, settings)


def test_the_first_profile_is_the_default_and_a_name_tells_what_changed():
    assert resolve_config(PROTOCOL, None, {}).profile == "first"
    assert resolve_config(PROTOCOL, "second", {}).config.k == (1,)
    resolved = changed(temperature="0.1", k="5,7", limit="3", flip="on")
    assert resolved.config == Config(k=(5, 7), temperature=0.1, flip=True, limit=3)
    assert resolved.profile == "first+flip=true+k=5,7+limit=3+temperature=0.1"


def test_a_setting_that_changes_nothing_is_no_change():
    same = changed(k="10,20", temperature="7e-2", limit="none", flip="no", weighting="exp")
    assert same == resolve_config(PROTOCOL, None, {})
    assert same.hash(PROTOCOL) == resolve_config(PROTOCOL, None, {}).hash(PROTOCOL)


def test_the_hash_follows_values_not_names():
    hashes = {changed(**s).hash(PROTOCOL) for s in ({}, {"k": "1"}, {"temperature": 1}, {"flip": True})}
    assert len(hashes) == 4
    assert changed(k="1").hash(PROTOCOL) == resolve_config(PROTOCOL, "second", {}).hash(PROTOCOL)
    newer = SimpleNamespace(**{**vars(PROTOCOL), "version": 2})
    assert changed().hash(newer) != changed().hash(PROTOCOL)


@dataclass(frozen=True)
class Vote:
    k: tuple[int, ...] = setting((10, 20), "neighbours", "a paper")
    temperature: float = setting(0.07, "T")

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError("temperature must be above 0")


@dataclass(frozen=True)
class Images:
    flip: bool = setting(False, "mirror")
    weighting: Literal["exp", "softmax"] = setting("exp", "votes")


@dataclass(frozen=True)
class Grouped:
    """The settings of `Config`, in two groups and beside them."""

    vote: Vote = field(default_factory=Vote)
    images: Images = field(default_factory=Images)
    rounds: Literal[1, 2] = setting(1, "rounds")
    limit: int | None = setting(None, "at most")
    path: str = setting("", "file")


def test_groups_change_neither_names_nor_hashes():
    grouped = SimpleNamespace(name="sample", version=1, profiles={"first": Grouped()})
    assert flat(Grouped()) == flat(Config()) == asdict(Config())
    settings = {"temperature": "0.1", "flip": "on", "limit": "3"}
    resolved = resolve_config(grouped, None, settings)
    assert resolved.config == Grouped(Vote(temperature=0.1), Images(flip=True), limit=3)
    assert resolved.profile == changed(**settings).profile == "first+flip=true+limit=3+temperature=0.1"
    assert resolved.hash(grouped) == changed(**settings).hash(PROTOCOL)
    with pytest.raises(UserError, match="sample: temperature must be above 0"):
        resolve_config(grouped, None, {"temperature": "0"})
    with pytest.raises(UserError, match="unknown setting of sample 'vote'"):
        resolve_config(grouped, None, {"vote": "1"})
    assert (settings_of(Grouped())["k"].doc, settings_of(Grouped())["k"].source) == ("neighbours", "a paper")


def test_settings_are_replaced_in_their_groups():
    assert replace_settings(Grouped(), k=(1,), rounds=2) == Grouped(Vote(k=(1,)), rounds=2)
    with pytest.raises(TypeError, match="Grouped has no setting vote"):
        replace_settings(Grouped(), vote=Vote())


def test_two_settings_of_one_name_are_refused():
    @dataclass(frozen=True)
    class Twice:
        vote: Vote = field(default_factory=Vote)
        k: int = setting(1, "neighbours too")

    with pytest.raises(ValueError, match="Twice has two settings called k"):
        flat(Twice())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temprature": "1"}, r"unknown setting of sample 'temprature': did you mean 'temperature'\?.*weighting"),
        ({"weighting": "softmx"}, r"did you mean 'softmax'\?"),
        ({"k": "ten"}, "setting k is a whole number, not 'ten'"),
        ({"k": "1.5"}, "whole number"),
        ({"k": 1.5}, "whole number"),
        ({"k": ""}, "at least one value"),
        ({"k": ","}, "at least one value"),
        ({"temperature": "warm"}, "setting temperature is a number, not 'warm'"),
        ({"temperature": "nan"}, "a number, not 'nan'"),
        ({"temperature": "inf"}, "a number, not 'inf'"),
        ({"temperature": None}, "a number"),
        ({"flip": "maybe"}, "on or off, not 'maybe'"),
        ({"rounds": "3"}, "available: 1, 2"),
        ({"temperature": "-1"}, "sample: temperature must be above 0"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(settings, words):
    with pytest.raises(UserError, match=words):
        changed(**settings)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(
        UserError, match=r"unknown profile of sample 'frist': did you mean 'first'\? available: first, sec"
    ):
        resolve_config(PROTOCOL, "frist", {})


def test_values_of_their_type_are_taken_as_they_are():
    assert changed(k=[5], temperature=1, rounds=2, limit=4).config == Config(k=(5,), temperature=1.0, rounds=2, limit=4)
    assert changed(rounds="2").config.rounds == 2
    assert changed(k=(3,)).config.k == changed(k=3).config.k == (3,)
    assert changed(path="a=b,c").config.path == "a=b,c"


@given(st.one_of(st.tuples(st.just(tuple[int, ...]), st.lists(st.integers(), min_size=1).map(tuple)),
                 st.tuples(st.just(float), st.floats(allow_nan=False, allow_infinity=False)),
                 st.tuples(st.just(int | None), st.none() | st.integers()),
                 st.tuples(st.just(bool), st.booleans())))  # fmt: skip
def test_what_is_shown_can_be_typed(case):
    hint, value = case
    assert parse(plain(value), hint, "it") == value


def test_every_built_in_setting_is_documented():
    from dinobench.registry import available, load

    for name, entries in available().items():
        if "dinobench" not in entries[0].value:
            continue
        for profile, config in load(name).profiles.items():
            for declared in settings_of(config).values():
                assert declared.doc, f"{name}: {declared.name}"
                assert not declared.doc.startswith("of "), f"{name}: {declared.name} says not what it is"
                assert not declared.doc.startswith("of "), f"{name}: {declared.name} says not what it is"
            shown = {s: plain(value) for s, value in flat(config).items() if value != ""}
            assert resolve_config(load(name), profile, shown) == resolve_config(load(name), profile, {})


@dataclass(frozen=True)
class Later(Config):
    mean: tuple[float, float, float] | None = setting(None, "mean", added=True)
    extra: int = setting(3, "extra", added=True)


def test_settings_added_later_are_named_where_they_are_changed():
    """At their defaults they are in no record and no hash, so that runs from before them keep their names."""
    first, halves = Later(), Later(mean=(0.5, 0.5, 0.5))
    later = SimpleNamespace(name="sample", version=1, profiles={"first": first, "halves": halves})
    before, now = resolve_config(PROTOCOL, None, {}), resolve_config(later, None, {})
    assert flat(now.config) == flat(before.config) and now.hash(later) == before.hash(PROTOCOL)
    assert resolve_config(later, None, {"extra": "3", "mean": "none"}) == now
    changed = resolve_config(later, None, {"mean": ".5,.25,1"})
    assert changed.profile == "first+mean=0.5,0.25,1.0" and flat(changed.config)["mean"] == (0.5, 0.25, 1.0)
    assert "extra" not in flat(changed.config) and changed.hash(later) != now.hash(later)
    assert flat(halves)["mean"] == (0.5, 0.5, 0.5)  # a profile's own value decides too
    assert {"mean", "extra"} <= settings_of(first).keys()


@pytest.mark.parametrize("value", [".5,.5", "1,2,3,4", "", ",", ".5", 0.5, (0.5, 0.5), "none,none"])
def test_one_number_per_channel(value):
    with pytest.raises(UserError, match=r"mean takes 3 numbers, one per RGB channel, as in 0.5,0.5,0.5, not "):
        parse(value, tuple[float, float, float] | None, "mean")


@pytest.mark.parametrize("value", [".5,,.5", "a,b,c", "nan,0,0", "inf,0,0"])
def test_numbers_of_channels_are_numbers(value):
    with pytest.raises(UserError, match="mean is a number, not"):
        parse(value, tuple[float, float, float] | None, "mean")


@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_channels_as_they_are_shown_can_be_typed(value):
    hint = tuple[float, float, float] | None
    assert parse(plain(value), hint, "it") == value == parse(list(value), hint, "it")
