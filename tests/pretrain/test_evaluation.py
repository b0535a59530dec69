"""Scoring while training: what is scored, under which names and settings, without the work of a protocol."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from helpers.pretraining import make, save

from dinobench import runtime
from dinobench.errors import UserError
from dinobench.pretrain import evaluation
from dinobench.pretrain.run import Run
from dinobench.types import ComputeOptions

RUN = Run("dino", "vit_tiny", 16, 8, 1, "digits", {"seed": 3}, "32", evals=("knn",), results="out")
SIDES = {"resize": 18, "crop": 16}  # 256/224 of the training's images, and all of one


def test_unknown_protocols_and_settings_are_named_before_the_training():
    evaluation.check(RUN)
    with pytest.raises(UserError, match="did you mean 'knn'"):
        evaluation.check(dataclasses.replace(RUN, evals=("kn",)))
    with pytest.raises(UserError, match="unknown setting of knn"):
        evaluation.check(dataclasses.replace(RUN, eval_settings={"kk": "1"}))


@pytest.mark.parametrize(
    ("given", "expected"), [({}, SIDES), ({"k": "1"}, {"k": "1", **SIDES}), ({"crop": "8"}, {"crop": "8"})]
)
def test_teacher_and_student_are_scored_at_the_size_of_the_training_unless_set(given, expected, tmp_path):
    calls = []

    def score(protocol, ckpt, data, **options):
        calls.append(((protocol, ckpt, data), options))
        metrics = {"top1@k10": SimpleNamespace(value=4.0), "top1@k20": SimpleNamespace(value=5.0)}
        return [SimpleNamespace(metrics=metrics, primary="top1@k20")]

    path, compute = save(tmp_path / "checkpoint.pth", *make()), ComputeOptions(device="cpu", cache=False)
    run = dataclasses.replace(RUN, eval_settings=given)
    scores = evaluation.evaluator(run, "tiny", score, runtime.start("cpu"), compute)(path, 7)
    assert list(scores.items()) == [
        (f"knn/{network}/top1@{k}", value)
        for network in ("teacher", "student")
        for k, value in (("k20", 5.0), ("k10", 4.0))  # the primary one first
    ]
    assert [call for call, _ in calls] == [("knn", f"tiny-e007-{n}={path}", "digits") for n in ("teacher", "student")]
    assert [options["loading"].key for _, options in calls] == ["teacher", "student"]
    for _, options in calls:
        assert options["settings"] == expected and options["seed"] == 3 and options["compute"] is compute
        assert options["out"] == "out" and options["loading"].arch is None  # a ViT is told from its tensors
    assert evaluation.primary_scores({"loss": 1.0, **scores}) == [
        "knn/teacher/top1@k20 5.00",
        "knn/student/top1@k20 5.00",
    ]


@pytest.mark.parametrize("alike", [True, False])
def test_before_the_first_step_networks_that_are_alike_are_scored_once(alike, tmp_path):
    """They are not where a training begins with the weights of another one."""
    calls = []

    def score(protocol, ckpt, data, **options):
        calls.append((ckpt, options["loading"].key))
        return [SimpleNamespace(metrics={"top1": SimpleNamespace(value=4.0)}, primary="top1")]

    method, *others = make()
    method.teacher.backbone.load_state_dict(method.student.backbone.state_dict())
    if not alike:
        method.teacher.backbone.cls_token.add_(1)
    path = save(tmp_path / "checkpoint.pth", method, *others, step=0)
    evaluate = evaluation.evaluator(RUN, "tiny", score, runtime.start("cpu"), ComputeOptions(device="cpu", cache=False))
    assert list(evaluate(path, 0)) == ["knn/teacher/top1", "knn/student/top1"]
    networks = ["student"] if alike else ["teacher", "student"]
    assert calls == [(f"tiny-e000-{network}={path}", network) for network in networks]
    calls.clear()
    evaluate(path, 1)
    assert [network for _, network in calls] == ["teacher", "student"]
