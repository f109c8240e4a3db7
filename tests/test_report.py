"""report.html: one page that needs nothing else, readable on a phone, honest about what it shows."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_run import read_json

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
MAIN_FIGURES = (
    "reward.accuracy", "reward.length_baseline", "judge.pair_agreement", "winrate.offline_vs_base",
    "winrate.online_vs_base", "winrate.online_vs_offline",
)  # fmt: skip


@pytest.fixture(scope="module")
def html(finished):
    return (finished / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def metrics(finished):
    return read_json(finished / "results.json")["metrics"]


class Loads(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self):
        super().__init__()
        self.found, self.scripts = [], 0

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        for key, value in attributes:
            if key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                self.found.append(value)
            if key.startswith("on"):
                self.scripts += 1


def test_the_page_loads_nothing_from_anywhere(html):
    page = Loads()
    page.feed(html)
    assert [value for value in page.found if not value.startswith(("data:", "#"))] == []
    assert page.scripts == 0
    assert re.findall(r"@import|url\((?!#|['\"]?data:)", html) == []


def test_the_page_shows_every_main_figure_with_its_n(html, metrics):
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    for key in MAIN_FIGURES:
        figure = metrics[key]
        assert f"{100 * figure['value']:.1f} %" in text
        assert f"n = {figure['n']} {figure['unit'].removeprefix('share of ')}" in text


def test_the_page_says_what_it_is_not_and_who_graded(html):
    assert "not therapy" in html
    assert html.count("DEPENDENT.") == 1
    assert "the embedded judge was fitted on ratings of the same kind as the labels" in html
    assert "a run on those is in-sample for it" in html
    assert "Grading judge orders the same pairs as the labels do" in html
    assert "Intervals describe sampling of speeches" in html


def test_the_page_has_its_plots_and_every_stage(html):
    assert html.count("<svg") >= 10
    for label in ("Gap of train pairs", "Reward of held-out replies", "Ratings by principle", "Speeches by topic"):
        assert label in html
    for name in ("language model", "supervised", "reward", "offline", "online"):
        assert f"<figcaption>{name}</figcaption>" in html


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed; apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=[(390, 844), (1280, 900)], ids=["phone", "desktop"])
def page(request, browser, finished):
    """The report, opened; `problems` holds whatever the browser complained about or asked the network for."""
    width, height = request.param
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.problems = []
    opened.on("console", lambda message: opened.problems.append(message.text))
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("request", lambda asked: None if asked.url[:5] in ("file:", "data:") else opened.problems.append(asked))
    opened.goto((finished / "report.html").as_uri(), wait_until="load")
    yield opened
    opened.close()


def test_the_browser_has_nothing_to_complain_about(page):
    assert page.title() == "tiny – PsychoCounsel report"
    assert page.problems == []


def test_the_body_never_scrolls_sideways(page):
    for detail in page.locator("details").all():
        detail.evaluate("element => { element.open = true }")
    width = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, window.innerWidth]")
    assert max(width[:2]) <= width[2]


def test_figures_stamp_and_plots_are_visible(page, metrics):
    cards = page.locator(".card")
    assert cards.count() == len(MAIN_FIGURES)
    shown = cards.all_inner_texts()
    for key in MAIN_FIGURES:
        assert any(f"n = {metrics[key]['n']} " in text for text in shown), key
    assert all(cards.nth(i).is_visible() for i in range(cards.count()))
    assert page.get_by_text("DEPENDENT.").is_visible()
    boxes = [svg.bounding_box() for svg in page.locator("figure > svg").all() if svg.is_visible()]
    assert len(boxes) >= 10
    assert all(box["width"] > 250 and box["height"] > 60 for box in boxes)


def test_letters_in_plots_can_be_read(page):
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("figure > svg text")]
            .filter(text => text.checkVisibility() && text.textContent.trim())
            .map(text => text.getBoundingClientRect().height)"""
    )
    assert len(sizes) > 50
    assert min(sizes) >= 7


def test_before_and_after_replies_stand_beside_their_speech(page):
    first = page.locator("details[open]").filter(has=page.locator(".pair")).first
    assert first.is_visible()
    assert [text.split(",")[0] for text in first.locator(".pair > div > span").all_inner_texts()] == [
        "base", "offline", "online",
    ]  # fmt: skip
