"""Policies beside the trained ones: a system text from the principles, examples, the best of N; and who meets whom."""

import json
import tomllib
from dataclasses import replace

import pytest
from conftest import CLIENT_LINES, GOOD_REPLIES, make_speech
from tiny_reward import make_reward_model
from tiny_run import TINY_RECIPE, copy_run, read_json
from tiny_training import CHATML, save_tokenizer

from psychocounsel.errors import UserError
from psychocounsel.evaluate.baselines import (
    EXAMPLES,
    check_baselines,
    choose_examples,
    example_messages,
    system_messages,
)
from psychocounsel.evaluate.policies import Policy, policy_prompts, policy_replies, reply_counts, sampled
from psychocounsel.models.store import CallStore
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.pipeline.contenders import contests, policies
from psychocounsel.pipeline.context import Run
from psychocounsel.pipeline.evaluation import evaluate, finish
from psychocounsel.policy.sampling import Sample, Sampling, read_prompts
from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import COUNSELLOR, chat_messages, counsellor_prompt
from psychocounsel.recipe import EvaluateTable, PrinciplesTable, parse_recipe
from psychocounsel.records import Rating, Response, read_rows, write_text
from psychocounsel.reward.score import RewardModel
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder

PRINCIPLES = load_principles()
TABLE = EvaluateTable(max_new_tokens=4, temperature=1.0)
ALL = 'baselines = ["prompt", "few-shot", "best-of-n"]\nbest_of = 4\n'
SYSTEM = {"role": "system", "content": "Answer in plain words."}
NO_SYSTEM = CHATML.replace(
    "{% for", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{% for", 1
)
DEAF = "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"


# --- the system text -------------------------------------------------------------------------------------------------


def test_the_system_text_says_every_principle_in_the_words_of_the_rubric():
    text = counsellor_prompt(PRINCIPLES)
    assert text.startswith(COUNSELLOR)
    for principle in PRINCIPLES:
        for words in (principle.name, principle.definition, principle.anchors[4], principle.anchors[0]):
            assert words in text
        assert all(fault in text for fault in principle.failures)
    assert text.count("Who fails here fails altogether.") == 1  # safety


def test_what_a_recipe_drops_rewords_adds_or_weighs_as_nothing_shows():
    table = PrinciplesTable(
        drop=["staging"], reword=[{"id": "clarity", "name": "Plain words", "definition": "Says it simply."}],
        weight={"empathy": 0, "safety": 0},
        add=[{"id": "humour", "name": "Humour", "definition": "Smiles with the client.", "anchors": list("abcde")}],
    )  # fmt: skip
    text, known = counsellor_prompt(load_principles(table)), {p.id: p for p in PRINCIPLES}
    assert "## Plain words\nSays it simply." in text and known["clarity"].definition not in text
    assert "## Humour\nSmiles with the client.\nAt its best: e.\nAt its worst: a." in text
    assert known["staging"].name not in text and known["empathy"].name not in text
    assert known["safety"].definition in text  # of no weight, but still a gate


# --- the examples ----------------------------------------------------------------------------------------------------


def rated(overall, speech, text, **changes):
    response = Response(speech_id=speech.id, model="m", text=text, **changes)
    return response, Rating(response_id=response.id, judge="j", scores={p.id: overall for p in PRINCIPLES})


def chosen_of(speeches, rows, count=EXAMPLES, seed=0):
    responses, ratings = zip(*rows, strict=True)
    return choose_examples(speeches, responses, ratings, PRINCIPLES, seed, count)


WORDS = "You say it plainly and it weighs on you each day and night"


def test_examples_are_the_best_rated_train_replies_on_different_topics():
    speeches = [make_speech(text, topic=("grief", "work", "family")[i % 3]) for i, text in enumerate(CLIENT_LINES)]
    speeches = [s.model_copy(update={"turns": (s.turns[0].model_copy(update={"text": f"Line {i} of a day."}),)})
                for i, s in enumerate(speeches)]  # fmt: skip
    rows = [rated(2.0 + 0.3 * i, speech, f"{WORDS} {i}") for i, speech in enumerate(speeches)]
    found = chosen_of(speeches, rows, 3)
    assert [shown.speech for shown in found] == [speeches[5], speeches[6], speeches[7]]  # the best one comes last
    assert {shown.speech.topic for shown in found} == {"grief", "work", "family"}
    assert len(chosen_of(speeches, rows, 5)) == 5  # topics come twice only when all have come once
    assert [s.speech for s in chosen_of(speeches, rows, 4)][1:] == [s.speech for s in found]


def test_no_held_out_cluster_failed_gate_cut_or_odd_length_is_shown():
    fine, held, twin, gated, cut, short, long = (make_speech(f"Line {i} of a day.", cluster=str(i)) for i in range(7))
    held = held.model_copy(update={"split": "arena"})
    twin = twin.model_copy(update={"cluster": held.cluster})
    rows = [
        rated(3.0, fine, WORDS), rated(5.0, held, f"{WORDS} held"), rated(5.0, twin, f"{WORDS} twin"),
        rated(5.0, cut, f"{WORDS} cut", finish="length"), rated(5.0, short, "Call."), rated(5.0, long, f"{WORDS} " * 4),
        rated(5.0, gated, f"{WORDS} gated"), rated(3.0, fine, f"{WORDS} two"), rated(3.0, fine, f"{WORDS} three"),
    ]  # fmt: skip
    unsafe = rows[6][1].model_copy(update={"scores": {**rows[6][1].scores, "safety": 2.0}})
    rows[6] = (rows[6][0], unsafe)
    found = chosen_of([fine, held, twin, gated, cut, short, long], rows)
    assert [shown.speech for shown in found] == [fine]  # and one example of a cluster, not three


def test_equal_ratings_are_put_in_order_by_content_and_seed_alone():
    speeches = [make_speech(f"Line {i} of a day.") for i in range(12)]
    rows = [rated(4.0, speech, f"{WORDS} {i}") for i, speech in enumerate(speeches)]
    found = chosen_of(speeches, rows)
    assert found == chosen_of(speeches[::-1], rows[::-1])
    assert any(found != chosen_of(speeches, rows, seed=seed) for seed in (1, 2, 3))


def test_without_a_reply_to_show_few_shot_says_so():
    speech = make_speech(CLIENT_LINES[0])
    with pytest.raises(
        UserError, match=r"'few-shot' finds no rated train reply that passes the gate principles; leave"
    ):
        chosen_of([speech], [rated(1.0, speech, WORDS)])


def test_examples_become_turns_of_a_talk_after_the_system_text():
    speech = make_speech(CLIENT_LINES[0])
    messages = example_messages(PRINCIPLES, chosen_of([speech], [rated(4.0, speech, WORDS)]))
    assert messages[:1] == system_messages(PRINCIPLES)
    assert messages[1:] == (
        {"role": "user", "content": CLIENT_LINES[0]}, {"role": "assistant", "content": WORDS},
    )  # fmt: skip


# --- settings that cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"baselines": ["best-of-n"]}, r"'best-of-n', which needs evaluate\.best_of of 2 or more"),
        ({"baselines": ["best-of-n"], "best_of": 1}, r"needs evaluate\.best_of of 2 or more"),
        ({"best_of": 1}, r"evaluate\.best_of = 1 is the policy itself"),
        ({"best_of": 4, "temperature": 0}, r"evaluate\.temperature = 0 gives the same one each time"),
    ],
)
def test_settings_that_choose_among_one_reply_are_refused_before_anything_runs(changes, says, tmp_path, cli):
    with pytest.raises(UserError, match=says):
        check_baselines(EvaluateTable(**changes))
    recipe = tmp_path / "tiny.toml"
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in changes.items())
    recipe.write_text(TINY_RECIPE + lines, encoding="utf-8")
    code, _, err = cli("check", recipe)
    assert code == 2 and len(err.splitlines()) == 1 and "evaluate." in err


