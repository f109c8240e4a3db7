"""Rewards of candidates: what each source says, what is missing and why, and what the round makes of it."""

import json
import math
import shutil
import sys
from statistics import stdev

import pytest
import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES, make_speech
from hypothesis import given
from hypothesis import strategies as st
from tiny_reward import make_reward_model

from psychocounsel.errors import UserError
from psychocounsel.models.store import CallStore
from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.policy.rewards import (
    Reading,
    check_rewards,
    check_rewards_found,
    merits,
    open_rewards,
    quarantine,
    scales_of,
    score_rows,
)
from psychocounsel.principles import load_principles, overall_score
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.ratings.embedded import EmbeddedScorer
from psychocounsel.recipe import OnlineTable, Recipe
from psychocounsel.records import write_rows
from psychocounsel.reward.score import RewardModel, save_reward
from psychocounsel.training.packed import PackedScorer

HEADS = ["empathy", "safety", "resample 1", "resample 2", "resample 3"]
SPEECH = make_speech(CLIENT_LINES[0])
TEXTS = [*GOOD_REPLIES, *PLAIN_REPLIES]
LENGTH = 256


@pytest.fixture(scope="module")
def plain(tmp_path_factory, model_folder):
    """A reward model without further heads."""
    return str(make_reward_model(tmp_path_factory.mktemp("plain") / "model", model_folder))


@pytest.fixture(scope="module")
def headed(tmp_path_factory, plain):
    """The same with two principle heads and three bootstrap heads."""
    tokenizer = load_tokenizer(plain)
    model = load_scorer(plain, tokenizer.pad_token_id, len(tokenizer))
    folder = tmp_path_factory.mktemp("headed") / "model"
    save_reward(folder, PackedScorer(model, HEADS, 2, seed=5), tokenizer)
    return str(folder)


def recipe(rewards=("reward",), reward=None, **online):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "policy": {"max_length": LENGTH, "online": {"rewards": list(rewards), **online}},
            "reward": reward or {},
        }
    )


def opened(rewards=("reward",), reward=None, store=None, **online):
    return open_rewards(recipe(rewards, **online), reward, store=store)


def no_gate(speech, text):
    return ""


def rows_of(sources, texts=TEXTS, speeches=(SPEECH,), gate=no_gate):
    return score_rows(sources, [(speech, list(enumerate(texts))) for speech in speeches], gate)


