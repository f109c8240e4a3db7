"""The report: hostile text stays text, nothing is loaded from elsewhere, and sentences say no more than intervals."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from conftest import CLIENT_LINES, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from psychocounsel.evaluate.report import ReportData, figure_text, percent, read_metrics_rows, render, verdict
from psychocounsel.principles import load_principles
from psychocounsel.records import Pair, Rating

PRINCIPLES = load_principles()
HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x onerror=alert(1)>\"'>&{{ 7*7 }}"
TEXT = HOSTILE + "\x00\u202e"  # what a text may hold and a name on a plot cannot


def figure(value=0.7, low=0.6, high=0.8, n=40, unit="share of speeches"):
    return {"value": value, "low": low, "high": high, "n": n, "unit": unit}


NOTHING = figure(None, None, None, 0)


@pytest.fixture
def data():
    speech = make_speech(CLIENT_LINES[0], "test", topic="grief")
    pair = Pair(speech_id=speech.id, chosen="a", rejected="b", chosen_scores={}, rejected_scores={}, gap=1.5)
    return ReportData(
        name="trial",
        metrics={"reward.accuracy": figure(0.9, 0.85, 0.95), "reward.length_baseline": figure(0.6, 0.5, 0.7),
                 "winrate.offline_vs_base": figure(), "judge.pair_agreement": figure(0.8, 0.7, 0.9)},
        stages=[{"name": "speeches", "text": "kept 1", "seconds": 1.5}],
        speeches=[speech],
        ratings=[Rating(response_id="a", judge="j", scores={p.id: 4 for p in PRINCIPLES})],
        pairs={"train": [pair], "dev": [], "test": [pair]},
        principles=PRINCIPLES,
        agreement={"empathy": {"kappa": 0.5, "alpha": None, "n": 12}},
        contests=[{"a": "offline", "b": "base", "overall": figure(), "words": {"a": 40.0, "b": 39.0},
                   "counts": {"wins": 3, "ties": 1, "losses": 2, "missing": 1, "order_effect": 0.1},
                   "by_split": {"test": figure()}, "by_topic": {"unknown": NOTHING},
                   "by_principle": {"empathy": figure()}}],
        reward_scores={"chosen": [1.0, 2.0], "rejected": [0.0, 0.5]},
        curves={"offline": [{"step": 1, "loss": 0.69}, {"step": 2, "loss": 0.6}, {"step": 2, "dev_loss": 0.65}]},
        samples=[{"topic": "grief", "speech": CLIENT_LINES[0],
                  "replies": [{"policy": "base", "text": "Hm.", "overall": 3.2}]}],
        stamps=[],
        judges=["embedded"],
        versions={"psychocounsel": "0.1.0"},
    )  # fmt: skip


class Page(HTMLParser):
    """Tags with attributes, and the text outside of style."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.open = self.open[: -1 - self.open[::-1].index(tag)] if tag in self.open else self.open

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def hostile(data):
    """Everything a client, a model, a file name or a provider could have written."""
    sample = {"topic": TEXT, "speech": TEXT, "replies": [{"policy": TEXT, "text": TEXT, "overall": None}]}
    return replace(
        data,
        name=HOSTILE,
        samples=[sample],
        judges=[HOSTILE],
        stamps=[HOSTILE],
        versions={"psychocounsel": HOSTILE, HOSTILE: HOSTILE},
        stages=[{"name": HOSTILE, "text": HOSTILE, "seconds": 1}],
        speeches=[make_speech(TEXT, "test", topic=TEXT)],
        agreement={HOSTILE: {"kappa": None, "alpha": 0.1, "n": 3}},
        contests=[
            {**data.contests[0], "a": HOSTILE, "by_topic": {HOSTILE: figure()}, "by_principle": {HOSTILE: figure()}}
        ],
        curves={HOSTILE: data.curves["offline"]},
    )


def test_hostile_text_stays_text(data):
    html = render(hostile(data))
    page = Page(html)
    assert "<script" not in html.lower() and "<img" not in html.lower() and "{{ 7*7 }}" in html
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object", "embed", "base", "form"})
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert('x')</script>") >= 10  # it is there, as words