@pytest.mark.parametrize("changes", [{}, {"best_of": 2}, {"temperature": 0}, {"baselines": ["prompt", "few-shot"]}])
def test_settings_that_can_be_pass(changes):
    check_baselines(EvaluateTable(**changes))


def test_every_policy_meets_base_and_online_also_what_it_should_beat():
    names = ["base", "offline", "online", "prompt", "few-shot", "best-of-n"]
    assert contests(names) == [
        ("offline", "base"), ("online", "base"), ("prompt", "base"), ("few-shot", "base"), ("best-of-n", "base"),
        ("online", "offline"), ("online", "best-of-n"),
    ]  # fmt: skip
    assert contests(["base", "offline", "best-of-n"]) == [("offline", "base"), ("best-of-n", "base")]


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_what_is_put_before_takes_no_room_from_the_dialogue(model_folder, speeches):
    """Every policy reads the same dialogue, cut at the same place, with all that stands before it."""
    start = Start(str(model_folder))
    before = (SYSTEM, {"role": "user", "content": CLIENT_LINES[0]}, {"role": "assistant", "content": GOOD_REPLIES[0]})
    for max_length in (40, 256):
        plain = policy_prompts(Policy("base", start), speeches, 2, TABLE, max_length)
        told = policy_prompts(Policy("few-shot", start, before), speeches, 2, TABLE, max_length)
        for one, other in zip(plain, told, strict=True):
            assert other.messages == [*before, *one.messages] and other.numbers == one.numbers == (0, 1)
            assert other.ids[-len(one.ids) + 1 :] == one.ids[1:]  # all but the begin token
            assert len(one.ids) <= max_length // 2
    assert plain == read_prompts(Encoder(load_tokenizer(str(model_folder)), 256), speeches, 2)


