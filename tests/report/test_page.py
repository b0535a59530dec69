from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import re
from html.parser import HTMLParser

import pytest
import typer
from helpers.reports import HOSTILE, SEVERAL, folder, made
from PIL import Image
from typer.testing import CliRunner

from dinobench.cli import compare
from dinobench.errors import UserError
from dinobench.report import charts as report_charts
from dinobench.report import files, packing
from dinobench.report import page as report
from dinobench.results import records


def unpacked(script: str) -> str:
    return gzip.decompress(base64.b64decode(script)).decode()


class Read(HTMLParser):
    """What a browser would make of a page: its elements with attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.inside = True
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data
        else:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_page_holds_everything_and_asks_for_nothing(tmp_path):
    text, done = report.page(folder(tmp_path))
    page = Read(text)
    assert done.runs == 5 and not done.left_out
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:")), (tag, address)
    assert not re.search(r"url\(|@import|https?://|\bfetch\(|XMLHttpRequest|import\(", text)
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert report.page(tmp_path)[0] == text


def test_names_from_records_are_text_wherever_they_stand(tmp_path):
    evil = made(
        HOSTILE, 50.0, run_id="knn-evil", notes=(HOSTILE,), profile=HOSTILE, dataset=HOSTILE,
        config={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE}, device=HOSTILE,
    )  # fmt: skip
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "<img src=x>.jsonl").write_text(
        '{"epoch": 1, "knn/<b>/x": 1, "<i>": 2}\n{"epoch": 2, "knn/<b>/x": 2, "<i>": 2}'
    )
    page = Read(report.page(folder(tmp_path, [evil, made("dino", 60.0)]))[0])
    assert not page.all("img") and len(page.scripts) == 2 and not page.all("i")
    assert HOSTILE in page.text
    [kept] = [r for r in json.loads(page.scripts[0])["records"] if r["run_id"] == "knn-evil"]
    assert kept == json.loads(records.to_json(evil))


def test_numbers_that_json_lacks_and_names_that_are_no_text_do_not_break_a_page(tmp_path):
    odd = made("odd", float("nan"), config={"temperature": float("inf")})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "odd.json").write_text(json.dumps(dataclasses.asdict(odd)))
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / os.fsdecode(b"\xff.jsonl")).write_text('{"loss": 1}\n{"loss": 2}')
    done = report.write(folder(tmp_path, [made("dino", 70.0)]), tmp_path / "page.html")
    page = Read((tmp_path / "page.html").read_bytes().decode())
    kept = {r["checkpoint"]["name"]: r for r in json.loads(page.scripts[0], parse_constant=pytest.fail)["records"]}
    assert done.runs == 2 and kept["odd"]["config"] == {"temperature": "inf"}


def test_the_best_is_marked_among_comparable_rows_only(tmp_path):
    page = Read(report.page(folder(tmp_path))[0])
    best = [a["id"] for a in page.all("tr") if a.get("class") == "best"]
    assert best == ["knn-dino-digits"]
    groups = report_charts.groups(SEVERAL)
    assert [[r.checkpoint.name for r in g.records] for g in groups] == [["dino", "byol", "random"], ["dino"], ["byol"]]
    less = report_charts.Group([made("a", 3.0), made("b", 2.0)], higher_is_better=False)
    assert [r.checkpoint.name for r in less.records] == ["b", "a"]


def test_equal_scores_share_the_mark():
    rows = report.rows_of(report_charts.groups([made("a", 5.0), made("b", 5.0), made("c", 4.0)]), {})
    assert [row.best_of for row in rows] == [3, 3, 0]


def test_flags_stand_in_the_row_with_their_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "flags", lambda results, found: {"knn-random-digits": ["scores like chance <10 %>"]})
    text, _ = report.page(folder(tmp_path))
    assert text.count("<b>check</b> scores like chance &lt;10 %&gt;") == 1


def test_settings_come_with_their_meaning(tmp_path):
    data = json.loads(Read(report.page(folder(tmp_path))[0]).scripts[0])
    assert "exp" in data["docs"]["knn"]["temperature"][0]
    assert list(data["records"][0]["metrics"]) == ["top1@k10", "top1@k20", "top5@k20"]  # the protocol's order


def test_pictures_belong_to_rows_and_what_is_left_out_is_named(tmp_path):
    found = [made("vit", 1.0), made("vit_small", 2.0), made("vit", 3.0, run_id="knn-vit-1")]
    drawn = tmp_path / "pictures"
    drawn.mkdir()
    for name in ("vit_small-heads_dog.png", "vit-cat.gif", "knn-vit-1-best.jpg", "alone.jpeg", "vitals.png"):
        Image.new("RGB", (30, 20)).save(drawn / name)
    Image.effect_noise((300, 300), 90).save(drawn / "vit-large.png")
    Image.new("RGB", (9, 9)).save(drawn / "tiff.png", format="TIFF")
    (drawn / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (drawn / "script.svg").write_text("<svg onload='alert(1)'/>")
    shown, left_out = files.pictures(tmp_path, found, limit=20_000)
    assert {p.name: (p.caption, p.rows) for p in shown} == {
        "alone.jpeg": ("alone", ()),
        "knn-vit-1-best.jpg": ("knn-vit-1 · best", (2,)),
        "vit-cat.gif": ("vit · cat", (0, 2)),
        "vit_small-heads_dog.png": ("vit_small · heads dog", (1,)),
        "vitals.png": ("vitals", ()),
    }
    assert all(p.uri.startswith("data:image/") and (p.width, p.height) == (30, 20) for p in shown)
    assert [line.split(":")[0] for line in left_out] == ["broken.png", "script.svg", "tiff.png", "vit-large.png"]
    assert "over the limit" in left_out[-1]
    text = report.page(folder(tmp_path, found), picture_bytes=0)[0]
    assert "data:image/" not in text and "vit-cat.gif: 0.0 MB, over the limit" in text


def test_two_thousand_rows_stay_small(tmp_path):
    found = [
        made(f"model{i}", i % 97, dataset=f"set{i % 80}", dataset_fingerprint=f"{i % 80:064}") for i in range(2000)
    ]
    text, done = report.page(folder(tmp_path, found))
    assert done.runs == 2000 and text.count('<tr role="row" id=') == packing.PLAIN
    assert len(text.encode()) < 2_000_000
    _, rows, kept = Read(text).scripts[:3]
    assert unpacked(rows).count('<tr role="row" id=') == 2000 - packing.PLAIN
    assert len(json.loads(unpacked(kept))["records"]) == 2000
    assert done.left_out == ["plots of 20 groups of comparable runs, which the table has"]


def test_names_from_records_are_text_in_packed_rows_too(tmp_path):
    found = [made(f"m{i}", 90 - i / 100, run_id=f"r{i}") for i in range(packing.PLAIN)]
    text, _ = report.page(folder(tmp_path, [*found, made(HOSTILE, 1.0, run_id="evil")]))
    [row] = [a for a in Read(unpacked(Read(text).scripts[1])).elements if a[1].get("id") == "evil"]
    assert row[0] == "tr" and "<img" not in unpacked(Read(text).scripts[1])


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(compare.report)

    def call(*arguments: object):
        return CliRunner().invoke(app, list(map(str, arguments)))

    return call


def test_the_command_writes_the_page_and_names_what_it_left_out(tmp_path, command):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "half.json").write_text('{"schema"')
    output = tmp_path / "out" / "page.html"
    done = command(folder(tmp_path), "-o", output, "--title", "Five <runs>")
    assert done.exit_code == 0 and "half.json" in done.output and "5 runs" in done.output
    assert "<h1>Five &lt;runs&gt;</h1>" in output.read_text()


def test_bad_input_is_one_clear_error(tmp_path, command):
    missing = command(tmp_path / "none").exception
    assert isinstance(missing, UserError) and "no runs/ folder" in str(missing)
    (tmp_path / "file").touch()
    blocked = command(folder(tmp_path), "-o", tmp_path / "file" / "page.html").exception
    assert isinstance(blocked, UserError) and "cannot be written" in str(blocked)
