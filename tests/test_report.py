"""report.html: one page that needs nothing else, readable on a phone, honest about what it shows."""

import re
from html.parser import HTMLParser

import pytest
from tiny_run import read_json

from psychocounsel.errors import UserError
from psychocounsel.evaluate.report import ReportData, render
from psychocounsel.evaluate.results import Results
from psychocounsel.evaluate.rounds import read_rounds, round_figures, round_sentences, throughput

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
    assert page.scripts == 1  # that of the worst items; it has no address
    assert re.findall(r"@import|url\((?!#|['\"]?data:)", html) == []


def test_the_page_shows_every_main_figure_with_its_n(html, metrics):
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    for key in MAIN_FIGURES:
        figure = metrics[key]
        assert f"{100 * figure['value']:.1f} %" in text
        assert f"n = {figure['n']} {figure['unit'].removeprefix('share of ')}" in text


def test_the_page_says_what_it_is_not_and_who_graded(html):
    assert "Research and professional drafting aid; not therapy." in html
    assert html.count("DEPENDENT.") == 1
    assert "the embedded judge was fitted on ratings of the same kind as the labels" in html
    assert "a run on those is in-sample for it" in html
    assert "Grading judge orders the same pairs as the labels do" in html
    assert "Intervals describe sampling of speeches" in html


def test_the_page_has_its_plots_and_every_stage(html):
    assert html.count("<svg") >= 10
    assert "<h2>Online rounds</h2>" in html and "<h2>Best of N</h2>" not in html
    for label in ("Gap of train pairs", "Reward of held-out replies", "Ratings by principle", "Speeches by topic"):
        assert label in html
    for name in ("language model", "supervised", "reward", "offline", "online"):
        assert f"<figcaption>{name}</figcaption>" in html


# --- online rounds and the curve -------------------------------------------------------------------------------------


def figure(value, unit="share of speeches", width=0.1):
    return {"value": value, "low": value - width, "high": value + width, "n": 40, "unit": unit}


def look(number, reward=0.0, judge=0.5, alarms=(), counts=None):
    words = {**figure(60 + number, "words"), "low": None, "high": None}
    figures = {"reward": figure(reward, "reward"), "judge": figure(judge), "kl": figure(0.7 * number, "nats per reply"),
               "words": words, "opening": figure(0.2)}  # fmt: skip
    seconds = {"sample": 30.0, "score": 5.0, "train": 60.0, "look": 5.0} if number else {"look": 5.0}
    return {"round": number, "figures": figures, "alarms": list(alarms), "counts": counts or {}, "seconds": seconds,
            "tokens": {"sample": 6000, "score": 9000, "train": 12000} if number else {}}  # fmt: skip


COUNTS = {"speeches": 10, "candidates": 80, "pairs": 7, "left_out": {"truncated": 3, "no margin": 0, "gate": 2}}
ROUNDS = {
    "best": 1,
    "stopped": "no better round in 1",
    "looks": [
        look(0),
        look(1, 0.4, 0.61, counts=COUNTS),
        look(2, 0.9, 0.42, ["<b>words</b> rose beyond twice those of the start"], COUNTS),
    ],
}
CURVE = {
    "points": [{"n": n, "kl": kl, "reward": figure(gain, "standard deviations"), "winrate": figure(rate)}
               for n, kl, gain, rate in ((1, 0.0, 0.0, 0.5), (2, 0.19, 0.5, 0.58), (4, 0.64, 1.0, 0.4))],
    "spread": 2.0, "turn": 4, "sentence": "Over-optimisation from N = 4: <i>so it is</i>",
}  # fmt: skip


def page_of(online=None, best_of=None, metrics=None):
    results = Results(name="made up", metrics=metrics or {}, versions={"psychocounsel": "0"})
    data = ReportData(
        results=results, stages=[], speeches=[], ratings=[], pairs={"train": [], "dev": [], "test": []}, principles=[],
        agreement={}, contests={"contests": [], "differences": []}, reward_scores={"chosen": [], "rejected": []},
        curves={}, samples=[], best_of=best_of, online=online,
    )  # fmt: skip
    return render(data)


