"""Test images from elsewhere: which class each layout's folders mean, what may be chosen, what is left out."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers.golden import golden_values
from helpers.other_tests import (
    COLOURS,
    WNIDS,
    make_corrupted,
    make_folders,
    make_imagenet,
    make_objectnet,
    make_v2,
    picture,
)

from dinobench.data import load_dataset, load_datasets
from dinobench.data.other_tests import full_names
from dinobench.data.other_tests.imagenet_c import CORRUPTIONS
from dinobench.data.other_tests.imagenet_real import read_labels
from dinobench.data.other_tests.other_test import timm_info, timm_list
from dinobench.data.transforms import ImageTransform, for_split
from dinobench.errors import UserError

CLASSES = list(WNIDS)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def imagenet(tmp_path):
    return make_imagenet(tmp_path / "imagenet")


def scored_on(imagenet, test):
    (data,) = load_datasets(str(imagenet), "classification", [test])
    return data


def labels(data):
    """Class by folder of the test images."""
    return {i.rsplit("/", 1)[0]: data.classes[label] for i, label in zip(data.test.ids, data.test.labels, strict=True)}


def test_v2_goes_by_number_and_not_by_text(imagenet, tmp_path):
    data = scored_on(imagenet, f"imagenet-v2={make_v2(tmp_path / 'v2')}")
    assert labels(data) == {str(n): w for w, n in WNIDS.items()} and len(data.test) == 10
    assert data.name == "imagenet+imagenet-v2" and "ImageNet-V2" in data.layout
    assert (data.among, data.answers, data.report, data.leak) == (None, None, None, None)
    assert data.notes == ("imagenet-v2: 2 of 12 images left out: train has no class for them",)
    assert data.train.fingerprint == load_dataset(str(imagenet)).train.fingerprint != data.test.fingerprint


def test_v2_of_classes_that_are_no_wnids_counts_them_through(tmp_path):
    names = [f"{chr(97 + i)}-thing" for i in range(12)]
    for split in ("train", "val"):
        make_folders(tmp_path / "set" / split, [(name, CLASSES[i % 5]) for i, name in enumerate(names)], count=1)
    make_folders(tmp_path / "v2", [(str(i), CLASSES[i % 5]) for i in range(12)], count=1)
    data = scored_on(tmp_path / "set", f"v2={tmp_path / 'v2'}")
    assert labels(data) == {str(i): name for i, name in enumerate(names)}
    (tmp_path / "v2" / "11").rename(tmp_path / "v2" / "eleven")
    with pytest.raises(UserError, match="eleven: ImageNet-V2's folders are class numbers"):
        scored_on(tmp_path / "set", f"v2={tmp_path / 'v2'}")


@pytest.mark.parametrize(("which", "has"), [("a", CLASSES[3:]), ("r", [*CLASSES[1:]])])
def test_a_and_r_choose_among_their_200_classes(imagenet, tmp_path, which, has):
    path = make_folders(tmp_path / f"imagenet-{which}", [(w, w) for w in has[-2:]])
    (path / "README.txt").write_text("hello")
    data = scored_on(imagenet, f"{which}={path}")
    assert data.name == f"imagenet+imagenet-{which}" and labels(data) == {w: w for w in has[-2:]}
    assert [data.classes[i] for i in data.among] == has
    assert any(f"only the {len(has)} classes" in note for note in data.notes)
    assert any("1 .txt" in note for note in data.notes)
    make_folders(path, [("n01440764", "n01440764")])
    with pytest.raises(UserError, match="n01440764: no class of ImageNet-"):
        scored_on(imagenet, f"{which}={path}")


def test_timm_s_lists_are_imagenet_s():
    synsets = timm_list("imagenet_synsets.txt")
    assert len(synsets) == 1000 and list(synsets) == sorted(synsets)
    for which in "ar":
        numbers = sorted(int(n) for n in timm_list(f"imagenet_{which}_indices.txt"))
        assert [synsets[n] for n in numbers] == sorted(timm_list(f"imagenet_{which}_synsets.txt"))


def test_sketch_goes_by_name(imagenet, tmp_path):
    path = make_folders(tmp_path / "x" / "sketch", [(w, w) for w in CLASSES[:3]])
    data = scored_on(imagenet, f"imagenet-sketch={path.parent}")
    assert labels(data) == {w: w for w in CLASSES[:3]} and data.among is None
    shutil.rmtree(imagenet / "train" / CLASSES[0])
    shutil.rmtree(imagenet / "val" / CLASSES[0])
    data = scored_on(imagenet, f"imagenet-sketch={path.parent}")
    assert labels(data) == {w: w for w in CLASSES[1:3]} and "2 of 6 images left out" in data.notes[0]


def test_real_takes_the_labels_by_the_number_in_the_name(imagenet, tmp_path):
    lists = [[], [1, 0], [6], [999], [1], [2, 11, 999], [0], [6], [11], [11]]
    (tmp_path / "real.json").write_text(json.dumps(lists))
    data = scored_on(imagenet, f"real={tmp_path / 'real.json'}")
    index = {number: i for i, number in enumerate(WNIDS.values())}
    assert [i[-6:-5] for i in data.test.ids] == [*"23567890"]
    right = [[index[c] for c in lists[i] if c in index] for i in (1, 2, 4, 5, 6, 7, 8, 9)]
    assert [[c for c in row if c >= 0] for row in data.answers.tolist()] == [sorted(r) for r in right]
    assert data.test.labels.tolist() == [min(r) for r in right]
    assert data.notes == ("imagenet-real: 2 of 10 images left out: no label is right for them",)
    with pytest.raises(UserError, match=r"imagenet_real_labels.json: has no label of imagenet's classes"):
        scored_on(imagenet, "real")  # without a path timm's labels, whose first ten are of other classes
    with pytest.raises(UserError, match=r"real.json: cannot be read"):
        scored_on(imagenet, f"real={imagenet}")


def test_real_meets_the_golden_value():
    golden = golden_values("robustness")["real"]
    lists = read_labels(timm_info() / "imagenet_real_labels.json")
    r = np.random.default_rng(golden["seed"])
    predictions, easy = r.integers(0, 1000, 50000), r.random(50000) < 0.7
    kept = [i for i, row in enumerate(lists) if row]
    right = [easy[i] or predictions[i] in lists[i] for i in kept]
    assert len(kept) == golden["images_counted"]
    assert 100 * np.mean(right) == pytest.approx(golden["real_accuracy"], abs=1e-4)


def test_objectnet_maps_objects_to_classes_and_cuts_the_border_off(imagenet, tmp_path):
    data = scored_on(imagenet, f"objectnet={make_objectnet(tmp_path / 'objectnet')}")
    assert sorted(set(labels(data))) == ["bird", "fish"] and len(data.test) == 4
    named = {tuple(data.classes[c] for c in row if c >= 0) for row in data.answers.tolist()}
    assert named == {("n01440764", "n01443537", "n01498041"), ("n01531178",)}
    assert "2 of 6 images left out: their objects are none of train's classes" in data.notes[0]
    image = np.asarray(data.test.load(0))
    assert image.shape == (22, 22, 3) and abs(image.mean((0, 1)) - COLOURS["n01531178"]).max() < 40
    assert data.test.fingerprint == scored_on(imagenet, f"objectnet={tmp_path / 'objectnet'}").test.fingerprint


@pytest.mark.parametrize("extra", [False, True])
def test_c_has_all_levels_of_all_corruptions_and_is_not_cropped_again(imagenet, tmp_path, extra):
    path = make_corrupted(tmp_path / "c", extra)
    data = scored_on(imagenet, f"c={path}")
    assert len(data.test) == (19 if extra else 15) * 5 * 2 and data.report == "mCE"
    assert {i.split("/")[1] for i in data.test.ids} == set(CORRUPTIONS[: 19 if extra else 15])
    assert bool([n for n in data.notes if "speckle_noise" in n]) == extra
    transform = ImageTransform(256, 224)
    assert for_split(transform, data.test) == dataclasses.replace(transform, resize=224)
    assert for_split(transform, data.train) is transform
    shutil.rmtree(path / "noise" / "shot_noise" / "3")
    shutil.rmtree(path / "other" / "fog")
    with pytest.raises(UserError, match=r"lacks shot_noise/3, fog; mCE is over 15 corruptions at levels 1 to 5"):
        scored_on(imagenet, f"c={path}")


def test_leaked_images_are_told(imagenet, tmp_path):
    path = make_folders(tmp_path / "sketch", [(w, w) for w in CLASSES])
    shutil.copy(imagenet / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG", path / CLASSES[0] / "copy.png")
    assert "1 of 11 test images are in train too" in scored_on(imagenet, f"sketch={path}").leak


def test_a_set_is_known_again_and_told_from_others(imagenet, tmp_path):
    path = make_folders(tmp_path / "imagenet-a", [(w, w) for w in CLASSES[3:]])
    a, r, s = (scored_on(imagenet, f"{n}={path}") for n in ("a", "r", "sketch"))
    assert len({a.fingerprint, r.fingerprint, s.fingerprint, load_dataset(str(imagenet)).fingerprint}) == 4
    assert a.test.fingerprint == s.test.fingerprint, "the same images have the same features"
    assert scored_on(imagenet, f"imagenet-a={path}").fingerprint == a.fingerprint
    picture(path / CLASSES[3] / "0.png", CLASSES[3], 99)
    assert scored_on(imagenet, f"a={path}").fingerprint != a.fingerprint


def test_a_name_alone_is_looked_for(imagenet, tmp_path, monkeypatch):
    make_folders(tmp_path / "home" / "imagenet-a", [(w, w) for w in CLASSES[3:]])
    with pytest.raises(UserError, match="--test imagenet-a: where is it"):
        scored_on(imagenet, "a")
    monkeypatch.setenv("DINOBENCH_DATA", str(tmp_path / "home"))
    assert len(scored_on(imagenet, "a").test) == 4


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("imagenet-aa=x", "unknown test set 'imagenet-aa'"),
        ("imagenet-a=nowhere", "nowhere: no such file or folder"),
        ("imagenet-a={imagenet}/train/n01440764/n01440764_0.JPEG", "a folder of class folders is needed"),
        ("sketch={empty}", "no class folders"),
        ("sketch={strange}", "none of its 2 images counts: train has no class for them"),
        ("objectnet={empty}", "no images/ in it"),
        ("objectnet={bare}", "folder_to_objectnet_label.json is missing"),
        ("c={empty}", "lacks gaussian_noise, shot_noise"),
        ("real={broken}", "no JSON"),
        ("real={other}", "not a list with the class numbers"),
        ("real={short}", "is none of ImageNet's validation images"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(imagenet, tmp_path, test, words):
    (tmp_path / "empty").mkdir()
    make_folders(tmp_path / "strange", [("teapot", CLASSES[0])])
    make_folders(tmp_path / "bare" / "images", [("teapot", CLASSES[0])])
    for name, content in (("broken", "{"), ("other", '{"a": 1}'), ("short", "[[1]]")):
        (tmp_path / name).write_text(content)
    places = {n: tmp_path / n for n in ("imagenet", "empty", "strange", "bare", "broken", "other", "short")}
    with pytest.raises(UserError, match=words.replace("(", r"\(")) as caught:
        scored_on(imagenet, test.format(**places))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("folder_to_objectnet_label.json", '{"fish": "Fish"}', "does not name the folder bird"),
        ("objectnet_to_imagenet_1k.json", '{"Fish": "unicorn"}', "'unicorn' is no class of"),
        ("objectnet_to_imagenet_1k.json", "[1]", "no mapping from names"),
        ("pytorch_to_imagenet_2012_id.json", '{"x": 1}', "'x' is no number"),
        ("pytorch_to_imagenet_2012_id.json", "{", "no JSON"),
        ("imagenet_to_label_2012_v2", b"\xff\xfe", "no UTF-8 text"),
    ],
)
def test_objectnet_s_mappings_are_checked(imagenet, tmp_path, file, content, words):
    path = make_objectnet(tmp_path / "objectnet")
    content = content if isinstance(content, bytes) else content.encode()
    (path / "objectnet-1.0" / "mappings" / file).write_bytes(content)
    with pytest.raises(UserError, match=words):
        scored_on(imagenet, f"objectnet={path}")


def test_every_set_is_listed():
    from dinobench.data import known_layouts

    assert [name for kind, name, _ in known_layouts() if kind == "--test"] == full_names()
    assert len(full_names()) == 7
