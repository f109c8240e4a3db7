"""Near-duplicates: as exact comparison of all pairs finds them, the same in every process, and in linear time."""

import hashlib
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from psychocounsel.engine import HERE
from psychocounsel.speeches.dedup import Clusters, candidates, merged, near_duplicates, sketched
from psychocounsel.speeches.join import Join
from psychocounsel.speeches.shingles import (
    HASHES,
    PRINTS,
    banding,
    detection,
    hashed,
    jaccard,
    pack,
    shingles,
    similarities,
    sketches,
)

LETTER = (
    "My father sold the boat last week without telling any of us. I learned to sail on it, and so did my "
    "daughter. When I asked him why, he said that it was only wood and money, and he went to mow the lawn."
)
OTHER = (
    "Since I stopped working nights I thought I would sleep, but at two o'clock I sit in the kitchen and peel "
    "oranges for nobody. My wife finds the bowls in the morning and says nothing about them any more."
)
WORDS = sorted(
    {word for text in (*CLIENT_LINES, *GOOD_REPLIES, *PLAIN_REPLIES, LETTER, OTHER) for word in text.split()}
)


def exact(texts, drop_at, join_at):
    """What comparing all pairs gives, written anew from the definition."""
    sets = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        sets.append({tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1))})
    root, duplicate_of = list(range(len(texts))), {}
    for i in range(len(texts)):
        for j in range(i):
            alike = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            if alike >= min(drop_at, join_at):
                low, high = sorted((root[i], root[j]))
                root = [low if name == high else name for name in root]
            if alike >= drop_at and j not in duplicate_of:
                duplicate_of.setdefault(i, j)
    return Clusters(root, duplicate_of)


def edited(text, share, draw):
    return " ".join(draw.choice(WORDS) if draw.random() < share else word for word in text.split())


def written(count, draw, words=60):
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(lambda base, share, seed: edited(base, share, random.Random(seed)),
                  st.sampled_from([LETTER, OTHER, "two words", ""]), st.floats(0, 0.4), st.integers(0, 9))
        | st.text(max_size=30),
        max_size=14,
    ),
    st.sampled_from([0.5, 0.8, 1.0]),
    st.sampled_from([0.2, 0.4, 0.9]),
)  # fmt: skip
@example([], 0.8, 0.4)
@example([LETTER], 0.8, 0.4)
@example(["", "!?", "...", "a", "a b", "A, b", "\ud800 x y", "Ünter uns GESAGT"], 0.8, 0.4)
def test_the_outcome_is_that_of_comparing_all_pairs(texts, drop_at, join_at):
    assert near_duplicates(texts, drop_at, join_at) == exact(texts, drop_at, join_at)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text() | st.sampled_from([LETTER, OTHER, LETTER + " Why?"]), min_size=2, max_size=6))
def test_similarity_of_hashed_shingles_is_the_similarity_of_the_words(texts):
    sets = pack(hashed(texts))
    first, second = np.triu_indices(len(texts))
    wanted = [jaccard(shingles(texts[i]), shingles(texts[j])) for i, j in zip(first, second, strict=True)]
    assert similarities(sets, first, second).tolist() == wanted


def test_jaccard_counts_word_triples():
    assert jaccard(shingles("a b c d"), shingles("A, b: c")) == 0.5
    assert jaccard(shingles(""), shingles("")) == 1.0
    assert jaccard(shingles("a b"), shingles("a c")) == 0.0


def test_texts_without_words_are_alike_and_unlike_all_others():
    found = near_duplicates(["", "...", LETTER, "?!"], drop_at=0.8, join_at=0.4)
    assert found == Clusters([0, 0, 2, 0], {1: 0, 3: 0})


def test_a_duplicate_names_the_earliest_kept_text_and_never_a_dropped_one():
    draw = random.Random(4)
    texts = [edited(LETTER, 0.05, draw) for _ in range(60)]
    found = near_duplicates(texts, drop_at=0.7, join_at=0.4)
    assert found.duplicate_of == exact(texts, 0.7, 0.4).duplicate_of
    assert 5 < len(found.duplicate_of) < 60
    assert not set(found.duplicate_of.values()) & set(found.duplicate_of)


def test_a_hundred_thousand_equal_texts_are_one_cluster_in_no_time():
    start = time.process_time()
    found = near_duplicates([CLIENT_LINES[0]] * 100_000, drop_at=0.8, join_at=0.4)
    assert set(found.root) == {0}
    assert len(found.duplicate_of) == 99_999
    assert set(found.duplicate_of.values()) == {0}
    assert time.process_time() - start < 30


