"""The page of a contest: says no more than the intervals carry, and can be read by everybody, on anything."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from contest_tables import HOSTILE, PRINCIPLES, evaluation_tables, panel, results_of, table_of
from scripted_verdicts import always_first, always_tie, fair

from psychocounsel.evals.place import Found, evaluation, write_page
from psychocounsel.evaluate import plots
from psychocounsel.evaluate.contest.plots import POINTS, draw_contest
from psychocounsel.evaluate.contest.tables import ContestTable
from psychocounsel.evaluate.contest.words import cautions, conclusion, marks, opposite
from psychocounsel.evaluate.page import page, template_text
from psychocounsel.evaluate.results import read_results
from psychocounsel.evaluate.wording import figure_text, listed, percent

LONG = "llama-3.1-8b-counsel-dpo-offline-2026-05"
GPT = "openai:gpt-4o-2024-08-06"


class Parts(HTMLParser):
    """The text of a page, its tags, and what it would load."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.ids, self.loads, self.handlers = [], [], [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            self.ids += [value] if key == "id" else []
            self.handlers += [key] if key.startswith("on") else []
            self.loads += [value] if key in ("src", "href", "xlink:href", "srcset", "action") else []

    def handle_data(self, data):
        self.words.append(data)


def page_of(*tables, **more):
    told = {"contests": [table.model_dump(mode="json") for table in tables], "differences": [], "notes": [],
            "principles": [{"id": one.id, "name": one.name} for one in PRINCIPLES]}  # fmt: skip
    return page(results_of(told, **more), told)


@pytest.fixture(scope="module")
def tables():
    return evaluation_tables(160)


@pytest.fixture(scope="module")
def html(tables):
    return page(results_of(tables, dependent=(f"{GPT}: made the labels",)), tables)


@pytest.fixture(scope="module")
def parts(html):
    return Parts(html)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_each_contest_says_first_what_its_interval_carries(tables, parts):
    first = parts.text.partition("What came out")[2].partition(f"{LONG} against old")[0]
    told = [ContestTable.model_validate(table) for table in tables["contests"]]
    assert conclusion(told[0]) == f"{LONG} beats old."
    assert all(conclusion(table) in first for table in told)
    assert all(figure_text(table["headline"]["win_rate"]) in first for table in tables["contests"])
    assert "no conclusion, the comparison is invalid" in first and "invalid" in marks(told[2])


def test_every_number_of_a_contest_stands_on_the_page(tables, parts):
    for table in tables["contests"]:
        head = table["headline"]
        assert f"{head['wins']}, {head['ties']}, {head['losses']}, {head['missing']}" in parts.text
        figures = [table["length"]["controlled"], *(table[key]["controlled"] for key in ("style",) if table[key])]
        figures += [row["win_rate"] for row in [*table["standings"], *table["principles"]]]
        figures += [row["consistency"] for row in table["standings"]]
        figures += list(table["by_split"].values())
        figures += list(table["compliance"].values()) if table["compliance"] else []
        assert [figure for figure in figures if figure_text(figure) not in parts.text] == []
        for row in table["topics"]:
            assert f"{percent(row['value'])} {percent(row['shrunk'])}" in parts.text
    assert "n = 160 speeches in 80 clusters of near-duplicates" in parts.text
    for row in tables["differences"]:
        assert f"{row['difference']['value']:.3g} [{row['difference']['low']:.3g}" in parts.text


def test_judges_that_do_not_count_are_named_with_the_reason(tables, parts):
    assert f"Not independent: {GPT} (not in the headline)." in parts.text
    excluded = tables["contests"][0]["headline"]["excluded"]
    assert list(excluded) == ["recorded:contradicting"]
    assert f"Left out of the headline: recorded:contradicting ({excluded['recorded:contradicting']})." in parts.text
    drawn = Parts(draw_contest(tables["contests"][0], {})["main"]).text
    assert f"Judge {GPT}, DEPENDENT" in drawn and "left out: judges" in drawn
    assert parts.text.count("DEPENDENT. ") == 1


