from __future__ import annotations

import dataclasses
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dinobench.data import load_dataset
from dinobench.data.embedded import EMBEDDED
from dinobench.data.image_split import array_split, assemble
from dinobench.data.label_maps import read_pair
from dinobench.data.layouts import ANY_IMAGES, KINDS, UNLABELLED
from dinobench.data.layouts.copydays import with_side
from dinobench.data.limits import CUTS, limited
from dinobench.errors import UserError
from dinobench.protocols import correspondence, retrieval


def embedded(kind):
    name = next(iter(EMBEDDED[kind]))
    data = load_dataset(name, kind)
    return data.select() if kind == "boxes" else data


def sizes(data, kind):
    """Of each list of items that a data set of a kind has, how long it is."""
    if kind in ("classification", UNLABELLED, ANY_IMAGES, "label_maps", "depth"):
        return [len(data.train), len(data.test)]
    return {
        "copies": lambda: [len(data.originals)],
        "videos": lambda: [len(data.videos)],
        "masks": lambda: [len(data.ids(k)) for k in ("instances", "classes")],
        "boxes": lambda: [len(data), len(data.boxes), len(data.hard or data.boxes)],
        "landmarks": lambda: [len(data.queries), len(data.database)],
        "keypoints": lambda: [len(data.pairs)],
        "navi": lambda: [len(data.views)],
    }[kind]()


def test_there_is_no_kind_that_cannot_be_cut():
    assert CUTS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_so_many_of_each_split(kind):
    whole = embedded(kind)
    for n in (4, 7, 10_000):
        part = limited(whole, kind, n)
        assert sizes(part, kind) == [min(n, size) for size in sizes(whole, kind)]
        assert (part.name, part.fingerprint) != (whole.name, whole.fingerprint) and part.name == whole.name
        assert part.notes[-1].startswith(f"--limit {n}: ") and len(part.notes) == len(getattr(whole, "notes", ())) + 1
        again = limited(embedded(kind), kind, n)
        assert again.fingerprint == part.fingerprint
        assert pickle.loads(pickle.dumps(part)).fingerprint == part.fingerprint
    assert len({limited(whole, kind, n).fingerprint for n in (4, 7, 10_000, 10_001)}) == 4


def test_an_unknown_kind_is_refused_by_name():
    odd = SimpleNamespace(name="sounds", fingerprint="0")
    with pytest.raises(UserError, match="--limit 5: data sets of kind 'audio', as sounds is, cannot be cut"):
        limited(odd, "audio", 5)


def test_classes_stay_in_both_splits_and_images_keep_their_labels():
    whole = embedded("classification")
    part = limited(whole, "classification", 23)
    for split, of in ((part.train, whole.train), (part.test, whole.test)):
        assert np.bincount(split.labels).tolist().count(2) == 7 and np.bincount(split.labels).max() == 3
        rows = [of.ids.index(name) for name in split.ids]
        assert rows == sorted(rows) and (of.labels[rows] == split.labels).all()
        assert all(split.load(i).tobytes() == of.load(row).tobytes() for i, row in enumerate(rows))
    everything = limited(whole, "classification", 5000)
    assert everything.train is whole.train  # whose features need not be extracted anew


def test_images_of_several_classes_keep_their_verdicts():
    draw = np.random.default_rng(0).integers(-1, 2, (60, 4), np.int8)
    whole = made([0, 1, 2, 3] * 10, [0, 1, 2, 3] * 5, verdicts=(draw[:40], draw[40:]))
    part = limited(whole, "classification", 8)
    for side, split, of in zip((0, 1), (part.train, part.test), (whole.train, whole.test), strict=True):
        rows = [of.ids.index(name) for name in split.ids]
        assert len(rows) == 8 and (part.verdicts[side] == whole.verdicts[side][rows]).all()


def made(train, test, **changes):
    """A data set in memory with these labels."""
    splits = [
        array_split(
            name, np.zeros((len(labels), 2, 2, 3), np.uint8), [f"{name}/{i}" for i in range(len(labels))], labels
        )
        for name, labels in (("train", train), ("test", test))
    ]
    classes = [str(c) for c in range(max(train) + 1)]
    return dataclasses.replace(assemble("made", "arrays", classes, *splits), **changes)


def test_fewer_than_there_are_classes_keeps_the_same_classes_in_both():
    part = limited(made([*range(8)] * 3, [*range(8)] * 2), "classification", 5)
    kept = set(part.train.labels.tolist())
    assert len(kept) == 5 and set(part.test.labels.tolist()) == kept
    assert "5 of 8 classes" in part.notes[-1]
    with pytest.raises(UserError, match=r"leaves made 1 of 8 classes to learn from.*use --limit 8 or more"):
        lost = next(
            iter(set(range(8)) - set(limited(made([*range(8)], [0]), "classification", 1).train.labels.tolist()))
        )
        limited(made([*range(8)], [lost]), "classification", 1)


def test_what_belongs_to_images_goes_with_them():
    answers = np.array([[c, -1] if c else [0, 3] for c in [0, 1, 2, 3] * 5])
    whole = made(
        [0, 1, 2, 3] * 10, [0, 1, 2, 3] * 5, val=np.arange(20, 40), answers=answers, leak="2 images are in both"
    )
    part = limited(whole, "classification", 8)
    assert len(part.train) == 16 and len(part.val) == 8  # 8 to learn from and 8 to choose on
    assert {part.train.ids[i] for i in part.val} <= {f"train/{i}" for i in range(20, 40)}
    rows = [whole.test.ids.index(name) for name in part.test.ids]
    assert (part.answers == answers[rows]).all() and part.leak == "before --limit: 2 images are in both"


