"""PatchCamelyon (Veeling et al. 2018, arXiv 1806.03962) in its HDF5 files, as torchvision's PCAM reads them.

`camelyonpatch_level_2_split_<train|valid|test>_x.h5` holds x (n, 96, 96, 3) uint8, the file in _y.h5 y (n, 1, 1, 1):
whether there is a tumour in the centre. Images are read one by one: the set takes 7 GB. h5py is no dependency of this
package.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinobench.data import fingerprint
from dinobench.data.fingerprint import Progress
from dinobench.data.image_split import FileSplit
from dinobench.data.layouts.labelled.columns import row_ids, row_of
from dinobench.data.layouts.labelled.listing import Listing
from dinobench.errors import UserError
from dinobench.files import open_regular

FILES = {"train": "train", "val": "valid", "test": "test"}
CLASSES = ("no tumour", "tumour")


@dataclass(eq=False)
class H5Split(FileSplit):
    """Images that are rows of HDF5 files, one for each split."""

    def load(self, index: int) -> Image.Image:
        """The RGB image; raises OSError when it cannot be read."""
        split, row = row_of(self.ids[index])
        file = os.path.join(self.root, _name(split, "x"))
        open_regular(file).close()
        try:
            with _h5py().File(file, "r") as opened:
                return Image.fromarray(np.asarray(opened["x"][row]))
        except (RuntimeError, LookupError, ValueError, TypeError) as error:
            raise OSError(f"row {row} cannot be read ({error})") from error

    def hashed(self, remember: Path, progress: Progress | None = None) -> np.ndarray:
        """(n, 32) uint8, a digest of each image's file and row: what two splits share by their pixels is not told."""
        files = [_name(split, "x") for split in FILES]
        digests = fingerprint.hash_files(Path(self.root), files, remember, progress)
        of = {split: digest.tobytes() for split, digest in zip(FILES, digests, strict=True)}
        rows = (hashlib.sha256(of[row_of(i)[0]] + str(row_of(i)[1]).encode()).digest() for i in self.ids)
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)


def listed(folder: Path) -> Listing:
    """Raises UserError where h5py is not installed, and for files that are missing or of another form."""
    ids: list[str] = []
    labels: list[np.ndarray] = []
    parts: dict[str, np.ndarray] = {}
    for split in FILES:
        targets = _read(folder / _name(split, "y"), "y", lambda y: np.asarray(y[:, 0, 0, 0]))
        shape = _read(folder / _name(split, "x"), "x", lambda x: (*x.shape, x.dtype.str))
        if shape != (len(targets), *shape[1:3], 3, "|u1") or not np.isin(targets, (0, 1)).all():
            raise UserError(f"{folder / _name(split, 'x')}: no RGB images with a label each; download it again")
        start = len(ids)
        ids += row_ids(split, 0, None, len(targets), folder)
        parts[split] = np.arange(start, len(ids))
        labels.append(targets.astype(np.int64))
    whole = H5Split("", str(folder.absolute()), tuple(ids), np.concatenate(labels), "")
    return Listing("torchvision PCAM", folder, whole, parts, CLASSES, with_val=True)


def _name(split: str, which: str) -> str:
    return f"camelyonpatch_level_2_split_{FILES[split]}_{which}.h5"


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise UserError("PCAM's files are HDF5; pip install h5py") from None
    return h5py


def _read(file: Path, key: str, look: Any) -> Any:
    h5py = _h5py()
    try:
        open_regular(file).close()
        with h5py.File(file, "r") as opened:
            return look(opened[key])
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:120]}); download it again") from error
