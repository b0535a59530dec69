from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers.correspondence import small_navi
from PIL import Image

from dinobench.data import load_dataset
from dinobench.data.pairs import navi
from dinobench.errors import BrokenImage, UserError


def annotations(root):
    return root / "object_0" / "wild_set" / "annotations.json"


def test_a_folder_as_probe3d_prepares_it(tmp_path):
    root = small_navi(tmp_path, prefix="downsampled_")
    assert navi.recognises(root) and not navi.recognises(root / "object_0")
    data = load_dataset(f"mine={root}", "navi")
    assert (data.name, data.layout, len(data.views), data.notes) == ("mine", "navi", 8, ())
    view = data.views[1]
    assert (view.id, view.object, view.focal, view.shorter) == ("object_0/001", "object_0", 400.0, 160)
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    np.testing.assert_allclose(view.pose, [[c, -s, 0, 0.01], [s, c, 0, 0.02], [0, 0, 1, 0.5], [0, 0, 0, 1]], atol=1e-9)
    image, depth = data.load(1)
    assert image.size == (48, 40) and depth.shape == (40, 48) and (depth > 0).sum() == 24 * 21
    np.testing.assert_allclose(depth[depth > 0], 0.501, atol=1e-3)


def test_photos_as_distributed_are_made_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(navi, "SHORTER", 20)
    data = navi.load(small_navi(tmp_path), "a")
    image, depth = data.load(0)
    assert image.size == (24, 20) and depth.shape == (20, 24)
    assert set(np.unique(depth)) == {0, depth.max()}  # nearest: nothing between
    assert "photos resized on reading" in data.notes[0]


def test_objects_without_other_photos_are_left_out(tmp_path):
    root = small_navi(tmp_path, prefix="downsampled_")
    shutil.rmtree(root / "object_1" / "multiview_00_x")
    data = navi.load(root, "a")
    assert len(data.views) == 4
    assert data.notes == ("1 objects without a multiview_* folder are left out, such as object_1",)
    shutil.rmtree(root / "object_0" / "multiview_00_x")
    with pytest.raises(UserError, match="no object has both"):
        navi.load(root, "a")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("camera", "q"), [1, 0, 0], "no camera with q"),
        (("camera", "q"), [0, 0, 0, 0], "no camera with q"),
        (("camera", "t"), [1, 0, None], "no camera with q"),
        (("camera",), 3, "no camera with q"),
        (("camera", "focal_length"), 0, "no focal_length"),
        (("image_size",), [0, 4], "no focal_length and image_size"),
        (("filename",), "../000.jpg", "annotation 0 has no filename"),
        (("filename",), "001.jpg", "001.jpg is annotated twice"),
        (("filename",), "009.jpg", "missing, though"),
    ],
)
def test_faults_are_named(tmp_path, path, value, words):
    root = small_navi(tmp_path)
    entries = json.loads(annotations(root).read_text())
    place = entries[0]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    annotations(root).write_text(json.dumps(entries))
    with pytest.raises(UserError, match=words) as caught:
        navi.load(root, "a")
    assert str(annotations(root)) in str(caught.value)


def test_files_at_fault_are_named(tmp_path):
    root = small_navi(tmp_path, prefix="downsampled_")
    data = navi.load(root, "a")
    depth, photo = (
        root / "object_0" / "wild_set" / f for f in ("depth/downsampled_000.png", "images/downsampled_000.jpg")
    )
    sound = depth.read_bytes()
    for image, error, words in (
        (Image.new("I;16", (9, 9)), UserError, "9 x 9 pixels, its photo 48 x 40"),
        (Image.new("RGB", (48, 40)), UserError, "not 16-bit disparity"),
        (Image.new("I;16", (48, 40)), BrokenImage, "no depth in it"),
    ):
        image.save(depth)
        with pytest.raises(error, match=words):
            data.load(0)
    depth.write_bytes(sound)
    photo.write_bytes(b"")
    with pytest.raises(BrokenImage, match="not a readable image"):
        data.load(0)
    annotations(root).write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        navi.load(root, "a")
