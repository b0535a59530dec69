"""The one loop of images through a backbone: decoded ahead in threads, batched by size, passed forward, gathered.

`forward_batches` is the loop. The feature service stands on it, and so do the protocols whose features are not a centre
crop's CLS token, which is what the service caches: `extract` gives them one descriptor an image.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from dinobench.data.decoding import (
    BROKEN_IMAGE,
    MOST_THREADS,
    decoding_threads,
    in_order,
    in_order_apart,
    why_unreadable,
)
from dinobench.errors import BrokenImage, UserError
from dinobench.types import Backbone, Context, ImageSplit

S = TypeVar("S")
P = TypeVar("P")
R = TypeVar("R")

UNREADABLE: tuple[type[Exception], ...] = (*BROKEN_IMAGE, BrokenImage)
#: Images per batch of descriptors. A CPU is busy with few, and more would only wait for their like; a GPU wants many.
BATCH_CPU, BATCH_GPU = 16, 64
#: Batches' worth of images that may wait for others of their size before the fullest group goes as it is.
WAITING = 8
#: Norms of features that float32 can work with: the square of more overflows, and less than 1e-12 is what torch's
#: `normalize` takes it for, so that the similarities of such features are not those of their directions.
LEAST_NORM, LARGEST_NORM = 1e-12, 1e18
#: Broken images named in a message.
NAMED = 5
#: Rows that are looked through at a time.
AT_ONCE = 65_536


class Compute(Protocol):
    """What the loop needs to know of where it runs. A `Context` is one."""

    @property
    def device(self) -> torch.device: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def skip_broken(self) -> bool: ...

    def inference(self) -> AbstractContextManager[None]: ...


def forward_batches(
    compute: Compute,
    items: Sequence[S],
    load: Callable[[S], P],
    forward: Callable[[list[P]], R],
    *,
    batch: tuple[int, int] = (BATCH_CPU, BATCH_GPU),
    key: Callable[[P], Hashable] = lambda loaded: None,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    broken: list[S] | None = None,
    looked_at_only: bool = False,
    apart: bool = False,
) -> Iterator[tuple[list[S], list[P], R]]:
    """Batches of (items, what `load` made of them, what `forward` made of that), items of one `key` together.

    `load` runs in threads ahead of the forward passes; `forward` runs without gradients in the precision chosen.
    `batch` is the number of items on a CPU and elsewhere, unless the user chose. Where all keys are the same, batches
    come in the items' order. `watch` wraps the loaded items: a progress bar.

    Items that cannot be read are appended to `broken`. Unless `compute.skip_broken` nothing is computed after the
    first, nor ever with `looked_at_only`: the rest is only looked at, so that one message can name all.

    `apart` says that `load` leaves nothing behind but what it returns: beside an accelerator more workers than threads
    are good for are processes then.
    """
    size = compute.batch_size or batch[compute.device.type != "cpu"]
    broken = [] if broken is None else broken

    def loaded(item: S) -> tuple[S, P | None]:
        try:
            return item, load(item)
        except UNREADABLE:
            return item, None

    def readable() -> Iterator[tuple[S, P]]:
        workers, ahead = decoding_threads(compute.workers), _ahead(compute, size)
        overlap = compute.device.type != "cpu"
        if apart and overlap and workers > MOST_THREADS:
            decoded = in_order_apart(loaded, items, processes=workers, ahead=ahead)
        else:
            decoded = in_order(loaded, items, threads=workers, ahead=ahead, overlap=overlap)
        for item, pixels in watch(decoded):
            if pixels is None:
                broken.append(item)
            elif not looked_at_only and (compute.skip_broken or not broken):
                yield item, pixels

    for group in by_key(readable(), key, size):
        with compute.inference():
            output = forward([pixels for _, pixels in group])
        yield [item for item, _ in group], [pixels for _, pixels in group], output


def fetched(
    passes: Iterable[tuple[list[S], list[P], Sequence[torch.Tensor | None]]], device: torch.device
) -> Iterator[tuple[list[S], list[P], list[np.ndarray | None]]]:
    """`forward_batches` whose outputs are tensors on the device, with these as arrays.

    A GPU is handed the next batch before the arrays of the last are waited for, so that it never waits for the host.
    On a CPU nothing is computed ahead.
    """
    waiting: tuple[list[S], list[P], _Coming] | None = None
    for items, loaded, output in passes:
        coming = items, loaded, _Coming(output)
        if device.type == "cpu":
            yield items, loaded, coming[2].arrays()
            continue
        if waiting is not None:
            yield waiting[0], waiting[1], waiting[2].arrays()
        waiting = coming
    if waiting is not None:
        yield waiting[0], waiting[1], waiting[2].arrays()


class _Coming:
    """Tensors on their way to the host. What the device is asked to do after them is not waited for.

    One that stands several times, as where several requests share it, is copied once.
    """

    def __init__(self, tensors: Sequence[torch.Tensor | None]) -> None:
        self._event = None
        self._places = [None if tensor is None else id(tensor) for tensor in tensors]
        self._tensors = {id(tensor): tensor for tensor in tensors if tensor is not None}
        if any(tensor.is_cuda for tensor in self._tensors.values()):
            self._tensors = {at: _pinned_like(t).copy_(t, True) for at, t in self._tensors.items()}
            self._event = torch.cuda.Event()
            self._event.record()

    def arrays(self) -> list[np.ndarray | None]:
        if self._event is not None:
            self._event.synchronize()
        found = {at: tensor.numpy(force=True) for at, tensor in self._tensors.items()}
        return [None if at is None else found[at] for at in self._places]


def _pinned_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def to_device(images: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    """Images (3, H, W) of one size -> (B, 3, H, W) on the device; to a GPU from pinned memory, without waiting.

    Torch's allocator of pinned memory gives a block out again only when copies from it have ended.
    """
    if device.type != "cuda":
        return torch.from_numpy(np.stack(images)).to(device)
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.from_numpy(images[0]).dtype, pin_memory=True)
    np.stack(images, out=batch.numpy())
    return batch.to(device, non_blocking=True)


def _ahead(compute: Compute, size: int) -> int:
    return size if compute.device.type == "cpu" else 2 * size


def by_key(items: Iterable[tuple[S, P]], key: Callable[[P], Hashable], size: int) -> Iterator[list[tuple[S, P]]]:
    """Groups of at most `size` items with one key. The grouping depends on the order of the items alone."""
    groups: dict[Hashable, list[tuple[S, P]]] = {}
    waiting = 0
    for item in items:
        group = groups.setdefault(key(item[1]), [])
        group.append(item)
        waiting += 1
        if len(group) == size or waiting >= WAITING * size:
            fullest = max(groups, key=lambda k: len(groups[k]))
            waiting -= len(groups[fullest])
            yield groups.pop(fullest)
    yield from groups.values()


def extract(
    backbone: Backbone,
    split: ImageSplit,
    prepare: Callable[[int, Image.Image], np.ndarray],
    forward: Callable[[list[torch.Tensor]], torch.Tensor],
    ctx: Context,
    description: str,
    key: Callable[[np.ndarray], Hashable] = lambda pixels: pixels.shape,
) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors (n, D) float32 of the images that can be read, and their indices (n,), by all processes together.

    `prepare(index, image)` runs in threads and returns pixels (3, H, W) uint8; images with the same `key` are handed
    to `forward` together, as uint8 tensors on the device, and it returns (B, D).

    Raises UserError naming the images that cannot be read, unless they may be left out, and when none is left.
    """
    indices = range(len(split))[ctx.shard(len(split))]
    position = {index: at for at, index in enumerate(indices)}
    rows: np.ndarray | None = None
    broken: list[int] = []

    def load(index: int) -> np.ndarray:
        return prepare(index, split.load(index))

    def compute(images: list[np.ndarray]) -> list[torch.Tensor]:
        if len({pixels.shape for pixels in images}) == 1 and ctx.device.type != "cpu":
            return [forward(list(to_device(images, ctx.device))).float()]
        return [forward([torch.from_numpy(pixels).to(ctx.device) for pixels in images]).float()]

    def work() -> None:
        nonlocal rows
        passes = forward_batches(
            ctx, indices, load, compute, key=key, broken=broken, apart=True,
            watch=lambda decoded: ctx.progress(decoded, description, len(indices)),
        )  # fmt: skip
        for batch, _, (descriptors,) in fetched(passes, ctx.device):
            assert descriptors is not None
            if not (good := in_range(descriptors)).all():
                raise out_of_range(backbone, [split.ids[batch[i]] for i in np.flatnonzero(~good)])
            if rows is None:
                rows = np.zeros((len(indices), descriptors.shape[1]), np.float32)
            rows[[position[index] for index in batch]] = descriptors

    ctx.run_on_all(work)
    kept = np.ones(len(split), bool)
    kept[lost_images(split.name, split.ids, broken, split.load, ctx)] = False
    # torch.cat passes over an empty shard
    own = torch.zeros(0) if rows is None else torch.from_numpy(rows)
    everything, there = ctx.gather(own).numpy()[kept], np.flatnonzero(kept)
    if not everything.any():
        raise out_of_range(backbone, [split.ids[int(index)] for index in there])
    return everything, there


