"""Collecting speeches: a ledger that adds up, duplicates with their partners, clusters that never straddle splits."""

import json
import stat
from collections import Counter, defaultdict

import pytest
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import write_recipe

from psychocounsel.errors import UserError
from psychocounsel.recipe import PrivacyTable, SpeechesTable
from psychocounsel.records import Speech, Turn
from psychocounsel.speeches import Aids, collect
from psychocounsel.speeches.clean import language_of, repair
from psychocounsel.speeches.shingles import jaccard, shingles
from psychocounsel.speeches.sources import read_embedded
from psychocounsel.speeches.split import split as deal

LETTER = (
    "My father sold the boat last week without telling any of us. I learned to sail on it, and so did my "
    "daughter. When I asked him why, he said that it was only wood and money, and he went to mow the lawn."
)
OTHER = (
    "Since I stopped working nights I thought I would sleep, but at two o'clock I sit in the kitchen and peel "
    "oranges for nobody. My wife finds the bowls in the morning and says nothing about them any more."
)
GERMAN = (
    "Mein Vater hat letzte Woche das Boot verkauft, ohne uns etwas zu sagen. Ich habe darauf segeln gelernt, und "
    "meine Tochter auch. Als ich ihn fragte, sagte er, es sei nur Holz und Geld gewesen."
)


def raw(*texts, **fields):
    return [
        Speech(turns=(Turn(role="client", text=text),), source="test", source_id=str(i), **fields)
        for i, text in enumerate(texts)
    ]


def table(**changes):
    return SpeechesTable(**({"min_chars": 20, "dev": 0.0, "test": 0.0} | changes))


def ledger(collection):
    return [(drop.source_id, drop.reason) for drop in collection.dropped]


def test_every_row_is_kept_or_dropped_for_one_named_reason():
    rows = raw(LETTER, "Hi.", "x " * 600, LETTER.upper(), GERMAN, LETTER.replace("mow", "cut"), OTHER, " \n\t ")
    found = collect(rows, table(), 0)
    assert [speech.source_id for speech in found.speeches] == ["0", "6"]
    assert ledger(found) == [
        ("1", "too short"),
        ("2", "too long"),
        ("3", "exact duplicate"),
        ("4", "other language"),
        ("7", "no words"),
        ("5", "near-duplicate"),
    ]
    assert found.read == len(rows) == len(found.speeches) + sum(found.reasons().values())
    first = found.speeches[0].id
    details = {drop.source_id: drop.detail for drop in found.dropped}
    assert details["1"] == "3 characters"
    assert details["4"] == "de"
    assert details["3"] == details["5"] == f"of {first}"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([LETTER, OTHER, GERMAN, "Hi.", LETTER + " Why?"]) | st.text(max_size=60), max_size=8))
def test_the_ledger_always_adds_up(texts):
    rows = [row for text in texts if text for row in raw(text)]
    try:
        found = collect(rows, table(language=""), 0)
    except UserError as error:
        assert f"none of {len(rows)} rows is left" in str(error)
        assert all(len(repair(row.text)) < 20 or not shingles(row.text) - {""} for row in rows)
    else:
        assert found.read == len(rows) == len(found.speeches) + len(found.dropped)
        assert len({speech.id for speech in found.speeches}) == len(found.speeches)
        partners = {drop.detail.removeprefix("of ") for drop in found.dropped if "duplicate" in drop.reason}
        assert partners <= {raw(repair(row.text) or "?")[0].id for row in rows}


