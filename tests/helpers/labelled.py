"""The same few labelled images in every layout that they may lie in: three classes of noisy colours."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee", "cow")
COLOURS = np.array([(150, 90, 90), (90, 150, 90), (90, 90, 150)])
COUNTS = {"train": 6, "val": 4}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}


class Item(NamedTuple):
    name: str
    label: int
    content: bytes


def png(label: int, seed: int, side: int = 3) -> bytes:
    noise = np.random.default_rng(seed).integers(-60, 61, (1, 1, 3)) + np.zeros((side, side, 3), int)
    buffer = io.BytesIO()
    Image.fromarray((COLOURS[label % 3] + noise).clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def items() -> dict[str, list[Item]]:
    """Split -> its images, class by class."""
    return {
        split: [
            Item(f"{CLASSES[c]}_{i}.png", c, png(c, 1000 * s + 100 * c + i)) for c in range(3) for i in range(count)
        ]
        for s, (split, count) in enumerate(COUNTS.items())
    }


def write(file: Path, content: bytes | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def folders(root: Path) -> Path:
    for split, some in items().items():
        for item in some:
            write(root / split / CLASSES[item.label] / item.name, item.content)
    return root


def table(some: Iterable[Item], features: dict[str, object] | None = FEATURES) -> pa.Table:
    rows = list(some)
    schema = pa.schema([("image", IMAGE), ("label", pa.int64())])
    if features is not None:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    images = [{"bytes": item.content, "path": item.name} for item in rows]
    return pa.table([pa.array(images, IMAGE), pa.array([item.label for item in rows], pa.int64())], schema=schema)


def parquet(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    (train, val) = items().values()
    for i, some in enumerate((train[:10], train[10:])):
        pq.write_table(table(some), root / "data" / f"train-{i:05d}-of-00002.parquet", row_group_size=4)
    pq.write_table(table(val), root / "data" / "validation-00000-of-00001-5af744adb8610bf6.parquet", row_group_size=5)
    return root


def save_to_disk(folder: Path, content: pa.Table, features: object = FEATURES, rows: int = 4) -> None:
    """What `Dataset.save_to_disk` leaves, in two files."""
    names = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
    write(folder / "dataset_info.json", json.dumps({"citation": "", "features": features, "splits": {}}))
    state = {"_data_files": [{"filename": n} for n in names], "_fingerprint": "0", "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip
    write(folder / "state.json", json.dumps(state))
    cut = len(content) // 2
    for name, part in zip(names, (content.slice(0, cut), content.slice(cut)), strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, content.schema) as stream:
            stream.write_table(part, max_chunksize=rows)


def saved(root: Path) -> Path:
    write(root / "dataset_dict.json", json.dumps({"splits": ["train", "validation"]}))
    for split, some in zip(("train", "validation"), items().values(), strict=True):
        save_to_disk(root / split, table(some))
    return root


def pack(archive: Path, *files: tuple[str, bytes]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive


def shard(archive: Path, some: Iterable[Item], label: Callable[[Item], tuple[str, bytes]]) -> Path:
    """Samples as WebDataset's TarWriter has them: members of one key follow each other."""
    members = []
    for i, item in enumerate(some):
        ending, content = label(item)
        members += [(f"{i:08d}.{ending}", content), (f"{i:08d}.png", item.content)]
    return pack(archive, *members)


def as_cls(item: Item) -> tuple[str, bytes]:
    return "cls", str(item.label).encode()


def as_json(item: Item) -> tuple[str, bytes]:
    return "json", json.dumps({"caption": "a photo", "label": CLASSES[item.label]}).encode()


def webdataset(root: Path) -> Path:
    for split, some in items().items():
        for i in range(0, len(some), 9):
            shard(root / f"insects-{split}-{i // 9:06d}.tar", some[i : i + 9], as_cls)
    write(root / "classnames.txt", "".join(f"{name}\n" for name in CLASSES))
    return root


def clip_benchmark(root: Path) -> Path:
    for split, some in zip(("train", "test"), items().values(), strict=True):
        for i in range(0, len(some), 2):  # more than ten, so that 10.tar comes after 9.tar and not after 1.tar
            shard(root / split / f"{i // 2}.tar", some[i : i + 2], as_json)
        write(root / split / "nshards.txt", str(len(some) // 2))
    return root


LAYOUTS = {f.__name__: f for f in (folders, parquet, saved, webdataset, clip_benchmark)}
