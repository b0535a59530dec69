from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from helpers.fakes import FakeBackbone, FakeSplit
from helpers.paths import TESTS
from helpers.requests import ALL, CLS, SMALL, Stop, expected, stop_after

from dinobench.context import LocalContext
from dinobench.data.transforms import ImageTransform
from dinobench.errors import UnsupportedCapability, UserError
from dinobench.features import entries
from dinobench.features.service import FeatureService
from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD, ModelInput
from dinobench.models.loading import load_backbone
from dinobench.types import FeatureRequest


def test_features_are_in_the_order_of_the_split_and_memory_mapped(service):
    split = FakeSplit(10)
    found = service().get(FakeBackbone(), split, CLS)
    np.testing.assert_allclose(found.cls[:, 0], expected(split), atol=1e-5)
    assert found.cls.shape == (10, 1, 3) and found.cls.dtype == np.float32
    assert isinstance(found.cls, np.memmap) and not found.cls.flags.writeable
    assert found.mean_patches is None and found.kept.tolist() == list(range(10)) and found.broken == ()


def test_a_hit_needs_neither_images_nor_forward(service):
    backbone, split = FakeBackbone(), FakeSplit(10)
    first = service().get(backbone, split, CLS)
    assert backbone.images == 10 and sum(split.loads.values()) == 10
    second = service().get(backbone, split, CLS)
    assert backbone.images == 10 and sum(split.loads.values()) == 10
    np.testing.assert_array_equal(first.cls, second.cls)


def test_everything_that_decides_the_numbers_is_in_the_key(service, cpu, monkeypatch):
    backbone, split = FakeBackbone(), FakeSplit(10)
    half = dataclasses.replace(cpu, precision="bf16")
    others = [
        (service(), backbone, split, CLS),
        *(
            (service(), FakeBackbone(**info), split, CLS)
            for info in ({"weights_digest": "1"}, {"arch": "x"}, {"heads": 3}, {"missing": ("norm",)}, {"depth": 9})
        ),
        (service(), backbone, FakeSplit(10, seed=1), CLS),
        (service(), backbone, split, FeatureRequest(SMALL, layers=2)),
        (service(), backbone, split, FeatureRequest(SMALL, mean_patches=True)),
        *(
            (service(), backbone, split, FeatureRequest(dataclasses.replace(SMALL, **change)))
            for change in ({"crop": 6}, {"resize": 9}, {"interpolation": "bilinear"}, {"std": (1.0, 1.0, 1.0)})
        ),
        (FeatureService(half, service().root), backbone, split, CLS),
    ]
    keys = [s.entry(b, images, request).key for s, b, images, request in others]
    assert len(set(keys)) == len(keys)
    for where, value in ((torch, "0.0"), (PIL, "0.0")):
        with monkeypatch.context() as patch:
            patch.setattr(where, "__version__", value)
            assert service().entry(backbone, split, CLS).key not in keys
    monkeypatch.setattr(entries, "VERSION", 0)
    assert service().entry(backbone, split, CLS).key not in keys


def test_the_models_input_and_feature_are_in_the_key_where_they_are_not_the_usual(service):
    split, half = FakeSplit(10), ModelInput((0.5,) * 3, (0.5,) * 3, "a test")
    usual, own = FakeBackbone(), FakeBackbone(input=half)
    by_hand = dataclasses.replace(CLS, transform=dataclasses.replace(SMALL, mean=half.mean, std=half.std))
    imagenet = dataclasses.replace(CLS, transform=dataclasses.replace(SMALL, mean=IMAGENET_MEAN, std=IMAGENET_STD))

    def key(backbone, request=CLS):
        return service().entry(backbone, split, request).key

    assert key(usual) == key(FakeBackbone(input=ModelInput(origin="known"))) == key(usual, imagenet)
    assert key(own) == key(usual, by_hand) == key(own, by_hand) != key(usual)
    assert key(own, imagenet) == key(usual)  # what is set by hand decides
    assert key(FakeBackbone(pool="mean")) not in (key(usual), key(own))


