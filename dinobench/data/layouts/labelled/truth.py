"""Which class each of ImageNet's 50,000 validation images is of, from any of the files that say so.

- The devkit: line n of data/ILSVRC2012_validation_ground_truth.txt is the ILSVRC2012_ID of image n, and `synsets` in
  data/meta.mat gives each ID's wnid (readme.txt of ILSVRC2012_devkit_t12, section "Data").
- meta.bin, which `torchvision.datasets.ImageNet` writes: (names by wnid, wnid of each image), saved by torch.
- LOC_val_solution.csv of Kaggle's imagenet-object-localization-challenge: ImageId, and PredictionString, which begins
  with the wnid and goes on with boxes.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
import zipfile
import zlib
from pathlib import Path

from dinobench.data.layouts.labelled.matlab import read_mat
from dinobench.data.plain_pickle import MAX_BYTES, DamagedPickle, ForeignName, plain
from dinobench.errors import UserError
from dinobench.files import open_regular, read_regular

DEVKIT, TRUTH, META = "ILSVRC2012_devkit_t12", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
BIN, KAGGLE = "meta.bin", "LOC_val_solution.csv"
#: ILSVRC2012_val_00000001.JPEG is the first.
IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.JPEG")
#: Bytes of any of these files at most: the largest is Kaggle's, of 3 MB.
LIMIT = 64 << 20


def find(root: Path) -> Path | None:
    """The file or folder beside the images that tells, or in Kaggle's tree three folders above them."""
    kits = (root / DEVKIT / "data", root / DEVKIT, root / "data", root)
    if kit := next((kit for kit in kits if (kit / TRUTH).is_file()), None):
        return kit
    above = [folder / KAGGLE for folder in (root, *root.absolute().parents[:3])]
    files = [root / f"{DEVKIT}.tar.gz", root / BIN, *above]
    return next((file for file in files if file.is_file()), None)


def read(place: Path) -> dict[int, str]:
    """The wnid of each image by the number in its name. Raises UserError for a damaged file."""
    try:
        if place.is_dir():
            return _devkit(read_regular(place / TRUTH, LIMIT), read_regular(place / META, LIMIT), place)
        if place.name.endswith(".tar.gz"):
            return _packed_devkit(place)
        return _meta_bin(place) if place.name == BIN else _kaggle(place)
    except OSError as error:
        raise UserError(f"{error.filename or place}: cannot be read: {error.strerror or error}") from error


def _devkit(truth: bytes, meta: bytes, where: Path) -> dict[int, str]:
    try:
        wnids = {int(row["ILSVRC2012_ID"].item()): str(row["WNID"]) for row in read_mat(meta)["synsets"]}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{where / META}: holds no synsets ({_line(error)}); unpack the devkit again") from error
    try:
        return {number: wnids[int(line)] for number, line in enumerate(truth.split(), 1)}
    except (ValueError, KeyError) as error:
        raise UserError(f"{where / TRUTH}: names no class of {META} ({_line(error)}); unpack it again") from error


def _packed_devkit(archive: Path) -> dict[int, str]:
    """The two files that are needed, read without unpacking the rest."""
    found: dict[str, bytes] = {}
    try:
        with open_regular(archive) as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            room = LIMIT
            for member in tar:
                room -= max(member.size, 0)
                if room < 0:
                    raise UserError(f"{archive}: more than {LIMIT:,} bytes, which is no devkit; download it again")
                name = member.name.rsplit("/", 1)[-1]
                if name in (TRUTH, META) and member.isreg() and (opened := tar.extractfile(member)):
                    found[name] = opened.read(LIMIT)
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{archive}: no archive that can be read ({_line(error)}); download it again") from error
    if len(found) < 2:
        raise UserError(f"{archive}: holds no {TRUTH} or no {META}; download it again")
    return _devkit(found[TRUTH], found[META], archive)


def _meta_bin(file: Path) -> dict[int, str]:
    """torch's file is a zip whose data.pkl is a pickle of plain data here; nothing in it is called."""
    try:
        with zipfile.ZipFile(io.BytesIO(read_regular(file, MAX_BYTES))) as archive:
            (pickle,) = [i for i in archive.infolist() if i.filename.endswith("/data.pkl")]
            if pickle.compress_type != zipfile.ZIP_STORED:
                raise ValueError("compressed")
            _, wnids = plain(archive.read(pickle))
        if not isinstance(wnids, list) or not all(isinstance(w, str) for w in wnids):
            raise ValueError("no list of wnids")
    except (zipfile.BadZipFile, ForeignName, DamagedPickle, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"{file}: not what torchvision 0.6 or later writes ({_line(error)}); take it away and put {DEVKIT}/ there"
        ) from error
    return dict(enumerate(wnids, 1))


def _kaggle(file: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    try:
        rows = csv.reader(io.StringIO(read_regular(file, LIMIT).decode()), strict=True)
        if next(rows, []) != ["ImageId", "PredictionString"]:
            raise ValueError("its columns are not ImageId and PredictionString")
        for image, boxes in rows:
            number = IMAGE.fullmatch(f"{image}.JPEG")
            if not number or not boxes.split():
                raise ValueError(f"line {rows.line_num} names no image and class")
            if found.setdefault(int(number[1]), boxes.split()[0]) != boxes.split()[0]:
                raise ValueError(f"line {rows.line_num} names another class for {image}")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: no table of validation images ({_line(error)}); download it again") from error
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
