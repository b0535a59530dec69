from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.contexts import on_processes
from helpers.transfer import SETS
from helpers.voc import make_voc2007
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

import dinobench
from dinobench.context import LocalContext
from dinobench.data import load_dataset
from dinobench.data.subsets import hold_out
from dinobench.errors import UserError
from dinobench.metrics.robustness import map11, map11_dinov3
from dinobench.models.loading import load_backbone
from dinobench.protocols.logreg import Config, metrics, profiles, requests, run
from dinobench.types import ComputeOptions

SMALL = Config(c_min=1e-3, c_max=1.0, c_count=3, resize=8, crop=8)


@pytest.fixture(scope="module")
def pixels():
    return load_backbone("pixels:8")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_chooses_c_on_the_held_out_tenth_and_refits_on_all(pixels, digits):
    ctx = LocalContext()
    result = run(pixels, digits, SMALL, ctx)
    features = [ctx.features(pixels, split, SMALL.request()).cls[:, -1] for split in (digits.train, digits.test)]
    train, test = (x.astype(float) / np.linalg.norm(x, axis=1, keepdims=True) for x in features)
    labels = digits.train.labels
    learn, held = hold_out(labels, 0.1, 0)

    def model(c, rows):
        return LogisticRegression(C=c, max_iter=1000, tol=1e-5).fit(train[rows], labels[rows])

    scores = {c: model(c, learn).score(train[held], labels[held]) for c in SMALL.strengths()}
    best = max(scores, key=lambda c: scores[c])
    assert f"C = {best:.4g}, {100 * scores[best]:.2f} % on held-out images" in result.notes[0]
    theirs = model(best, slice(None)).predict(test) == digits.test.labels
    assert result.metrics["top1"] == pytest.approx(100 * theirs.mean(), abs=100 / len(test) + 1e-9)
    assert (result.items["top1"] == (result.items["prediction"] == result.items["label"])).all()
    assert result.metrics["top5"] >= result.metrics["top1"] > 85


def test_low_shot_tries_are_drawn_averaged_and_recorded(pixels, digits):
    config = dataclasses.replace(SMALL, n_per_class=3, tries=3)
    result = run(pixels, digits, config, LocalContext())
    single = [run(pixels, digits, dataclasses.replace(SMALL, n_per_class=3), LocalContext()).metrics["top1"]]
    note = result.notes[0]
    assert note.count("30 images") == 3 and all(f"seed {i}:" in note for i in range(3))
    assert len({part.split("draw ")[1].split(")")[0] for part in note.split("; ")}) == 3
    assert set(result.metrics) == {m.name for m in metrics(config)} == {"top1", "top5", "top1_std", "top5_std"}
    assert result.metrics["top1_std"] > 0 and 30 < result.metrics["top1"] < 100
    first = (result.items["prediction"] == result.items["label"]).mean()
    assert 100 * first == pytest.approx(single[0]), "the predictions are the first try's"
    assert result.metrics["top1"] == pytest.approx(100 * result.items["top1"].mean())
    again = run(pixels, digits, config, LocalContext(seed=7))
    assert again.metrics == result.metrics and again.notes == result.notes


def test_one_image_per_class_needs_a_fixed_c(pixels, digits):
    config = dataclasses.replace(SMALL, n_per_class=1)
    with pytest.raises(UserError, match="none to hold out"):
        run(pixels, digits, config, LocalContext())
    fixed = dataclasses.replace(config, c_count=1, c_min=10.0, c_max=10.0)
    assert run(pixels, digits, fixed, LocalContext()).metrics["top1"] > 25


def test_permuted_test_labels_change_no_choice(pixels, digits):
    shuffled = dataclasses.replace(digits.test, labels=np.random.default_rng(0).permutation(digits.test.labels))
    other = run(pixels, dataclasses.replace(digits, test=shuffled), SMALL, LocalContext())
    plain = run(pixels, digits, SMALL, LocalContext())
    assert other.notes == plain.notes and (other.items["prediction"] == plain.items["prediction"]).all()


def test_settings_and_requests():
    assert len(profiles["dinov2"].strengths()) == 45
    np.testing.assert_allclose(np.diff(np.log10(profiles["dinov2"].strengths())), 11 / 44)
    for wrong in ({"n_per_class": 3, "fraction": 0.1}, {"tries": 3}, {"c_min": 0.0}, {"holdout": 1.0}, {"fraction": 0}):
        with pytest.raises(ValueError):
            Config(**wrong)
    data = load_dataset("digits")
    assert [split.name for split, _ in requests(data, Config(), None)] == ["train", "test"]


def test_runs_through_the_front_door(own_cache, tmp_path):
    settings = {"crop": 8, "resize": 8, "c_count": 3, "c_min": 1e-2, "c_max": 10.0, "tries": 3}
    (record,) = dinobench.run("logreg", "pixels:8", "digits", profile="lowshot10", settings=settings, out=tmp_path)
    assert record.primary == "top1" and record.metrics["top1"].n == 450 and record.metrics["top1"].value > 70
    assert record.metrics["top1"].ci_low < record.metrics["top1"].value < record.metrics["top1"].ci_high
    assert torch.tensor(record.metrics["top1_std"].value).isfinite()