def test_a_local_model_gives_what_it_scores_and_frees_its_weights(plain, speeches):
    [source] = opened(reward=plain)
    assert (source.name, source.shared) == ("reward", True)
    rows = rows_of([source], speeches=speeches)
    expected = RewardModel(plain, LENGTH).score([(speech, text) for speech in speeches for text in TEXTS])
    assert [row["rewards"]["reward"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert [(row["speech_id"], row["sample"]) for row in rows] == [(s.id, n) for s in speeches for n in range(6)]
    assert all(set(row) == {"speech_id", "sample", "rewards"} for row in rows)
    assert source._model is not None
    source.close()
    assert source._model is None
    assert rows_of([source])[0]["rewards"] == rows[0]["rewards"]  # loaded again


def test_heads_of_a_model_come_as_spread_and_principles(headed):
    rows = rows_of(opened([headed]))
    [found] = RewardModel(headed, LENGTH).read([(chat_messages(SPEECH.turns), TEXTS)])
    for row, scored in zip(rows, found, strict=True):
        assert row["spread"][headed] == pytest.approx(stdev(scored.resamples), abs=2e-6) and row["spread"][headed] > 0
        assert row["principles"][headed] == pytest.approx(scored.principles, abs=2e-6)
    assert set(rows[0]["principles"][headed]) == {"empathy", "safety"}


def test_equal_texts_are_scored_once_and_as_training_reads_them(plain, monkeypatch):
    [source] = opened(reward=plain)
    asked = []
    score = source.score
    monkeypatch.setattr(source, "score", lambda items, label: (asked.extend(items), score(items, label))[1])
    rows = rows_of(
        [source], ["Since when?", "  Since when?\n", "Go on.", "Since when?"], gate=lambda s, t: t * ("G" in t)
    )
    assert [texts for _, texts in asked] == [["Since when?", "Go on."]]
    first, second, third, fourth = rows
    assert first["rewards"] == second["rewards"] == fourth["rewards"] != third["rewards"]
    assert third["gate"] == "Go on." and "gate" not in first


@pytest.fixture
def odd(plain):
    """A model whose embedding of one token is no number, and replies with and without that token."""
    [source] = opened(reward=plain)
    model = source._loaded()
    token = model.tokenizer.encode("🌙", add_special_tokens=False)[0]
    assert not any(token in model.tokenizer.encode(text) for text in [*TEXTS, SPEECH.text])
    return source, model, token


def test_a_score_that_is_no_number_is_missing_and_leaves_the_others_alone(odd):
    source, model, token = odd
    expected = [row["rewards"]["reward"] for row in rows_of([source])]
    with torch.no_grad():
        model.packed.bare.get_input_embeddings().weight[token] = math.nan
    rows = rows_of([source], [*TEXTS[:3], "Good night. 🌙", *TEXTS[3:]])
    assert rows[3]["rewards"] == {"reward": None} and rows[3]["why"] == {"reward": "not a number"}
    assert [row["rewards"]["reward"] for row in rows[:3] + rows[4:]] == pytest.approx(expected, abs=1e-5)
    [lost] = quarantine(rows)
    assert (lost["sample"], lost["why"]) == (3, {"reward": "not a number"})
    assert merits(rows, OnlineTable())[SPEECH.id, 3] is None
    with pytest.raises(UserError, match=r"round 1: 1 of 7 candidates have no reward.*reward: not a number \(1\)"):
        check_rewards_found(rows, OnlineTable(max_missing=0.1), "round 1")
    check_rewards_found(rows, OnlineTable(max_missing=0.2), "round 1")
    with pytest.raises(UserError, match="scores that are not numbers; retrain"):  # what `psychocounsel score` says
        model.score([(SPEECH, "Good night. 🌙")])


def test_one_reply_without_numbers_does_not_spoil_those_of_its_pack(plain, monkeypatch):
    """As on hardware whose masked attention lets a NaN through: the pack is lost, the replies alone are not."""
    model = RewardModel(plain, LENGTH)
    messages = chat_messages(SPEECH.turns)
    [expected] = model.read([(messages, TEXTS)])
    run, packs = model._pack, []

    def spoilt(groups):
        packs.append(sum(len(group.replies) for group in groups))
        return [[math.nan] for _ in range(packs[-1])] if packs[-1] > 1 else run(groups)

    monkeypatch.setattr(model, "_pack", spoilt)
    [found] = model.read([(messages, TEXTS)], finite=False)
    assert [one.reward for one in found] == pytest.approx([one.reward for one in expected], abs=1e-5)
    assert packs == [6, 1, 1, 1, 1, 1, 1]


def test_weights_that_are_no_numbers_stop_the_round_without_scoring_everything_twice(plain, monkeypatch):
    [source] = opened(reward=plain)
    model = source._loaded()
    with torch.no_grad():
        model.packed.bare.score.weight.fill_(math.nan)
    run, packs = model._pack, []
    monkeypatch.setattr(model, "_pack", lambda groups: (packs.append(len(groups)), run(groups))[1])
    monkeypatch.setattr(model, "budget", 1)
    rows = rows_of([source], speeches=[make_speech(line) for line in CLIENT_LINES])
    assert all(row["rewards"] == {"reward": None} for row in rows)
    assert len(packs) == len(CLIENT_LINES) + len(TEXTS)  # the first pack once more, reply by reply
    with pytest.raises(UserError, match="48 of 48 candidates have no reward"):
        check_rewards_found(rows, OnlineTable(max_missing=0.9), "round 1")


# --- what is refused before anything is sampled ---


def changed(folder, place, change):
    shutil.copytree(folder, place)
    change(place)
    return place


def edited(name, **fields):
    def change(place):
        path = place / name
        found = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))

    return change


def no_template(place):
    edited("tokenizer_config.json", chat_template=None)(place)
    (place / "chat_template.jinja").unlink(missing_ok=True)


