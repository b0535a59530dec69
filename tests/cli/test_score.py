"""`dinobench score` as typed: golden values, data sets and folders, and files at fault."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.davis import make_davis
from helpers.golden import golden_values
from helpers.label_maps import halves, voc_folder
from helpers.semantic import drawn
from helpers.typed import assert_one_line
from PIL import Image

from dinobench.data import load_dataset
from dinobench.data.video import label_png

CASES = golden_values("segmentation")["metrics"]
TINY = "random:vit_tiny_patch16_224"


def write(folder, maps):
    for name, labels in maps.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(label_png(labels.astype(np.uint8)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed {case['seed']}")
@pytest.mark.parametrize("reduced", [False, True])
def test_golden(command, tmp_path, case, reduced):
    images = {str(i): pair for i, pair in enumerate(drawn(case))}
    write(tmp_path / "truth", {name: gt for name, (gt, _) in images.items()})
    predicted = {name: np.maximum(pred.astype(int) - reduced, 0) for name, (_, pred) in images.items()}
    write(tmp_path / "pred", predicted)
    options = ["--classes", case["classes"] - reduced, *["--reduce-zero-label"] * reduced]
    code, out, err = command("score", "segmentation", "pred", "--data", "truth", *options, "--json")
    assert code == 0, err
    found, wanted = json.loads(out), case["reduce_zero_label" if reduced else "all_labels"]
    for name, value in wanted["mmseg_0.30"].items():
        assert found["summary"][name] == pytest.approx(100 * value, abs=1e-7)
    for row, value in zip(found["classes"], wanted["iou_per_class"], strict=True):
        assert row["iou"] == (None if value is None else pytest.approx(value, abs=1e-6))
    assert found["images"] == case["images"] and ("mIoU" in found["intervals"]) == (case["images"] > 1)


@pytest.fixture
def voc(tmp_path):
    """VOC's layout with two images to score, and predictions that are right about them."""
    path = voc_folder(tmp_path, ("a",), ("b", "c"))
    write(tmp_path / "pred", {"b": halves(0, 15), "c": halves(0, 15)})
    return path


