"""The embedded default: enough speeches and replies, of every kind, honestly marked, and no shortcut to the scores."""

import re
from collections import Counter, defaultdict
from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr

from psychocounsel.models.recorded import embedded_file
from psychocounsel.principles import load_principles, load_topics, overall_score
from psychocounsel.ratings.parse import parse_scores
from psychocounsel.records import Response, read_records, read_rows
from psychocounsel.speeches.shingles import jaccard, shingles
from psychocounsel.speeches.sources import read_embedded

STAGES = {"precontemplation", "contemplation", "preparation", "action", "maintenance", "relapse", "crisis"}


@pytest.fixture(scope="module")
def told():
    return read_embedded()


@pytest.fixture(scope="module")
def replies():
    return read_records(embedded_file("responses.jsonl"), Response)


@pytest.fixture(scope="module")
def parsed():
    """What the rater said, by response id."""
    rows = list(read_rows(embedded_file("ratings.jsonl")))
    found = {row["response_id"]: parse_scores(row["reply"], load_principles()) for _, row in rows}
    assert len(found) == len(rows), "a reply is rated twice"
    return found


@pytest.fixture(scope="module")
def overall(parsed):
    return {key: overall_score(rating.scores, load_principles(), gated=False) for key, rating in parsed.items()}


@pytest.fixture(scope="module")
def answered(told, replies):
    keys = {reply.speech_id for reply in replies}
    return [speech for speech in told if speech.id in keys]


def words(text):
    return re.findall(r"\w+(?:['’]\w+)?", text.lower())


def test_there_are_enough_answered_speeches_of_a_letters_length(answered):
    assert len(answered) >= 120
    lengths = [len(speech.text.split()) for speech in answered]
    assert min(lengths) >= 80
    assert max(lengths) <= 250


def test_every_topic_and_every_stage_of_change_is_there(answered):
    assert {speech.topic for speech in answered} == set(load_topics())
    assert {speech.stage for speech in answered} == STAGES
    assert {speech.speaker for speech in answered} == {"self", "about_another", "minor"}


def test_danger_is_there_in_its_several_forms(told, answered):
    risky = [speech for speech in answered if speech.risk not in (None, "none")]
    assert len(risky) >= 20
    assert {"passive", "active"} <= {speech.risk for speech in risky}
    assert {speech.split for speech in risky} >= {"train", "test"}
    assert all(speech.risk is not None for speech in told)


def test_every_speech_says_where_it_comes_from_and_on_what_terms(told):
    assert {(speech.source, speech.license) for speech in told} == {("embedded", "Apache-2.0")}
    assert len({speech.source_id for speech in told}) == len({speech.id for speech in told}) == len(told)
    assert {speech.topic_by for speech in told} == {"source"}


def test_every_split_has_its_share_and_the_test_split_its_topics(told):
    counts = Counter(speech.split for speech in told)
    assert set(counts) == {"train", "dev", "test", "arena"}
    assert counts["test"] >= 30
    assert counts["dev"] >= 10
    assert counts["train"] > counts["dev"] + counts["test"]
    assert len({speech.topic for speech in told if speech.split == "test"}) >= 20


def test_each_speech_has_four_replies_by_different_voices(answered, replies):
    by_speech = defaultdict(set)
    for reply in replies:
        by_speech[reply.speech_id].add(reply.model)
    assert {len(voices) for voices in by_speech.values()} == {4}
    assert len(replies) == 4 * len(answered)
    assert len({reply.text for reply in replies}) == len(replies)
    assert all(reply.text.strip() == reply.text for reply in replies)


def test_there_are_many_voices_of_different_quality_that_overlap(replies, overall):
    by_voice = defaultdict(list)
    for reply in replies:
        by_voice[reply.model].append(overall[reply.id])
    assert len(by_voice) >= 8
    assert min(map(len, by_voice.values())) >= 20
    means = sorted(float(np.mean(values)) for values in by_voice.values())
    assert means[-1] - means[0] > 1.5
    assert max(later - earlier for earlier, later in pairwise(means)) < 1
    ranges = [np.percentile(values, [5, 95]) for values in by_voice.values()]
    touching = [max(a[0], b[0]) <= min(a[1], b[1]) for a, b in combinations(ranges, 2)]
    assert np.mean(touching) > 0.7, "a voice's name would give the score away"


def test_every_recorded_rating_reads_completely(replies, parsed):
    assert set(parsed) == {reply.id for reply in replies}
    names = [principle.id for principle in load_principles()]
    for rating in parsed.values():
        assert rating.problems == []
        assert list(rating.scores) == names
        assert None not in rating.scores.values()
        assert set(rating.reasons) == set(names)
        assert rating.stage in STAGES
        assert rating.risk


def test_every_principle_uses_its_whole_scale(parsed):
    for principle in load_principles():
        counts = Counter(rating.scores[principle.id] for rating in parsed.values())
        assert set(counts) == {1, 2, 3, 4, 5}
        assert max(counts.values()) < 0.6 * len(parsed)


def test_length_does_not_give_the_score_away(replies, overall):
    lengths = [len(reply.text.split()) for reply in replies]
    scores = [overall[reply.id] for reply in replies]
    assert abs(np.corrcoef(lengths, scores)[0, 1]) < 0.2
    assert abs(spearmanr(lengths, scores).statistic) < 0.2


def test_no_phrase_is_everywhere(replies):
    counts = Counter()
    for reply in replies:
        found = words(reply.text)
        counts.update(set(zip(found, found[1:], found[2:], found[3:], strict=False)))
    phrase, count = counts.most_common(1)[0]
    assert count <= 0.05 * len(replies), phrase


def test_the_arena_is_large_and_unlike_anything_trained_on(told, replies):
    arena = [speech for speech in told if speech.split == "arena"]
    others = [speech for speech in told if speech.split != "arena"]
    assert len(arena) >= 60
    assert not {speech.id for speech in arena} & {reply.speech_id for reply in replies}
    known = [shingles(speech.text) for speech in others]
    assert max(jaccard(shingles(speech.text), other) for speech in arena for other in known) <= 0.2


def test_test_speeches_are_unlike_train_speeches(told):
    by_split = defaultdict(list)
    for speech in told:
        by_split[speech.split].append(shingles(speech.text))
    assert max(jaccard(a, b) for a in by_split["test"] for b in by_split["train"] + by_split["dev"]) <= 0.2


def test_nothing_in_the_texts_looks_like_a_person_who_could_be_found(told, replies):
    for text in [speech.text for speech in told] + [reply.text for reply in replies]:
        assert not re.search(r"[\w.]+@[\w.]+\.\w+|https?://|www\.|\+?\d[\d ()-]{8,}\d", text), text
