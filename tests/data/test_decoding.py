"""What is opened as an image; decoding ahead of use, in order and within bounds, and kept within a budget."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from helpers.fakes import FakeSplit
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from dinobench.data.decoding import (
    BROKEN_IMAGE,
    FORMATS,
    ImageCache,
    decode,
    image_size,
    in_order,
    in_order_apart,
    ram_budget,
    why_unreadable,
)  # fmt: skip
from dinobench.data.video import read_labels
from dinobench.errors import BrokenImage, UserError


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 40), threads=st.integers(1, 4), ahead=st.integers(1, 9), overlap=st.booleans())
def test_results_come_in_the_order_of_the_items(n, threads, ahead, overlap):
    assert list(in_order(lambda i: i * i, range(n), threads=threads, ahead=ahead, overlap=overlap)) == [
        i * i for i in range(n)
    ]


@pytest.mark.parametrize("overlap", [False, True])
def test_no_more_than_asked_for_is_taken_ahead(overlap):
    taken = []

    def items():
        for i in count():  # without end: a loop over steps need not know how many there are
            taken.append(i)
            yield i

    results = in_order(str, items(), threads=2, ahead=5, overlap=overlap)
    for used, result in enumerate(islice(results, 23)):
        assert result == str(used) and len(taken) <= used + 5
    results.close()


def test_threads_rest_while_the_caller_computes_on_the_same_cores():
    running = []

    def work(i):
        running.append(i)
        return i

    results = in_order(work, range(12), threads=3, ahead=4, overlap=False)
    for i in results:
        assert len(running) == 4 * (i // 4 + 1)  # whole lumps, and none begun while one is used


def test_an_error_of_the_work_is_raised_and_ends_the_loop():
    def work(i):
        if i == 3:
            raise KeyError("three")
        return i

    results = in_order(work, range(10), threads=2, ahead=4, overlap=True)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert list(results) == []


def test_each_thread_is_started_once():
    started: list[int] = []
    begin = lambda: started.append(threading.get_ident())  # noqa: E731
    list(in_order(abs, range(50), threads=1, ahead=4, overlap=True, start=begin))
    assert len(started) == 1 and started[0] != threading.get_ident()


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes decode on Linux alone")


@settings(deadline=None, max_examples=8)
@given(n=st.integers(0, 70), processes=st.integers(1, 3), ahead=st.integers(1, 40))
def test_results_of_processes_come_in_the_order_of_the_items(n, processes, ahead):
    kept = []  # work may be anything, a function that pickle knows no name of too

    def work(i):
        kept.append(i)
        return np.full(3, i)

    results = list(in_order_apart(work, range(n), processes=processes, ahead=ahead))
    assert [r.tolist() for r in results] == [[i] * 3 for i in range(n)]
    assert not kept or not sys.platform.startswith("linux")


@linux
@pytest.mark.parametrize("error", [KeyError("three"), UserError("three"), BrokenImage("three")])
def test_an_error_in_a_process_is_raised_here(error):
    def work(i):
        if i == 13:
            raise error
        return i

    results = in_order_apart(work, range(40), processes=2, ahead=16)
    assert [next(results) for _ in range(8)] == list(range(8))
    with pytest.raises(type(error), match="three"):
        list(results)
    assert not multiprocessing.active_children()


@linux
def test_a_process_that_the_system_ended_is_one_line():
    with pytest.raises(UserError, match=r"one of 2 processes that decode .* --workers"):
        list(in_order_apart(lambda i: os.kill(os.getpid(), signal.SIGKILL), range(4), processes=2, ahead=4))


@linux
def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    """Their parent cannot tell them, and their pipes stay open."""
    code = f"""
import os, time
from pathlib import Path
from dinobench.data.decoding import in_order_apart
def work(i):
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    return i
results = in_order_apart(work, iter(int, 1), processes=2, ahead=64)
while True:
    next(results)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        finally:
            parent.kill()
    wait_for(lambda: not any(Path("/proc", p.name).exists() for p in tmp_path.iterdir()))


def wait_for(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_images_are_kept_within_the_budget_and_decoded_anew_beyond():
    split = FakeSplit(10)
    size = np.asarray(split.load(0)).nbytes
    split.loads.clear()
    images = ImageCache(split, np.asarray, 4 * size + 1)
    for _ in range(3):
        for row in range(10):
            assert (images.get(row)[0, 0] == split.colors[row]).all()
    assert [split.loads[row] for row in range(10)] == [1] * 4 + [3] * 6
    assert images.room == 1


def test_a_split_in_memory_is_not_kept_twice():
    split = FakeSplit(3)
    split.in_memory = True
    images = ImageCache(split, np.asarray, 10**9)
    for _ in range(2):
        images.get(0)
    assert split.loads[0] == 2 and images.room == 10**9


def test_a_chosen_budget_is_each_processes_own():
    assert ram_budget(1000, 4) == 1000
    assert ram_budget(None, 4) == pytest.approx(ram_budget(None, 1) / 4, abs=1)


def eps() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\n%%EOF\n"


def as_format(name: str) -> bytes:
    content = BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, name)
    return content.getvalue()


