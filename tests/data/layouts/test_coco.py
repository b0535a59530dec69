from __future__ import annotations

import json
import random

import pytest
from helpers.coco import make_coco
from helpers.mutants import damaged, mutated
from PIL import Image
from pycocotools.coco import COCO

from dinobench.data.layouts import coco
from dinobench.errors import UserError


def test_coco_leaves_crowds_out(tmp_path, capsys):
    data = coco.load(make_coco(tmp_path), "coco")
    assert list(data.ids("instances")) == ["000001"]  # the other image has a crowd only
    objects, classes = data.masks("000001", "instances"), data.masks("000001", "classes")
    assert objects.ids == (7, 8) and classes.ids == (3,)
    assert objects.masks.shape == (2, 20, 30) and objects.masks[0].sum() == 16
    assert (classes.masks[0] == objects.masks.any(0)).all()
    assert capsys.readouterr().out == ""  # pycocotools talks on stdout, which is for results


def test_coco_faults_are_named(tmp_path):
    make_coco(tmp_path)
    (tmp_path / "val2017" / "000001.jpg").unlink()
    with pytest.raises(UserError, match=r"000001.jpg: missing"):
        coco.load(tmp_path, "coco")
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(UserError, match=r"instances_val2017.json: not a COCO annotation file"):
        coco.load(tmp_path, "coco")


def test_files_that_differ_in_their_ending_alone_are_both_there(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["images"][1]["file_name"] = "000001.png"
    content["annotations"].append({**content["annotations"][1], "id": 11, "image_id": 2})
    file.write_text(json.dumps(content))
    Image.new("RGB", (30, 20), "red").save(tmp_path / "val2017" / "000001.png")
    data = coco.load(tmp_path, "coco")
    assert list(data.ids("instances")) == ["000001.jpg", "000001.png"]
    assert data.load("000001.png").getpixel((0, 0)) == (255, 0, 0)
    assert [data.masks(i, "instances").ids for i in data.ids("instances")] == [(7, 8), (11,)]
    content["images"][1]["file_name"] = "000001.jpg"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"000001.jpg is the file of 2 images"):
        coco.load(tmp_path, "coco")


def test_images_without_objects_are_counted(tmp_path):
    assert coco.load(make_coco(tmp_path), "coco").notes == (
        "1 of 2 images are left out because no object is marked in them, such as 000002.jpg",
    )


def test_an_image_of_another_size_than_stated_is_refused_before_its_masks(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace('"height": 20, "width": 30', '"height": 9999, "width": 9999'))
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][1:2]
    file.write_text(json.dumps(content))
    data = coco.load(tmp_path, "coco")
    with pytest.raises(UserError, match=r"000001.jpg: 30 x 20 pixels, but .* says 9999 x 9999"):
        data.load("000001")


def test_more_masks_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("dinobench.data.masks.MAX_MASK_PIXELS", 1000)
    data = coco.load(make_coco(tmp_path), "coco")
    assert data.masks("000001", "classes").masks.shape == (1, 20, 30)
    with pytest.raises(UserError, match=r"000001.jpg: 2 masks of 30 x 20 pixels are 1,200 pixels, above the limit"):
        data.masks("000001", "instances")


def reference_masks(content, sizes):
    """pycocotools' masks by annotation id of everything that is no crowd; `sizes` (height, width) by image id."""
    index = COCO()
    index.imgs = {image: {"height": height, "width": width} for image, (height, width) in sizes.items()}
    return {
        a["id"]: index.annToMask(a)
        for a in content["annotations"]
        if a["image_id"] in sizes and not a.get("iscrowd") and a.get("segmentation")
    }


def test_masks_are_pycocotools(shared_data):
    data = coco.load(shared_data / "coco", "coco")
    content = json.loads((shared_data / "coco" / coco.ANNOTATIONS).read_bytes())
    expected = reference_masks(content, {image.id: image.size for image in data.images.values()})
    found = [data.masks(image, "instances") for image in data.ids("instances")]
    assert sum(len(masks.ids) for masks in found) == len(expected)
    for masks in found:
        for number, mask in zip(masks.ids, masks.masks, strict=True):
            assert (mask == expected[number]).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_damaged_annotation_files(tmp_path, seed):
    """Each is refused in one line, or every annotation is a mask, a crowd or counted; pycocotools would crash."""
    make_coco(tmp_path)
    file = tmp_path / coco.ANNOTATIONS
    content = json.loads(file.read_text())
    rng = random.Random(seed)
    read = 0
    for _ in range(250):
        if rng.random() < 0.25:
            file.write_bytes(damaged(json.dumps(content).encode(), rng))
        else:
            file.write_text(json.dumps(mutated(content, rng, rng.choice((1, 1, 1, 2, 4)))))
        try:
            data = coco.load(tmp_path, "coco")
            for image in data.ids("instances"):
                data.load(image)
                data.masks(image, "classes")
            masks = {image: data.masks(image, "instances") for image in data.ids("instances")}
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error) and len(str(error)) < 700
            continue
        read += 1
        now = json.loads(file.read_bytes())
        listed = {image["id"] for image in now["images"]}
        crowds = sum(bool(a.get("iscrowd")) and a["image_id"] in listed for a in now["annotations"])
        counted = sum(int(note.split(" of ")[0]) for note in data.notes if "annotations are left out" in note)
        assert sum(len(m.ids) for m in masks.values()) + crowds + counted == len(now["annotations"])
        expected = reference_masks(now, {image.id: image.size for image in data.images.values()})
        for found in masks.values():
            for number, mask in zip(found.ids, found.masks, strict=True):
                assert mask.shape == (20, 30) and (mask == expected[number]).all()
    assert 20 < read < 200
