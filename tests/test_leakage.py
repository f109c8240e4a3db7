"""Leakage between splits and from outside: every figure is that of comparing all pairs, and says how it was found."""

import json
import random
import sys
from itertools import combinations

import numpy as np
import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES, make_speech
from hypothesis import example, given, settings
from hypothesis import strategies as st

from psychocounsel.recipe import SpeechesTable
from psychocounsel.records import Turn
from psychocounsel.speeches import collect
from psychocounsel.speeches.join import Join
from psychocounsel.speeches.leakage import LEVELS, leakage
from psychocounsel.speeches.shingles import hashed, jaccard, pack, shingles

WORDS = sorted({word for text in (*CLIENT_LINES, *GOOD_REPLIES, *PLAIN_REPLIES) for word in text.split()})
SHARED, PREFIX, MINHASH = "all shared shingles", "prefix filtering", "minhash"


def edited(text, share, draw):
    return " ".join(draw.choice(WORDS) if draw.random() < share else word for word in text.split())


def texts_of(count, draw, words=40):
    """Unrelated texts, every other one of them an edited copy of the one before."""
    bases = [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]
    return [edited(bases[i - 1], draw.uniform(0, 0.4), draw) if i % 2 else bases[i] for i in range(count)]


def splits_of(texts, draw):
    names = [draw.choice(["train", "dev", "test"]) for _ in texts]
    rows = {"train": [], "dev": [], "test": []}
    for name, text in zip(names, texts, strict=True):
        rows[name].append(make_speech(text, name))
    return rows


def similarity(one, other):
    return jaccard(shingles(one), shingles(other))


@pytest.fixture
def budget(monkeypatch):
    """Set the budget of a search, so that small collections go the ways of large ones."""
    return lambda value: monkeypatch.setattr(sys.modules[leakage.__module__], "BUDGET", value)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.25, 0.4, 0.7]))
def test_figures_are_those_of_comparing_all_pairs(seed, cluster):
    draw = random.Random(seed)
    rows = splits_of(texts_of(14, draw), draw)
    report = leakage(rows, {}, cluster)
    leaks = 0
    for first, second in combinations(sorted(rows), 2):
        found = report["splits"][f"{first} and {second}"]
        alike = {(a.id, b.id): similarity(a.text, b.text) for a in rows[first] for b in rows[second]}
        assert found["search"]["by"] == SHARED
        if not alike:
            assert (found["maximum"], found["rows"]) == (None, None)
            continue
        assert found["maximum"] == round(max(alike.values()), 6)
        if found["maximum"]:
            assert round(alike[tuple(found["rows"])], 6) == found["maximum"]
        assert found["pairs"] == {str(at): sum(value >= at for value in alike.values()) for at in LEVELS}
        near = sorted((-value, *ids) for ids, value in alike.items() if value >= cluster)
        assert found["at_cluster"] == len(near)
        assert found["nearest"] == [[one, other, round(-value, 6)] for value, one, other in near]
        leaks += len(near)
    assert report["leaks"] == leaks
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.text("ab ", max_size=24), max_size=8),
    st.lists(st.text("ab ", max_size=24), max_size=8),
    st.sampled_from([0.0, 0.2, 1 / 3, 0.5, 0.6, 0.8, 1.0]),
)
@example(["", "a b c d e"], ["...", "a b c d e f g"], 0.6)
@example(["a b c d e f g h i j k l m n o p q"], ["a b c d e f"], 0.2)
def test_a_join_overlooks_no_pair_from_its_level_on(ones, others, level):
    met = {}
    for pairs, alike in Join(pack(hashed(ones)), pack(hashed(others))).pairs(level):
        met |= {tuple(pair): value for pair, value in zip(pairs.tolist(), alike.tolist(), strict=True)}
    wanted = {(i, j): similarity(one, other) for i, one in enumerate(ones) for j, other in enumerate(others)}
    assert all(wanted[pair] == value for pair, value in met.items())
    assert {pair for pair, value in wanted.items() if value >= level and value} <= set(met)