def pad_is_end(place):
    end = json.loads((place / "tokenizer_config.json").read_text())["eos_token"]
    edited("tokenizer_config.json", pad_token=end)(place)


def no_pad(place):
    edited("tokenizer_config.json", pad_token=None)(place)
    edited("tokenizer.json", padding=None)(place)  # it remembers how it padded last


def more_tokens(place):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.add_tokens([f"<extra {number}>" for number in range(40)])
    tokenizer.save_pretrained(place)


def cut_off(place):
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_template, "no chat template; use an instruction-tuned model"),
        (pad_is_end, "no pad token of its own.*save it with another pad token"),
        (no_pad, "no pad token of its own"),
        (more_tokens, r"the tokenizer has 4\d\d tokens and the reward model 400; they do not belong together"),
        (edited("config.json", model_type="unheard-of"), "no reward model there"),
        (lambda place: (place / "config.json").unlink(), "no reward model there"),
        (lambda place: (place / "model.safetensors").unlink(), "no weights there"),
        (cut_off, "cannot be read"),
    ],
)
def test_a_model_that_would_score_wrongly_is_named_before_it_is_loaded(plain, tmp_path, change, words):
    place = changed(plain, tmp_path / "model", change)
    for rewards, reward in ((["reward"], str(place)), ([str(place)], None)):
        with pytest.raises(UserError, match=words) as caught:
            check_rewards(recipe(rewards), reward)
        assert str(place) in str(caught.value)


def test_a_causal_model_without_a_score_head_is_not_given_a_random_one(model_folder):
    with pytest.raises(UserError, match=r"no trained score head \(score\.weight\).*drawn at random; name a reward"):
        check_rewards(recipe([str(model_folder)]), None)


def test_a_classifier_with_two_outputs_is_no_reward_model(tmp_path, tokenizer):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)  # two labels are the library's default
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"gives 2 numbers for a reply \(num_labels = 2\); a reward model has one"):
        check_rewards(recipe([str(tmp_path)]), None)


def test_a_model_in_several_files_is_looked_into_as_well(plain, tmp_path):
    from transformers import AutoModelForSequenceClassification

    place = changed(plain, tmp_path / "model", lambda place: (place / "model.safetensors").unlink())
    AutoModelForSequenceClassification.from_pretrained(plain).save_pretrained(place, max_shard_size="20KB")
    assert len(list(place.glob("*.safetensors"))) > 1
    check_rewards(recipe([str(place)]), None)
    for path in place.glob("*.safetensors"):
        if "score.weight" in path.read_bytes()[:4000].decode("latin1"):
            path.unlink()
    with pytest.raises(UserError, match="no trained score head"):
        check_rewards(recipe([str(place)]), None)


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        (["reward", "reward"], "names reward twice"),
        (["./nowhere"], "there is no folder ./nowhere"),
        (["judges:openai:gpt"], "names no source of rewards, did you mean 'judge'"),
        (["http://localhost:1/rank#m"], "is no reward server; write http://HOST/classify#MODEL"),
        (["http://localhost:1/classify"], "is no reward server"),
        (["https://me:secret@host/classify#m"], "leave that out and export the key"),
        (["judge:openai:gpt"], "is asked through a call store, and none is open"),
        (["nowhere_at_all.mine:score"], "cannot be imported"),
        (["math.nothing:here"], "cannot be imported"),
    ],
)
def test_a_source_that_cannot_be_opened_is_named(rewards, words, tmp_path):
    if not rewards[0].startswith("http"):
        with pytest.raises(UserError, match=words):
            opened(rewards)
    if "store" not in words:
        with CallStore(tmp_path / "calls.sqlite") as store, pytest.raises(UserError, match=words):
            opened(rewards, store=store)


def test_a_reward_stage_that_has_not_run_is_named_or_waited_for(tmp_path):
    with pytest.raises(UserError, match="no reward model there; run the reward stage first"):
        opened(reward=str(tmp_path / "model"))
    [source] = opened(reward=None)
    source.check()
    with pytest.raises(UserError, match="not trained yet"):
        source.score([(SPEECH, TEXTS)], "rewards")