def test_a_headline_of_dependent_judges_alone_is_marked_and_one_of_nobody_is_not_theirs():
    theirs = table_of(40, dependent=("fair",), texts=False)
    assert "DEPENDENT" in marks(theirs)
    assert "Not independent: fair (the headline is theirs)." in cautions(theirs)
    nobody = table_of(40, judges={"first": always_first, "fair": always_first}, dependent=("fair",), texts=False)
    assert nobody.headline.judges == () and marks(nobody) == ["invalid"]
    assert "Not independent: fair (not in the headline)." in cautions(nobody)


def test_a_conclusion_that_hangs_on_length_is_marked():
    longer = table_of(300, judges={"fair": lambda q, longer, first, random: 0.3 * np.tanh(longer)}, longer=1.2)
    assert conclusion(longer) == "new beats old."
    assert opposite(longer.headline.win_rate, longer.length)
    assert {"hangs on length", "extrapolated"} & set(marks(longer)) == {"hangs on length"} | (
        {"extrapolated"} if longer.length.extrapolated else set()
    )
    assert "At equal length the conclusion is another one" in " ".join(cautions(longer))
    assert "Length: length control moves the win rate by" in Parts(page_of(longer)).text


def test_a_page_is_made_of_whatever_was_measured():
    one = Parts(page_of(table_of(1, bootstrap=20))).text
    assert "n = 1 speeches in 1 clusters" in one and "At equal length cannot be told" in one
    assert " Judge-dependent: there is one judge." in one
    ties = Parts(page_of(table_of(24, judges={"tie": always_tie}, bootstrap=20))).text
    assert "new cannot be told apart from old." in ties and "cannot be told" in ties
    bare = table_of(24, judges={"first": always_first}, texts=False, bootstrap=20)
    assert bare.headline.win_rate.value is None and not bare.topics and not bare.principles
    text = Parts(page_of(bare)).text
    assert "undefined (n = 0)" in text and "Won, tied, lost, missing 0, 0, 0, 24" in text
    assert "does worst" not in text and "By principle" not in text and "What was compared" not in text
    assert "Candidates against each other" not in text


# --- plots ------------------------------------------------------------------------------------------------------------


def test_plots_are_the_same_bytes_for_the_same_tables_and_have_text(tables, html, parts):
    table = tables["contests"][1]
    assert draw_contest(table, {}) == draw_contest(table, {})
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', html)
    assert len(labels) == html.count("<svg") == len(set(labels)) > 20
    assert len(parts.ids) == len(set(parts.ids))


def test_the_length_plot_thins_points_but_not_means():
    table = table_of(2324, texts=False, bootstrap=20).model_dump(mode="json")
    html = page_of(ContestTable.model_validate(table))
    assert len(html) < 1_500_000
    assert (
        f"At most {POINTS} points are drawn, evenly thinned; the line and the squares are of all 2324"
        in Parts(html).text
    )
    drawn = draw_contest(table, {})["length"]
    assert 0.5 * POINTS < drawn.count("<use") <= POINTS + 30  # a marker is a <use>; ticks and squares are some more


def test_means_by_length_owe_nothing_to_the_line(tables, monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "scatter_line", lambda *args: seen.append(args) or "")
    table = tables["contests"][0]
    draw_contest(table, {})
    points, _, _, _, _, means = seen[0]
    by_length = sorted(points, key=lambda point: point[0])
    assert [mean["n"] for _, mean in means] == [20] * 8
    longest = np.mean([value for _, value in by_length[-20:]])
    assert means[-1][1]["value"] == pytest.approx(longest, abs=1e-3)
    assert means[-1][1]["low"] < longest < means[-1][1]["high"]
    for count, expected in ((100, [20] * 5), (59, [])):
        draw_contest(table_of(count, bootstrap=20, texts=False).model_dump(mode="json"), {})
        assert [mean["n"] for _, mean in seen[-1][5]] == expected


