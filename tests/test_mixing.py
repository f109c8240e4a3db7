"""General preference sets: read in the forms others use, grouped by prompt, the same whatever the order of the rows."""

import json
import math
import pickle
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psychocounsel.errors import UserError
from psychocounsel.preference import RATED
from psychocounsel.recipe import MixSource
from psychocounsel.training.mixing import mixed_examples

SOUP, KNOT, MOON = "How long does lentil soup keep?", "Which knot holds a hammock?", "Why is the moon out by day?"
LONG, SHORT, ODD = "Four days in the fridge, three months frozen.", "Four days.", "Soup is a kind of bread."


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, seed=7, **settings):
    exclude = settings.pop("exclude", None)
    return mixed_examples(MixSource(load=str(path), **settings), seed, exclude)


def only(tmp_path, rows, ending="jsonl"):
    """The one example of a file with these rows."""
    (example,) = read(save(tmp_path / f"rows.{ending}", rows))
    return example


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def plain(prompt=SOUP, chosen=LONG, rejected=ODD, **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def told(example):
    """An example as (chosen, rejected, gap) texts, for comparison."""
    return [
        (example.replies[a], example.replies[b], gap) for (a, b), gap in zip(example.pairs, example.gaps, strict=True)
    ]


SYSTEM = {"role": "system", "content": "You answer in one line."}
TURNS = [SYSTEM, user("I cook for two."), assistant("Gladly."), user(SOUP)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_turn_after_a_prompt_is_read_and_system_and_earlier_turns_are_kept(tmp_path, ending):
    row = {"prompt": TURNS, "chosen": [assistant(LONG)], "rejected": [assistant(ODD)]}
    example = only(tmp_path, [row], ending)
    assert example.messages == TURNS
    assert (example.replies, example.pairs, example.gaps, example.differences) == ([LONG, ODD], [(0, 1)], [1.0], [])


def test_whole_conversations_share_all_but_their_last_turn(tmp_path):
    row = {"chosen": [*TURNS, assistant(LONG)], "rejected": [*TURNS, assistant(ODD)], "source": "kitchen"}
    example = only(tmp_path, [row])
    assert (example.messages, example.replies) == (TURNS, [LONG, ODD])


def test_a_prompt_beside_whole_conversations_is_not_said_twice(tmp_path):
    row = {"chosen": [user(SOUP), assistant(LONG)], "rejected": [user(SOUP), assistant(ODD)]}
    row |= {"prompt": SOUP, "prompt_id": "a1", "messages": [user(SOUP)], "score_chosen": 8.5, "score_rejected": 6.0}
    example = only(tmp_path, [row])
    assert (example.messages, example.gaps) == ([user(SOUP)], [2.5])
    row["prompt"] = [user(SOUP)]
    assert only(tmp_path / "list", [row]).messages == [user(SOUP)]


def test_a_text_prompt_may_stand_before_lists_of_one_turn(tmp_path):
    assert only(tmp_path, [plain(chosen=[assistant(LONG)], rejected=[assistant(ODD)])]).messages == [user(SOUP)]


def test_other_names_of_roles_are_known(tmp_path):
    row = {
        "chosen": [{"from": "human", "value": SOUP}, {"from": "gpt", "value": LONG}],
        "rejected": [{"from": "human", "value": SOUP}, {"from": "gpt", "value": ODD}],
    }
    assert only(tmp_path, [row]).messages == [user(SOUP)]


def test_plain_texts_are_read_with_a_system_column_where_there_is_one(tmp_path):
    assert only(tmp_path, [plain()]).messages == [user(SOUP)]
    row = {"system": SYSTEM["content"], "question": SOUP, "chosen": LONG, "rejected": ODD}
    assert only(tmp_path / "more", [row]).messages == [SYSTEM, user(SOUP)]


def test_conversations_written_into_one_text_become_turns(tmp_path):
    start = f"\n\nHuman: I cook for two.\n\nAssistant: Gladly.\n\nHuman: {SOUP}\n\nAssistant:"
    example = only(tmp_path, [{"chosen": f"{start} {LONG}", "rejected": f"{start} {ODD}"}])
    assert (example.messages, example.replies) == (TURNS[1:], [LONG, ODD])
    assert only(tmp_path / "prompt", [plain(prompt=start)]).messages == TURNS[1:]
    steer = f"I cook for two.\n\n<extra_id_1>Assistant\nGladly.\n\n<extra_id_1>User\n{SOUP}"
    assert only(tmp_path / "steer", [plain(prompt=steer)]).messages == TURNS[1:]


@pytest.mark.parametrize(
    "names",
    [
        ("prompt", "response_1", "response_2", "preference_strength"),
        ("context", "response1", "response2", "overall_preference"),
    ],
)
def test_a_strength_below_zero_prefers_the_first_reply_and_zero_is_a_tie(tmp_path, names):
    prompts = [SOUP, KNOT, MOON] if names[0] == "prompt" else [[user(SOUP)], [user(KNOT)], [user(MOON)]]
    rows = [
        dict(zip(names, (prompt, LONG, ODD, strength), strict=True))
        for prompt, strength in zip(prompts, (-2, 3, 0), strict=True)
    ]
    found = read(save(tmp_path / "a.jsonl", rows))
    assert {example.messages[-1]["content"]: told(example) for example in found} == {
        SOUP: [(LONG, ODD, 2.0)],
        KNOT: [(ODD, LONG, 3.0)],
    }
    assert found.left_out == {"tie": 1}


def rated(prompt, response, helpfulness):
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "verbosity": 1}


def test_rated_replies_to_one_prompt_become_pairs_of_those_that_differ(tmp_path):
    rows = [rated(SOUP, LONG, 4), rated(SOUP, ODD, 0), rated(KNOT, "A bowline.", 3), rated(SOUP, SHORT, 4)]
    found = read(save(tmp_path / "a.jsonl", rows))
    (example,) = found
    assert set(told(example)) == {(SHORT, ODD, 4.0), (LONG, ODD, 4.0)}
    assert len(example.replies) == 3
    assert found.left_out == {"tie": 1, "the only reply to its prompt": 1}


def test_too_many_rated_replies_to_one_prompt_are_counted_not_compared(tmp_path):
    rows = [rated(SOUP, f"About {days} days.", days) for days in range(65)]
    found = read(save(tmp_path / "a.jsonl", [*rows, rated(KNOT, LONG, 1), rated(KNOT, SHORT, 2)]))
    assert (found.pairs, found.left_out) == (1, {"more than 64 replies to one prompt": 65})


def released(better, worse):
    row = {"ID": "q1", "prefID": 0, "question": SOUP, "chosen": LONG, "rejected": ODD}
    for side, scores in (("chosen", better), ("rejected", worse)):
        row |= {f"{side}_{name}_rating": score for name, score in zip(RATED, scores, strict=True)}
    return row


def test_the_released_schema_gives_differences_by_principle_in_the_order_asked_for(tmp_path):
    path = save(tmp_path / "a.jsonl", [released((5, 4, 4, 5, 3, 4, 3), (3, 4, 2, 1, 3, 2, 3))])
    (example,) = read(path)
    assert example.differences == [[2, 0, 2, 4, 0, 2, 0]]
    assert example.gaps == [pytest.approx(10 / 7, abs=1e-6)]
    (example,) = mixed_examples(MixSource(load=str(path)), 7, principles=("safety", "hope", "empathy"))
    assert example.differences[0][::2] == [4, 2] and math.isnan(example.differences[0][1])


def test_all_pairs_of_a_prompt_share_one_example_with_each_reply_once(tmp_path):
    rows = [plain(), plain(KNOT), plain(rejected=SHORT), plain(chosen=SHORT), plain()]
    found = read(save(tmp_path / "a.jsonl", rows))
    soup = next(example for example in found if example.messages == [user(SOUP)])
    assert sorted(soup.replies) == sorted([LONG, ODD, SHORT])
    assert set(told(soup)) == {(SHORT, ODD, 1.0), (LONG, SHORT, 1.0), (LONG, ODD, 1.0)}
    assert (len(found), found.pairs, found.left_out) == (2, 4, {"repeated": 1})
    assert [found[i] for i in range(2)] == list(found)
    with pytest.raises(IndexError):
        found[2]


def test_rows_that_contradict_each_other_both_stay(tmp_path):
    example = only(tmp_path, [plain(), plain(chosen=ODD, rejected=LONG)])
    assert {(a, b) for a, b, _ in told(example)} == {(LONG, ODD), (ODD, LONG)}
    assert len(example.replies) == 2


def test_a_set_can_go_to_another_process(tmp_path):
    found = read(save(tmp_path / "a.jsonl", [plain(), plain(KNOT)]))
    assert list(pickle.loads(pickle.dumps(found))) == list(found)


BAD_ROWS = [
    (plain(rejected=" \n"), "empty reply"),
    (plain(rejected=LONG), "chosen equals rejected"),
    (plain(prompt="  "), "empty prompt"),
    (plain(prompt=[user(SOUP), assistant("Well,")]), "prompt not ending with the user"),
    (plain(prompt=[]), "prompt not ending with the user"),
    (plain(prompt=5), "wrong type"),
    (plain(chosen=None), "wrong type"),
    (plain(prompt=[{"role": "narrator", "content": "Later."}]), "unknown role"),
    (plain(prompt=[{"content": SOUP}]), "wrong type"),
    (plain(prompt=[SOUP]), "wrong type"),
    (plain(prompt=None), "no common prompt"),
    (plain(chosen=[user(KNOT), assistant(LONG)], rejected=[user(SOUP), assistant(ODD)]), "no common prompt"),
    (plain(chosen=[user(LONG)], rejected=[user(ODD)]), "reply not by the assistant"),
    (plain(chosen=[], rejected=[assistant(ODD)]), "empty reply"),
    (
        plain(prompt=[user(SOUP)], chosen=[user("And?"), assistant(LONG)], rejected=[user("And?"), assistant(ODD)]),
        "more than one turn in a reply",
    ),
    (plain(score_chosen=2, score_rejected=2), "tie"),
    (plain(score_chosen=2, score_rejected=3), "rated the other way round"),
    (plain(score_chosen="high", score_rejected=3), "wrong type"),
    (plain(score_chosen=True, score_rejected=False), "wrong type"),
    (plain(split="val"), "held out by the set itself"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(BAD_ROWS)])
def test_a_row_that_cannot_be_used_is_left_out_and_counted(tmp_path, bad, reason):
    found = read(save(tmp_path / "a.jsonl", [plain(KNOT), bad]))
    assert [example.messages for example in found] == [[user(KNOT)]]
    assert found.left_out == {reason: 1}


def test_a_strength_that_is_no_number_says_nothing_and_a_missing_score_is_a_gap_of_one(tmp_path):
    names = ("prompt", "response_1", "response_2", "preference_strength")
    rows = [(SOUP, LONG, ODD, math.nan), (KNOT, LONG, ODD, math.inf), (MOON, LONG, ODD, None), ("Why?", LONG, ODD, -1)]
    found = read(save(tmp_path / "a.parquet", [dict(zip(names, row, strict=True)) for row in rows]))
    assert (found.pairs, found.left_out) == (1, {"no rating": 3})
    assert only(tmp_path / "b", [plain(score_chosen=math.nan, score_rejected=2.0)]).gaps == [1.0]
    assert read(save(tmp_path / "c.jsonl", [rated(SOUP, LONG, None), rated(SOUP, ODD, 1), rated(SOUP, SHORT, 2)])).pairs
    row = released([None] * 7, [1] * 7)
    assert read(save(tmp_path / "d.jsonl", [row, released([2] * 7, [1] * 7)])).left_out == {"no rating": 1}


def test_the_caller_can_leave_prompts_out_by_their_last_user_message(tmp_path):
    path = save(tmp_path / "a.jsonl", [plain(), plain(rejected=SHORT), plain(KNOT), plain(prompt=TURNS)])
    asked = []

    def exclude(text):
        asked.append(text)
        return text == SOUP

    found = read(path, exclude=exclude)
    assert [example.messages for example in found] == [[user(KNOT)]]
    assert found.left_out == {"excluded": 3}
    assert asked == [SOUP, KNOT, SOUP]


TEXTS = st.sampled_from(["one", "two", "three", "four", " "])
ROWS = st.one_of(
    st.lists(
        st.builds(plain, TEXTS, TEXTS, TEXTS, score_chosen=st.integers(0, 3), score_rejected=st.integers(0, 3)),
        min_size=1,
        max_size=20,
    ),
    st.lists(st.builds(rated, TEXTS, TEXTS, st.integers(0, 4)), min_size=1, max_size=20),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, limit=st.none() | st.integers(1, 8), shuffled=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing_and_examples_are_sound(tmp_path, rows, limit, shuffled):
    other = shuffled.sample(rows, len(rows))
    try:
        found = read(save(tmp_path / "a.parquet", rows), limit=limit)
    except UserError as error:
        assert "no pair is left" in str(error)
        return
    again = read(save(tmp_path / "b.parquet", other), limit=limit)
    assert (list(again), again.left_out) == (list(found), found.left_out)
    ids = [example.id for example in found]
    assert len(set(ids)) == len(ids) == len(found)
    for example in found:
        assert len(set(example.replies)) == len(example.replies)
        assert {place for pair in example.pairs for place in pair} == set(range(len(example.replies)))
        assert len(example.gaps) == len(example.pairs)
        assert min(example.gaps) > 0
    assert found.pairs == sum(len(example.pairs) for example in found) <= (limit or math.inf)


def pair_texts(found):
    return {(example.id, chosen, rejected) for example in found for chosen, rejected, _ in told(example)}


def test_a_limit_takes_pairs_by_content_and_new_rows_only_push_out_as_many(tmp_path):
    rows = [plain(f"What is {i} times two?", f"It is {2 * i}.", "I do not know.") for i in range(200)]
    taken = pair_texts(read(save(tmp_path / "a.jsonl", rows), limit=50))
    assert len(taken) == 50
    more = [*rows[:90], *[plain(f"What is {i} minus one?") for i in range(10)], *rows[90:]]
    found = read(save(tmp_path / "b.jsonl", more), limit=50)
    assert len(taken & pair_texts(found)) >= 40
    assert found.left_out == {"over the limit": 160}
    assert pair_texts(read(tmp_path / "a.jsonl", limit=50, seed=8)) != taken
    assert pair_texts(read(tmp_path / "a.jsonl", limit=49)) < taken
    assert read(tmp_path / "a.jsonl", limit=500).pairs == 200


@pytest.fixture
def hub_layout(tmp_path):
    folder = tmp_path / "general-preferences"
    for split, prompt in (("train", SOUP), ("test", KNOT)):
        save(folder / "data" / f"{split}-00000-of-00001.parquet", [plain(prompt)])
    files = "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in ("train", "test"))
    card = f"---\nlicense: cc-by-4.0\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def test_a_folder_in_hub_layout_is_read_by_split_with_its_licence_and_origin(hub_layout):
    found = read(hub_layout)
    assert [example.messages for example in found] == [[user(SOUP)]]
    assert found.license == "cc-by-4.0"
    assert found.origin.startswith("general-preferences@")
    assert [example.messages for example in read(hub_layout, split="test")] == [[user(KNOT)]]
    assert read(hub_layout, license="MIT").license == "MIT"


def test_an_unknown_split_is_an_error_that_names_those_there_are(hub_layout, tmp_path):
    with pytest.raises(UserError, match=r"no split 'tran', did you mean 'train'\?.*there are train, test"):
        read(hub_layout, split="tran")
    with pytest.raises(UserError, match="no split 'test'; there are train"):
        read(save(tmp_path / "a.jsonl", [plain()]), split="test")


def test_a_json_list_is_read_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([plain(), plain(KNOT)]), encoding="utf-8")
    assert read(path).pairs == 2


BROKEN = {
    "truncated.jsonl": (json.dumps(plain()) + '\n{"prompt": "How lo').encode(),
    "latin.jsonl": '{"prompt": "café", "chosen": "ja", "rejected": "nein"}\n'.encode("latin-1"),
    "wide.jsonl": json.dumps(plain()).encode("utf-16"),
    "torn.parquet": b"PAR1 and no more",
    "words.json": b"these are no rows",
    "numbers.jsonl": b"1\n2\n",
    "half.jsonl": json.dumps(plain(prompt="\ud83d")).encode(),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line_that_names_it(tmp_path, name, capfd):
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_holds_nothing(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"a\.jsonl"):
        read(tmp_path / "a.jsonl")


def test_a_table_without_rows_holds_nothing(tmp_path):
    table = pa.table({name: pa.array([], pa.string()) for name in ("prompt", "chosen", "rejected")})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: holds no preference rows"):
        read(tmp_path / "a.parquet")


def test_places_that_do_not_exist_are_told(tmp_path):
    with pytest.raises(UserError, match=r"gone.jsonl: no such file"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(UserError, match="no such folder, and no hub id"):
        read(tmp_path / "gone")
    for load in ("someone/general", "someone/general/preference", "someone/general:preference"):
        with pytest.raises(UserError, match=f"{load}: cannot be read as a preference set"):
            read(load)


def test_unknown_columns_are_listed_beside_the_known_forms(tmp_path):
    path = save(tmp_path / "a.jsonl", [{"query": SOUP, "good": LONG, "a reply that somebody once wrote here": ODD}])
    with pytest.raises(UserError) as caught:
        read(path)
    assert "'query', 'good', 'a reply that somebod…'" in str(caught.value)
    assert "prompt, response, helpfulness" in str(caught.value)


def test_a_set_of_which_nothing_can_be_used_is_an_error_with_the_reasons(tmp_path):
    path = save(tmp_path / "a.jsonl", [plain(rejected=LONG), plain(KNOT, rejected=LONG), plain(rejected="")])
    with pytest.raises(UserError, match=r"no pair is left to mix in \(chosen equals rejected: 2, empty reply: 1\)"):
        read(path)


def test_one_huge_row_is_read_like_any_other(tmp_path):
    row = plain(chosen="Stir. " * 2_000_000)
    assert only(tmp_path, [row, row]).replies == [row["chosen"], ODD]


def test_twenty_thousand_rows_never_lie_in_memory_together(tmp_path):
    path, draw = tmp_path / "a.jsonl", random.Random(5)
    with path.open("w") as file:
        for i in range(20_000):
            row = plain(f"What of number {i % 9_000}? " + "Please tell. " * 150, f"It is {draw.random()}.")
            file.write(json.dumps(row) + "\n")
    assert path.stat().st_size > 40_000_000
    assert read(path).pairs == 20_000  # the library makes its memory-mapped copy, in blocks of 10 MB whatever the size
    tracemalloc.start()
    found = read(path)
    pairs = sum(len(example.pairs) for example in found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(found), pairs, found.left_out) == (9_000, 20_000, {})
    assert peak < 4_000_000