def test_a_hub_id_that_was_not_downloaded_is_checked_when_it_is_loaded():
    [source] = opened(["nobody/no-such-reward-model"])
    source.check()
    with pytest.raises(UserError, match="nobody/no-such-reward-model: no usable model there"):
        source.score([(SPEECH, TEXTS)], "rewards")


def test_a_hub_id_that_was_downloaded_is_looked_into(model_folder, tmp_path, monkeypatch):
    place = tmp_path / "models--somebody--talker"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    shutil.copytree(model_folder, place / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="somebody/talker: its weights have no trained score head"):
        opened(["somebody/talker"])


@pytest.mark.parametrize(
    ("online", "words"),
    [
        ({"pessimism": 1.0}, r"pessimism: reward is the only source of rewards and has no bootstrap heads"),
        ({"principles": {"empathy": 1.0}}, "principles: reward has no head for 'empathy'; it has none"),
    ],
)
def test_what_a_model_cannot_give_is_refused_before_and_without_it(plain, online, words):
    for reward in (plain, None):
        with pytest.raises(UserError, match=words):
            opened(reward=reward, **online)
    check_rewards(
        Recipe.model_validate(
            {"name": "t", "reward": {"bootstrap": 2, "principles": 1.0}, "policy": {"online": online}}
        ),
        None,
    )


def test_a_misspelt_principle_is_told_with_the_nearest(headed):
    with pytest.raises(UserError, match="no head for 'empaty', did you mean 'empathy'"):
        opened(reward=headed, principles={"empaty": 1.0})
    with pytest.raises(UserError, match="no head for 'resample 1'"):
        opened(reward=headed, principles={"resample 1": 1.0})
    with pytest.raises(UserError, match="judge:embedded is a judge and gives one number"):
        opened(["judge:embedded"], principles={"empathy": 1.0})


def test_heads_that_nobody_can_read_are_named(plain, tmp_path):
    place = changed(plain, tmp_path / "model", lambda place: (place / "heads.json").write_text("{}"))
    with pytest.raises(UserError, match=r"heads\.json: does not name the model's heads \(KeyError\)"):
        opened([str(place)])


# --- judges and functions ---


