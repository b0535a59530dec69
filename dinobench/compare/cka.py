"""How alike the blocks of two backbones see the same images: CKA of every block of one with every block of the other.

(Kornblith et al. 2019, arXiv 1905.00414; debiased: Nguyen et al. 2021, arXiv 2010.15327.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dinobench import lazy
from dinobench.compare.writers import csv_text, markdown_text
from dinobench.errors import UserError

with lazy.imports():
    import numpy as np
    import torch

    from dinobench.data import load_dataset
    from dinobench.data.subsets import Subset, draw
    from dinobench.data.transforms import ImageTransform, for_backbone
    from dinobench.features.extraction import forward_batches, load_by_id, out_of_range, refuse_unreadable
    from dinobench.metrics.representation import cka_table
    from dinobench.models.loading import load_backbone
    from dinobench.models.sources import references
    from dinobench.results.comparability import read_records

if TYPE_CHECKING:
    from dinobench.types import Backbone, Context, ImageSplit

#: What of a block is compared: its CLS token, or the mean of its patch tokens; before the final norm.
Tokens = Literal["cls", "patches"]
#: Images that are looked at unless asked otherwise.
IMAGES = 1000


@dataclass(frozen=True)
class Side:
    """A model and what its rows or columns are: `block 1` to the last, or `feature` of one without blocks."""

    model: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class BlockSimilarity:
    """CKA of the blocks of `a` (rows) with those of `b` (columns) over `images` images; both tables (rows, columns)."""

    a: Side
    b: Side
    data: str
    images: int
    tokens: Tokens
    linear: np.ndarray
    debiased: np.ndarray


def find(results: Path, model: str) -> str:
    """A reference to `model`: itself, or where the records in `results` say that the model of that name was.

    Raises UserError where neither leads to weights.
    """
    _, reference = references.split_name(model)
    try:
        references.check(reference)
    except UserError:
        records = read_records(results)[0] if (results / "runs").is_dir() else []
        paths = {r.checkpoint.path for r in records if r.checkpoint.name == model}
        if len(paths) != 1:
            raise
        (path,) = paths
        references.check(path)
        return f"{model}={path}"
    return model


def block_similarity(
    models: tuple[str, str],
    data: str,
    ctx: Context,
    *,
    images: int = IMAGES,
    tokens: Tokens = "cls",
    size: int = 224,
    progress: Callable[..., Iterator[Any]] | None = None,
) -> BlockSimilarity:
    """Compare two models on test images, at most `images` drawn by the context's seed, one pass for both.

    Images are resized and cropped as DINO's evaluation does, for a square of `size`. Raises UserError for images that
    cannot be read, for features that are all alike, and for a model without what is asked of its blocks.
    """
    backbones: list[Backbone] = []
    for model in models:
        name, reference = references.split_name(model)
        backbones.append(load_backbone(reference, name=name, seed=ctx.seed).to(ctx.device))
    dataset = load_dataset(data, "classification", progress=progress)
    split: ImageSplit = dataset.test
    if len(split) > images:
        split = Subset(split, draw(len(split), images, ctx.seed), split.name)
    if len(split) < 4:
        raise UserError(f"{data}: {len(split)} images of {split.name}; debiased CKA needs 4 or more")
    a, b = _features(backbones, split, ctx, tokens, size, progress or ctx.progress)
    try:
        linear, debiased = (cka_table(a, b, kind) for kind in (False, True))
    except ValueError as error:
        raise UserError(f"{models[0]} and {models[1]} on {split.name}: {error}") from error
    of_a, of_b = (_side(backbone, f) for backbone, f in zip(backbones, (a, b), strict=True))
    return BlockSimilarity(of_a, of_b, dataset.name, len(split), tokens, linear, debiased)


def _side(backbone: Backbone, blocks: list[np.ndarray]) -> Side:
    several = "layers" in backbone.capabilities
    names = [f"block {i + 1}" for i in range(len(blocks))] if several else ["feature"]
    return Side(backbone.info.name, tuple(names))


def _features(
    backbones: list[Backbone],
    split: ImageSplit,
    ctx: Context,
    tokens: Tokens,
    size: int,
    progress: Callable[..., Iterator[Any]],
) -> list[list[np.ndarray]]:
    """For each backbone, the features (n, D) of each of its blocks, or of its output where it has no blocks."""
    transform = ImageTransform(round(size * 256 / 224), size)
    own = [for_backbone(transform, backbone) for backbone in backbones]
    broken: list[int] = []

    def load(index: int) -> np.ndarray:
        return transform(split.load(index))

    def forward(images: list[np.ndarray]) -> list[torch.Tensor]:
        pixels = torch.from_numpy(np.stack(images)).to(ctx.device)
        pairs = zip(backbones, own, strict=True)
        return [_of_blocks(backbone, look.normalise(pixels), tokens).cpu() for backbone, look in pairs]

    parts: list[list[torch.Tensor]] = []
    passes = forward_batches(
        ctx, range(len(split)), load, forward, broken=broken,
        watch=lambda decoded: progress(decoded, f"Comparing blocks on {split.name}", len(split)),
    )  # fmt: skip
    for batch, _, features in passes:
        for backbone, each in zip(backbones, features, strict=True):
            if not each.isfinite().all():
                raise out_of_range(backbone, [split.ids[i] for i in batch])
        parts.append(features)
    refuse_unreadable(split.name, [split.ids[i] for i in broken], len(split), False, load_by_id(split))
    return [list(torch.cat(each, dim=1).numpy()) for each in zip(*parts, strict=True)]


def _of_blocks(backbone: Backbone, x: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """(B, 3, H, W) -> (blocks, B, D); a backbone without blocks of one grid counts as one."""
    if "layers" not in backbone.capabilities:
        return backbone.features(x).float()[None]
    blocks = backbone.blocks(x, range(backbone.info.depth or 1))
    if tokens == "patches":
        return torch.stack([patches.mean(dim=1) for _, patches in blocks])
    if (seen := [cls for cls, _ in blocks if cls is not None]) and len(seen) == len(blocks):
        return torch.stack(seen)
    raise UserError(f"{backbone.info.name}: a {backbone.info.arch} has no CLS token; compare with --of patches")


def _rows(found: BlockSimilarity) -> list[dict[str, object]]:
    return [
        {"block_a": a, "block_b": b, "linear": float(found.linear[i, j]), "debiased": float(found.debiased[i, j])}
        for i, a in enumerate(found.a.blocks)
        for j, b in enumerate(found.b.blocks)
    ]


def to_csv(found: BlockSimilarity) -> str:
    """A row a pair of blocks, with both values."""
    return csv_text(("block_a", "block_b", "linear", "debiased"), _rows(found))


def to_json(found: BlockSimilarity) -> str:
    """All of it."""
    what = {
        "model_a": found.a.model, "model_b": found.b.model, "dataset": found.data, "images": found.images,
        "tokens": found.tokens, "pairs": _rows(found),
    }  # fmt: skip
    return json.dumps(what, ensure_ascii=False, indent=2) + "\n"


def to_markdown(found: BlockSimilarity) -> str:
    """Two tables, linear and debiased, a row a block of A."""
    lines: list[str] = []
    for kind, table in (("linear", found.linear), ("debiased", found.debiased)):
        heads = [f"{kind} CKA, {markdown_text(found.a.model)} \\ {markdown_text(found.b.model)}", *found.b.blocks]
        rows = [[name, *(f"{v:.3f}" for v in row)] for name, row in zip(found.a.blocks, table, strict=True)]
        lines += [_line(heads), _line(["---", *["---:"] * len(found.b.blocks)]), *map(_line, rows), ""]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


#: How it is written for other programs, by the name of the format.
FORMATS = {"csv": to_csv, "json": to_json, "markdown": to_markdown}
