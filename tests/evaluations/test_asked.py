from __future__ import annotations

from types import SimpleNamespace

import pytest

from dinobench import registry
from dinobench.data.embedded import EMBEDDED
from dinobench.errors import UserError
from dinobench.evaluations.asked import data_by_kind, evaluations, parse_profiles, resolve_configs
from dinobench.results.known_runs import Known


def protocols(*names):
    return [registry.load(name) for name in names]


def test_each_protocol_has_its_own_profile_and_settings():
    settings = {"resize": 32, "knn.k": "10,20", "linear.resize": 64, "batch": 8}
    knn, linear = resolve_configs(protocols("knn", "linear"), {"linear": "cached"}, settings)
    assert (knn.config.k, knn.config.resize) == ((10, 20), 32) and not hasattr(knn.config, "batch")
    assert knn.profile == "dino2021+k=10,20+resize=32" and linear.profile.startswith("cached+batch=8+resize=64")


def test_one_profile_goes_for_all():
    both = resolve_configs(protocols("knn", "logreg"), "dinov2", {})
    assert [r.profile for r in both] == ["dinov2", "dinov2"]
    assert [r.profile for r in resolve_configs(protocols("knn", "logreg"), None, {})] == ["dino2021", "dinov2"]


@pytest.mark.parametrize(
    ("profile", "settings", "words"),
    [
        (None, {"temprature": 1}, "unknown setting of knn or linear 'temprature': did you mean 'temperature'?"),
        (
            None,
            {"knm.k": 1},
            r"setting knm.k: 'knm' is not among the protocols asked for \(knn, linear\); did you mean 'knn'",
        ),
        (None, {"davis.videos": "x"}, r"'davis' is not among the protocols asked for \(knn, linear\)$"),
        (None, {"knn.kk": 1}, "unknown setting of knn 'kk'"),
        (None, {"linear.k": 1}, "unknown setting of linear 'k'"),
        (None, {"knn.k": "x"}, "knn setting k is a whole number"),
        ({"linar": "cached"}, {}, "the profile linar=cached: 'linar' is not among.*did you mean 'linear'"),
        ({"linear": "cachd"}, {}, "unknown profile of linear 'cachd': did you mean 'cached'"),
        ("cached", {}, "unknown profile of knn 'cached'"),
    ],
)
def test_what_no_protocol_takes_is_refused_by_name(profile, settings, words):
    with pytest.raises(UserError, match=words):
        resolve_configs(protocols("knn", "linear"), profile, settings)


def test_profiles_as_typed():
    assert parse_profiles([], ["knn"]) == {}
    assert parse_profiles(["linear=cached", "dinov2"], ["knn", "linear"]) == {"knn": "dinov2", "linear": "cached"}
    for given, words in ((["a", "b"], "--profile: a and b; give one"), (["knn=a", "knn=b"], "a and b of knn")):
        with pytest.raises(UserError, match=words):
            parse_profiles(given, ["knn"])


def test_data_sets_go_to_the_protocols_of_their_kind(tmp_path):
    both = protocols("knn", "davis", "attention")
    kinds, left_out = data_by_kind(both, ["digits", "shapes"])
    assert kinds == {"classification": ["digits"], "videos": ["shapes"], "masks": ["shapes"]}
    assert left_out == [
        "knn is not run on shapes, which is not classification",
        "davis is not run on digits, which is not videos",
        "attention is not run on digits, which is not masks",
    ]
    with pytest.raises(UserError, match="tiles: no such file or folder, nor an embedded data set"):
        data_by_kind(both, ["digits", "tiles"])
    (tmp_path / "odd").mkdir()
    with pytest.raises(UserError, match=r"odd: in no layout for classification or videos or masks \(an empty folder\)"):
        data_by_kind(both, ["digits", str(tmp_path / "odd")])
    with pytest.raises(UserError, match="layout not recognised"):
        data_by_kind(protocols("knn"), ["digits", str(tmp_path / "odd")])


def test_a_limit_is_in_the_name_and_the_run_id():
    pairs = list(zip(protocols("knn"), resolve_configs(protocols("knn"), None, {"k": 3}), strict=True))
    digits = EMBEDDED["classification"]["digits"]
    info = SimpleNamespace(
        name="m", weights_digest="0", arch="a", heads=1, missing=(), input=None, pool=None, method="", patch_size=1
    )
    ids = set()
    for limit in (None, 50, 51, 10_000):
        (one,) = evaluations(pairs, {"classification": [digits.make("digits")]}, [Known(info)], 0, "32", limit)
        assert one.resolved.profile == "dino2021+k=3" + (f"+limit{limit}" if limit else "")
        assert one.resolved.hash(one.protocol) == pairs[0][1].hash(one.protocol)
        ids.add(one.run_id)
    assert len(ids) == 4


def test_data_sets_of_one_name_are_refused():
    pairs = list(zip(protocols("knn"), resolve_configs(protocols("knn"), None, {}), strict=True))
    same = [SimpleNamespace(name="a", fingerprint=str(i)) for i in range(2)]
    with pytest.raises(UserError, match="2 data sets of kind classification are called 'a': name them"):
        evaluations(pairs, {"classification": same}, [], 0, "32")
