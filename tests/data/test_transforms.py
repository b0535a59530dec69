"""Transforms give the same bits as torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode

from dinobench.data.transforms import INTERPOLATIONS, ImageTransform, resized_size
from dinobench.errors import UserError
from dinobench.hashing import digest
from dinobench.inputs import IMAGENET_MEAN, IMAGENET_STD


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def theirs(transform: ImageTransform, image: Image.Image) -> torch.Tensor:
    steps: list[object] = []
    if transform.resize is not None:
        mode = InterpolationMode(transform.interpolation)
        steps.append(tv.Resize(transform.resize, interpolation=mode))
    if transform.crop is not None:
        steps.append(tv.CenterCrop(transform.crop))
    return tv.Compose(
        [*steps, tv.ToTensor(), tv.Normalize(transform.mean or IMAGENET_MEAN, transform.std or IMAGENET_STD)]
    )(image)


def ours(transform: ImageTransform, image: Image.Image) -> torch.Tensor:
    array = transform(image)
    assert array.dtype == np.uint8 and array.flags.c_contiguous and array.flags.writeable and array.shape[0] == 3
    return transform.normalise(torch.from_numpy(array)[None])[0]


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    resize=st.one_of(st.none(), st.integers(1, 80), st.tuples(st.integers(1, 80), st.integers(1, 80))),
    crop=st.one_of(st.none(), st.integers(1, 80)),
    interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
)
@settings(deadline=None, max_examples=150)
def test_bitwise_the_same(
    height: int, width: int, resize: int | tuple[int, int] | None, crop: int | None, interpolation: str
) -> None:
    transform = ImageTransform(resize, crop, interpolation)
    image = photo(height, width, seed=height * 1000 + width)
    assert torch.equal(ours(transform, image), theirs(transform, image))


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (256, 256), (112, 112), (101, 1003)])
def test_defaults_at_photographs_sizes(size: tuple[int, int]) -> None:
    transform = ImageTransform()
    assert torch.equal(ours(transform, photo(*size)), theirs(transform, photo(*size)))
    assert transform(photo(*size)).shape == (3, 224, 224)


def test_square_resize_of_copy_detection() -> None:
    transform = ImageTransform((320, 320), None)
    assert torch.equal(ours(transform, photo(97, 203)), theirs(transform, photo(97, 203)))


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000))
@settings(deadline=None, max_examples=200)
def test_resized_sizes(height: int, width: int, side: int) -> None:
    from torchvision.transforms.functional import _compute_resized_output_size

    assert list(resized_size(height, width, side)) == _compute_resized_output_size((height, width), [side])


def test_normalise_leaves_its_input_alone_and_keeps_the_batch() -> None:
    batch = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    before = batch.clone()
    out = ImageTransform().normalise(batch)
    assert out.shape == batch.shape and out.dtype == torch.float32 and torch.equal(batch, before)


def test_frozen_hashable_and_part_of_a_digest() -> None:
    assert hash(ImageTransform()) == hash(ImageTransform(256, 224))
    assert digest(ImageTransform()) != digest(ImageTransform(crop=192)) != digest(ImageTransform(interpolation="box"))
    with pytest.raises(AttributeError):
        ImageTransform().crop = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "settings", [{"interpolation": "cubic"}, {"resize": 0}, {"crop": -1}, {"resize": 10**8}, {"resize": (8, 0)}]
)
def test_impossible_settings(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"cubic' is none of nearest, .*bicubic|must be between 1 and 16,384 pixels"):
        ImageTransform(**settings)  # type: ignore[arg-type]


def test_normalising_makes_no_constant_per_batch(monkeypatch) -> None:
    """Each would be a copy to the device that waits for what the device still has to do."""
    transform, batch = ImageTransform(), torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    transform.normalise(batch)
    for maker in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, maker, lambda *_, **__: pytest.fail("a constant made anew"))
    transform.normalise(batch)


def test_constants_made_in_inference_serve_training_too() -> None:
    transform = ImageTransform(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    with torch.inference_mode():
        transform.normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    x = transform.normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).requires_grad_()
    (x * x).sum().backward()
    assert x.grad is not None
