import pickle

import numpy as np
import pytest
from helpers.depth import make_kitti, make_nyu, picture
from PIL import Image

from dinobench.data import load_dataset
from dinobench.data.depth_maps import depth_png, pair, read_depth, read_pairs
from dinobench.data.embedded import shape_depths
from dinobench.data.layouts.dense import kitti, nyu
from dinobench.errors import BrokenImage, UserError


def test_nyu_pairs_in_millimetres(tmp_path):
    folder = make_nyu(tmp_path)
    data = load_dataset(str(folder), "depth")
    assert (data.layout, len(data.train), len(data.test)) == ("nyu", 5, 3)
    assert data.notes == ("1 lines of nyu_test.txt have no depth (None) and are left out",)
    assert data.convention.high == 10 and data.convention.train_crop == (416, 544) and data.test.clusters is None
    assert list(data.train.ids) == sorted(data.train.ids) and data.train.ids[0] == "kitchen_0000/rgb_00000.jpg"
    image, depth = pair(data.test, 0)
    truth = picture(96, 128, 100)[1]
    assert image.size == (128, 96) and depth.dtype == np.float32
    assert np.abs(depth - truth).max() <= 0.0006 and ((depth == 0) == (truth == 0)).all()
    assert pickle.loads(pickle.dumps(data.train)) == data.train
    assert load_dataset(str(folder), "depth").fingerprint == data.fingerprint
    (folder / "office" / "sync_depth_00001.png").write_bytes(depth_png(truth, 1000))
    assert load_dataset(str(folder), "depth").fingerprint != data.fingerprint


def test_kitti_is_cut_to_the_benchmark_s_frame(tmp_path):
    data = load_dataset(str(make_kitti(tmp_path)), "depth")
    assert (data.layout, data.convention.crop, data.convention.high) == ("kitti", "garg", 80)
    assert data.test.clusters == ("2011_09_26_drive_0000_sync", "2011_09_26_drive_0001_sync")
    image, depth = pair(data.test, 1)
    pixels, truth = picture(375, 1242, 101)
    assert np.array_equal(np.asarray(image), np.asarray(pixels)[23:375, 13:1229])
    assert depth.shape == (352, 1216) and np.abs(depth - truth[23:, 13:1229]).max() <= 0.002


def test_drawn_scenes_have_an_exact_depth():
    data = load_dataset("shapes", "depth")
    assert (len(data.train), len(data.test), data.layout) == (48, 24, "shape-depths")
    assert data.fingerprint == shape_depths.scenes().fingerprint
    image, depth = pair(data.test, 0)
    assert depth.shape == (192, 256) == (image.height, image.width)
    distances = np.unique(depth[depth < 2])  # what stands before the ground, each at one depth
    assert len(distances) == 2 and depth.max() == 8 and (depth > 0.6).all()
    assert set(data.train.ids).isdisjoint(data.test.ids)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("/a/x.jpg\n", "line 1 names '/a/x.jpg' alone"),
        ("\n/a/x.jpg /a/x.png 5\n/a/x.jpg /a/y.png 5\n", "line 3 lists a/x.jpg a second time"),
        ("a.jpg None 5\n", "no pair of an image and its depth"),
        ("", "no pair of an image and its depth"),
    ],
)
def test_lists_at_fault_are_named(tmp_path, content, message):
    (tmp_path / "nyu_test.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / "nyu_test.txt")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lists_in_other_hands_writing(tmp_path, ending):
    lines = ["\ufeffb/1.png b/2.png 721.5", "", "  /a/1.png\t/a/2.png", "c.png None 1"]
    (tmp_path / "list.txt").write_bytes(ending.join(lines).encode())
    assert read_pairs(tmp_path / "list.txt") == ([("a/1.png", "a/2.png"), ("b/1.png", "b/2.png")], 1)


def test_files_at_fault_are_named(tmp_path):
    folder = make_nyu(tmp_path)
    depth = folder / "office" / "sync_depth_00000.png"
    Image.new("L", (128, 96)).save(depth)
    test = nyu.load(folder, "nyu").test
    with pytest.raises(UserError, match=r"sync_depth_00000.png: mode L, not a 16-bit grey PNG"):
        test.depth(0)
    depth.write_bytes(depth_png(np.ones((96, 127)), 1000))
    with pytest.raises(UserError, match=r"rgb_00000.jpg is 127 x 96 pixels, its image 128 x 96"):
        pair(test, 0)
    depth.write_bytes(depth.read_bytes()[:60])
    with pytest.raises(BrokenImage, match=r"sync_depth_00000.png: not a readable depth map"):
        test.depth(0)
    depth.unlink()
    with pytest.raises(UserError, match=r"sync_depth_00000.png: missing, though a list names it"):
        nyu.load(folder, "nyu")
    small = make_kitti(tmp_path, size=(100, 400))
    with pytest.raises(UserError, match="400 x 100 pixels, smaller than the 1216 x 352"):
        kitti.load(small, "kitti").train.load(0)


def test_depth_files_keep_what_16_bits_can(tmp_path):
    depth = np.array([[0, 0.001, 9.9994, 80.0]])
    (tmp_path / "d.png").write_bytes(depth_png(depth, 1000))
    assert read_depth(tmp_path / "d.png", 1000).tolist() == np.float32([[0, 0.001, 9.999, 65.535]]).tolist()
