from __future__ import annotations

import csv
import dataclasses
import io
import multiprocessing
import random
import tempfile
import threading
from pathlib import Path

import pandas as pd
import pytest
from helpers.samples import INFO, record
from helpers.writers import write_and_rebuild
from hypothesis import given, settings
from hypothesis import strategies as st

from dinobench.cli.display import compare as display
from dinobench.errors import UserError
from dinobench.escaping import csv_cell
from dinobench.files import locked_folder
from dinobench.results import leaderboard, records

HEADER = (
    "model,method,arch,protocol,profile,dataset,metric,value,ci_low,ci_high,n,seed,"
    "weights_digest,config_hash,dataset_fingerprint,run_id,dinobench_version"
)


def several():
    return [
        record(
            f"run-{name}-{protocol}",
            protocol=protocol,
            checkpoint=dataclasses.replace(INFO, name=name, weights_digest=name * 64),
        )
        for name in "cab"
        for protocol in ("logreg", "knn")
    ]


def test_columns_order_rounding_and_line_ends(tmp_path):
    for r in several():
        records.write(tmp_path, r, None)
    path, broken = leaderboard.rebuild(tmp_path)
    raw = path.read_bytes()
    assert path == tmp_path / "leaderboard.csv" and not broken
    assert b"\r" not in raw and raw.endswith(b"\n")
    lines = raw.decode().splitlines()
    assert lines[0] == HEADER == ",".join(leaderboard.COLUMNS)
    assert lines[1] == (
        "a,none,fake,knn,dino2021,digits,top1@k20,74.51,73.00,76.00,450,0,"
        f"{'a' * 12},{'c' * 12},{'d' * 12},run-a-knn,0.1.0"
    )
    assert lines[2].split(",")[6:11] == ["loss", "0.12", "", "", "0"]
    assert [(r["protocol"], r["model"]) for r in csv.DictReader(lines)][::2] == [
        ("knn", "a"), ("knn", "b"), ("knn", "c"), ("logreg", "a"), ("logreg", "b"), ("logreg", "c"),
    ]  # fmt: skip


def test_records_keep_what_the_leaderboard_rounds(tmp_path):
    records.write(tmp_path, record(), None)
    leaderboard.rebuild(tmp_path)
    kept = records.read(tmp_path, record().run_id)
    assert kept is not None and kept.metrics["top1@k20"].value == 74.512345678


def test_rebuilding_gives_the_same_bytes_whatever_the_order_of_writing(tmp_path):
    contents = set()
    for attempt in range(3):
        found = several()
        random.Random(attempt).shuffle(found)
        for r in found:
            records.write(tmp_path / str(attempt), r, None)
        for _ in range(2):
            contents.add(leaderboard.rebuild(tmp_path / str(attempt))[0].read_bytes())
    assert len(contents) == 1


