"""ImageNet-A and ImageNet-R: images of 200 of ImageNet's classes, of which alone one may be chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinobench.data import fingerprint
from dinobench.data.other_tests.other_test import OtherTest, by_name, class_folders, file_test, timm_list
from dinobench.errors import UserError
from dinobench.types import ImageClassification


def load_subset(
    title: str, name: str, synsets: str, path: Path, data: ImageClassification, progress: fingerprint.Progress | None
) -> OtherTest:
    """The set `title` with the wnids of timm's list `synsets`. Raises UserError for folders of other classes."""
    root, ids, names, left_out = class_folders(path)
    wnids = timm_list(synsets)
    if foreign := sorted(set(names) - set(wnids)):
        raise UserError(f"{root / foreign[0]}: no class of {title}, which has {len(wnids)} wnids such as {wnids[0]}")
    index = {wnid: i for i, wnid in enumerate(data.classes)}
    among = np.array(sorted(index[wnid] for wnid in wnids if wnid in index), np.int64)
    notes = [f"{name}: only the {len(among)} classes of {title} that train has may be chosen"]
    return file_test(
        title, name, path, root, ids, by_name(data, names), progress=progress, left_out=left_out, among=among,
        notes=notes if len(among) < len(wnids) else (),
    )  # fmt: skip