@pytest.mark.parametrize(
    ("rows", "reasons"),
    [([], {}), (raw("short"), {"too short": 1}), (raw(GERMAN, "?"), {"no words": 1, "other language": 1})],
)
def test_nothing_left_is_an_error_that_says_why_and_where_to_look(rows, reasons):
    with pytest.raises(UserError) as caught:
        collect(rows, table(), 0)
    left = f"speeches: none of {len(rows)} rows is left after cleaning ({reasons}); loosen [speeches]"
    assert str(caught.value) == left


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("She&#39;s gone &amp; I&nbsp;am here", "She's gone & I am here"),
        ("cafe\u0301", "café"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a  \t b\n \n\n\n c ", "a b\n\nc"),
        ("zero\u200bwidth\ufeff and \x00nul\x1b", "zerowidth and nul"),
        ("half \ufffd word", "half word"),
        ("right\u202eleft", "rightleft"),
        (" \n\t ", ""),
        ("schon gut: ok 🙂", "schon gut: ok 🙂"),
    ],
)
def test_text_is_repaired(broken, mended):
    assert repair(broken) == mended


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(exclude_characters="&"), max_size=80))
def test_repairing_twice_is_repairing_once(text):
    assert repair(repair(text)) == repair(text)


def test_every_turn_of_a_dialogue_is_repaired():
    turns = (Turn(role="client", text=" a&amp;b "), Turn(role="therapist", text="\u200b"), *raw(LETTER)[0].turns)
    (kept,) = collect([Speech(turns=turns, source="test")], table(), 0).speeches
    assert [turn.text for turn in kept.turns] == ["a&b", "?", LETTER]


def test_lengths_are_counted_after_the_repair_and_the_limits_belong_to_the_range():
    exactly = "y" * 20
    assert len(collect(raw(exactly, "&nbsp;" * 9 + exactly + "  z"), table(max_chars=22), 0).speeches) == 2
    assert ledger(collect(raw(LETTER, "y" * 19 + " " * 9), table(), 0)) == [("1", "too short")]


@pytest.mark.parametrize(("language", "kept"), [("en", ["0"]), ("de", ["1"]), ("", ["0", "1"])])
def test_the_recipe_says_which_language_stays(language, kept):
    assert [s.source_id for s in collect(raw(LETTER, GERMAN), table(language=language), 0).speeches] == kept
    assert (language_of(LETTER), language_of(GERMAN)) == ("en", "de")


@pytest.mark.parametrize("text", [" ", "?", "\u200b" * 200, "... !!! " * 40, "&nbsp;"])
def test_a_row_without_words_is_no_speech_however_low_the_limit(text):
    assert ledger(collect(raw(text, LETTER), table(min_chars=1), 0)) == [("0", "no words")]


def test_words_decide_about_duplicates_and_punctuation_does_not():
    assert ledger(collect(raw(LETTER, LETTER.replace(".", " !").lower()), table(), 0)) == [("1", "exact duplicate")]


def test_alike_speeches_share_a_cluster_and_are_kept():
    akin = LETTER[: len(LETTER) * 3 // 4] + " So we have not spoken since Sunday."
    assert 0.5 < jaccard(shingles(LETTER), shingles(akin)) < 0.7
    found = collect(raw(LETTER, OTHER, akin), table(), 0).speeches
    assert found[0].cluster == found[2].cluster != found[1].cluster
    apart = collect(raw(LETTER, OTHER, akin), table(cluster=0.7), 0).speeches
    assert len({speech.cluster for speech in apart}) == 3


def variants(base, words):
    """The base text with some of its words replaced."""
    parts = base.split()
    for place, word in words:
        parts[place % len(parts)] = word
    return " ".join(parts)


VARIANT = st.builds(
    variants,
    st.sampled_from([LETTER, OTHER]),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["then", "blue", "ten"])), max_size=6),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(VARIANT, min_size=1, max_size=12), st.integers(0, 3))
def test_clusters_never_straddle_splits_and_the_very_alike_share_one(texts, seed):
    found = collect(raw(*texts), table(dev=0.2, test=0.3, near_duplicate=1.0), seed).speeches
    splits = defaultdict(set)
    for speech in found:
        splits[speech.cluster].add(speech.split)
    assert {len(names) for names in splits.values()} == {1}
    for one in found:
        for two in found:
            if jaccard(shingles(one.text), shingles(two.text)) >= 0.75:
                assert one.cluster == two.cluster


