"""The report in a headless Chromium: what a reader does with it, without a complaint on the console or a request."""

from __future__ import annotations

import json

import pytest
from helpers import browser
from helpers.reports import HOSTILE, SEVERAL, folder, made
from PIL import Image

from dinobench.report import packing
from dinobench.report import page as report

pytestmark = pytest.mark.slow

ROWS = "[...document.querySelectorAll('#board tr[data-i]')].filter(r => !r.hidden).map(r => r.id)"
SORTED = "[...document.querySelectorAll('#board th')].map(h => h.getAttribute('aria-sort')).join()"
TITLE = "document.querySelector('#board .c-{} button')"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    (results / "pictures").mkdir()
    Image.new("RGB", (40, 30), "teal").save(results / "pictures" / "dino-attention.png")
    (results / "training").mkdir()
    (results / "training" / "dino.jsonl").write_text('{"epoch": 1, "loss": 2}\n{"epoch": 2, "loss": 1}')
    leak = "leaked images: 3 of 450 test images are in train too"
    evil = made(HOSTILE, 5.0, run_id="knn-evil", notes=(HOSTILE, leak), leak=leak, config={HOSTILE: HOSTILE})
    report.write(folder(results, [*SEVERAL, evil]), results / "page.html")
    return results / "page.html"


@pytest.fixture
def opened(written):
    path = browser.find()
    if path is None:
        pytest.skip("no Chromium: put one on PATH or name it in DINOBENCH_CHROMIUM")
    with browser.Page(path) as page:
        page.open(written)
        yield page
        assert page.complaints() == []
        assert page.requests() == [written.resolve().as_uri()]


def test_browser_sorts_by_click_and_by_keyboard(opened):
    first = opened.js(ROWS)
    assert first[:3] == ["knn-dino-digits", "knn-byol-digits", "knn-random-digits"]
    opened.js(TITLE.format("score") + ".click()")
    assert opened.js(SORTED).count("descending") == 1 and opened.js(ROWS) == first
    opened.js(TITLE.format("score") + ".click()")  # ranked within comparable runs, whose order stays
    assert opened.js(ROWS)[:4] == ["knn-evil", "knn-random-digits", "knn-byol-digits", "knn-dino-digits"]
    assert opened.js(ROWS)[4:] == first[4:]
    opened.js(TITLE.format("model") + ".focus()")
    opened.press("Enter")
    assert opened.js(SORTED).startswith("ascending,none")
    assert [r.split("-")[1] for r in opened.js(ROWS)] == ["evil", "byol", "byol", "dino", "dino", "random"]
    opened.press(" ")
    assert opened.js(ROWS)[0] == "knn-random-digits"


def test_browser_filters_by_text_protocol_and_data_set(opened):
    def choose(field: str, value: str):
        opened.js(f"{{const f = document.querySelector('#{field}'); f.value = {json.dumps(value)};"
                  "f.dispatchEvent(new Event('input', {bubbles: true}))}")  # fmt: skip
        return opened.js(ROWS), opened.js("document.querySelector('#shown').textContent")

    assert choose("text", "KNN dino-") == (["knn-dino-digits", "knn-dino-shapes"], "2 of 6 runs")
    assert opened.js("document.querySelector('tr.flags').hidden")
    assert choose("dataset", "shapes") == (["knn-dino-shapes"], "1 of 6 runs")
    assert choose("protocol", "logreg")[0] == []
    choose("text", "")
    assert choose("dataset", "")[0] == ["logreg-byol-digits"]
    assert choose("protocol", "") == (opened.js(ROWS), "6 runs")
    assert choose("text", "in train too") == (["knn-evil"], "1 of 6 runs")  # the reason of its flag