def test_a_judge_rewards_by_its_gated_overall_score(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as store:
        [source] = opened(["judge:embedded"], store=store)
        rows = rows_of([source])
        source.close()
        assert rows_of([source]) == rows
    scorer, principles = EmbeddedScorer(), load_principles()
    expected = [overall_score(scorer.score(SPEECH.text, text), principles, gated=True) for text in TEXTS]
    assert [row["rewards"]["judge:embedded"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) > 2 and not source.shared


REFUSING = """
import json
from psychocounsel.models.chat import Completion

class Desk:
    name, kind, concurrency = "desk", "desk", 2

    def can_answer(self, request):
        return True

    async def send(self, request):
        if "stop complaining" in request.messages[-1]["content"]:
            return json.dumps({"text": "", "finish": "refused"})
        scores = {name: {"reason": "seen", "score": 4} for name in PRINCIPLES}
        return json.dumps({"text": json.dumps({"stage": "contemplation", "risk": "none", **scores})})

    def read(self, raw):
        return Completion.model_validate_json(raw)

judge = Desk
"""


def test_a_refusal_is_missing_and_not_a_low_score(tmp_path, monkeypatch):
    from tiny_run import use_judge_module

    names = [principle.id for principle in load_principles()]
    use_judge_module(tmp_path, monkeypatch, f"PRINCIPLES = {names}\n{REFUSING}")
    with CallStore(tmp_path / "calls.sqlite") as store:
        rows = rows_of(opened(["judge:desk.judge:judge"], store=store))
    name = "judge:desk.judge:judge"
    assert [row["rewards"][name] for row in rows] == [4.0] * 5 + [None]
    assert rows[5]["why"] == {name: "refused"}


def test_a_recording_cannot_judge_new_replies(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as store, pytest.raises(UserError, match="is a recording"):
        opened(["judge:recorded:embedded"], store=store)


@pytest.fixture
def function(tmp_path, monkeypatch):
    """Make desk.judge:reward from code, and give its rows."""
    from tiny_run import use_judge_module

    def made(code):
        use_judge_module(tmp_path, monkeypatch, f"import math\ndef reward(messages, replies):\n    {code}\n")
        return opened(["desk.judge:reward"])

    yield made
    for name in ("desk", "desk.judge"):
        sys.modules.pop(name, None)


def test_a_function_sees_the_dialogue_and_rewards_each_reply(function):
    code = "assert messages[-1]['role'] == 'user'; return [len(r) + 0.5 * len(messages) for r in replies]"
    rows = rows_of(function(code))
    assert [row["rewards"]["desk.judge:reward"] for row in rows] == [len(text) + 0.5 for text in TEXTS]


def test_a_function_may_leave_replies_out(function):
    values = "{'Tell': None, 'Wait': math.nan, 'Stay': -math.inf}"
    rows = rows_of(function(f"return [{values}.get(r[:4], 1) for r in replies]"), ["Tell me.", "Wait.", "Stay.", "Go."])
    assert [row["rewards"]["desk.judge:reward"] for row in rows] == [None, None, None, 1.0]
    whys = [row.get("why", {}).get("desk.judge:reward") for row in rows]
    assert whys == ["the function gave none", "not a number", "not a number", None]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("return [1.0]", "gave 1 numbers for 2 replies; one for each"),
        ("return 1.0", r"failed on 2 replies to a speech \(TypeError\)"),
        ("return ['1', '2']", "gave a str for a reply; a number"),
        ("return [True, False]", "gave a bool for a reply"),
        ("raise ValueError(replies[0])", r"failed on 2 replies to a speech \(ValueError\)"),
    ],
)
def test_a_function_that_cannot_be_used_is_told_at_once_and_quotes_nobody(function, code, words):
    with pytest.raises(UserError, match=words) as caught:
        function(code)
    assert "sums" not in str(caught.value) and "cheaper" not in str(caught.value)


# --- what is made of the rows ---


def row(speech, number, rewards, **more):
    return {"speech_id": speech, "sample": number, "rewards": rewards, **more}


def test_one_source_is_worth_its_reward_less_what_it_doubts():
    rows = [row("a", 0, {"m": 2.0}, spread={"m": 0.5}), row("a", 1, {"m": 1.5}, spread={"m": 0.1})]
    assert merits(rows, OnlineTable()) == {("a", 0): 2.0, ("a", 1): 1.5}
    assert merits(rows, OnlineTable(pessimism=2.0)) == pytest.approx({("a", 0): 1.0, ("a", 1): 1.3})
    rows.append(row("a", 2, {"m": 9.0}))
    assert merits(rows, OnlineTable(pessimism=2.0))["a", 2] is None
    with pytest.raises(UserError, match="m is the only source of rewards and has no bootstrap heads"):
        merits([row("a", 0, {"m": 2.0})], OnlineTable(pessimism=1.0))


def test_weights_of_principles_take_the_place_of_the_overall_score():
    heads = {"empathy": 2.0, "safety": -1.0}
    rows = [row("a", 0, {"m": 9.0}, principles={"m": heads}), row("a", 1, {"m": None}, why={"m": "x"})]
    assert merits(rows, OnlineTable(principles={"empathy": 0.5, "safety": 2.0})) == {("a", 0): -1.0, ("a", 1): None}
    with pytest.raises(UserError, match="m has no head for 'safty', did you mean 'safety'"):
        merits(rows, OnlineTable(principles={"safty": 1.0}))
    with pytest.raises(UserError, match="m has no head for 'safety'; it has none"):
        merits([row("a", 0, {"m": 9.0})], OnlineTable(principles={"safety": 1.0}))


def test_several_sources_meet_on_one_scale():
    rewards = [{"m": 10.0, "n": 0.1}, {"m": 20.0, "n": 0.2}, {"m": 30.0, "n": 0.9}]
    rows = [row("a", number, found) for number, found in enumerate(rewards)]
    scales = scales_of(rows)
    assert scales == pytest.approx({"m": stdev([10, 20, 30]), "n": stdev([0.1, 0.2, 0.9])})
    found = merits(rows, OnlineTable(pessimism=0.5))
    for number, values in enumerate(rewards):
        parts = [(values["m"] - 20) / scales["m"], (values["n"] - 0.4) / scales["n"]]
        assert found["a", number] == pytest.approx(sum(parts) / 2 - 0.5 * stdev(parts))
    assert merits(rows, OnlineTable(), {"m": 1.0, "n": 1.0})["a", 2] == pytest.approx((10 + 0.5) / 2)


def test_a_candidate_that_one_source_misses_is_missing_and_moves_nobody_else():
    rows = [row("a", 0, {"m": 1.0, "n": 3.0}), row("a", 1, {"m": 2.0, "n": 1.0})]
    lost = row("a", 2, {"m": 99.0, "n": None}, why={"n": "refused"})
    scales = {"m": 1.0, "n": 1.0}
    alone, among = (merits(found, OnlineTable(pessimism=0.3), scales) for found in (rows, [*rows, lost]))
    assert among == alone | {("a", 2): None}
    assert quarantine([*rows, lost, row("a", 3, {"m": 1.0})]) == [
        {"speech_id": "a", "sample": 2, "why": {"n": "refused"}},
        {"speech_id": "a", "sample": 3, "why": {"n": "not scored"}},
    ]


def test_scales_are_those_within_speeches_and_one_where_there_is_no_spread():
    far = [row("a", 0, {"m": 0.0}), row("a", 1, {"m": 2.0}), row("b", 0, {"m": 100.0}), row("b", 1, {"m": 102.0})]
    assert scales_of(far) == pytest.approx({"m": math.sqrt(2)})
    assert scales_of([row("a", 0, {"m": 3.0, "n": None}), row("a", 1, {"m": 3.0, "n": None})]) == {"m": 1.0, "n": 1.0}
    singles = [row("a", 0, {"m": 1.0}), row("b", 0, {"m": 5.0})]  # a look at one reply each
    assert scales_of(singles) == pytest.approx({"m": stdev([1.0, 5.0])})
    assert scales_of([]) == {}
    heads = [row("a", n, {"m": 0.0}, principles={"m": {"empathy": float(n)}}) for n in range(2)]
    assert scales_of(heads, OnlineTable(principles={"empathy": 4.0})) == pytest.approx({"m": stdev([0.0, 4.0])})


reward_lists = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=6)