def test_corruptions_stay_all_or_are_asked_for():
    ids = [f"{kind}/{level}/{i}.png" for kind in ("fog", "snow") for level in (1, 2) for i in range(3)]
    test = array_split("test", np.zeros((12, 2, 2, 3), np.uint8), ids, np.zeros(12, np.int64))
    whole = dataclasses.replace(made([0, 1] * 9, [0]), test=test, report="mCE")
    part = limited(whole, "classification", 4)
    assert sorted({name.rpartition("/")[0] for name in part.test.ids}) == ["fog/1", "fog/2", "snow/1", "snow/2"]
    with pytest.raises(UserError, match=r"mCE is over 4 corruptions and levels; use --limit 4 or more"):
        limited(whole, "classification", 3)


def test_copies_are_those_of_the_originals_that_stay():
    whole = embedded("copies")
    part = limited(whole, "copies", 5)
    assert part.originals.labels.tolist() == [0, 1, 2, 3, 4] and "(5 original, 5 strong, 5 jpegqual/3)" in part.layout
    for block, of in zip(part.blocks, whole.blocks, strict=True):
        for name, label in zip(block.ids, block.labels, strict=True):
            original = whole.originals.ids[of.labels[of.ids.index(name)]]
            assert part.originals.ids[label] == original
    assert len(set(part.originals.ids)) == 5


def test_images_beside_copies_are_not_read_anew_by_the_protocol(tmp_path):
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    chosen = with_side(embedded("copies"), str(tmp_path), "none")
    part = limited(chosen, "copies", 3)
    assert with_side(part, str(tmp_path), "none") is part and len(part.distractors) == 3
    assert len(with_side(part, "none", "none").originals) == 3


def test_queries_keep_a_positive_as_far_as_the_limit_reaches():
    whole = embedded("landmarks")
    part = limited(whole, "landmarks", 5)
    for query, name in enumerate(part.queries.ids):
        of = whole.truth[whole.queries.ids.index(name)]
        assert (part.boxes[query] == whole.boxes[whole.queries.ids.index(name)]).all()
        positives = np.concatenate([part.truth[query][label] for label in ("easy", "hard")])
        assert len(positives)
        for label in ("easy", "hard", "junk"):
            names = {part.database.ids[i] for i in part.truth[query][label]}
            assert names == {whole.database.ids[i] for i in of[label]} & set(part.database.ids)


def test_labelled_images_keep_two_of_a_class(tmp_path):
    for name in "abcde":
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), (i, ord(name), 0)).save(tmp_path / name / f"{i}.png")
    whole = load_dataset(str(tmp_path), "landmarks")
    part = limited(whole, "landmarks", 6)
    assert sorted(np.bincount(part.images.labels, minlength=5).tolist()) == [0, 0, 2, 2, 2]
    assert retrieval.select_data(part, retrieval.Config()) is part


def test_pairs_of_categories_and_views_of_objects_stay_together():
    pairs = limited(embedded("keypoints"), "keypoints", 11)
    assert len({p.category for p in pairs.pairs}) == 5
    assert [p.category for p in pairs.pairs] == sorted((p.category for p in pairs.pairs), key=[*dict.fromkeys(
        p.category for p in embedded("keypoints").pairs)].index)  # fmt: skip
    assert pairs.load(pairs.pairs[0].source).mode == "RGB" and correspondence.drawn(
        pairs.pairs, correspondence.Config()
    )
    whole = embedded("navi")
    views = limited(whole, "navi", 4)
    assert sorted(np.unique([v.object for v in views.views], return_counts=True)[1].tolist()) == [2, 2]
    row = whole.views.index(views.views[2])
    assert (views.load(2)[1] == whole.load(row)[1]).all()


def test_maps_and_boxes_stay_with_their_images():
    maps = embedded("label_maps")
    part = limited(maps, "label_maps", 3)
    for i, name in enumerate(part.test.ids):
        image, labels = read_pair(part.test, i)
        own, its = read_pair(maps.test, maps.test.ids.index(name))
        assert image.tobytes() == own.tobytes() and (labels == its).all() and part.test.in_memory
    depths = embedded("depth")
    part = limited(depths, "depth", 3)
    row = depths.train.ids.index(part.train.ids[1])
    assert (part.train.depth(1) == depths.train.depth(row)).all()
    assert (part.train.clusters is None) == (depths.train.clusters is None)
    boxes = embedded("boxes")
    part = limited(boxes, "boxes", 3)
    assert all((b == boxes.boxes[boxes.ids.index(i)]).all() for i, b in zip(part.ids, part.boxes, strict=True))
    masks = limited(embedded("masks"), "masks", 3)
    assert len(masks.masks(masks.ids("classes")[0], "classes").masks) and masks.load(masks.ids("instances")[0])


def test_sets_that_are_chosen_later_are_cut_then():
    splits = load_dataset("shapes", "boxes")
    assert len(limited(splits, "boxes", 3).select()) == 3 and len(splits.select()) == 24


def test_a_kind_of_mask_that_is_not_there_still_says_so():
    class Classes:
        name, layout, fingerprint = "voc", "voc", "0"

        def ids(self, kind):
            if kind == "instances":
                raise UserError("no masks of instances")
            return [str(i) for i in range(9)]

    part = limited(Classes(), "masks", 4)
    assert len(part.ids("classes")) == 4
    with pytest.raises(UserError, match="no masks of instances"):
        part.ids("instances")