def test_browser_opens_a_row_with_all_of_its_provenance(opened):
    opened.js("document.querySelector('[id=\"knn-evil\"] .open').focus()")
    opened.press("Enter")
    shown = opened.js("document.querySelector('tr.detail').textContent")
    for text in ("knn-evil", HOSTILE, "weights_digest", "5.00 % [3.00, 7.00]", "config_hash", "2.6.0", "started_at"):
        assert text in shown
    assert opened.js("document.querySelectorAll('tr.detail img, tr.detail script').length") == 0
    assert opened.js("document.querySelector('[id=\"knn-evil\"] .open').getAttribute('aria-expanded')") == "true"
    raw = json.loads(opened.js("document.querySelector('tr.detail pre').textContent"))
    assert raw["notes"][0] == HOSTILE and raw["config"] == {HOSTILE: HOSTILE}
    opened.press("Enter")
    assert opened.js("document.querySelector('tr.detail').hidden")
    opened.js("document.querySelector('#knn-dino-digits .c-ci').click()")  # anywhere in the row
    assert opened.js("document.querySelector('#knn-dino-digits + tr.detail img').alt") == "dino · attention"
    assert "exp(cosine / T)" in opened.js("document.querySelector('#knn-dino-digits + tr.detail').textContent")
    assert opened.js("location.hash") == "#knn-dino-digits"


def test_browser_follows_a_link_to_a_run(written, opened):
    opened.js("location.hash = '#knn-dino-shapes'")
    opened.js("new Promise(requestAnimationFrame)")
    opened.js("new Promise(done => setTimeout(done, 50))")
    assert opened.js("document.querySelector('#knn-dino-shapes').nextElementSibling.className") == "detail"


def test_browser_shows_light_and_dark(opened):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = opened.js(paper)
    opened.dark(True)
    dark = opened.js(paper)
    opened.js("document.querySelector('#theme').click()")
    assert light != dark and opened.js(paper) == light
    opened.dark(False)
    opened.js("document.querySelector('#theme').click()")
    assert opened.js(paper) == dark
    assert opened.js("document.querySelector('#theme').getAttribute('aria-label')") == "Switch to light colours"


@pytest.mark.parametrize("width", [390, 800])
def test_browser_needs_no_sideways_scrolling(opened, width):
    opened.resize(width, 844)
    opened.js("document.querySelectorAll('.open').forEach(b => b.click())")
    assert opened.js("document.documentElement.scrollWidth") <= width


def test_browser_prints(opened, tmp_path):
    opened.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")


@pytest.fixture
def many(tmp_path):
    path = browser.find()
    if path is None:
        pytest.skip("no Chromium: put one on PATH or name it in DINOBENCH_CHROMIUM")
    found = [made(f"m{i:03}", 99 - i / 10, run_id=f"r{i:03}") for i in range(packing.PLAIN + 40)]
    report.write(folder(tmp_path / "many", found), tmp_path / "many.html")
    with browser.Page(path) as page:
        page.open(tmp_path / "many.html")
        page.js("new Promise(done => { const wait = () => document.querySelector('#rest').hidden"
                " ? done(1) : setTimeout(wait, 50); wait(); })")  # fmt: skip
        yield page
        assert page.complaints() == [] and len(page.requests()) == 1


def test_browser_unpacks_rows_and_records_of_a_large_page(many):
    last = packing.PLAIN + 39
    assert len(many.js(ROWS)) == last + 1 and many.js("document.querySelector('#shown').textContent") == "540 runs"
    many.js(f"location.hash = '#r{last}'")
    many.js("new Promise(done => setTimeout(done, 300))")
    raw = json.loads(many.js(f"document.querySelector('#r{last} + tr.detail pre').textContent"))
    assert list(raw)[:2] == ["schema", "run_id"]
    assert raw["run_id"] == f"r{last}" and raw["checkpoint"]["name"] == f"m{last}"
    many.js(TITLE.format("score") + ".click()")
    many.js(TITLE.format("score") + ".click()")
    assert many.js(ROWS)[:2] == [f"r{last}", f"r{last - 1}"]
    many.js("{const f = document.querySelector('#text'); f.value = 'm539';"
            "f.dispatchEvent(new Event('input', {bubbles: true}))}")  # fmt: skip
    assert many.js(ROWS) == [f"r{last}"]