def test_long_names_do_not_make_letters_small():
    figure = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 100, "unit": "share"}
    width = [
        float(re.search(r'viewBox="0 0 ([\d.]+)', plots.forest([(name, figure)], "one"))[1])
        for name in ("short", "http://127.0.0.1:8000/v1#" + "a-very-long-model-name" * 6)
    ]
    assert width[1] < 1.1 * width[0]
    assert "倾听" in plots.forest([("倾听", figure)], "one")  # no warning of letters that the reader's fonts have


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, two):
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_words_and_marks_stand_out_from_their_ground():
    css = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", template_text("base.html.j2")))
    for ground in (css["paper"], "#ffffff"):
        assert min(contrast(css[name], ground) for name in ("ink", "muted", "accent", "warn")) >= 4.5
    assert contrast(css["warn"], "#fff6f0") >= 4.5
    assert min(contrast(colour, "#ffffff") for colour in (plots.MUTED, plots.ACCENT, plots.SECOND)) >= 3
    for shade in (plots.ACCENT, plots.SECOND):  # of heat maps at their ends, three quarters opaque
        mixed = "#" + "".join(f"{round(0.75 * int(shade[at : at + 2], 16) + 0.25 * 255):02x}" for at in (1, 3, 5))
        assert contrast(plots.INK, mixed) >= 4.5


# --- hostile text -----------------------------------------------------------------------------------------------------


def test_hostile_names_and_replies_stay_text(tables, html, parts):
    assert parts.tags.count("script") == 1 and "img" not in parts.tags and parts.handlers == []
    assert [value for value in parts.loads if not value.startswith(("data:", "#"))] == []
    assert " ".join(HOSTILE.split()) in parts.text and "49 </details>" not in parts.text
    name = "</title><script>$\\frac{a$ --> \"'{{ 1 }}"
    one = table_of(24, a=name, b="<b>old</b>", judges={name: fair()}, bootstrap=20)
    found = Parts(page_of(one))
    assert found.tags.count("script") == 1 and "b" not in found.tags
    assert (
        conclusion(one) in found.text and conclusion(one).startswith(name) and conclusion(one).endswith("<b>old</b>.")
    )


def test_lists_and_tables_of_settings_are_told_in_words():
    told = {"judges": ["a", "b"], "families": {}, "limit": None, "common": False, "seed": 0, "origins": []}
    assert listed(told) == "judges: a; b; families: none; limit: none; common: no; seed: 0; origins: none"


def test_the_page_of_a_folder_tells_its_settings_and_is_made_again_alike(tmp_path):
    tables = {"contests": [table_of(24, bootstrap=20).model_dump(mode="json")]}
    settings = {"bootstrap": 200, "judges": ["fair"], "temperature": 0.7}
    with evaluation(tmp_path / "found", "eval winrate", settings) as place:
        path = place.finish("made up", Found({}, tables, about={"licences": ["CC-BY-4.0", "not stated"]}))
    first = path.read_bytes()
    text = Parts(first.decode()).text
    assert "licences CC-BY-4.0; not stated" in text
    assert "settings bootstrap: 200 judges: fair temperature: 0.7" in text
    assert read_results(tmp_path / "found").about["settings"] == settings
    assert write_page(tmp_path / "found").read_bytes() == first


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module", params=[(390, 844), (1280, 900)], ids=["phone", "desktop"])
def opened(request, browser, place):
    """The page with all details open; `problems` is what the browser complained about or asked the network for."""
    width, height = request.param
    seen = browser.new_page(viewport={"width": width, "height": height})
    seen.problems = []
    seen.on("console", lambda message: seen.problems.append(message.text))
    seen.on("pageerror", lambda error: seen.problems.append(str(error)))
    seen.on("request", lambda asked: None if asked.url[:5] in ("file:", "data:") else seen.problems.append(asked.url))
    seen.goto(place, wait_until="load")
    seen.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    yield seen
    seen.close()