@settings(deadline=None, max_examples=20)
@given(st.text(min_size=1, max_size=20).filter(lambda s: "\r" not in s and "\0" not in s))
def test_any_name_reads_back(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    with tempfile.TemporaryDirectory() as folder:
        records.write(Path(folder), record(checkpoint=dataclasses.replace(INFO, name=name)), None)
        text = leaderboard.rebuild(Path(folder))[0].read_bytes().decode()
    assert {row["model"] for row in csv.DictReader(io.StringIO(text, newline=""))} == {csv_cell(name)}


def test_no_records_give_the_header_alone(tmp_path):
    assert leaderboard.rebuild(tmp_path)[0].read_text() == HEADER + "\n"


def test_broken_records_are_returned_and_left_out(tmp_path):
    records.write(tmp_path, record(), None)
    (tmp_path / "runs" / "half.json").write_text('{"schema": 1,')
    path, broken = leaderboard.rebuild(tmp_path)
    assert [p.name for p, _ in broken] == ["half.json"]
    assert len(pd.read_csv(path)) == 2


def test_the_file_is_the_table(tmp_path):
    for r in (*several(), record("odd", checkpoint=dataclasses.replace(INFO, name='a,"b"\nc', arch=""))):
        records.write(tmp_path, r, None)
    path, rows, _ = leaderboard.build(tmp_path)
    board = pd.DataFrame(rows, columns=list(leaderboard.COLUMNS))
    assert path.read_text() == board.to_csv(index=False, lineterminator="\n")


def test_building_hands_back_the_rows_that_it_wrote(tmp_path):
    records.write(tmp_path, record(), None)
    (tmp_path / "runs" / "half.json").write_text('{"schema": 1,')
    path, rows, broken = leaderboard.build(tmp_path)
    assert (path, broken) == leaderboard.rebuild(tmp_path) and rows == leaderboard.lines([record()])


def test_what_is_shown_is_the_rows_aligned_whether_few_or_many(tmp_path, capsys):
    few = leaderboard.lines([*several(), record("odd", checkpoint=dataclasses.replace(INFO, name="model é", arch=""))])
    shown = []
    for rows in (few, few * 50):
        display.leaderboard(rows)
        shown.append(capsys.readouterr().out.splitlines())
    assert [line.rstrip() for line in shown[1]] == [shown[0][0], *shown[0][1:] * 50]
    assert shown[0][1].split() == [few[0][0], *map(str, few[0][2:11])]


def test_a_leaderboard_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "leaderboard.csv").mkdir()
    with pytest.raises(UserError, match=r"leaderboard\.csv: cannot be written"):
        leaderboard.rebuild(tmp_path)


def test_the_last_of_many_writers_leaves_all_rows(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(write_and_rebuild, [(str(tmp_path), i) for i in range(50)], chunksize=1)
    written = (tmp_path / "leaderboard.csv").read_bytes()
    assert sorted(pd.read_csv(tmp_path / "leaderboard.csv").value) == list(range(50))
    assert leaderboard.rebuild(tmp_path)[0].read_bytes() == written


def test_a_record_that_arrives_while_the_table_is_written_is_not_missed(tmp_path, monkeypatch):
    records.write(tmp_path, record("first"), None)
    lines = leaderboard.lines

    def slow(found):
        if len(found) == 1:  # another process finishes between our reading and our writing
            records.write(tmp_path, record("second"), None)
        return lines(found)

    monkeypatch.setattr(leaderboard, "lines", slow)
    assert set(pd.read_csv(leaderboard.rebuild(tmp_path)[0]).run_id) == {"first", "second"}


def test_a_board_that_follows_reads_each_record_once_and_writes_the_same(tmp_path, monkeypatch):
    read = []
    real = leaderboard.read_file
    monkeypatch.setattr(leaderboard, "read_file", lambda path: read.append(path.name) or real(path))
    board = leaderboard.Board(tmp_path)
    for r in several():
        records.write(tmp_path, r, None)
        board.rebuild()
    assert len(read) == len(set(read)) == 6
    followed = board.path.read_bytes()
    assert leaderboard.rebuild(tmp_path)[0].read_bytes() == followed
    changed = dataclasses.replace(several()[0], seed=9)
    records.write(tmp_path, changed, None)
    (tmp_path / "runs" / f"{several()[1].run_id}.json").unlink()
    (tmp_path / "runs" / f"{several()[2].run_id}.json").write_text("{")
    board.rebuild()
    followed = board.path.read_bytes()
    assert len(board.broken) == 1 and followed.count(b"\n") == 1 + 2 * 4
    assert leaderboard.rebuild(tmp_path)[0].read_bytes() == followed


def test_two_that_rebuild_at_once_wait_for_each_other(tmp_path):
    records.write(tmp_path, record(), None)
    board, began = leaderboard.Board(tmp_path), threading.Event()
    with locked_folder(tmp_path) as ours:
        other = threading.Thread(target=lambda: (began.set(), board.rebuild()))
        other.start()
        began.wait()
        other.join(0.2)
        assert other.is_alive() or not ours  # no locks on this disk
    other.join()
    assert board.path.exists()