FOREIGN = {"GIF": lambda: as_format("GIF"), "ICO": lambda: as_format("ICO"), "TGA": lambda: as_format("TGA"),
           "PDF": lambda: as_format("PDF"), "PCX": lambda: as_format("PCX"), "EPS": eps,
           "HTML": lambda: b"<html>404</html>"}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_documented_formats_are_read_whatever_their_ending(tmp_path, format):
    (tmp_path / "x.jpg").write_bytes(as_format(format))
    assert decode(tmp_path / "x.jpg").getpixel((3, 3))[0] > 200 and image_size(tmp_path / "x.jpg") == (8, 8)


@pytest.mark.parametrize("format", FOREIGN)
def test_other_formats_stay_closed_whatever_their_ending(tmp_path, format, monkeypatch):
    """Pillow hands EPS to Ghostscript, a program that runs what the file says."""
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail(f"started {a}"))
    for name in ("x.jpg", "x.png", "x.tif"):
        (tmp_path / name).write_bytes(FOREIGN[format]())
        with pytest.raises(BROKEN_IMAGE, match="not an image in JPEG, PNG, PPM, BMP, TIFF or WEBP"):
            decode(tmp_path / name)


def test_an_empty_file_is_called_so(tmp_path):
    (tmp_path / "x.jpg").touch()
    with pytest.raises(BROKEN_IMAGE, match=r"^an empty file$"):
        decode(tmp_path / "x.jpg")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    reasons = {"pipe": "a named pipe, not a file", "loop": "symbolic links", "zero": "a device, not a file",
               "link": "a named pipe", "folder": "a folder, not a file"}  # fmt: skip
    for name, reason in reasons.items():
        for look in (decode, image_size, read_labels):
            with pytest.raises((*BROKEN_IMAGE, BrokenImage), match=reason):
                look(tmp_path / f"{name}.jpg")


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG of one bit a pixel, and none of its pixels."""
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"IDAT"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


@pytest.mark.parametrize("size", [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (178_956_971, 1)])
def test_the_pixel_limit_is_named_with_both_numbers(tmp_path, size):
    (tmp_path / "scan.png").write_bytes(png_of(*size))
    message = f"{size[0] * size[1]:,} pixels, above the limit of 178,956,970; make it smaller"
    for look in (decode, image_size):
        with pytest.raises(BROKEN_IMAGE, match=f"^{message}$"):
            look(tmp_path / "scan.png")
    assert why_unreadable(lambda: decode(tmp_path / "scan.png")) == message
    with pytest.raises(UserError, match=rf"scan.png: not a readable mask \({message}\)"):
        read_labels(tmp_path / "scan.png")


def test_half_the_limit_is_nothing_to_warn_of(tmp_path):
    (tmp_path / "large.png").write_bytes(png_of(12_000, 12_000))
    code = f"from dinobench.data.decoding import image_size; print(image_size({str(tmp_path / 'large.png')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(12000, 12000)\n", "")


def test_whatever_a_decoder_raises_counts_as_broken(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(as_format("PNG"))
    for error in (RuntimeError("odd"), AssertionError("odd"), AttributeError("odd"), MemoryError("odd")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        with pytest.raises(BROKEN_IMAGE, match=f"damaged .{type(error).__name__}: odd"):
            decode(tmp_path / "x.png")


def test_images_are_opened_in_one_place():
    """Elsewhere neither formats nor sizes nor the kind of file would be looked at."""
    for folder in ("dinobench", "protocols", "pretrain"):
        for path in (ROOT / folder).rglob("*.py"):
            calls = re.findall(r"\bImage\.open\(", path.read_text(encoding="utf-8"))
            assert len(calls) == (path.name == "decoding.py"), path


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
def test_large_images_are_decoded_alike_and_in_turn(tmp_path, monkeypatch, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16)[..., 0] * 200) if mode == "I;16" else Image.fromarray(pixels)
    (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "x.png")
    small = decode(tmp_path / "x.png")
    monkeypatch.setattr("dinobench.data.decoding.LARGE", 100)
    inside, most = [], []
    load = ImageFile.ImageFile.load

    def watched(image):
        inside.append(image)
        most.append(len(inside))
        try:
            return load(image)
        finally:
            inside.pop()

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decode, [tmp_path / "x.png"] * 20))
    assert max(most) == 1
    for large in found:
        assert large.mode == "RGB" and large.tobytes() == small.tobytes()
        assert pickle.loads(pickle.dumps(large)).tobytes() == small.tobytes()
        assert large.resize((7, 7)).tobytes() == small.resize((7, 7)).tobytes()
