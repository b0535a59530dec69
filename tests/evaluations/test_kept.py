"""What is kept from run to run changes no record, and a backbone no longer than it is used."""

from __future__ import annotations

from dinobench import runner
from dinobench.evaluations import kept as module
from dinobench.evaluations.kept import Kept
from dinobench.results import leaderboard, records
from dinobench.types import ComputeOptions, LoadOptions

SMALL = {"resize": 8, "crop": 8, "k": (1,)}


def test_runs_that_share_give_the_same_as_runs_of_their_own(tmp_path, monkeypatch):
    loads = []
    real = module.load_backbone
    monkeypatch.setattr(module, "load_backbone", lambda spec, **how: loads.append(spec) or real(spec, **how))
    found = []
    for folder, kept in ((tmp_path / "apart", None), (tmp_path / "together", Kept())):
        for seed in (0, 1):
            for k in ((1,), (3,)):
                (one,) = runner.run(
                    "knn", "pixels:8", "digits", settings=SMALL | {"k": k}, seed=seed, out=folder,
                    compute=ComputeOptions(device="cpu"), kept=kept,
                )  # fmt: skip
                found.append((one.run_id, one.metrics, one.config_hash, one.items_sha256))
    assert found[:4] == found[4:] and len(loads) == 4 + 1
    kept.follow(tmp_path / "together", now=True)
    assert (tmp_path / "together/leaderboard.csv").read_text() == (tmp_path / "apart/leaderboard.csv").read_text()


def test_what_is_done_is_found_by_a_process_that_has_begun_with_others(tmp_path, monkeypatch):
    kept, compute = Kept(), ComputeOptions(device="cpu")
    asked = {"settings": SMALL, "out": tmp_path, "compute": compute, "kept": kept}
    made = [runner.run("knn", "pixels:8", "digits", seed=seed, **asked) for seed in (0, 1)]
    monkeypatch.setattr(runner, "score", None)
    assert [runner.run("knn", "pixels:8", "digits", seed=seed, **asked) for seed in (0, 1)] == made


def test_only_the_last_ones_are_kept():
    kept, made = Kept(), []
    for key in "abcab":
        kept.once("backbone", key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "a", "b"]
    kept.forget("backbone")
    kept.once("backbone", "b", lambda: made.append("again"))
    assert made[-1] == "again"


def test_what_is_drawn_is_kept_by_its_seed(monkeypatch):
    monkeypatch.setattr(
        module, "_load", lambda name, spec, loading, seed, remember: type("B", (), {"info": _Info(name)})
    )
    kept, plain = Kept(), LoadOptions()

    def of(spec, seed, loading=plain):
        return kept.backbones([("m", spec)], loading, seed, remember=False)[0]

    assert of("a.pth", 0) is of("a.pth", 1) and of("random:vit", 0) is not of("random:vit", 1)
    partly = LoadOptions(allow_partial=True)
    assert of("a.pth", 0, partly) is not of("a.pth", 1, partly)


class _Info:
    def __init__(self, name):
        self.name = self.path = name


def test_the_leaderboard_follows_as_often_as_is_cheap(tmp_path, monkeypatch):
    from helpers.samples import record

    now = [0.0]
    monkeypatch.setattr(leaderboard.time, "monotonic", lambda: now[0])
    kept, path = Kept(), tmp_path / "leaderboard.csv"
    records.write(tmp_path, record("first"), None)
    kept.follow(tmp_path)
    assert "first" in path.read_text()
    kept.once("board", tmp_path, Kept)._rest = 10.0  # as if that had taken a while
    records.write(tmp_path, record("second"), None)
    kept.follow(tmp_path)
    assert "second" not in path.read_text()
    now[0] = 11.0
    kept.follow(tmp_path)
    assert "second" in path.read_text()
    records.write(tmp_path, record("third"), None)
    kept.follow(tmp_path, now=True)
    assert "third" in path.read_text()