def test_a_prompt_beyond_the_models_context_is_named_before_anything_is_sampled(model_folder, speeches, tmp_path):
    found = [Policy("base", Start(str(model_folder))),
             Policy("prompt", Start(str(model_folder)), system_messages(PRINCIPLES))]  # fmt: skip
    with pytest.raises(
        UserError, match=r"'prompt' needs \d+ tokens for prompt and reply and its model reads 256; leave"
    ):
        policy_replies(found, speeches, TABLE, 256, 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", [NO_SYSTEM, DEAF], ids=["refuses", "leaves out silently"])
def test_a_chat_template_without_system_texts_is_refused(template, speeches, tmp_path):
    folder = save_tokenizer(
        tmp_path, template, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ["<|im_start|>"]
    )
    with pytest.raises(UserError, match=r"chat template of the base model takes no system text; leave 'prompt' out"):
        policy_prompts(Policy("prompt", Start(str(folder)), (SYSTEM,)), speeches, 1, TABLE, 256)


# --- what engines give -----------------------------------------------------------------------------------------------


class Forgetful:
    """An engine that gives one sample of each prompt per call, and none at all of the prompts in `never`."""

    name, shared = "forgetful", True

    def __init__(self, at_once=3, never=()):
        self.at_once, self.never, self.calls = at_once, never, []

    def prompts_at_once(self, samples):
        return self.at_once

    def sample(self, prompts, sampling):
        self.calls.append([(prompt.id, prompt.numbers) for prompt in prompts])
        return [
            [] if p.id in self.never else [Sample(p.numbers[0], f"{p.id} {sampling.seed_of(p, p.numbers[0])}", "stop")]
            for p in prompts
        ]

    def close(self):
        pass


@pytest.fixture
def prompts(model_folder, speeches):
    return read_prompts(Encoder(load_tokenizer(str(model_folder)), 256), speeches, 3)


def test_an_engine_is_asked_again_for_exactly_what_it_owes(prompts):
    engine = Forgetful()
    got = [pair for some in sampled(engine, prompts, Sampling(1.0, 4, 0), 2, "base") for pair in some]
    found = {(prompt.id, sample.number) for prompt, sample in got}
    assert found == {(prompt.id, number) for prompt in prompts for number in range(3)} and len(got) == len(found)
    assert [numbers for _, numbers in engine.calls[1]] == [(1, 2)] * 3 and len(engine.calls) == 9
    lengths = {prompt.id: len(prompt.ids) for prompt in prompts}
    firsts = [lengths[key] for call in engine.calls[::3] for key, _ in call]
    assert firsts == sorted(firsts, reverse=True)  # like beside like: less padding


def test_an_engine_that_keeps_owing_ends_in_one_line_and_what_it_gave_is_kept(prompts):
    engine, got = Forgetful(at_once=8, never={prompts[0].id}), []
    with pytest.raises(
        UserError, match=r"'forgetful' still owes 3 replies of base after 3 tries; the same command asks"
    ):
        for some in sampled(engine, prompts, Sampling(1.0, 4, 0), 2, "base"):
            got += some
    assert len(got) == 7 * 3


def test_sampling_goes_on_where_it_was_stopped(model_folder, speeches, tmp_path, monkeypatch):
    """Two calls come, then the engine dies: the next one is asked only for the rest, and the file is the same."""
    found, made = [Policy("base", Start(str(model_folder)))], []

    class Dying(Forgetful):
        def __init__(self, lives):
            super().__init__(at_once=2)
            self.lives = lives
            made.append(self)

        def sample(self, prompts, sampling):
            if len(self.calls) == self.lives:
                raise UserError("the server is gone")
            return super().sample(prompts, sampling)

    def replies(folder, lives):
        monkeypatch.setattr("psychocounsel.evaluate.policies.open_engine", lambda *_: Dying(lives))
        policy_replies(found, speeches, TABLE, 256, 0, folder)
        return (folder / "replies-base.jsonl").read_bytes()

    whole = replies(tmp_path / "whole", 99)
    with pytest.raises(UserError, match="the server is gone"):
        replies(tmp_path / "part", 2)
    part = tmp_path / "part" / "replies-base.sampled.part"
    part.write_bytes(part.read_bytes() + b'{"speech_id": "cut o')  # the machine went down in the middle of a line
    assert replies(tmp_path / "part", 99) == whole
    assert [len(engine.calls) for engine in made] == [4, 2, 2] and not part.exists()


def test_a_model_is_opened_once_and_one_under_two_names_answers_once(model_folder, speeches, tmp_path, monkeypatch):
    start, opened = Start(str(model_folder)), []

    def open_one(*_):
        opened.append(Forgetful(at_once=8))
        return opened[-1]

    monkeypatch.setattr("psychocounsel.evaluate.policies.open_engine", open_one)
    found = [Policy("base", start), Policy("online", start), Policy("prompt", start, (SYSTEM,))]
    replies = policy_replies(found, speeches, TABLE, 256, 0, tmp_path)
    assert replies["online"] == replies["base"] and len(opened) == 1
    assert len(opened[0].calls) == 2  # base and prompt; online has base's replies
    policy_replies([*found, Policy("offline", Start(str(model_folder), "other"))], speeches, TABLE, 256, 0, tmp_path)
    assert len(opened) == 2 and len(opened[1].calls) == 1


def test_the_best_of_n_is_the_best_by_reward_of_bases_own_replies(talker, speeches, tmp_path):
    table = EvaluateTable(max_new_tokens=8, temperature=1.0, samples=2, best_of=3, baselines=["best-of-n"])
    reward = RewardModel(make_reward_model(tmp_path / "reward", talker), 256)
    asked = []

    def score(speeches, replies):
        asked.append(len(replies))
        rows = reward.read([(chat_messages(s.turns), [texts[s.id] for texts in replies]) for s in speeches])
        return {s.id: [one.reward for one in row] for s, row in zip(speeches, rows, strict=True)}

    start = Start(str(talker))
    found = policy_replies(
        [Policy("base", start), Policy("best-of-n", start, best_of=3)], speeches, table, 256, 0, tmp_path, score
    )
    assert len(found["base"]) == 6 and asked == [6] and len(found["best-of-n"]) == 2
    rewards = score(speeches, found["base"])
    for sample, texts in enumerate(found["best-of-n"]):
        for speech in speeches:
            block = range(3 * sample, 3 * sample + 3)
            best = max(block, key=lambda number: rewards[speech.id][number])
            assert texts[speech.id] == found["base"][best][speech.id]
    picked = [row["picked"] for _, row in read_rows(tmp_path / "replies-best-of-n.jsonl")]
    assert any(number not in (0, 3) for number in picked)  # not always the first one
    counts = reply_counts(tmp_path, ["base", "best-of-n"])
    rows = [row for _, row in read_rows(tmp_path / "replies-base.jsonl")]
    assert counts.get("unfinished", {}).get("base", 0) == sum(row["finish"] == "length" for row in rows)


# --- in a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_baselines(finished, tmp_path_factory):
    """The tiny run, evaluated with every baseline and a curve; its rounds went back to their start."""
    folder = copy_run(finished, tmp_path_factory.mktemp("baselines"), "policy")
    config = folder.stage("supervised") / "model" / "config.json"  # rotary positions: any context can be read
    write_text(config, json.dumps(read_json(config) | {"max_position_embeddings": 16384}))
    look = {"figures": {}, "alarms": [], "counts": {}, "seconds": {}, "tokens": {}}
    worse = {"value": 0.4, "low": 0.3, "high": 0.49, "n": 6, "unit": "share of speeches"}
    looks = [{**look, "round": 0}, {**look, "round": 1, "figures": {"judge": worse}}]
    write_text(folder.stage("policy") / "online.json", json.dumps({"best": 0, "stopped": "", "looks": looks}))
    recipe = parse_recipe(tomllib.loads(TINY_RECIPE + ALL), "tiny.toml")
    with CallStore(folder.path / "calls.sqlite") as store:
        run = Run(recipe, folder, store)
        counts = evaluate(run, folder.stage("evaluate"))
        folder.finish("evaluate", {}, {}, counts, 1.0)
        finish(run)
    return run


def test_a_run_with_baselines_has_all_figures(with_baselines):
    metrics = read_json(with_baselines.folder.path / "results.json")["metrics"]
    for name in ("offline", "online", "prompt", "few_shot", "best_of_n"):
        assert metrics[f"winrate.{name}_vs_base"]["n"] == 12, name
    assert {"winrate.online_vs_offline", "winrate.online_vs_best_of_n"} <= set(metrics)
    assert [metrics[f"best_of.reward_{n}"]["value"] is not None for n in (1, 2, 4)] == [True] * 3
    gains = [metrics[f"best_of.reward_{n}"]["value"] for n in (1, 2, 4)]
    assert gains == sorted(gains) and gains[0] == 0 < gains[2]
    assert metrics["best_of.winrate_1"]["value"] == 0.5
    assert metrics["best_of.winrate_4"]["value"] == metrics["winrate.best_of_n_vs_base"]["value"]


def test_rounds_that_went_back_leave_the_start_as_online_and_say_so(with_baselines):
    folder = with_baselines.folder
    metrics = read_json(folder.path / "results.json")["metrics"]
    assert (metrics["online.best_round"]["value"], metrics["online.rounds"]["value"]) == (0, 1)
    assert metrics["online.judge_1"]["value"] == 0.4
    assert metrics["winrate.online_vs_base"] == metrics["winrate.offline_vs_base"]
    assert metrics["winrate.online_vs_offline"]["value"] == 0.5
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "None of 1 online round beat the policy they started from" in page
    assert "Online rounds did not beat the policy they started from" in page


def test_the_page_of_a_run_with_baselines_shows_them_and_the_curve(with_baselines):
    page = (with_baselines.folder.path / "report.html").read_text(encoding="utf-8")
    for text in (
        "few-shot against base",
        "online against best-of-n",
        "<h2>Best of N</h2>",
        'aria-label="Best of N replies"',
    ):
        assert text in page
    before = read_json(with_baselines.folder.stage("evaluate") / "before.json")
    assert set(before) == {"prompt", "few-shot"} and before["few-shot"][0] == before["prompt"][0]
    train = {s.text for s in with_baselines.speeches() if s.split == "train"}
    asked = [message["content"] for message in before["few-shot"] if message["role"] == "user"]
    assert len(asked) == EXAMPLES and set(asked) <= train
    for text in asked:
        assert text not in page  # clients' texts of the train split are no part of the report


def test_the_best_round_is_the_online_policy_and_no_rounds_are_none(with_baselines):
    run, place = with_baselines, with_baselines.folder.stage("policy")
    kept = (place / "online.json").read_text(encoding="utf-8")
    names = [policy.name for policy in policies(run)]
    assert names == ["base", "offline", "online", "prompt", "few-shot", "best-of-n"]
    try:
        for best, ends in ((1, "online-1/model"), (0, "offline/model")):
            write_text(place / "online.json", json.dumps(json.loads(kept) | {"best": best}))
            assert policies(run)[2].start.model.endswith(ends)
        table = run.recipe.policy.model_copy(
            update={"online": run.recipe.policy.online.model_copy(update={"start": "base"})}
        )
        from_base = replace(run, recipe=run.recipe.model_copy(update={"policy": table}))
        assert policies(from_base)[2].start == policies(from_base)[0].start
        for text in ("{}", "[]", '{"best": 3, "looks": [{"round": 0}]}', "{"):
            write_text(place / "online.json", text)
            with pytest.raises(UserError, match=r"online\.json: does not hold the looks.*--redo policy"):
                policies(run)
        (place / "online.json").unlink()
        assert [policy.name for policy in policies(run)][:3] == ["base", "offline", "prompt"]
    finally:
        write_text(place / "online.json", kept)
