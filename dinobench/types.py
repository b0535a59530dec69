"""The types that carry the data. Nothing here imports torch, so that listing and help stay instant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dinobench.escaping import ShownRecord
from dinobench.inputs import ModelInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image

T = TypeVar("T")


def setting(default: Any, doc: str, source: str = "", added: bool = False) -> Any:
    """A Config field: its default, its meaning, and the paper or public source of the default.

    `added`: it came when records of the protocol were about already. While it stands at its default it is in no record
    and no hash, so that runs that do without it keep their names.
    """
    return field(default=default, metadata={"doc": doc, "source": source, "added": added})


@dataclass(frozen=True)
class Metric:
    """What a protocol measures. `unit` "%" means 100 × the mean of per-item fractions in 0..1."""

    name: str
    unit: str = "%"
    higher_is_better: bool = True
    primary: bool = False


@dataclass(frozen=True)
class MetricValue:
    """One measured number with its 95 % interval; `n` is how many items it is the mean of."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    unit: str


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known of a backbone's weights: where they came from and what they turned out to be.

    `sha256` is of the file, `weights_digest` of the backbone's tensors by canonical name, so that one set of weights
    in two file formats has one digest. `missing` and `unexpected` are empty unless partial loading was allowed.
    `input` None is ImageNet's, assumed; `pool` None is the architecture's usual feature: CLS of a ViT, the average of a
    ConvNet.
    """

    name: str
    path: str
    sha256: str
    weights_digest: str
    format: str
    key: str
    arch: str
    patch_size: int | None
    embed_dim: int
    depth: int | None
    heads: int | None
    registers: int
    method: str
    epoch: int | None
    image_size: int | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    input: ModelInput | None = field(default=None, metadata={"added": True})
    pool: str | None = field(default=None, metadata={"added": True})


class Backbone(Protocol):
    """One adapter over every architecture. All tensors are float32 on the device of the input.

    `capabilities` is a subset of {"features", "layers", "patches", "attention", "keys", "map"}: `blocks` come with
    "layers", `keys` with "keys", `feature_map` with "map".
    """

    info: CheckpointInfo
    patch_size: int | None
    embed_dim: int
    capabilities: frozenset[str]
    size_multiple: int  # pixels that the images' sides must be a multiple of; 1 for models that take any size

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D): CLS after the final norm, or the global average pool of a ConvNet."""

    def layers(self, x: torch.Tensor, n: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(B, 3, H, W) -> the last n blocks, oldest first, each (CLS (B, D), patches (B, N, D)) after the norm."""

    def cls_attention(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, heads, N): softmax of the last block, the row of CLS, the columns of the patches."""

    def layers_and_attention(
        self, x: torch.Tensor, n: int = 1
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """`layers` and `cls_attention` from one forward pass."""

    def blocks(
        self, x: torch.Tensor, indices: Sequence[int], norm: bool = False
    ) -> list[tuple[torch.Tensor | None, torch.Tensor]]:
        """(B, 3, H, W) -> outputs of these blocks (0 first; negative counts from the end), in the order asked.

        Each is (CLS (B, D), or None in a model without one, patches (B, N, D)), before the final norm unless `norm`.
        """

    def keys(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, heads, N, D / heads): the last block's keys of the patches.

        They are what the block's linear layer gives, bias included: not scaled, no positions rotated in.
        """

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, D, h, w): the last block after the final norm, or a hierarchical model's last map.

        D is that of one position, which is not `embed_dim` where the feature is made of more than one.
        """

    def to(self, device: Any) -> Backbone: ...


class ImageSplit(Protocol):
    """A list of images with labels; `ids` are stable names (relative paths with forward slashes)."""

    @property
    def name(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def labels(self) -> np.ndarray:
        """(n,) int64, indices into the data set's classes."""

    @property
    def fingerprint(self) -> str:
        """Of the images' contents in their order; labels excluded."""

    @property
    def in_memory(self) -> bool:
        """Whether the pixels lie in memory already, so that nobody need keep decoded images."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image. Raises OSError or another of `BROKEN_IMAGE` when it cannot be decoded."""


@dataclass(frozen=True)
class ImageClassification:
    """A labelled data set: `train` to learn from or vote with, `test` to score on.

    `notes` are what a record has to say of it, such as files that were left out and why. Data sets of other kinds may
    have `notes` too.
    """

    name: str
    layout: str
    classes: tuple[str, ...]
    train: ImageSplit
    test: ImageSplit
    fingerprint: str  # of contents and labels of both splits
    leak: str | None = None  # what to say of test images that are in train too
    notes: tuple[str, ...] = ()
    among: np.ndarray | None = None  # (k,) int64 ascending: the only classes that may be chosen
    answers: np.ndarray | None = None  # (n, a) int64: all that are right for each test image ascending, then -1
    val: np.ndarray | None = None  # (m,) int64: the images of train that the authors set apart to choose on
    report: str | None = None  # what goes before top-1, "mCE" or "mean_per_class": see `dinobench.results.reports`
    verdicts: tuple[np.ndarray, np.ndarray] | None = None  # train's, test's (n, classes) int8: 1 shown, -1 not, 0 hard


@dataclass(frozen=True)
class TrainingImages:
    """What a pretraining learns from. `classes` is empty where the images have no labels, which are then -1.

    `digests` (n, 32) uint8 are the SHA-256 of the files, all zeros for one that cannot be read; None where the images
    lie in memory.
    """

    name: str
    layout: str
    classes: tuple[str, ...]
    train: ImageSplit
    digests: np.ndarray | None = None
    notes: tuple[str, ...] = ()  # files that were left out and why


@dataclass(frozen=True)
class FeatureRequest:
    """What a protocol wants of every image: CLS of the last `layers` blocks, optionally their mean patch tokens."""

    transform: Any  # a frozen dataclass of dinobench.data.transforms
    layers: int = 1
    mean_patches: bool = False


@dataclass(frozen=True)
class Features:
    """Extracted features; arrays are memory-mapped where they come from the cache, rows stand for `kept`.

    `cls` is (n, layers, D), oldest block first; `mean_patches` the same shape or None. `kept` are the indices of images
    that could be read; `broken` names the others, `zeros` those of zeros alone.
    """

    cls: np.ndarray
    mean_patches: np.ndarray | None
    kept: np.ndarray
    broken: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()


@dataclass
class Result:
    """What a protocol hands back.

    `metrics`: every declared name and its value. `items`: one row per image, query or object with a column `id`;
    a column named as a metric holds that metric's per-item score (fractions 0..1 where the unit is %), NaN where the
    item does not count for it, and its mean is the metric: the interval is resampled from it. `cluster` names a column
    whose groups are resampled together. `intervals` are for metrics that are not means, and `counts` says how many
    items those rest on where it is not all of them. `notes` go into the record.
    """

    metrics: dict[str, float]
    items: pd.DataFrame | None = None
    cluster: str | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Context(Protocol):
    """What the floor offers a running protocol; it is all that a protocol may touch of the outside."""

    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def rank(self) -> int: ...
    @property
    def processes(self) -> int: ...
    @property
    def batch_size(self) -> int | None:
        """Images in one forward pass, where the user chose; it decides no number, unlike a training's total batch."""

    @property
    def workers(self) -> int | None:
        """Threads that decode images, where the user chose."""

    @property
    def ram_bytes(self) -> int | None:
        """Memory that a training may keep decoded images in, where the user chose."""

    @property
    def skip_broken(self) -> bool:
        """Whether to leave out images that cannot be read."""

    @property
    def scratch(self) -> Path:
        """A folder for this very run, shared by its processes: what an interrupted training needs to go on.

        It need not exist yet, outlives a run that was interrupted, and goes once the record is written.
        """

    def shard(self, n: int) -> slice:
        """The part of n items that this process works on; the parts of all processes follow each other."""

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """The parts of all processes joined along the first dimension, in the order of `shard`."""

    def run_on_all(self, work: Callable[[], T]) -> T:
        """`work` on every process; a UserError on one of them is raised on all, so that none waits for ever."""

    @property
    def saves(self) -> bool:
        """Whether the user asked for the files that a run makes (`--save DIR`)."""

    def save(self, name: str, content: bytes) -> None:
        """Keep a file that the run made (a mask, a model) under a relative name, where the user asked for them.

        Ask `saves` first where making the content takes time.
        """

    def left_out(self, images: Iterable[str]) -> None:
        """Note images, as `<split>/<id>`, that could not be read and are left out; the record counts them."""

    def inference(self) -> AbstractContextManager[None]:
        """No gradients, and the precision that the user chose."""

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that the user chose, with gradients: for training."""

    def features(self, backbone: Backbone, split: ImageSplit, request: FeatureRequest) -> Features:
        """Features of a split from the cache, or extracted now, by all processes together."""

    def progress(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """The same items, with a progress bar on stderr when it takes long."""


class EvalProtocol(Protocol):
    """A protocol: a module or object with these names, found through the entry-point group `dinobench.protocols`.

    `data` is the kind of data set it scores on (see `KINDS` of dinobench.data.layouts), `requires` the capabilities of
    a backbone that it cannot do without, `profiles` its named Configs, the first one being the default.

    Six more names are optional. `requests(data, config, backbone) -> [(split, FeatureRequest), ...]` says which
    features `run` will ask for, so that several checkpoints and protocols share one pass over the images.
    `select_data(data, config) -> data` is for settings that decide what the data set is: which of two, or what beside
    it. `version_of(config) -> int` is for a change that moved the numbers of some configurations only, so that the
    records of others stay comparable. `saves` says what files `--save` keeps. `other_tests = True` says that
    it judges by `metrics.classification.Truth`, as `--test` needs, `several_classes = True` that it heeds `verdicts`.
    """

    name: str
    version: int
    summary: str
    data: str
    requires: frozenset[str]
    profiles: Mapping[str, Any]
    metrics: Callable[[Any], tuple[Metric, ...]]
    run: Callable[[Backbone, Any, Any, Context], Result]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How checkpoints are read, where a file does not tell: see `dinobench.models.loading.load_backbone`."""

    arch: str | None = None
    key: str | None = None
    heads: int | None = None
    allow_partial: bool = False
    pool: str | None = None
    grid: str | None = None
    trust_repo: bool = False


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where and how fast a run computes; only `precision` can move a number, and it goes into the record.

    `devices`: processes to start on this machine. `batch_size`: images in one forward pass. `workers`: threads that
    decode. `ram_gb`: gigabytes (10^9 bytes) for decoded images in training. `cache` False neither reads nor keeps
    features.
    """

    device: str = "auto"
    devices: int = 1
    precision: str = "32"
    batch_size: int | None = None
    workers: int | None = None
    ram_gb: float | None = None
    cache: bool = True


@dataclass(frozen=True)
class RunRecord(ShownRecord):
    """Everything that produced a number, as written to results/runs/<run_id>.json."""

    schema: int
    run_id: str
    protocol: str
    protocol_version: int
    profile: str
    config: dict[str, Any]
    config_hash: str
    dataset: str
    dataset_layout: str
    dataset_fingerprint: str
    checkpoint: CheckpointInfo
    seed: int
    precision: str
    metrics: dict[str, MetricValue]
    primary: str
    started_at: str
    duration_s: float
    device: str
    processes: int
    peak_memory_mb: float
    broken_images: int
    notes: tuple[str, ...]
    versions: dict[str, str]
    dinobench_version: str
    git_commit: str | None
    git_dirty: bool | None
    lower_is_better: tuple[str, ...] = ()  # metrics of which less is better
    leak: str | None = None  # what to say of test images that are in train too
    items_sha256: str | None = None  # of the file of per-item scores; None where it was not kept yet, or no items