def test_models_of_different_input_share_the_decoded_images(service):
    half = ModelInput((0.5,) * 3, (0.5,) * 3, "a test")
    usual, own, split = FakeBackbone(name="a"), FakeBackbone(name="b", input=half), FakeSplit(10)
    both = service()
    both.prepare([(usual, split, CLS), (own, split, CLS), (own, split, ALL)])
    assert set(split.loads.values()) == {1} and usual.images == own.images == 10
    colors = both.get(own, split, CLS).cls[:, 0] * 0.5 + 0.5
    np.testing.assert_allclose(colors, split.colors / 255, atol=1e-5)
    np.testing.assert_allclose(both.get(usual, split, CLS).cls[:, 0], expected(split), atol=1e-5)
    np.testing.assert_array_equal(LocalContext().features(own, split, CLS).cls, both.get(own, split, CLS).cls)


def test_what_decides_nothing_is_not_in_the_key(service):
    split = FakeSplit(10)
    first = service().entry(FakeBackbone(), split, CLS).key
    renamed = FakeBackbone(
        name="other", path="/elsewhere.pth", sha256="1", format="safetensors", method="dino", epoch=3
    )
    assert service(batch_size=3, workers=1).entry(renamed, split, CLS).key == first


def test_layers_and_mean_patches_are_the_backbones_own_oldest_first(service):
    backbone = load_backbone("random:vit_tiny_patch16_224")
    split, transform = FakeSplit(5), ImageTransform(resize=32, crop=32)
    found = service().get(backbone, split, FeatureRequest(transform, layers=3, mean_patches=True))
    with torch.inference_mode():
        x = transform.normalise(torch.from_numpy(np.stack([transform(split.load(i)) for i in range(5)])))
        blocks = backbone.layers(x, 3)
        last = backbone.features(x)
    assert found.mean_patches is not None and found.cls.shape == found.mean_patches.shape == (5, 3, 192)
    for i, (cls, patches) in enumerate(blocks):
        np.testing.assert_allclose(found.cls[:, i], cls, atol=1e-5)
        np.testing.assert_allclose(found.mean_patches[:, i], patches.mean(1), atol=1e-5)
    np.testing.assert_allclose(found.cls[:, -1], last, atol=1e-5)


def test_one_pass_over_the_images_serves_all_backbones_and_requests(service):
    a, b, split = FakeBackbone(name="a"), FakeBackbone(name="b", weights_digest="b"), FakeSplit(10)
    both = service()
    both.prepare([(a, split, CLS), (b, split, CLS), (a, split, ALL), (b, split, ALL), (a, split, CLS)])
    assert set(split.loads.values()) == {1} and len(split.loads) == 10
    assert a.images == b.images == 10  # one forward pass serves all requests of a backbone
    alone = service(batch_size=3)
    alone.root = alone.root.parent / "alone"
    for backbone in (a, b):
        for request in (CLS, ALL):
            np.testing.assert_allclose(
                both.get(backbone, split, request).cls, alone.get(backbone, split, request).cls, atol=1e-6
            )


def test_other_transforms_and_images_take_passes_of_their_own(service):
    backbone, split, other = FakeBackbone(), FakeSplit(10), FakeSplit(10, seed=1)
    wide = FeatureRequest(ImageTransform(resize=16, crop=16))
    service().prepare([(backbone, split, CLS), (backbone, other, CLS), (backbone, split, wide)])
    assert set(split.loads.values()) == {2} and set(other.loads.values()) == {1}


@pytest.mark.parametrize("images", [0, 3, 8, 17])
def test_an_interrupted_extraction_goes_on_where_it_stopped(service, capsys, images):
    split = FakeSplit(20)
    with pytest.raises(Stop):
        service().get(FakeBackbone(stop_after(images)), split, CLS)
    done = images // 4 * 4
    backbone = FakeBackbone()
    split.loads.clear()
    found = service().get(backbone, split, CLS)
    assert backbone.images == 20 - done and sorted(split.loads) == list(range(done, 20))
    whole = service()
    whole.root = whole.root.parent / "whole"
    assert found.cls.tobytes() == whole.get(FakeBackbone(), split, CLS).cls.tobytes()
    assert (f"{done} of 20 images were done before" in capsys.readouterr().err) == (done > 0)


CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from helpers.fakes import FakeBackbone, FakeSplit
    from dinobench import runtime
    from dinobench.features import service as features
    from dinobench.data.transforms import ImageTransform
    from dinobench.types import FeatureRequest

    features.FLUSH_SECONDS = 0.0
    seconds = float(sys.argv[2])

    def before(x):
        print("forward", len(x), flush=True)
        time.sleep(seconds)

    service = features.FeatureService(runtime.start("cpu"), Path(sys.argv[1]), batch_size=4, workers=1)
    backbone = FakeBackbone(before)
    print("ready", flush=True)
    found = service.get(backbone, FakeSplit(40), FeatureRequest(ImageTransform(resize=8, crop=8)))
    print("images", backbone.images, found.cls.sum(), flush=True)
