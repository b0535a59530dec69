"""Images of any size through a backbone: decoded once in threads, batched by size, results in the images' order.

For protocols whose features are not a centre crop's CLS token, which is what `dinobench.features.service` serves and
caches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from dinobench.data.decoding import BROKEN_IMAGE, decoding_threads
from dinobench.errors import UserError
from dinobench.types import Backbone, Context, ImageSplit

T = TypeVar("T")

#: Images per batch. A CPU is busy with few, and more would only wait for their like; a GPU wants many.
BATCH_CPU, BATCH_GPU = 16, 64
#: Batches' worth of images that may wait for others of their size before the fullest group goes as it is.
WAITING = 8


def extract(
    backbone: Backbone,
    split: ImageSplit,
    prepare: Callable[[int, Image.Image], np.ndarray],
    forward: Callable[[list[torch.Tensor]], torch.Tensor],
    ctx: Context,
    description: str,
    key: Callable[[np.ndarray], Hashable] = lambda pixels: pixels.shape,
) -> np.ndarray:
    """One descriptor (D,) for every image of the split -> (n, D) float32, by all processes together.

    `prepare(index, image)` runs in threads and returns pixels (3, H, W) uint8; images with the same `key` are handed
    to `forward` together, as uint8 tensors on the device, and it returns (B, D).

    Raises UserError naming all images that cannot be read.
    """
    part = ctx.shard(len(split))
    indices = range(len(split))[part]
    size = BATCH_CPU if ctx.device.type == "cpu" else BATCH_GPU
    rows: torch.Tensor | None = None
    broken = torch.zeros(len(indices), dtype=torch.bool)

    def load(index: int) -> np.ndarray | None:
        try:
            image = split.load(index)
        except BROKEN_IMAGE:
            return None
        return prepare(index, image)

    def readable() -> Iterator[tuple[int, np.ndarray]]:
        with ThreadPoolExecutor(decoding_threads(ctx.workers)) as pool:
            decoded = in_order(pool, load, indices, ahead=2 * size, overlap=ctx.device.type != "cpu")
            for at, pixels in enumerate(ctx.progress(decoded, description, len(indices))):
                if pixels is None:
                    broken[at] = True
                elif not broken.any():  # after the first failure the others are only looked for
                    yield at, pixels

    def work() -> None:
        nonlocal rows
        for batch in by_size(readable(), key, size):
            images = [torch.from_numpy(pixels).to(ctx.device, non_blocking=True) for _, pixels in batch]
            with ctx.inference():
                features = forward(images).float().cpu()
            if not features.isfinite().all():
                names = ", ".join(split.ids[indices[at]] for at, _ in batch[:3])
                raise UserError(f"{backbone.info.name}: features of {names} … are not finite; the weights are at fault")
            if rows is None:
                rows = torch.zeros(len(indices), features.shape[1])
            rows[[at for at, _ in batch]] = features

    ctx.run_on_all(work)
    lost = ctx.gather(broken)
    if lost.any():
        raise UserError(unreadable(split, [split.ids[i] for i in lost.nonzero().flatten().tolist()]))
    return ctx.gather(torch.zeros(0) if rows is None else rows).numpy()  # torch.cat passes over an empty share


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], T], indices: Sequence[int], ahead: int, overlap: bool
) -> Iterator[T]:
    """`work` of each index in order, with at most `ahead` results waiting: memory stays bounded.

    With `overlap` the threads go on while the caller uses a result; without, they rest, which is right where the caller
    computes on the same cores.
    """
    waiting: deque[Future[T]] = deque()
    try:
        for at, index in enumerate(indices):
            waiting.append(pool.submit(work, index))
            if overlap and len(waiting) >= ahead:
                yield waiting.popleft().result()
            elif not overlap and (len(waiting) == ahead or at == len(indices) - 1):
                wait(waiting)
                while waiting:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def by_size(
    items: Iterable[tuple[int, np.ndarray]], key: Callable[[np.ndarray], Hashable], size: int
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Groups of at most `size` items with one key. The grouping depends on the order of the items alone."""
    groups: dict[Hashable, list[tuple[int, np.ndarray]]] = {}
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


def patch_multiple(backbone: Backbone) -> int:
    """The number of pixels that a ViT's image sides are a multiple of; 1 for those that take any size."""
    return (backbone.patch_size or 1) if "attention" in backbone.capabilities else 1


def cut_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """(..., H, W) -> the same without the last rows and columns beyond a multiple.

    The patch embedding of the reference programs is a strided convolution, which never sees that remainder.
    """
    h, w = x.shape[-2:]
    return x[..., : h // multiple * multiple, : w // multiple * multiple]


def unreadable(split: ImageSplit, names: Sequence[str], limit: int = 5) -> str:
    """The line that names the images which cannot be read."""
    listed = ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
    count = "1 image" if len(names) == 1 else f"{len(names)} images"
    return f"{split.name}: {count} cannot be read ({listed}); replace them, or remove them with their copies"