@pytest.mark.parametrize("which", ["pets", "flowers102"])
def test_transfer_chooses_on_the_set_s_own_images_and_reports_its_metric(tmp_path, own_cache, which):
    root = SETS[which](tmp_path / "set")
    settings = {"c_count": "3", "c_min": "1e-3", "c_max": "1", "resize": "8", "crop": "8"}
    (record,) = dinobench.run(
        "logreg", "pixels:8", str(root), profile="transfer", settings=settings, out=tmp_path / "results",
        compute=ComputeOptions(device="cpu"),
    )  # fmt: skip
    assert record.primary == "mean_per_class" and list(record.metrics)[:2] == ["mean_per_class", "top1"]
    assert record.metrics["mean_per_class"].value == pytest.approx(record.metrics["top1"].value), "classes are equal"
    own = "the set's 6 validation images" if which == "flowers102" else "drawn from train, as the set has no"
    assert any(note.startswith(f"held out: {own}") for note in record.notes)
    assert record.profile.startswith("transfer") and record.config["choose_on"] == "val"


def test_c_is_chosen_on_the_validation_images_alone(pixels, digits):
    val = np.arange(100, 250)
    drawn, ctx = dataclasses.replace(SMALL, c_count=2, c_max=0.1), LocalContext()
    config = dataclasses.replace(drawn, choose_on="val")
    result = run(pixels, dataclasses.replace(digits, val=val), config, ctx)
    train = ctx.features(pixels, digits.train, config.request()).cls[:, -1].astype(float)
    train, labels = train / np.linalg.norm(train, axis=1, keepdims=True), digits.train.labels
    learn = np.setdiff1d(np.arange(len(labels)), val)
    models = {c: LogisticRegression(C=c, max_iter=1000, tol=1e-5).fit(train[learn], labels[learn])
              for c in config.strengths()}  # fmt: skip
    best = max(models, key=lambda c: models[c].score(train[val], labels[val]))
    assert f"C = {best:.4g}, {100 * models[best].score(train[val], labels[val]):.2f} %" in result.notes[0]
    assert run(pixels, digits, config, ctx).metrics == run(pixels, digits, drawn, ctx).metrics
    with pytest.raises(ValueError, match="choose_on=val"):
        dataclasses.replace(config, n_per_class=3)


#: Of DINOv3's program: scikit-learn's regressions of each class against the rest, of one C.
def theirs(x, y, c):
    return OneVsRestClassifier(LogisticRegression(C=c, max_iter=5000, tol=1e-10)).fit(x, y)


def test_images_of_several_classes_are_judged_by_mean_average_precision(pixels, tmp_path):
    data = load_dataset(str(make_voc2007(tmp_path)[0]))
    config = dataclasses.replace(SMALL, choose_on="val", difficult="absent")  # which scikit-learn can be asked as well
    ctx = LocalContext()
    result = run(pixels, data, config, ctx)
    features = [ctx.features(pixels, split, config.request()).cls[:, -1] for split in (data.train, data.test)]
    train, test = (x.astype(float) / np.linalg.norm(x, axis=1, keepdims=True) for x in features)
    learnt, asked = (part > 0 for part in data.verdicts)
    held = {c: map11(theirs(train[:30], learnt[:30], c).predict_proba(train[30:]), learnt[30:])
            for c in config.strengths()}  # fmt: skip
    best = max(held, key=lambda c: held[c])
    scores = theirs(train, learnt, best).predict_proba(test)
    assert result.metrics["mAP"] == pytest.approx(100 * map11(scores, asked))
    assert result.metrics["mAP_dinov3"] == pytest.approx(100 * map11_dinov3(scores, asked))
    assert f"C = {best:.4g}, {100 * held[best]:.2f} % on held-out images" in result.notes[0]
    assert "held out: the set's 20 validation images" in result.notes and "by class: bird" in result.notes[-1]
    low, high = result.intervals["mAP"]
    assert low < result.metrics["mAP"] < high and list(result.items["id"]) == list(data.test.ids)
    assert result.items["label"][0] == "bird | person" and set(result.items["prediction"]) <= set(data.classes)
    ignored = run(pixels, data, dataclasses.replace(config, difficult="ignored"), ctx)
    assert ignored.metrics["mAP"] > result.metrics["mAP"], "half bright images are what scores confuse"
    for found in on_processes(3, lambda one: run(pixels, data, config, one)):
        assert found.metrics == result.metrics and found.items.equals(result.items)
        assert found.intervals == result.intervals


def test_several_classes_through_the_front_door(own_cache, tmp_path):
    path, _ = make_voc2007(tmp_path)
    settings = {"c_count": "3", "c_min": "1e-3", "c_max": "1", "resize": "8", "crop": "8"}
    (record,) = dinobench.run(
        "logreg", "pixels:8", str(path), profile="transfer", settings=settings, out=tmp_path / "r"
    )
    assert record.primary == "mAP" and list(record.metrics) == ["mAP", "mAP_dinov3"] and record.dataset == "VOC2007"
    assert record.metrics["mAP"].n == 40 and "difficult" not in record.config
    assert 50 < record.metrics["mAP"].ci_low < record.metrics["mAP"].value <= record.metrics["mAP_dinov3"].value <= 100
    with pytest.raises(UserError, match="knn: an image of VOC2007 shows several classes; take logreg"):
        dinobench.run("knn", "pixels:8", str(path), out=tmp_path / "r")
    with pytest.raises(UserError, match="cannot be drawn by class"):
        dinobench.run("logreg", "pixels:8", str(path), profile="nshot", out=tmp_path / "r")