def planted(count, draw, front=""):
    """Unrelated texts, the first half of them with an edited copy; {later: earlier} with the similarity."""
    texts = [f"{front} {text}" for text in written(count, draw)]
    copies = [f"{front} {edited(text[len(front) + 1 :], draw.uniform(0, 0.3), draw)}" for text in texts[: count // 2]]
    alike = {count + i: jaccard(shingles(texts[i]), shingles(copy)) for i, copy in enumerate(copies)}
    return texts + copies, alike


@pytest.mark.parametrize("shared_words", [0, 30, 45])
def test_planted_near_duplicates_are_found_also_beneath_a_passage_that_all_share(shared_words):
    count = 1500
    front = " ".join(f"{LETTER} {OTHER}".split()[:shared_words])
    texts, alike = planted(count, random.Random(8), front)
    found = near_duplicates(texts, drop_at=0.8, join_at=0.55)
    dropped = {later for later, value in alike.items() if value >= 0.8}
    joined = {later for later, value in alike.items() if value >= 0.55}
    assert len(dropped) > 50
    assert len(joined - dropped) > 50
    assert found.duplicate_of == {later: later - count for later in dropped}
    assert {later for later in alike if found.root[later] == later - count} == joined


def test_thousands_of_variants_of_one_text_are_settled_as_by_comparing_all_pairs():
    draw = random.Random(2)
    texts = [edited(LETTER, draw.uniform(0, 0.15), draw) for _ in range(2000)]
    found = near_duplicates(texts, drop_at=0.8, join_at=0.5)
    sets = pack(hashed(texts))
    wanted, repeats = coo_array((2000, 2000)), []
    for pairs, alike in Join(sets, sets).pairs(0.0):
        near = pairs[alike >= 0.5].T
        wanted += coo_array((np.ones(near.shape[1]), near), shape=wanted.shape)
        repeats += pairs[(alike >= 0.8) & (pairs[:, 0] < pairs[:, 1])].tolist()
    clusters, _ = connected_components(wanted)
    kept = set(range(2000)) - set(found.duplicate_of)
    assert 100 < len(kept) < 1900
    assert [(i, j) for i, j in repeats if i in kept and j in kept] == []
    assert all([later, earlier][::-1] in repeats for later, earlier in list(found.duplicate_of.items())[:50])
    assert clusters <= len(set(found.root)) <= 1.02 * clusters


def test_work_grows_with_the_number_of_texts_although_all_share_a_bucket():
    draw = random.Random(6)
    texts = [f"{LETTER} {text}" for text in written(4000, draw, words=20)]
    counts = []
    for size in (1000, 2000, 4000):
        _, keys, prints = sketched(texts[:size], 3, HERE)
        counts.append(len(candidates(keys, prints, 0.4)))
    assert counts[0] > 10_000, "a passage of this length fills buckets"
    assert counts[2] < 4.6 * counts[0]


@pytest.mark.parametrize("level", [0.05, 0.1, 0.2, 0.4, 0.5, 0.8, 0.99, 1.0])
def test_bands_are_chosen_so_that_a_pair_at_the_limit_is_hardly_ever_overlooked(level):
    bands, rows = banding(level)
    assert bands * rows <= HASHES
    assert detection(level, rows) >= 0.999
    assert rows == 16 or detection(level, rows + 1) < 0.999, "fewer rows than needed mean more chance finds"


def test_the_share_of_pairs_found_is_the_stated_probability():
    draw = random.Random(1)
    texts = written(600, draw, words=80)
    texts += [edited(text, 0.42, draw) for text in texts]
    alike = np.array([jaccard(shingles(texts[i]), shingles(texts[600 + i])) for i in range(600)])
    _, keys, prints = sketched(texts, 3, HERE)
    found = set(map(tuple, candidates(keys, prints, 0.05).tolist()))
    share = np.mean([(i, 600 + i) in found for i in range(600)])
    assert share == pytest.approx(np.mean([detection(value, 3) for value in alike]), abs=0.05)
    assert 0.05 < share < 0.95


def test_the_outcome_does_not_depend_on_the_process_or_its_hash_seed():
    code = (
        "import hashlib, random; from test_dedup import *\n"
        "texts, _ = planted(200, random.Random(3)); found = near_duplicates(texts, 0.8, 0.4)\n"
        "parts = b''.join(hashed(texts)) + repr((found.root, found.duplicate_of)).encode()\n"
        "print(hashlib.blake2b(parts, digest_size=8).hexdigest())"
    )
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="tests",
            env={"PYTHONHASHSEED": seed, "PATH": "", "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("0", "1", "77")
    }  # fmt: skip
    assert len(outcomes) == 1


def test_a_text_has_the_same_hashes_on_every_machine():
    ((front, hashes),) = sketches([LETTER], 3)
    assert len(front) == 4 * HASHES // 3 + PRINTS
    assert hashlib.blake2b(front + hashes, digest_size=8).hexdigest() == "e05963d6ce304235"


class Shards:
    """An engine that hands out small shards in a strange order, as many machines would."""

    name = "shards"

    def map(self, step, function, items, shard=2000):
        parts = [list(items[start : start + 7]) for start in range(0, len(items), 7)]
        done = {place: function(parts[place]) for place in reversed(range(len(parts)))}
        return [result for place in sorted(done) for result in done[place]]


def test_shards_of_any_size_and_order_give_the_same():
    texts, _ = planted(100, random.Random(3))
    assert near_duplicates(texts, 0.8, 0.4, Shards()) == near_duplicates(texts, 0.8, 0.4)


def test_more_pairs_make_larger_clusters_and_drop_nothing():
    before = Clusters([0, 0, 2, 3, 4], {1: 0})
    assert merged(before, [(1, 3, 0.97), (3, 4, 0.96)]) == Clusters([0, 0, 2, 0, 0], {1: 0})
    assert merged(before, []) == before
    assert merged(Clusters([], {}), []) == Clusters([], {})