def test_a_data_set_scores_its_test_images(command, voc, tmp_path):
    code, out, err = command("score", "segmentation", "pred", "--data", "VOCdevkit", "--classes", 21)
    assert code == 0 and "mIoU 100.00 [100.00, 100.00]" in out and "person" in out and "2 images" in out, err
    write(tmp_path / "pred", {"c": halves(0, 7)})
    code, out, err = command("score", "segmentation", "pred", "--data", "VOCdevkit", "--json")
    assert json.loads(out)["summary"]["mIoU"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    write(tmp_path / "pred", {"c": halves(0, 255)})
    code, out, err = command("score", "segmentation", "pred", "--data", "VOCdevkit", "--json")
    assert json.loads(out)["summary"]["mIoU"] == pytest.approx(75) and "360 labelled pixels are predicted 255" in err


def test_images_need_not_be_there(command, tmp_path):
    """All of VOC's val counts, also where half of it would be learnt from."""
    path = voc_folder(tmp_path, (), ("b", "c"))
    shutil.rmtree(path / "VOC2012" / "JPEGImages")
    write(tmp_path / "pred", {"b": halves(0, 15), "c": halves(0, 15)})
    code, out, err = command("score", "segmentation", "pred", "--data", "VOCdevkit", "--json")
    assert code == 0 and json.loads(out)["images"] == 2, err
    write(tmp_path / "ADE" / "annotations" / "validation", {"ADE_val_1": halves(0, 150)})
    write(tmp_path / "ade", {"ADE_val_1": halves(0, 149)})
    code, out, err = command("score", "segmentation", "ade", "--data", "ADE", "--reduce-zero-label", "--json")
    assert code == 0 and json.loads(out)["summary"]["aAcc"] == 100, err
    for ending, truth in (("labelIds", halves(0, 33)), ("labelTrainIds", halves(255, 18))):
        write(tmp_path / ending / "gtFine" / "val" / "bonn", {f"bonn_1_gtFine_{ending}": truth})
        write(tmp_path / "city" / "bonn", {"bonn_1": halves(0, 18)})
        code, out, err = command("score", "segmentation", "city", "--data", ending, "--json")
        assert code == 0 and json.loads(out)["summary"]["aAcc"] == 100, err


def test_drawn_scenes_score_all(command, tmp_path):
    test = load_dataset("shapes", "label_maps").test
    write(tmp_path / "pred", {name: test.labels(i) for i, name in enumerate(test.ids)})
    code, out, err = command("score", "segmentation", "pred", "--data", "shapes", "--json")
    assert code == 0 and json.loads(out)["summary"] == {"mIoU": 100, "mAcc": 100, "aAcc": 100}, err


def test_predictions_at_fault_are_named(command, voc, tmp_path):
    line = ("score", "segmentation", "pred", "--data", "VOCdevkit")
    write(tmp_path / "pred", {"c": halves(0, 21)})
    assert_one_line(*command(*line), "pred/c.png: holds 21, but the labels here are 0 to 20 and 255")
    write(tmp_path / "pred", {"c": halves(0, 15)[:20]})
    assert_one_line(*command(*line), "pred/c.png: 32 x 20 pixels, but its label map has 32 x 24")
    Image.new("RGB", (32, 24)).save(tmp_path / "pred" / "c.png")
    assert_one_line(*command(*line), "pred/c.png: a mask in mode RGB")
    (tmp_path / "pred" / "c.png").write_bytes(b"nothing")
    assert_one_line(*command(*line), "pred/c.png: not a readable mask")
    (tmp_path / "pred" / "c.png").unlink()
    assert_one_line(*command(*line), "pred/c.png: no such file (1 of 2 label maps are missing)")
    write(tmp_path / "pred", {"c": halves(0, 15), "x/d": halves(0, 15)})
    assert_one_line(*command(*line), "pred/x/d.png: predicted for no image of VOC2012")
    assert_one_line(*command("score", "segmentation", "nowhere", *line[3:]), "nowhere: no such folder")


def test_what_is_asked_must_fit_the_data(command, voc, tmp_path):
    line = ("score", "segmentation", "pred", "--data")
    assert_one_line(*command(*line, "VOCdevkit", "--classes", 20), "--classes 20: VOC2012 has 21 classes")
    assert_one_line(*command(*line, "VOCdevkit", "--reduce-zero-label"), "class 0 of VOC2012 is background and counts")
    assert_one_line(*command(*line, "pred"), "--classes is missing")
    assert_one_line(*command(*line, "pred", "--classes", 15), "pred/b.png: holds 15, but the labels here are 0 to 14")
    assert_one_line(*command(*line, "nowhere", "--classes", 15), "nowhere: no such file or folder")
    (tmp_path / "empty").mkdir()
    assert_one_line(*command(*line, "empty", "--classes", 15), "empty: no PNG label maps in it")
    write(tmp_path / "void", {"b": halves(255, 255), "c": halves(255, 255)})
    assert_one_line(*command(*line, "void", "--classes", 21), "void: no labelled pixel in its 2 label maps")


@pytest.fixture
def truths(tmp_path):
    """The annotations of the embedded video shapes-0, as a method that is always right would write them."""
    [video] = load_dataset("shapes", "videos").select(["shapes-0"])
    folder = tmp_path / "masks" / video.name
    folder.mkdir(parents=True)
    for index, name in enumerate(video.names):
        (folder / f"{name}.png").write_bytes(label_png(video.mask(index)))
    return tmp_path / "masks"


def test_masks_that_are_the_truth_score_all(command, truths):
    code, out, err = command("score", "davis", truths, "--data", "shapes", "--videos", "shapes-0", "--json")
    assert code == 0, err
    scores = json.loads(out)
    assert scores["summary"]["J&F"] == pytest.approx(100)
    code, out, err = command("score", "davis", truths, "--data", "shapes", "--videos", "shapes-0")
    assert code == 0 and out.splitlines()[-1].startswith("mean") and "100.0" in out.splitlines()[-1]


def test_masks_are_scored_without_frames_and_in_the_official_files(command, tmp_path):
    make_davis(tmp_path / "D")
    shutil.copytree(tmp_path / "D" / "Annotations" / "480p", tmp_path / "masks")
    shutil.rmtree(tmp_path / "D" / "JPEGImages")
    code, _, err = command("score", "davis", "masks", "--data", "D", "--csv", "scores")
    assert code == 0 and "written: scores/global_results-val.csv" in err, err
    assert (tmp_path / "scores" / "global_results-val.csv").read_text().splitlines()[1].startswith("1.000,1.000")
    lines = (tmp_path / "scores" / "per-sequence_results-val.csv").read_text().splitlines()
    assert lines[1:] == ["cat_1,1.000,1.000", "cat_2,1.000,1.000"]
    (tmp_path / "D" / "Annotations" / "480p" / "cat" / "00000.png").unlink()
    assert_one_line(*command("score", "davis", "masks", "--data", "D"), "masks/cat/00000.png: of a frame outside")
    assert_one_line(*command("run", "--protocol", "davis", "--ckpt", TINY, "--data", "D"), "layout not recognised")
