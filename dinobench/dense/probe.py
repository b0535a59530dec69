"""The segmentation protocol's training, once it is configured: batches, head, validations, label maps to keep."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dinobench.config import flat
from dinobench.data.label_maps import LabelMapSet, read_pair
from dinobench.data.transforms import for_backbone
from dinobench.data.video import label_png
from dinobench.dense.batches import labelled_batches
from dinobench.dense.extracted import ExtractedWindows
from dinobench.dense.head import SegmentationHead, pixel_recipe
from dinobench.dense.head_training import Batches, HeadTraining
from dinobench.dense.reading import MapReader
from dinobench.dense.segmenter import Segmenter
from dinobench.features.extraction import lost_images
from dinobench.hashing import digest
from dinobench.inputs import reading_of
from dinobench.training.sampler import Order
from dinobench.types import Backbone, Context

if TYPE_CHECKING:
    from dinobench.protocols.segmentation import Config

#: A predicted and a true label map (H, W) -> numbers to keep of the image, int64.
Count = Callable[[np.ndarray, np.ndarray], np.ndarray]


class SegmentationProbe:
    """A head on `backbone`, trained on `data.train` and validated on `data.test`, of whose images `count` is kept.

    Raises UserError for blocks that the backbone does not have.
    """

    def __init__(self, backbone: Backbone, data: LabelMapSet, config: Config, count: Count, ctx: Context) -> None:
        self.data, self.config, self.count, self.ctx = data, config, count, ctx
        self.notes: list[str] = []
        train = config.train
        blocks = train.blocks
        if blocks > 1 and "layers" not in backbone.capabilities:
            self.notes.append(f"a {backbone.info.arch} has one map to read: blocks=1")
            blocks = 1
        self.maps = MapReader(backbone, blocks, config.view.padding)
        self.view = for_backbone(config.sliding_view(), backbone)
        channels = self.maps.shape(self.view.crop, ctx)[0]
        head = SegmentationHead(channels, len(data.classes), train.dropout, ctx.seed)
        identity = self._identity(backbone)
        path = ctx.scratch / f"segmentation-{identity[:16]}.pt"
        self.training = HeadTraining("segmentation", head, pixel_recipe(train.rates(), train.weight_decay), path, ctx)
        self.segmenter = Segmenter(self.maps, head, self.view)
        self.augment = for_backbone(config.augment(), backbone)

    def run(self) -> dict[int, dict[str, torch.Tensor]]:
        """Train to the last step; the validations by the steps before each, as `validate` gives them."""
        train, ctx = self.config.train, self.ctx
        validated = self.training.run(self._batches, self.validate, train.validate_every)
        ctx.left_out(f"{self.data.train.name}/{name}" for name in sorted(self.training.broken))
        if ctx.saves and ctx.rank == 0:
            ctx.save("head.pth", self._file())
        return validated

    def _batches(self) -> Batches:
        train, split, ctx = self.config.train, self.data.train, self.ctx
        if train.features == "augmented":
            order = Order(len(split), train.batch, ctx.seed, train.iterations)
            return labelled_batches(split, self.augment, self.maps, order, train.loss_stride, ctx)
        return ExtractedWindows(
            split, self.view, self.maps, train.loss_stride, ctx.scratch / "windows", ctx, batch=train.batch,
            steps=train.iterations,
        )  # fmt: skip

    def validate(self, step: int) -> dict[str, torch.Tensor]:
        """Score the test images: `total` (...) is the sum of what is kept of each; after the last step it is there
        too, `counts` (n, ...) of the images `rows` (n,), and label maps are saved.

        Raises UserError naming the images that cannot be read, unless they may be left out.
        """
        ctx, split = self.ctx, self.data.test
        indices = range(len(split))[ctx.shard(len(split))]
        broken: list[int] = []
        last = step == self.config.train.iterations

        def work() -> tuple[list[int], list[np.ndarray]]:
            rows, counts = [], []
            for index, predicted, truth in self.segmenter.label_maps(split, indices, ctx, "Segmenting", broken):
                rows.append(index)
                counts.append(self.count(predicted, truth))
                if last and ctx.saves:
                    ctx.save(f"{split.ids[index]}.png", label_png(predicted))
            return rows, counts

        rows, counts = ctx.run_on_all(work)
        lost_images(split.name, split.ids, broken, partial(read_pair, split), ctx)
        table = ctx.gather(torch.from_numpy(np.stack(counts)) if counts else torch.zeros(0))
        if not last:
            return {"total": table.sum(0)}
        where = ctx.gather(torch.tensor(rows, dtype=torch.int64))
        order = where.argsort()
        return {"total": table.sum(0), "rows": where[order], "counts": table[order]}

    def _identity(self, backbone: Backbone) -> str:
        """What decides the training: another configuration finds no state of this one."""
        info = backbone.info
        parts: list[Any] = [flat(self.config), self.data.fingerprint, info.weights_digest, info.arch, self.ctx.seed]
        return digest(*parts, reading_of(info))

    def _file(self) -> bytes:
        """The head as a file: its tensors, and what it reads and tells apart."""
        tensors = {name: tensor.cpu() for name, tensor in self.training.head.state_dict().items()}
        file = io.BytesIO()
        torch.save({"head": tensors, "classes": list(self.data.classes), "blocks": self.maps.blocks}, file)
        return file.getvalue()
