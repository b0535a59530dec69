"""Annotation files in COCO's form: every field checked, run lengths as pycocotools', and nothing lost in a join."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as reference

from dinobench.data.coco_json import Polygons, Runs, read_annotations, unpack
from dinobench.errors import UserError

H, W = 20, 30
TRIANGLE = [[2.0, 2, 20, 2, 20, 15]]


def annotation(number: Any = 1, image: Any = 1, segmentation: Any = TRIANGLE, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 3, "iscrowd": 0, "segmentation": segmentation} | changes


def image(number: Any = 1, **changes: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.jpg", "height": H, "width": W} | changes


def read(folder: Path, annotations: Any, images: Any = None, size: tuple[int, int] | None = (H, W)) -> Any:
    file = folder / "instances.json"
    content = {"images": [image(1), image(2)] if images is None else images, "annotations": annotations}
    file.write_text(json.dumps(content))
    return read_annotations(file, lambda name: size)


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)))
def test_run_lengths_are_pycocotools(mask: np.ndarray) -> None:
    packed = reference.encode(np.asfortranarray(mask))
    lengths = unpack(packed["counts"].decode())
    assert lengths is not None and (Runs(lengths).mask(*mask.shape) == mask).all()
    # its own way back from the lengths to the text
    assert reference.frPyObjects({"size": list(mask.shape), "counts": lengths.tolist()}, *mask.shape) == packed


@given(st.lists(st.integers(0, 178_956_970), min_size=1, max_size=20))
def test_compressed_lengths_of_any_size(lengths: list[int]) -> None:
    total = sum(lengths)
    packed = reference.frPyObjects({"size": [total, 1], "counts": lengths}, total, 1)
    assert unpack(packed["counts"].decode()).tolist() == lengths


@given(st.lists(st.floats(0, 20), min_size=6, max_size=20).filter(lambda v: len(v) % 2 == 0))
def test_polygons_are_pycocotools(outline: list[float]) -> None:
    drawn = reference.decode(reference.merge(reference.frPyObjects([outline], H, W)))
    assert (Polygons((np.array(outline),)).mask(H, W) == drawn).all()


def test_ids_types_and_order(tmp_path: Path) -> None:
    found = read(tmp_path, [annotation(7.0, 2.0), annotation(8, 1, iscrowd=False), annotation(9, 2, iscrowd=True)],
                 [image(2), image(1)])  # fmt: skip
    assert [(i.id, [a.id for a in i.instances]) for i in found.images] == [(1, [8]), (2, [7])]
    texts = read(tmp_path, [annotation(7, "b")], [image("b"), image("a")])
    assert [(i.id, len(i.instances)) for i in texts.images] == [("a", 0), ("b", 1)]
    assert not found.notes and not texts.notes


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    found = read(tmp_path, [annotation(1), annotation(2, 99), annotation(3, 98), annotation(4, 2, None)])
    assert [len(i.instances) for i in found.images] == [1, 0]
    assert found.notes == (
        "2 of 4 annotations are left out because they point at images that instances.json does not list, such as "
        "annotation 2 at image 99",
        "1 of 4 annotations are left out because they have no segmentation, such as 4",
    )


def test_sizes_that_the_file_lacks_come_from_the_images(tmp_path: Path) -> None:
    bare = [image(1, height=None, width=None), {"id": 2, "file_name": "b.jpg"}]
    assert [i.size for i in read(tmp_path, [annotation()], bare, (H, W)).images] == [(H, W)] * 2
    (unreadable, _) = read(tmp_path, [annotation()], bare, None).images
    assert unreadable.size is None and len(unreadable.instances) == 1  # it stays, to be counted as broken


RUNS = {"size": [H, W], "counts": [100, 50, H * W - 150]}
HOSTILE: list[tuple[Any, str]] = [
    (annotation(image="1"), "image_id '1' is text, but the ids of images are numbers"),
    (annotation(image=None), "lacks image_id; give a whole number"),
    (annotation(image=1.5), "its image_id is 1.5; give a whole number"),
    (annotation(image=True), "its image_id is True"),
    (annotation(image=[1]), "its image_id is .1.; give"),
    (annotation("x"), "annotation 'x': its id is 'x'"),
    (annotation(None), "annotation at place 2 of the list: it lacks id"),
    (annotation(2**53 + 1), "its id is 9007199254740993"),
    (annotation(5), "annotation 5: its id is there twice"),
    (annotation(category_id="cat"), "its category_id is 'cat'"),
    (annotation(category_id=10**400), "its category_id is 1000000000"),
    (annotation(iscrowd="0"), "its iscrowd is '0'; give 0 or 1"),
    (annotation(iscrowd=2), "its iscrowd is 2"),
    (annotation(iscrowd=float("nan")), "its iscrowd is nan"),
    (annotation(segmentation="x"), "its segmentation is 'x', neither polygons nor runs"),
    (annotation(segmentation=7), "its segmentation is 7"),
    (annotation(segmentation=[[]]), "its polygon has 0 numbers"),
    (annotation(segmentation=[[1, 1, 5, 5]]), "its polygon has 4 numbers"),
    (annotation(segmentation=[*TRIANGLE, [1, 1, 5, 5]]), "its polygon has 4 numbers"),
    (annotation(segmentation=[[1, 1, 5, 5, 9, 1, 4]]), "its polygon has 7 numbers"),
    (annotation(segmentation=[1, 1, 5, 5, 9, 1]), "its polygon is 1, not a list"),
    (annotation(segmentation=[["1", 1, 5, 5, 9, 1]]), "its polygon holds '1'"),
    (annotation(segmentation=[[None, 1, 5, 5, 9, 1]]), "its polygon holds null"),
    (annotation(segmentation=[[True, 1, 5, 5, 9, 1]]), "its polygon holds True"),
    (annotation(segmentation=[[1, float("nan"), 5, 5, 9, 1]]), "its polygon has y = nan"),
    (annotation(segmentation=[[1, 1, float("inf"), 5, 9, 1]]), "its polygon has x = inf, but its image is 30 x 20"),
    (annotation(segmentation=[[1, 1, 10**4000, 5, 9, 1]]), "its polygon has x = 1000000"),
    (annotation(segmentation=[[1, 1, 5, -1e300, 9, 1]]), r"its polygon has y = -1e\+300"),
    (annotation(segmentation=[[60, 1, 65, 5, 63, 1]]), "its polygon has x = 60"),
    (annotation(segmentation=[[31, 1, 35, 5, 33, 1]]), "lies outside its image"),
    (annotation(segmentation=RUNS | {"size": [W, H]}), r"for a size of \[30, 20\], but its image"),
    (annotation(segmentation=RUNS | {"size": None}), "for a size of null"),
    (annotation(segmentation=RUNS | {"size": [10**30, 10**30]}), "for a size of"),
    (annotation(segmentation=RUNS | {"size": ["20", 30]}), "for a size of"),
    (annotation(segmentation=RUNS | {"counts": [100, 50]}), "run lengths sum to 150, but 30 x 20 pixels are 600"),
    (annotation(segmentation=RUNS | {"counts": [700, -100]}), "are no run lengths"),
    (annotation(segmentation=RUNS | {"counts": [2**64, 600]}), "are no run lengths"),
    (annotation(segmentation=RUNS | {"counts": ["600"]}), "are no run lengths"),
    (annotation(segmentation=RUNS | {"counts": None}), "its counts null are no run lengths"),
    (annotation(segmentation={"size": [H, W]}), "its counts null"),
    (annotation(segmentation=RUNS | {"counts": "ooooooooooo1"}), "are no run lengths"),
    (annotation(segmentation=RUNS | {"counts": "o" * 6}), "are no run lengths"),
    (annotation(segmentation=RUNS | {"counts": "é"}), "are no run lengths"),
    (annotation(segmentation=RUNS | {"counts": ""}), "are no run lengths"),
    (annotation(segmentation=RUNS | {"counts": "".join(["oooooN"] * 3)}), "run lengths"),
    ([1], r"entry 2 of annotations is \[1\], not an object"),
]


@pytest.mark.parametrize(("hostile", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_annotations_at_fault_are_named(tmp_path: Path, hostile: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, [annotation(5), hostile])
    assert str(tmp_path / "instances.json") in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([image(1), image(1)], "image 1: its id is there twice"),
        ([image(1), image("a")], "some ids are numbers and some text"),
        ([{"id": 1}], "image 1: it lacks file_name"),
        ([{"file_name": "x.jpg"}], "image at place 1 of the list: it lacks id"),
        ([image(file_name="../x.jpg")], "does not name a file in the folder"),
        ([image(file_name="/etc/passwd")], "does not name a file in the folder"),
        ([image(file_name="a\nb.jpg")], r"'a\\nb.jpg' does not name"),
        ([image(file_name="\ud800.jpg")], "does not name"),
        ([image(file_name=7)], "its file_name is 7"),
        ([image(height=10**9, width=10**9)], "height 1000000000 and width 1000000000 are no size in pixels"),
        ([image(height=-1)], "height -1 and width 30 are no size"),
        ([image(height="20")], "height '20'"),
        ([image(height=0)], "height 0"),
        ([image(width=float("nan"))], "width nan"),
        ({"id": 1}, "it has no list of images"),
        ("x", "it has no list of images"),
    ],
)
def test_images_at_fault_are_named(tmp_path: Path, images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, [annotation()], images)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b"}", b"\x00" * 40,
     b'{"images": [], "annotations": [], "annotations": [1]}'],
)  # fmt: skip
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "instances.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"instances.json: not a COCO annotation file") as caught:
        read_annotations(file, lambda name: None)
    assert "\n" not in str(caught.value)


def test_outlines_are_walked_in_bounded_memory(tmp_path: Path) -> None:
    """pycocotools keeps each fifth of a pixel of the way: 10,000 times across a large image are gigabytes."""
    zigzag = [[0.0, 0.0, 12_000.0, 1.0] * 1000]
    with pytest.raises(UserError, match="the outline of its polygon is longer than 5,000,000 pixels"):
        read(tmp_path, [annotation(segmentation=zigzag)], [image(height=10_000, width=12_000)])
