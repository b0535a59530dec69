from __future__ import annotations

import json
import random

import numpy as np
import pytest
from helpers.correspondence import small_spair
from helpers.mutants import damaged

from dinobench.data import load_dataset
from dinobench.data.pairs import spair
from dinobench.errors import BrokenImage, UserError


def annotation(root):
    return root / "PairAnnotation" / "test" / "0-1:cat.json"


def test_a_folder_as_distributed(tmp_path):
    root = small_spair(tmp_path)
    assert spair.recognises(root) and not spair.recognises(root / "JPEGImages")
    data = load_dataset(f"mine={root}", "keypoints")
    assert (data.name, data.layout, len(data.pairs)) == ("mine", "spair", 3)
    pair = data.pairs[0]
    assert (pair.id, pair.category, pair.source, pair.target) == ("0-1:cat", "cat", "cat/0.jpg", "cat/1.jpg")
    assert pair.source_size == (48, 40) and pair.names == ("0", "4") and [p.viewpoint for p in data.pairs] == [0, 1, 2]
    np.testing.assert_array_equal(pair.source_points, [[3, 4], [47, 39]])
    np.testing.assert_array_equal(pair.target_box, [2, 2, 46, 38])
    assert data.load("cat/0.jpg").size == (48, 40)


def test_the_fingerprint_is_of_images_and_annotations(tmp_path):
    root = small_spair(tmp_path)
    first = spair.load(root, "a").fingerprint
    annotation(root).write_text(annotation(root).read_text().replace("[3, 4]", "[3, 5]"))
    second = spair.load(root, "a").fingerprint
    (root / "JPEGImages" / "cat" / "2.jpg").write_bytes(b"another")
    assert len({first, second, spair.load(root, "a").fingerprint}) == 3
    with pytest.raises(BrokenImage, match=r"2\.jpg: not a readable image"):
        spair.load(root, "a").load("cat/2.jpg")


def test_what_may_be_absent(tmp_path):
    data = spair.load(small_spair(tmp_path, viewpoint_variation=None, kps_ids=None, src_bndbox=None), "a")
    assert data.pairs[0].viewpoint is None and data.pairs[0].names == ("0", "1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"src_kps": [[3, 4]]}, "1 points in src_kps, 2 in trg_kps"),
        ({"src_kps": [], "trg_kps": []}, "0 points in src_kps"),
        ({"src_kps": [[3, 4], [48, 3]]}, "outside src_imsize 48 x 40"),
        ({"trg_kps": [[3, 4], [None, 3]]}, "trg_kps is not a list of points"),
        ({"trg_kps": [[3, 4], [float("nan"), 3]]}, "trg_kps is not a list of points"),
        ({"trg_bndbox": [5, 5, 5, 9]}, "trg_bndbox is not"),
        ({"trg_bndbox": [5, 5, True, 9]}, "trg_bndbox is not"),
        ({"src_imsize": [48.5, 40, 3]}, "src_imsize is not"),
        ({"trg_imname": "../1.jpg"}, "trg_imname is no name"),
        ({"category": ".."}, "category is no name"),
        ({"kps_ids": ["0"]}, "kps_ids is no list"),
        ({"viewpoint_variation": 3}, "viewpoint_variation 3"),
    ],
)
def test_faults_are_named(tmp_path, changes, words):
    root = small_spair(tmp_path, **changes)
    with pytest.raises(UserError, match=rf"0-1:cat\.json: .*{words}"):
        spair.load(root, "a")


def test_what_is_missing_is_named(tmp_path):
    root = small_spair(tmp_path)
    (root / "JPEGImages" / "cat" / "3.jpg").unlink()
    with pytest.raises(UserError, match=r"cat/3\.jpg: missing"):
        spair.load(root, "a")
    for file in annotation(root).parent.iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no pairs"):
        spair.load(root, "a")


def test_damaged_annotations_are_read_or_refused_in_one_line(tmp_path):
    root = small_spair(tmp_path, pairs=1)
    sound, rng, read = annotation(root).read_bytes(), random.Random(0), 0
    for _ in range(300):
        annotation(root).write_bytes(damaged(sound, rng))
        try:
            (pair,) = spair.load(root, "a").pairs
        except UserError as error:
            assert "\n" not in str(error) and str(root) in str(error)
            continue
        read += 1
        assert len(pair.source_points) == len(pair.target_points) == len(pair.names) > 0
    assert 5 < read < 290
    annotation(root).write_text("[" * 100_000)
    with pytest.raises(UserError, match="not JSON"):
        spair.load(root, "a")
    annotation(root).write_text(json.dumps([1]))
    with pytest.raises(UserError, match="not a pair"):
        spair.load(root, "a")