@pytest.mark.parametrize("make", [lambda data: data, hostile], ids=["plain", "hostile"])
def test_nothing_is_loaded_from_elsewhere(data, make):
    html = render(make(data))
    links = [value for _, attributes in Page(html).tags for name, value in attributes.items()
             if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")]  # fmt: skip
    assert links and all(link.startswith(("#", "data:,")) for link in links)
    style = "".join(re.findall(r"<style.*?</style>", html, flags=re.S))
    assert "@import" not in style and not re.search(r"url\((?![\"']?#)", html)


def test_ids_on_the_page_are_unique_and_found(data):
    tags = Page(render(data)).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {attributes["xlink:href"][1:] for _, attributes in tags if "xlink:href" in attributes}
    assert wanted and wanted <= set(ids)


def test_the_page_says_what_was_measured(data):
    text = Page(render(data)).text
    for words in ("trial", "90.0 %", "95 % interval 85.0 to 95.0", "Win rate 70.0 % [60.0, 80.0], n = 40",
                  "Speeches won 3, tied 1, lost 2, missing 1", "undefined (n = 0)", "not therapy",
                  CLIENT_LINES[0]):  # fmt: skip
        assert words in text, words
    assert "DEPENDENT" not in text
    stamped = Page(render(replace(data, stamps=["the judge made the labels"]))).text
    assert "DEPENDENT. the judge made the labels." in stamped


def test_the_same_run_gives_the_same_page(data):
    assert render(data) == render(data)


def test_a_run_that_measured_nothing_still_has_a_page(data):
    empty = replace(
        data, metrics={"reward.accuracy": NOTHING, "winrate.offline_vs_base": NOTHING}, stages=[], speeches=[],
        ratings=[],
        pairs={"train": [], "dev": [], "test": []}, agreement={}, contests=[], samples=[], judges=[], curves={},
        reward_scores={"chosen": [], "rejected": []},
    )  # fmt: skip
    text = Page(render(empty)).text
    assert "undefined" in text and "0 speeches by fine topic" in text
    assert "beats" not in text and "better than" not in text


def sentences(**rows):
    return " ".join(verdict({key.replace("__", "."): row for key, row in rows.items()}))


@pytest.mark.parametrize(
    ("row", "word"),
    [(figure(0.7, 0.51, 0.8), "beats"), (figure(0.7, 0.5, 0.9), "cannot be told apart from"),
     (figure(0.99, 0.2, 1.0), "cannot be told apart from"),
     (figure(0.3, 0.2, 0.49), "loses to"), (figure(0.3, 0.1, 0.5), "cannot be told apart from")],
)  # fmt: skip
def test_a_win_is_claimed_only_when_the_whole_interval_says_so(row, word):
    assert (
        sentences(winrate__offline_vs_base=row) == f"The offline policy {word} its base on speeches nobody trained on."
    )
    assert sentences(winrate__online_vs_base=row) == f"The online policy {word} its base on speeches nobody trained on."


@pytest.mark.parametrize("row", [NOTHING, figure(0.9, None, None)])
def test_without_an_interval_nothing_is_claimed(row):
    assert sentences(winrate__offline_vs_base=row, reward__accuracy=row, reward__length_baseline=row) == ""
    assert verdict({}) == []


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.8, 0.95, "clearly better than"), (0.7, 0.95, "not clearly better than (the intervals overlap)"),
     (0.4, 0.6, "not clearly better than (the intervals overlap)"), (0.3, 0.49, "clearly worse than")],
)  # fmt: skip
def test_better_than_length_is_claimed_only_when_the_intervals_are_apart(low, high, words):
    said = sentences(
        reward__accuracy=figure((low + high) / 2, low, high), reward__length_baseline=figure(0.6, 0.5, 0.7)
    )
    assert said == f"The reward model orders held-out pairs {words} preferring the longer reply."


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_no_interval_around_one_half_is_ever_a_win_or_a_loss(a, b, c):
    low, value, high = sorted((a, b, c))
    said = sentences(winrate__offline_vs_base=figure(value, low, high))
    assert ("beats" in said) == (low > 0.5) and ("loses" in said) == (high < 0.5)


@pytest.mark.parametrize(("value", "text"), [(None, "undefined"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.8734, "87.3 %")])
def test_shares_are_written_for_people(value, text):
    assert percent(value) == text


def test_a_figure_without_an_interval_shows_none():
    assert figure_text(figure(0.5, None, None, 3)) == "50.0 %, n = 3"


def test_metrics_of_a_training_that_was_not_run_are_empty(tmp_path):
    assert read_metrics_rows(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert read_metrics_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