def numbered(count, **fields):
    return [make_speech(f"Speech number {i}.", None, str(i), **fields) for i in range(count)]


@pytest.mark.parametrize(
    ("dev", "test"), [(0.1, 0.2), (0.0, 0.2), (0.1, 0.0), (0.0, 0.0), (0.25, 0.25), (0.05, 0.9), (0.3, 0.3)]
)
@pytest.mark.parametrize("count", [100, 333])
def test_splits_have_their_shares(dev, test, count):
    found = Counter(speech.split for speech in deal(numbered(count), table(dev=dev, test=test), 7))
    assert found["dev"] == pytest.approx(dev * count, abs=1)
    assert found["test"] == pytest.approx(test * count, abs=1)
    assert found.total() == count


def test_every_topic_has_its_share_in_every_split():
    topics = ["anger"] * 100 + ["sleep"] * 50 + ["youth"] * 30
    speeches = [speech.model_copy(update={"topic": topic}) for speech, topic in zip(numbered(180), topics, strict=True)]
    found = Counter((speech.topic, speech.split) for speech in deal(speeches, table(dev=0.1, test=0.2), 3))
    for topic, count in Counter(topics).items():
        assert found[topic, "test"] == pytest.approx(0.2 * count, abs=1)
        assert found[topic, "dev"] == pytest.approx(0.1 * count, abs=1)


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    def splits(speeches, seed):
        return {s.id: s.split for s in deal(speeches, table(dev=0.1, test=0.2), seed)}

    assert splits(numbered(60), 1) == splits(numbered(60)[::-1], 1) != splits(numbered(60), 2)


def test_a_split_that_the_source_fixed_stays_and_draws_its_cluster_along():
    speeches = [make_speech("One.", "arena", "c"), make_speech("Two.", None, "c"), make_speech("Three.", None, "d")]
    assert [s.split for s in deal(speeches, table(), 0)] == ["arena", "arena", "train"]


def test_the_embedded_speeches_pass_their_own_stage_whole():
    speeches = read_embedded()
    found = collect(speeches, SpeechesTable(max_chars=1600), 7)
    assert found.dropped == []
    assert [(s.id, s.split) for s in found.speeches] == [(s.id, s.split) for s in speeches]


def test_of_several_fixed_splits_in_a_cluster_the_one_furthest_from_training_takes_all_of_it():
    fixed = [make_speech(text, split, "c") for text, split in (("A.", "train"), ("B.", "test"), ("C.", "dev"))]
    for speeches in (fixed, fixed[::-1]):
        assert {speech.split for speech in deal(speeches, table(), 0)} == {"test"}


def test_near_duplicates_are_sought_in_whole_dialogues_and_not_in_their_last_words():
    end = Turn(role="client", text="I do not know what else to say about it, so I will leave it at that for today.")
    talks = [
        Speech(turns=(Turn(role="client", text=text), Turn(role="therapist", text="Go on."), end), source="test")
        for text in (LETTER, OTHER)
    ]
    assert len(collect(talks, table(), 0).speeches) == 2


def test_personal_data_goes_before_texts_are_compared_and_the_map_names_kept_speeches_only():
    rows = raw(*(f"{LETTER} Write to {name}@example.org or call me." for name in ("rosa", "ida")))
    found = collect(rows, table(), 0)
    (kept,) = found.speeches
    assert "@example.org" not in kept.text
    assert [drop.reason for drop in found.dropped] == ["near-duplicate"]
    assert found.pseudonyms == {kept.id: {"[EMAIL_1]": "rosa@example.org"}}
    assert found.privacy["found"] == {"EMAIL": 2}
    assert "rosa" not in str(found.privacy)
    off = collect(rows, table(privacy=PrivacyTable(mode="off")), 0)
    assert [speech.text for speech in off.speeches] == [rows[0].text]
    assert off.pseudonyms == {}


