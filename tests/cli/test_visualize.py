"""`dinobench visualize` as typed."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from helpers.typed import assert_one_line
from PIL import Image

from dinobench.data import load_dataset
from dinobench.data.depth_maps import depth_png, png_name
from dinobench.data.video import label_png

TINY = "random:vit_tiny_patch16_224"


def test_attention_of_an_image_is_drawn(command, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    code, _, err = command("visualize", "attention", "image.png", "--ckpt", TINY, "--size", 32, "-o", "heads.png")
    assert code == 0 and "written: heads.png" in err
    assert Image.open(tmp_path / "heads.png").format == "PNG"
    (tmp_path / "text.png").write_text("no image")
    assert_one_line(
        *command("visualize", "attention", "text.png", "--ckpt", TINY, "-o", "heads.png"), "cannot be read as an image"
    )


def test_masks_carried_through_a_video_are_a_gif(command, tmp_path):
    small = ("--set", "short_side=64", "--set", "multiple=32")
    code, _, err = command("visualize", "davis", "--video", "shapes-0", "--ckpt", TINY, *small, "-o", "video.gif")
    assert code == 0, err
    with Image.open(tmp_path / "video.gif") as gif:
        assert gif.n_frames > 1
    assert_one_line(
        *command("visualize", "davis", "--video", "shapes-0", "--ckpt", "pixels", "-o", "video.gif"), "has no patches"
    )


@pytest.fixture
def history(tmp_path):
    """Two epochs of a training, as in metrics.jsonl."""
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"epoch": e, "teacher_entropy": 1.0 / e, "kl": 0.1}) + "\n" for e in (1, 2))
    )
    return "a.jsonl"


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_the_ending_of_a_figure_decides_its_format(command, tmp_path, history, ending, start):
    Image.new("RGB", (40, 50)).save(tmp_path / "image.png")
    for words in (("collapse", history), ("attention", "image.png", "--ckpt", TINY, "--size", 32)):
        code, _, err = command("visualize", *words, "-o", f"new/{words[0]}.{ending}")
        assert code == 0, err
        assert (tmp_path / "new" / f"{words[0]}.{ending}").read_bytes().startswith(start)


def test_a_video_can_be_an_mp4(command, tmp_path):
    small = ("--set", "short_side=64", "--set", "multiple=32")
    code, _, err = command("visualize", "davis", "--video", "shapes-0", "--ckpt", TINY, *small, "-o", "video.mp4")
    assert code == 0, err
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"


#: A name that cannot be written -> what is said of it.
UNWRITABLE = {
    "heads": "its ending decides the format; end it in ",
    "heads.jpg": "its ending decides the format; end it in ",
    "folder.{}": "folder.{}: cannot be written: a folder",
    "pipe.{}": "pipe.{}: cannot be written: not a regular file",
    "file/heads.{}": "cannot be written: ",
    "n" * 300 + ".{}": "cannot be written: File name too long",
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_name_that_cannot_be_written_is_refused_before_anything_is_computed(command, tmp_path, name):
    (tmp_path / "file").write_text("")
    for ending in ("png", "gif"):
        (tmp_path / f"folder.{ending}").mkdir()
        os.mkfifo(tmp_path / f"pipe.{ending}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dinobench.models.loading.load_backbone", lambda *a, **k: pytest.fail("computed"))
        patch.setattr("dinobench.pretrain.history.named_history", lambda *a: pytest.fail("computed"))
        for ending, words in (
            ("png", ("attention", "none.png", "--ckpt", TINY)),
            ("gif", ("davis", "--video", "shapes-0", "--ckpt", TINY)),
            ("png", ("collapse", "none.jsonl")),
        ):
            said = UNWRITABLE[name].format(ending)
            assert_one_line(*command("visualize", *words, "-o", name.format(ending)), said)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_trainings_of_one_name_are_not_drawn_as_one(command, tmp_path, history):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.jsonl").write_bytes((tmp_path / history).read_bytes())
    runs = (history, "b/a.jsonl")
    assert_one_line(*command("visualize", "collapse", *runs, "-o", "c.png"), "b/a.jsonl: another run is called a too")
    code, _, err = command("visualize", "collapse", history, "$\\x{=b/a.jsonl", "-o", "c.png")
    assert code == 0, err


@pytest.mark.parametrize("fps", ["nan", "inf", "0", "1e9"])
def test_a_rate_that_no_video_can_have_is_refused(command, fps):
    code, out, err = command("visualize", "davis", "--video", "shapes-0", "--ckpt", TINY, "-o", "a.mp4", "--fps", fps)
    assert code == 2 and out == "" and err.count("\n") == 1


def test_boxes_over_their_images(command, tmp_path):
    data = load_dataset("shapes", "boxes").select()
    for run in ("lost", "$cut$"):
        (tmp_path / run).mkdir()
        content = {name: boxes[0].tolist() for name, boxes in zip(data.ids[:6], data.boxes, strict=False)}
        (tmp_path / run / "boxes.json").write_text(json.dumps(content))
    line = ["visualize", "discovery", "lost", "$cut$/boxes.json", "--data", "shapes", "-o", "o.png"]
    code, _, err = command(*line)
    assert code == 0 and "written: o.png" in err, err
    assert Image.open(tmp_path / "o.png").width > 500
    assert_one_line(*command(*line, "--images", "nobody"), "unknown image of shapes with boxes 'nobody'")
    assert_one_line(*command(*line, "--split", "train"), "unknown split of shapes 'train'")
    assert_one_line(
        *command(*line[:3], "lost/boxes.json", *line[4:]), "two of the runs lie in folders of one name (lost)"
    )
    for content, words in (("[]", "not readable as boxes"), ('{"a": [1, 2]}', "is not [x1, y1"), ("{}", "has no box")):
        (tmp_path / "lost" / "boxes.json").write_text(content)
        assert_one_line(*command(*line), words)


def test_label_maps_over_their_images(command, tmp_path):
    split = load_dataset("shapes", "label_maps").test
    folder = tmp_path / "maps"
    folder.mkdir()
    for index in range(2):
        path = folder / f"{split.ids[index]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(label_png(split.labels(index)))
    chosen = f"{split.ids[0]},{split.ids[1]}"
    line = ["visualize", "segmentation", folder, "--data", "shapes", "--output", tmp_path / "o.png", "--images"]
    code, _, err = command(*line, chosen)
    assert code == 0, err
    assert Image.open(tmp_path / "o.png").width > 500
    assert_one_line(*command(*line, "nobody"), "unknown image of shapes 'nobody'")
    assert_one_line(*command(*line, split.ids[2]), f"{split.ids[2]}.png: no such mask")
    (folder / f"{split.ids[0]}.png").write_bytes(label_png(np.zeros((3, 4), np.uint8)))
    assert_one_line(*command(*line, chosen), "4 x 3 pixels")
    (folder / f"{split.ids[0]}.png").write_bytes(label_png(np.full(split.labels(0).shape, 9, np.uint8)))
    assert_one_line(*command(*line, chosen), "holds class 9")


def test_depth_beside_its_images(command, tmp_path):
    split = load_dataset("shapes", "depth").test
    folder = tmp_path / "mine"
    for index in range(2):
        path = folder / png_name(split.ids[index])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(depth_png(split.depth(index), 1000))
    line = ["visualize", "depth", folder, "--data", "shapes", "--output", tmp_path / "o.png", "--images"]
    code, _, err = command(*line, f"{split.ids[0]},{split.ids[1]}")
    assert code == 0, err
    assert Image.open(tmp_path / "o.png").width > 500
    assert_one_line(*command(*line, "nobody"), "unknown image of shapes 'nobody'")
    assert_one_line(*command(*line, split.ids[2]), f"{split.ids[2]}.png: not a readable depth map")
    (folder / png_name(split.ids[0])).write_bytes(depth_png(np.ones((3, 4)), 1000))
    assert_one_line(*command(*line, split.ids[0]), "4 x 3 pixels")


def test_features_of_several_images_on_one_basis(command, tmp_path):
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50 + 20 * i, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    line = ["visualize", "features", "0.png", "1.png", "--size", 64, "--ckpt", TINY, "-o", "o.svg"]
    code, _, err = command(*line, "--ckpt", "plain=pixels:16", "--foreground", "above")
    assert code == 0 and "written: o.svg" in err, err
    assert (tmp_path / "o.svg").read_bytes().startswith(b"<?xml")
    assert_one_line(*command(*line, "--foreground", "front"), "--foreground front: give all, above, below")
    assert_one_line(*command(*line, "--ckpt", TINY), "another model is called random_vit_tiny_patch16_224 too")
    assert_one_line(*command(*line, "--foreground", "above", "--threshold", 99), "0 patches of 192 channels are left")
    (tmp_path / "0.png").write_text("no image")
    assert_one_line(*command(*line), "0.png: cannot be read as an image")