def test_the_page_can_be_read_at_any_width(opened):
    assert opened.title() == "two against one – PsychoCounsel"  # no reply has changed it
    assert opened.problems == []
    width, body, inner = opened.evaluate(
        "[document.documentElement.scrollWidth, document.body.scrollWidth, window.innerWidth]"
    )
    assert max(width, body) <= inner
    sizes = opened.evaluate(
        """() => [...document.querySelectorAll("figure > svg text")].filter(one => one.textContent.trim())
            .map(one => one.getBoundingClientRect().height)"""
    )
    assert len(sizes) > 300 and min(sizes) >= 7
    assert opened.evaluate("Math.min(...[...document.querySelectorAll('main p, td, li')].map("
                           "one => parseFloat(getComputedStyle(one).fontSize)))") >= 12.5  # fmt: skip


def shown(browser_part):
    """(value shown, id of the speech) of the items that can be seen, in their order on the page."""
    found = browser_part.evaluate(
        """part => [...part.querySelectorAll(".item")].filter(one => !one.hidden)
            .map(one => [one.querySelector("[data-shown]").textContent, one.querySelector("p").textContent])"""
    )
    return [(value, speech.removeprefix("Speech ")) for value, speech in found]


def test_items_are_filtered_and_ordered_as_asked(opened, tables):
    items = tables["contests"][2]["worst"]
    part = opened.locator("[data-browser]").nth(2)
    topic, judge, order = (part.locator(f"[data-pick={kind}]") for kind in ("topic", "judge", "order"))
    by_value = [(f"{item['value']:.2f}", item["speech_id"]) for item in items]
    assert shown(part) == by_value
    judge.select_option("recorded:silent")
    some = shown(part)
    heard = [item for item in items if "recorded:silent" in item["judges"]]
    assert 0 < len(some) == len(heard) < len(items)  # where that judge gave no verdict there is nothing to show
    assert [value for value, _ in some] == sorted(f"{item['judges']['recorded:silent']:.2f}" for item in heard)
    assert part.locator("[data-count]").inner_text() == f"{len(heard)} of {len(items)} shown"
    judge.select_option("")
    order.select_option("apart")
    spread = {item["speech_id"]: max(item["judges"].values()) - min(item["judges"].values()) for item in items}
    found = [spread[speech] for _, speech in shown(part)]
    assert found == sorted(spread.values(), reverse=True) and found[0] > found[-1]
    order.select_option("value")
    topic.select_option(items[0]["topic"])
    assert {speech for _, speech in shown(part)} == {
        item["speech_id"] for item in items if item["topic"] == items[0]["topic"]
    }
    topic.select_option("")
    assert shown(part) == by_value
    others = opened.locator("[data-browser]").nth(0)
    assert len(shown(others)) == len(tables["contests"][0]["worst"])  # one contest's choice leaves the others alone


def test_items_open_and_are_picked_by_keyboard(browser, place):
    seen = browser.new_page(viewport={"width": 390, "height": 844})
    seen.goto(place)
    part = seen.locator("[data-browser]").first
    part.locator("> summary").press("Enter")
    item = part.locator(".item").first
    assert not item.locator("blockquote").first.is_visible()
    item.locator("summary").press("Space")
    assert item.locator("blockquote").count() == 3 and item.locator("blockquote").first.is_visible()
    before = shown(part)
    part.locator("[data-pick=topic]").focus()
    seen.keyboard.press("ArrowDown")
    after = shown(part)
    seen.close()
    assert 0 < len(after) < len(before)


def test_without_scripts_every_item_can_still_be_read(browser, place, tables):
    context = browser.new_context(java_script_enabled=False)
    seen = context.new_page()
    seen.goto(place)
    part = seen.locator("[data-browser]").first
    part.locator("> summary").click()
    items = tables["contests"][0]["worst"]
    assert part.locator(".item").count() == len(items) and not part.locator(".controls").is_visible()
    part.locator(".item > summary").last.click()
    text = part.locator(".item").last.inner_text()
    context.close()
    assert all(" ".join(items[-1][key].split()) in " ".join(text.split()) for key in ("speech", "reply_a", "reply_b"))
    assert all(judge in text for judge in panel())