"""


def child(root: Path, seconds: float) -> subprocess.Popen[str]:
    code = textwrap.dedent(CHILD).format(tests=str(TESTS))
    command = [sys.executable, "-c", code, str(root), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_process_loses_only_what_it_was_at(service, tmp_path):
    split, whole = FakeSplit(40), FakeBackbone()
    process = child(tmp_path / "features", 0.2)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("forward"):
            whole.images += 1
        if whole.images == 5:  # four batches are done, the fifth is under way
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    entry = service().entry(FakeBackbone(), split, CLS)
    assert not entry.complete()
    backbone = FakeBackbone()
    found = service().get(backbone, split, CLS)
    assert backbone.images == 40 - 16
    np.testing.assert_allclose(found.cls[:, 0], expected(split), atol=1e-5)


@pytest.mark.slow
def test_two_processes_that_want_the_same_extract_it_once(tmp_path):
    children = [child(tmp_path / "features", 0.3) for _ in range(2)]
    said = [c.communicate(timeout=120) for c in children]
    assert [c.returncode for c in children] == [0, 0], said
    last = [out.splitlines()[-1].split() for out, _ in said]
    assert sorted(int(images) for _, images, _ in last) == [0, 40]
    assert last[0][2] == last[1][2]


def test_broken_images_stop_the_run_all_named(service):
    split = FakeSplit(20, broken=(2, 3, 5, 7, 11, 13, 17))
    with pytest.raises(UserError) as caught:
        service().get(FakeBackbone(), split, CLS)
    assert "7 of 20 images of test cannot be read" in str(caught.value)
    assert ": images/2.png, images/3.png, images/5.png, images/7.png, images/11.png (broken) and 2" in str(caught.value)
    assert "--skip-broken" in str(caught.value)


def test_broken_images_are_left_out_and_counted_when_asked(service):
    split = FakeSplit(20, broken=(2, 13))
    skipping = service(skip_broken=True)
    found = skipping.get(FakeBackbone(), split, CLS)
    kept = [i for i in range(20) if i not in split.broken]
    assert found.kept.tolist() == kept and found.broken == ("images/2.png", "images/13.png")
    np.testing.assert_allclose(found.cls[:, 0], expected(split)[kept], atol=1e-5)
    with pytest.raises(UserError, match="2 of 20"):  # what was skipped once is not forgotten
        service().get(FakeBackbone(), split, CLS)


def test_images_that_were_out_of_reach_are_tried_again(service):
    split = FakeSplit(20, broken=(2, 13))
    service(skip_broken=True).get(FakeBackbone(), split, CLS)
    split.broken = ()
    backbone = FakeBackbone()
    found = service().get(backbone, split, CLS)
    assert backbone.images == 2 and len(found.kept) == 20
    np.testing.assert_allclose(found.cls[:, 0], expected(split), atol=1e-5)


def test_a_split_without_one_readable_image_is_refused(service):
    with pytest.raises(UserError, match="none of the 3 images of test can be read"):
        service(skip_broken=True).get(FakeBackbone(), FakeSplit(3, broken=(0, 1, 2)), CLS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20, 1e-14])
@pytest.mark.parametrize("where", ["cls", "patches"])
def test_features_that_overflow_or_vanish_are_named(service, where, value):
    class Bad(FakeBackbone):
        def layers(self, x, n=1):
            blocks = super().layers(x, n)
            for cls, patches in blocks:
                (cls if where == "cls" else patches)[1] = value
            return blocks

    with pytest.raises(UserError, match=r"fake: features of 5 images are not finite, or .*: images/1\.png, images/5"):
        service().get(Bad(), FakeSplit(20), ALL)
    assert service().get(FakeBackbone(), FakeSplit(20), ALL).kept.tolist() == list(range(20))


@pytest.mark.parametrize(("rows", "images"), [([1], ("images/1.png", "images/5.png")), (slice(None), None)])
def test_an_image_of_which_a_relu_leaves_nothing_is_kept_and_named_unless_all_are_such(service, rows, images):
    class Dead(FakeBackbone):
        def features(self, x):
            found = super().features(x)
            found[rows] = 0.0
            return found

    for _ in range(2):  # as extracted, and as remembered
        if images is None:
            with pytest.raises(UserError, match="fake: features of 8 images are not finite, or"):
                service().get(Dead(), FakeSplit(8), CLS)
        else:
            found = service().get(Dead(), FakeSplit(8), CLS)
            assert found.zeros == images and found.kept.tolist() == list(range(8)) and not found.cls[[1, 5]].any()


def test_what_a_backbone_lacks_is_said(service):
    backbone = FakeBackbone(arch="resnet50")
    backbone.capabilities = frozenset({"features"})
    with pytest.raises(UnsupportedCapability, match=r"fake \(resnet50\) has no features of several blocks"):
        service().get(backbone, FakeSplit(3), FeatureRequest(SMALL, layers=2))
    with pytest.raises(UnsupportedCapability, match="no patch tokens"):
        service().get(backbone, FakeSplit(3), FeatureRequest(SMALL, mean_patches=True))


TWO, FOUR = (FeatureRequest(SMALL, layers=n) for n in (2, 4))


@pytest.mark.parametrize("narrow", [CLS, TWO, FeatureRequest(SMALL, mean_patches=True), ALL])
@pytest.mark.parametrize("broken", [(), (2, 13)])
def test_what_an_entry_with_more_blocks_holds_is_not_computed_again(service, narrow, broken):
    split, backbone = FakeSplit(20, broken=broken), FakeBackbone(depth=4)
    fresh = service(skip_broken=True)
    fresh.root = fresh.root.parent / "fresh"
    want = fresh.get(FakeBackbone(depth=4), split, narrow)
    wide = FeatureRequest(SMALL, layers=4, mean_patches=narrow.mean_patches)
    service(skip_broken=True).get(backbone, split, wide)
    backbone.images = 0
    found = service(skip_broken=True).get(backbone, split, narrow)
    assert backbone.images == 0 and found.kept.tolist() == want.kept.tolist() and found.broken == want.broken
    assert found.cls.tobytes() == want.cls.tobytes()
    assert (found.mean_patches is None) == (want.mean_patches is None)
    if want.mean_patches is not None:
        assert found.mean_patches.tobytes() == want.mean_patches.tobytes()
    split.broken = ()
    again = service().get(backbone, split, narrow)  # an entry like any other: what was broken is tried again
    assert backbone.images == len(broken) and len(again.kept) == 20


def test_a_part_of_a_wider_entry_is_taken_as_far_as_it_goes(service):
    split, backbone = FakeSplit(20), FakeBackbone(depth=4)
    with pytest.raises(Stop):
        service().get(FakeBackbone(stop_after(8), depth=4), split, FOUR)
    found = service().get(backbone, split, CLS)
    assert backbone.images == 12
    np.testing.assert_allclose(found.cls[:, 0], expected(split), atol=1e-5)


def test_patches_are_not_looked_for_where_there_are_none(service):
    split, backbone = FakeSplit(20), FakeBackbone(depth=4)
    service().get(backbone, split, FOUR)
    service().get(backbone, split, FeatureRequest(SMALL, mean_patches=True))
    assert backbone.images == 40


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "foreign"])
def test_of_a_damaged_wider_entry_nothing_is_taken(service, damage):
    split, backbone = FakeSplit(20), FakeBackbone(depth=4)
    service().get(backbone, split, FOUR)
    file = service().entry(backbone, split, FOUR).folder / "cls.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x40
    if damage == "gone":
        file.unlink()
    elif damage == "foreign":
        (file.parent / "complete.json").unlink()
        np.save(file, np.zeros((20, 2, 3), np.float32))
    else:
        file.write_bytes(content if damage == "flipped" else content[:-7])
    backbone.images = 0
    found = service().get(backbone, split, CLS)
    assert backbone.images == 20
    np.testing.assert_allclose(found.cls[:, 0], expected(split), atol=1e-5)


def test_features_are_the_last_of_several_blocks_bit_for_bit(service):
    """Or else an entry taken from a wider one would hold other numbers than one of its own."""
    backbone = load_backbone("random:vit_tiny_patch16_224")
    split, transform = FakeSplit(6), ImageTransform(resize=32, crop=32)
    narrow, wide = (FeatureRequest(transform, layers=n) for n in (1, 4))
    own = service().get(backbone, split, narrow).cls.tobytes()
    other = service()
    other.root = other.root.parent / "other"
    other.get(backbone, split, wide)
    backbone.features = lambda x: pytest.fail("computed again")
    assert other.get(backbone, split, narrow).cls.tobytes() == own
