"""Row groups: read once by loops in order, bounded in memory, broken rows told from broken groups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.labelled import items, parquet, table

from dinobench.data import load_dataset
from dinobench.data.layouts.labelled import row_groups
from dinobench.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def read(monkeypatch):
    """The groups that were read."""
    found = []
    original = row_groups.read_group
    monkeypatch.setattr(row_groups, "read_group", lambda *key: found.append(key[:2]) or original(*key))
    monkeypatch.setattr(row_groups, "_GROUPS", row_groups._Groups())
    return found


def test_a_loop_in_order_reads_each_group_once(tmp_path, read):
    data = load_dataset(str(parquet(tmp_path / "set")))
    assert len(read) == len(set(read)) == 3 + 2 + 3, "for the digests"
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(data.train.load, range(18)))) == 18
    assert len(read) == 8, "kept"


def test_memory_is_bounded_and_the_oldest_group_goes(tmp_path, read, monkeypatch):
    data = load_dataset(str(parquet(tmp_path / "set")))
    monkeypatch.setattr(row_groups, "KEPT", 1)
    monkeypatch.setattr(row_groups, "_GROUPS", row_groups._Groups())
    read.clear()
    for i in (0, 1, 17, 16, 0, 2):
        data.train.load(i)
    assert len(row_groups._GROUPS._kept) == 1 and [Path(file).name[:11] + str(number) for file, number in read] == [
        "train-000000",
        "train-000011",
        "train-000000",
    ]


def test_a_file_that_changes_is_read_again(tmp_path, read):
    root = parquet(tmp_path / "set")
    data = load_dataset(str(root))
    before = data.test.load(0).tobytes()
    (file,) = (root / "data").glob("validation-*")
    pq.write_table(table(items()["val"][::-1]), file, row_group_size=5)
    assert data.test.load(0).tobytes() != before


def test_rows_without_an_image_are_broken(tmp_path):
    root = parquet(tmp_path / "set")
    (file,) = (root / "data").glob("validation-*")
    found = pq.read_table(file)
    rows = found.column("image").to_pylist()
    rows[2] = {"bytes": None, "path": "lost.png"}
    rows[3] = None
    pq.write_table(
        found.set_column(0, found.schema.field("image"), pa.array(rows, found.schema.field("image").type)), file
    )
    data = load_dataset(str(root))
    for row, name in ((2, "val/0000002/lost.png"), (3, "val/0000003")):
        assert data.test.ids[row] == name
        with pytest.raises(OSError, match="no image in this row"):
            data.test.load(row)
    assert data.test.load(4).size == (3, 3) and data.leak is None


def test_groups_that_unpack_to_more_than_the_limit_are_refused(tmp_path, monkeypatch):
    """A page that says one image again and again takes bytes on the disk and gigabytes in memory."""
    root = parquet(tmp_path / "set")
    data = load_dataset(str(root))
    monkeypatch.setattr(row_groups, "LARGEST", 100)
    monkeypatch.setattr(row_groups, "_GROUPS", row_groups._Groups())
    with pytest.raises(OSError, match="holds over 100 bytes of images; write smaller ones"):
        data.train.load(0)
    monkeypatch.setattr("dinobench.data.layouts.labelled.parquet.LARGEST", 100)
    with pytest.raises(UserError, match=r"a row group of [\d,]+ bytes; write it with smaller ones"):
        load_dataset(str(root))