@given(reward_lists, st.floats(0.1, 50), st.floats(-100, 100), st.floats(0, 2))
def test_neither_scale_nor_height_of_a_source_changes_the_merits(found, factor, shift, pessimism):
    table = OnlineTable(pessimism=pessimism)
    found = [(round(one, 3), round(other, 3)) for one, other in found]
    rows = [row("a", number, {"m": one, "n": other}) for number, (one, other) in enumerate(found)]
    moved = [row("a", number, {"m": one * factor + shift, "n": other}) for number, (one, other) in enumerate(found)]
    assert merits(moved, table) == pytest.approx(merits(rows, table), abs=1e-6)


def test_rewards_that_are_all_equal_stop_the_round(capsys):
    same = [row("a", 0, {"m": 1.5, "n": 0.0}), row("b", 0, {"m": 1.5, "n": 0.0})]
    with pytest.raises(UserError, match=r"round 2: m and n gave each of the 2 replies the same reward \(1\.5\)"):
        check_rewards_found(same, OnlineTable(), "round 2")
    check_rewards_found([same[0], row("b", 0, {"m": 2.0, "n": 0.0})], OnlineTable(), "round 2")
    assert "round 2: n gave every reply the same reward and decides nothing" in capsys.readouterr().err


def test_a_source_that_answers_with_no_numbers_of_its_own_is_still_written_as_json(tmp_path):
    class Source:
        name = "mine"

        def score(self, items, label):
            return [[Reading(math.nan), Reading(1.0, math.inf), Reading(0.1234567)] for _ in items]

    rows = score_rows([Source()], [(SPEECH, [(0, "One."), (1, "Two."), (4, "Three.")])], no_gate)
    write_rows(tmp_path / "scores.jsonl", rows)
    assert [(r["sample"], r["rewards"]["mine"]) for r in rows] == [(0, None), (1, None), (4, 0.123457)]
    assert score_rows([Source()], [], no_gate) == [] and quarantine([]) == [] and merits([], OnlineTable()) == {}
    check_rewards_found([], OnlineTable(), "round 1")