def test_the_splits_are_compared_with_each_other_and_with_external_texts():
    rows = raw(*(f"{word} {LETTER[10 * i :]} {word} {OTHER[15 * i :]}" for i, word in enumerate("abcdefgh")))
    settings = table(dev=0.3, test=0.3, near_duplicate=1.0, cluster=1.0)
    alone = collect(rows, settings, 0)
    assert alone.leakage == {}
    leaky = collect(rows, settings, 0, Aids(external={"elsewhere": [rows[0].text, "Nothing alike here."]})).leakage
    assert leaky["splits"]["dev and train"]["maximum"] > 0.4
    assert leaky["leaks"] == 0, "at the threshold by which they were clustered"
    assert max(row["maximum"] for row in leaky["external"]["elsewhere"].values()) == 1.0


def stage(cli, folder, *settings):
    """The speeches stage of a recipe with one invented letter beside the embedded speeches; its folder."""
    (folder / "own.jsonl").write_text(json.dumps({"text": f"{LETTER} Write to rosa@example.org."}), encoding="utf-8")
    sources = f'[{{load = "{folder}/own.jsonl"}}, {{load = "embedded"}}]'
    text = f'name = "own"\n[speeches]\nmax_chars = 1600\nsources = {sources}'
    more = [word for setting in settings for word in ("--set", setting)]
    code, _, stderr = cli("speeches", write_recipe(folder, text), "--runs", folder / "runs", *more)
    assert code == 0, stderr
    return folder / "runs" / "own" / "1-speeches"


def test_the_stage_writes_its_reports_and_no_map_unless_it_is_wanted(cli, tmp_path):
    place = stage(cli, tmp_path)
    names = ["clusters", "leakage", "privacy", "topics"]
    assert sorted(path.stem for path in place.glob("*.json") if path.stem != "manifest") == names
    assert sorted(path.stem for path in place.glob("*.jsonl")) == ["dropped", "review", "speeches"]
    counts = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["counts"]
    assert counts["personal_data"] == {"EMAIL": 1}
    assert counts["leaks"] == 0
    assert counts["review"] == len((place / "review.jsonl").read_text(encoding="utf-8").splitlines()) > 0
    assert (
        sum(json.loads((place / "clusters.json").read_text(encoding="utf-8"))["sizes"].values()) == counts["clusters"]
    )
    assert all(b"rosa@" not in path.read_bytes() for path in place.parent.rglob("*") if path.is_file())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["own"]


def test_the_map_back_lies_beside_the_run_for_its_owner_alone(cli, tmp_path):
    place = stage(cli, tmp_path, "speeches.privacy.keep_map=true")
    (found,) = (path for path in (tmp_path / "runs").iterdir() if path.is_file())
    assert found.name == "own.privacy-map.jsonl"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    (row,) = map(json.loads, found.read_text(encoding="utf-8").splitlines())
    assert row["values"] == {"[EMAIL_1]": "rosa@example.org"}
    assert row["speech_id"] in (place / "speeches.jsonl").read_text(encoding="utf-8")
    assert all(b"rosa@" not in path.read_bytes() for path in place.parent.rglob("*") if path.is_file())


@pytest.mark.parametrize("again", [LETTER, LETTER.replace("mow", "cut")])
@pytest.mark.parametrize(("first", "then", "given"), [(None, "test", "test"), ("train", "arena", "arena"),
                                                      ("test", "train", "test"), ("dev", None, "dev")])  # fmt: skip
def test_a_row_dropped_as_a_duplicate_still_holds_its_speech_out(again, first, then, given):
    (one,), (other,) = raw(LETTER, split=first), raw(again, split=then)
    found = collect([one, *raw(OTHER), other], table(), 0)
    assert [drop.reason.partition("-")[0] for drop in found.dropped] in (["exact duplicate"], ["near"])
    assert {speech.text: speech.split for speech in found.speeches} == {LETTER: given, OTHER: "train"}