def test_a_higher_level_costs_less_and_blocks_change_nothing(monkeypatch):
    draw = random.Random(5)
    texts = texts_of(120, draw)
    join = Join(pack(hashed(texts[::2])), pack(hashed(texts[1::2])))
    costs = [join.cost(level) for level in (0.0, 0.2, 0.4, 0.8)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > 2 * costs[3] > 0
    whole = [np.concatenate(parts) for parts in zip(*join.pairs(0.0), strict=True)]
    monkeypatch.setattr("psychocounsel.speeches.join.BLOCK", 50.0)
    blocks = list(join.pairs(0.0))
    assert len(blocks) > 3
    for one, other in zip(whole, (np.concatenate(parts) for parts in zip(*blocks, strict=True)), strict=True):
        assert one.tolist() == other.tolist()


@pytest.mark.parametrize(("by", "least"), [(SHARED, 0.0), (PREFIX, 0.2), (PREFIX, 0.4), (MINHASH, 0.4)])
def test_a_search_that_can_afford_less_says_what_it_may_have_overlooked(budget, by, least):
    draw = random.Random(11)
    rows = splits_of(texts_of(300, draw), draw)
    join = Join(*(pack(hashed([speech.text for speech in rows[name]])) for name in ("test", "train")))
    whole = leakage(rows, {}, 0.4)["splits"]["test and train"]
    budget(0.0 if by == MINHASH else join.cost(least))
    found = leakage(rows, {}, 0.4)["splits"]["test and train"]
    assert found["search"]["by"] == by
    assert found["search"]["complete_from"] == (None if by == MINHASH else least)
    for key in ("maximum", "rows", "at_cluster", "nearest"):
        assert found[key] == whole[key]
    assert whole["at_cluster"] > 10
    for level, count in found["pairs"].items():
        chance = found["search"]["finds"][level]
        if count is None:
            assert chance is None
            assert float(level) < least
        else:
            assert count == whole["pairs"][level] or chance < 0.99
    if by == MINHASH:
        assert found["search"]["finds"]["0.2"] < 0.7
        assert found["search"]["finds"]["0.4"] > 0.999


def test_what_was_split_by_cluster_does_not_leak_and_what_was_dealt_out_by_chance_does():
    draw = random.Random(3)
    speeches = [make_speech(text, None, "") for text in texts_of(400, draw)]
    table = SpeechesTable(min_chars=20, language="", content=False, near_duplicate=1.0, cluster=0.4, dev=0.2, test=0.3)
    kept = collect(speeches, table, 1).speeches
    rows = {name: [speech for speech in kept if speech.split == name] for name in ("train", "dev", "test")}
    report = leakage(rows, {}, table.cluster)
    assert report["leaks"] == 0
    assert all(found["maximum"] < 0.4 for found in report["splits"].values())
    assert report["rows"] == {name: len(found) for name, found in rows.items()}
    assert leakage(splits_of([speech.text for speech in kept], draw), {}, table.cluster)["leaks"] > 10


def test_an_external_set_is_compared_with_every_split():
    rows = {"train": [make_speech(CLIENT_LINES[0])], "test": [make_speech(CLIENT_LINES[1])]}
    outside = {"benchmark": [CLIENT_LINES[5], CLIENT_LINES[1]], "nothing": []}
    report = leakage(rows, outside, 0.4)
    assert report["leaks"] == 0, "what is alike outside is no leak between splits"
    found = report["external"]["benchmark"]["test"]
    assert (found["maximum"], found["rows"], found["at_cluster"]) == (1.0, [rows["test"][0].id, "1"], 1)
    assert report["external"]["benchmark"]["train"]["at_cluster"] == 0
    assert report["external"]["nothing"]["train"]["maximum"] is None


def test_dialogues_are_compared_as_wholes():
    turns = (Turn(role="client", text=CLIENT_LINES[0]), Turn(role="therapist", text=GOOD_REPLIES[0]))
    last = Turn(role="client", text=CLIENT_LINES[1])
    long = make_speech("x").model_copy(update={"turns": (*turns, last)})
    report = leakage({"train": [long], "test": [make_speech(CLIENT_LINES[1])]}, {})
    assert 0 < report["splits"]["test and train"]["maximum"] < 0.6


@pytest.mark.parametrize("rows", [{}, {"train": []}, {"train": [], "test": []}])
def test_nothing_leaks_from_nothing(rows):
    report = leakage(rows, {"outside": [""]})
    assert report["leaks"] == 0
    assert all(found["maximum"] is None for found in report["splits"].values())


def test_the_report_holds_no_text_and_does_not_depend_on_the_order_of_rows():
    draw = random.Random(9)
    rows = splits_of(texts_of(40, draw), draw)
    report = leakage(rows, {"outside": [CLIENT_LINES[0]]})
    assert not any(word in json.dumps(report) for speech in rows["train"] for word in [speech.text[:20]])
    turned = {name: found[::-1] for name, found in reversed(rows.items())}
    assert leakage(turned, {"outside": [CLIENT_LINES[0]]}) == report