def in_range(features: np.ndarray) -> np.ndarray:
    """(n,) bool: whether all vectors (n, ..., D) of an image are finite and have a norm that float32 can work with.

    Zeros are such a vector: a ReLU may leave nothing of an image, whose similarity to all others then is 0.

    >>> in_range(np.array([[3, 4], [1e20, 0], [1e-14, 0], [np.nan, 1], [0, 0]], np.float32)).tolist()
    [True, False, False, False, True]
    """
    norms = np.linalg.norm(features.astype(np.float64), axis=-1).reshape(len(features), -1)
    return (((norms >= LEAST_NORM) & (norms <= LARGEST_NORM)) | (norms == 0)).all(axis=1)  # NaN is none of them


def without_direction(features: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the last vector (n, blocks, D) of an image is zeros alone; a memory map is read once."""
    parts = [~features[start : start + AT_ONCE, -1].any(axis=1) for start in range(0, len(features), AT_ONCE)]
    return np.concatenate([np.zeros(0, bool), *parts])


def out_of_range(backbone: Backbone, images: Sequence[str]) -> UserError:
    """The error for features that are not `in_range`."""
    return UserError(
        f"{backbone.info.name}: features of {len(images)} images are not finite, or their norms are not within "
        f"{LEAST_NORM:g} and {LARGEST_NORM:g}: {', '.join(images[:NAMED])}{', …' * (len(images) > NAMED)}; "
        "the weights overflow or vanish in this precision (try --precision 32) or are damaged"
    )


def load_by_id(split: ImageSplit) -> Callable[[str], object]:
    """`load` by stable name instead of index, for the few images that a message names."""
    return lambda image_id: split.load(list(split.ids).index(image_id))


def lost_images(
    name: str, ids: Sequence[str], broken: Sequence[int], load: Callable[[int], object], ctx: Context
) -> list[int]:
    """The indices into `ids` of all processes' `broken` images of the data called `name`, noted as left out.

    Raises UserError naming them where they may not be; `load` tells why.
    """
    lost = sorted({*ctx.gather(torch.tensor(broken, dtype=torch.int64)).tolist()})
    index = {ids[i]: i for i in lost}
    refuse_unreadable(name, list(index), len(ids), ctx.skip_broken, lambda image: load(index[image]))
    ctx.left_out(f"{name}/{image}" for image in index)
    return lost


def refuse_unreadable(
    name: str, ids: Sequence[str], total: int, skip_broken: bool, load: Callable[[str], object]
) -> None:
    """Raise the UserError that names the images of `name` which cannot be read, if there are any that matter."""
    if message := unreadable(name, ids, total, skip_broken, load):
        raise UserError(message)


def unreadable(
    name: str, ids: Sequence[str], total: int, skip_broken: bool, load: Callable[[str], object]
) -> str | None:
    """What to say of images that cannot be read: None where there are none, or some that may be left out.

    Those that it names are loaded once more for the reason.
    """
    if not ids or (skip_broken and len(ids) < total):
        return None
    reasons = [why_unreadable(lambda image=image: load(image)) for image in ids[:NAMED]]  # type: ignore[misc]
    listed = ""
    for image, reason, following in zip(ids, reasons, [*reasons[1:], ""], strict=False):  # one reason for several
        listed += f"{', ' * bool(listed)}{image}" + f" ({reason})" * (reason not in ("", following))
    listed += f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    if len(ids) == total:
        return f"none of the {total:,} images of {name} can be read: {listed}"
    return (
        f"{len(ids)} of {total:,} images of {name} cannot be read: {listed}; "
        "repair or delete them, or leave them out with --skip-broken"
    )


def cut_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """(..., H, W) -> the same without the last rows and columns beyond a multiple.

    The patch embedding of the reference programs is a strided convolution, which never sees that remainder.
    """
    h, w = x.shape[-2:]
    return x[..., : h // multiple * multiple, : w // multiple * multiple]


def centre_padded(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """(..., H, W) with zeros around it up to a multiple, the smaller half before.

    (`CenterPadding` of facebookresearch/dinov2 and dinov3; mbanani/probe3d, evals/models/utils.py.)

    >>> tuple(centre_padded(torch.zeros(1, 3, 512, 29), 14).shape[2:])
    (518, 42)
    """
    height, width = (-side % multiple for side in x.shape[-2:])
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