def words_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_page_tells_the_online_rounds():
    page = page_of(ROUNDS)
    text = words_of(page)
    assert "Round 1 of 2 is kept as the online policy" in text and "ended early: no better round in 1." in text
    assert "1 of 3 looks raised an alarm" in text and re.search(
        r"\b1 best 0\.4 \[0\.3, 0\.5\] 61\.0 % \[51\.0, 71\.0\]", text
    )
    assert "80 7 3 truncated, 2 gate none" in text  # what was left out and why; a reason without a case is not named
    assert "&lt;b&gt;words&lt;/b&gt; rose beyond twice" in page and "<b>words</b>" not in page
    for label in ("Reward and judges by online round", "Monitors by online round"):
        assert f'aria-label="{label}"' in page
    assert "KL to the start, nats per reply" in page and "same first five words" in page
    assert "repetition in a reply" not in page  # a figure that no look has gets no panel
    assert "1 sample 30.0 30.0 % 200" in text and "1 look 5.0 5.0 %" in text and "2 train 60.0 60.0 % 200" in text


def test_without_rounds_and_curve_the_page_has_no_such_sections():
    page = page_of()
    assert "Online rounds" not in page and "Best of N" not in page


def test_rounds_without_a_better_one_are_said_to_have_failed():
    online = {**ROUNDS, "best": 0, "stopped": ""}
    metrics = {key: f.model_dump() for key, f in round_figures(online).items()}
    won = {"winrate.offline_vs_base": figure(0.8), "winrate.online_vs_base": figure(0.8)}
    page = page_of(online, metrics=metrics | won)
    assert "None of 2 online rounds beat the policy they started from on the dev split" in page
    assert "Online rounds did not beat the policy they started from" in page
    assert "The offline policy beats its base" in page and "The online policy beats" not in page
    assert "The online policy beats its base" in page_of(ROUNDS, metrics=won)


def test_the_figures_of_rounds_reach_the_results():
    found = round_figures(ROUNDS)
    assert (found["online.best_round"].value, found["online.rounds"].value) == (1, 2)
    assert (found["online.reward_2"].value, found["online.judge_2"].value) == (0.9, 0.42)
    by_round = {f"online.{name}_{number}" for name in ("reward", "judge") for number in range(3)}
    assert set(found) == {"online.best_round", "online.rounds"} | by_round
    bare = {**ROUNDS, "looks": [{**row, "figures": {}} for row in ROUNDS["looks"]]}
    assert set(round_figures(bare)) == {"online.best_round", "online.rounds"}
    assert "<h2>Online rounds</h2>" in page_of(bare)
    assert (
        throughput([{**ROUNDS["looks"][1], "tokens": {}, "seconds": {"sample": 0.0, "train": 2.0}}])[0]["rate"] is None
    )
    assert round_sentences({**ROUNDS, "stopped": ""})[0].startswith("Round 1 of 2 is kept")


@pytest.mark.parametrize("text", ["", "[]", '{"best": 1, "looks": []}', '{"looks": [{"round": 0}]}'])
def test_rounds_that_are_not_whole_are_named(tmp_path, text):
    assert read_rounds(tmp_path) is None
    (tmp_path / "online.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"online\.json: does not hold the looks at the online rounds; make them anew"):
        read_rounds(tmp_path)


def test_the_page_tells_the_curve_and_where_it_turns():
    page = page_of(best_of=CURVE)
    text = words_of(page)
    assert "Over-optimisation from N = 4: &lt;i&gt;so it is&lt;/i&gt;." in page
    assert 'aria-label="Best of N replies"' in page and "4 0.64 1 [0.9, 1.1] 40.0 % [30.0, 50.0], n = 40" in text
    flat = page_of(best_of={**CURVE, "turn": None, "sentence": ""})
    assert "No N was seen from which choosing harder by the reward" in flat


def test_rounds_and_curve_can_be_read_on_a_phone(browser, tmp_path):
    (tmp_path / "page.html").write_text(page_of(ROUNDS, CURVE), encoding="utf-8")
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.goto((tmp_path / "page.html").as_uri(), wait_until="load")
    for detail in opened.locator("details").all():
        detail.evaluate("element => { element.open = true }")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.get_by_text("Where the time went").is_visible()
    sizes = opened.evaluate(
        """() => [...document.querySelectorAll("figure > svg text")]
            .filter(text => text.textContent.trim()).map(text => text.getBoundingClientRect().height)"""
    )
    opened.close()
    assert min(sizes) >= 7


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
    first = page.locator("h2:has-text('Replies before and after') ~ details[open]").first
    assert first.is_visible()
    assert [text.split(",")[0] for text in first.locator(".pair > div > span").all_inner_texts()] == [
        "base", "offline", "online",
    ]  # fmt: skip
