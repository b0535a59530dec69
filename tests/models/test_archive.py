from __future__ import annotations

import io
import mmap
import struct
import zipfile

import pytest
import torch
from helpers.pickles import archive, mapping, tensor

from dinobench.models.archive import records
from dinobench.models.inert_pickle import Rejected

WHOLE = archive(mapping(a=tensor()), {"data/0": bytes(16), "data/1": bytes(range(16))})


def read(content, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return {name: data[r.offset : r.offset + r.size] for name, r in records(data).items()}


def entries(content):
    return [i for i in range(len(content)) if content[i : i + 4] == b"PK\1\2"]


def changed(content, place, new):
    return content[:place] + new + content[place + len(new) :]


def test_records_are_what_zipfile_reads(tmp_path):
    torch.save({"a": torch.arange(5), "b": torch.zeros(0), "é": torch.ones(3).half()}, tmp_path / "ö.pth")
    for content in (WHOLE, (tmp_path / "ö.pth").read_bytes()):
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            expected = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
        assert read(content, tmp_path) == expected


def test_every_byte_that_decides_is_checked(tmp_path):
    """Flip each bit of the directory and the end record: the same records or none."""
    start = entries(WHOLE)[0]
    expected, refused = read(WHOLE, tmp_path), 0
    for place in range(start, len(WHOLE)):
        for bit in range(8):
            try:
                assert read(changed(WHOLE, place, bytes([WHOLE[place] ^ 1 << bit])), tmp_path) == expected
            except Rejected:
                refused += 1
    assert refused > 4 * (len(WHOLE) - start)  # but for dates and attributes


def test_entries_that_point_elsewhere(tmp_path):
    first, second = [e for e in entries(WHOLE) if b"x/data/" in WHOLE[e : e + 60]]
    moved = changed(WHOLE, first + 42, WHOLE[second + 42 : second + 46])
    other = changed(moved, first + 16, WHOLE[second + 16 : second + 28])  # with the checksum and sizes of the other
    twice = changed(WHOLE, second + 46, b"x/data/0")
    overlapping = changed(WHOLE, first + 20, struct.pack("<2I", 40, 40))
    for content in (moved, other, twice, overlapping):
        with pytest.raises(Rejected, match="its zip directory"):
            read(content, tmp_path)


@pytest.mark.parametrize("change", ["prepended", "appended", "comment", "capitals", "folders"])
def test_what_two_programs_may_read_differently(tmp_path, change):
    contents = {
        "prepended": b"PK\3\4" + WHOLE,
        "appended": WHOLE + b"x",
        "comment": WHOLE[:-2] + b"\2\0ab",
        "capitals": archive(mapping(a=tensor()), {"data/0": bytes(16), "DATA/0": b"\1" * 16}),
        "folders": WHOLE.replace(b"x/data/1", b"y/data/1"),
    }
    with pytest.raises(Rejected, match="its zip directory"):
        read(contents[change], tmp_path)


def test_compressed_records_are_refused(tmp_path):
    bomb = archive(mapping(a=tensor()), {"data/0": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 20_000
    with pytest.raises(Rejected, match=r"compressed, which .* maps as they are; torch\.save its content again"):
        read(bomb, tmp_path)


def test_a_checksum_stands_for_every_byte(tmp_path):
    for place in (WHOLE.index(bytes(range(16))) + 3, WHOLE.index(b"cpu")):
        with pytest.raises(Rejected, match="a checksum is wrong"):
            read(changed(WHOLE, place, b"\xee"), tmp_path)


def test_sizes_beyond_32_bits_stand_in_an_extra_field(tmp_path):
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as file, file.open("x/data.pkl", "w", force_zip64=True) as record:
        record.write(b"abc")
    assert read(output.getvalue(), tmp_path) == {"data.pkl": b"abc"}
    entry = entries(output.getvalue())[0]
    wide = changed(output.getvalue(), entry + 20, b"\xff" * 8)
    with pytest.raises(Rejected):
        read(wide, tmp_path)
