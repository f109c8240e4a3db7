"""Reward servers of both shapes, with a real reward model behind them, against scoring on this machine."""

import json
import math
import threading

import pytest
import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES, make_speech
from local_server import serving
from tiny_reward import make_reward_model

from psychocounsel.errors import UserError
from psychocounsel.models import calls
from psychocounsel.models.store import CallStore
from psychocounsel.policy.rewards import check_rewards, open_rewards
from psychocounsel.recipe import Recipe
from psychocounsel.records import Turn

SHAPES = ("classify", "get_reward")
SPEECHES = [make_speech(line) for line in CLIENT_LINES]
TEXTS = [*GOOD_REPLIES, *PLAIN_REPLIES]
ITEMS = [(speech, TEXTS) for speech in SPEECHES]
LENGTH = 256
SECRET_KEY = "not-a-real-key-0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_folder):
    return str(make_reward_model(tmp_path_factory.mktemp("served") / "model", model_folder))


class Backend:
    """What vLLM and OpenRLHF do with a sequence classifier, by plain transformers, one row at a time.

    `change(body)` may spoil the answer. `asked` counts rows.
    """

    def __init__(self, folder):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.lock, self.change, self.order, self.rows = threading.Lock(), lambda body: body, 1, 0

    def score(self, ids):
        self.rows += 1
        with self.lock, torch.inference_mode():
            return self.model(input_ids=torch.tensor([ids])).logits.item()

    def __call__(self, path, body):
        return self.change(self.classify(body) if path.endswith("/classify") else self.get_reward(body))

    def classify(self, body):
        """As vLLM does for problem_type = "regression", or when no activation is wanted."""
        assert body["use_activation"] is False and "activation" not in body
        rows = [
            {"index": place, "label": "LABEL_0", "probs": [self.score(ids)], "num_classes": 1}
            for place, ids in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": sum(map(len, body["input"])), "total_tokens": 0, "completion_tokens": 0}
        return {
            "id": "classify-1",
            "object": "list",
            "model": body["model"],
            "data": rows[:: self.order],
            "usage": usage,
        }

    def get_reward(self, body):
        """As OpenRLHF's serve_rm does: pad and end tokens off, one end token on."""
        assert len(body["prompts"]) == len(body["labels"]) == len(body["query"])
        assert all(query.startswith(prompt) for query, prompt in zip(body["query"], body["prompts"], strict=True))
        end, pad = self.tokenizer.eos_token, self.tokenizer.pad_token
        texts = [query.removesuffix(pad).removesuffix(end) + end for query in body["query"]]
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return {"rewards": list(map(self.score, ids)), "scores": [0.0] * len(ids), "extra_logs": {}}


@pytest.fixture(scope="module")
def server(folder):
    with serving(Backend(folder)) as running:
        yield running


@pytest.fixture
def backend(server, monkeypatch):
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)
    monkeypatch.delenv("PSYCHOCOUNSEL_API_KEY", raising=False)
    server.asked.clear()
    server.answer.change, server.answer.order, server.answer.rows = lambda body: body, 1, 0
    return server.answer


@pytest.fixture
def store(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as found:
        yield found


@pytest.fixture(params=SHAPES)
def name(request, server, folder):
    return f"{server.root}/{request.param}#{folder}"


def recipe(name, max_length=LENGTH, **models):
    return Recipe.model_validate(
        {"name": "tiny", "models": models, "policy": {"max_length": max_length, "online": {"rewards": [name]}}}
    )


def opened(name, store, max_length=LENGTH, **models):
    [source] = open_rewards(recipe(name, max_length, **models), None, store=store)
    return source


def rewards(readings):
    return [reading.reward for row in readings for reading in row]


def local(folder, items, max_length=LENGTH):
    return rewards(opened(folder, None, max_length).score(items, "rewards"))


def test_a_server_gives_what_the_model_gives_here(backend, server, store, name, folder):
    source = opened(name, store)
    source.check()
    backend.order = -1  # by index, not by position
    found = source.score(ITEMS, "rewards")
    expected = local(folder, ITEMS)
    assert [len(row) for row in found] == [6] * 8
    assert rewards(found) == pytest.approx(expected, abs=1e-4) and max(expected) - min(expected) > 1
    assert not source.shared and {body["model"] for _, body, _ in server.asked} == {folder}
    assert len(server.asked) == 1 + len(SPEECHES)  # all replies to a speech are one request


def test_dialogues_too_long_replies_and_control_tokens_read_the_same_there(backend, store, name, folder):
    turns = [Turn(role="client", text=CLIENT_LINES[0]), Turn(role="therapist", text=GOOD_REPLIES[0])]
    talk = make_speech("x").model_copy(update={"turns": (*turns, Turn(role="client", text="I do not know."))})
    items = [
        (talk, ["Go on.", "", "You said <|end|> and meant it. <|user|> Did you?", "Tell me more. " * 60]),
        (make_speech("I count the hours. " * 60), [GOOD_REPLIES[0], "So? " * 100]),
        (SPEECHES[0], [f"Reply number {number}?" for number in range(70)]),
    ]
    found = opened(name, store, 96).score(items, "rewards")
    assert [len(row) for row in found] == [4, 2, 70]
    assert rewards(found) == pytest.approx(local(folder, items, 96), abs=1e-4)


def test_what_was_answered_is_not_asked_again(backend, store, name):
    source = opened(name, store)
    first = source.score(ITEMS, "rewards")
    rows = backend.rows
    assert opened(name, store).score(ITEMS, "rewards") == first and backend.rows == rows
    more = [(speech, [*texts, "And now?"]) for speech, texts in ITEMS]
    assert len(rewards(source.score(more, "rewards"))) == 56 and backend.rows > rows


def test_other_weights_or_another_length_are_other_calls(backend, store, name, folder, tmp_path):
    import shutil

    copied = shutil.copytree(folder, tmp_path / "model")
    there = f"{name.partition('#')[0]}#{copied}"
    opened(there, store).score(ITEMS[:1], "rewards")
    rows = backend.rows
    (copied / "model.safetensors").touch()  # trained again
    opened(there, store).score(ITEMS[:1], "rewards")
    assert backend.rows == 2 * rows
    opened(there, store, 64).score(ITEMS[:1], "rewards")
    assert backend.rows == 3 * rows


def spoilt(value):
    def change(body):
        if "data" in body:
            body["data"][1]["probs"] = [value]
        else:
            body["rewards"][1] = value
        return json.dumps(body)  # NaN as Python writes it

    return change


@pytest.mark.parametrize(("value", "why"), [(None, "the server gave none"), (math.nan, "not a number")])
def test_a_null_or_nan_is_missing_and_asked_again_by_the_next_run(backend, store, name, value, why):
    source = opened(name, store)
    backend.change = spoilt(value)
    with pytest.raises(UserError, match=f"gives no reward for a reply of one sentence \\({why}\\)"):
        source.check()
    [found] = source.score(ITEMS[:1], "rewards")
    assert [reading.reward is None for reading in found] == [False, True, False, False, False, False]
    assert found[1].why == why
    backend.change = lambda body: body
    [mended] = source.score(ITEMS[:1], "rewards")
    assert all(reading.reward is not None for reading in mended)
    source.check()


def shorter(body):
    numbers = body["data"] if "data" in body else body["rewards"]
    numbers.pop()
    return body


BROKEN = {
    "no JSON": lambda body: "<html>busy</html>",
    "a list": lambda body: [1, 2],
    "nothing": lambda body: {},
    "short": shorter,
    "words": spoilt("0.5"),
    "true": spoilt(True),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_body_that_cannot_be_used_is_tried_again(backend, server, store, name, folder, kind):
    spoil, times = BROKEN[kind], []

    def change(body):
        times.append(1)
        return spoil(body) if len(times) < 3 else body

    backend.change = change
    found = opened(name, store, attempts=3).score(ITEMS[:1], "rewards")
    assert len(server.asked) == 3 and rewards(found) == pytest.approx(local(folder, ITEMS[:1]), abs=1e-4)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_body_that_stays_unusable_is_an_error_and_stays_to_be_looked_at(backend, store, name, kind):
    backend.change = BROKEN[kind]
    with pytest.raises(UserError, match=r"the server's reply is no list of rewards \(.*after 2 attempts") as caught:
        opened(name, store, attempts=2).score(ITEMS[:1], "rewards")
    assert "the same command continues" in str(caught.value) and CLIENT_LINES[0][:20] not in str(caught.value)
    store.flush()
    [(status, raw)] = store._rows("SELECT status, raw FROM calls")
    assert status == "pending" and json.loads(raw)["replies"] == 6


def test_rows_with_the_same_index_are_no_answer(backend, store, server, folder):
    def change(body):
        for row in body["data"]:
            row["index"] = 0
        return body

    backend.change = change
    with pytest.raises(UserError, match="an index that is there twice, or missing"):
        opened(f"{server.root}/classify#{folder}", store, attempts=1).score(ITEMS[:1], "rewards")


def test_a_server_that_dies_is_an_error_and_the_same_command_goes_on(backend, server, store, name):
    answered = []

    def change(body):
        answered.append(1)
        return body if len(answered) <= 3 else (500, "", {})

    backend.change = change
    with pytest.raises(UserError, match="500 after 2 attempts; the calls answered so far are kept"):
        opened(name, store, attempts=2, concurrency=1).score(ITEMS, "rewards")
    asked = len(server.asked)
    backend.change = lambda body: body
    assert None not in rewards(opened(name, store).score(ITEMS, "rewards"))
    assert len(server.asked) - asked == len(ITEMS) - 3


def test_a_server_that_is_not_there_is_an_error(backend, folder, store):
    for shape in SHAPES:
        with pytest.raises(UserError, match="no connection after 2 attempts"):
            opened(f"http://127.0.0.1:9/{shape}#{folder}", store, attempts=2).check()


@pytest.mark.parametrize(
    ("status", "words"), [(404, "vLLM answers /classify for a sequence classifier"), (422, "takes token ids since")]
)
def test_a_path_or_form_that_a_server_does_not_know_is_told_before_anything_is_sampled(
    backend, server, store, folder, status, words
):
    backend.change = lambda body: (status, '{"detail": "a client\'s words"}', {})
    place = f"{server.root}/classify#{folder}"
    with pytest.raises(UserError, match=words) as caught:
        check_rewards(recipe(place), None, store=store)
    assert "words" not in str(caught.value) and len(server.asked) == 1
    store.flush()
    assert store._rows("SELECT COUNT(*) FROM calls") == [(0,)]  # the check is no call of the run


def test_two_outputs_are_no_reward(backend, server, store, folder):
    def change(body):
        for row in body["data"]:
            row["probs"], row["num_classes"] = [0.25, 0.75], 2
        return body

    backend.change = change
    with pytest.raises(UserError, match="gives 2 numbers for a reply; a reward model has one output"):
        check_rewards(recipe(f"{server.root}/classify#{folder}"), None, store=store)
    assert len(server.asked) == 1  # asking again would not help


def squashed(function):
    def change(body):
        for row in body["data"]:
            row["probs"] = [function(row["probs"][0])]
        return body

    return change


def test_an_activation_is_found_out_or_pointed_out(backend, server, store, folder, capsys):
    place = f"{server.root}/classify#{folder}"
    check_rewards(recipe(place), None, store=store)
    quiet = capsys.readouterr().err
    backend.change = squashed(lambda value: 1.0)  # a softmax over one output
    with pytest.raises(UserError, match=r"two different replies the same reward \(1\); a softmax over one output"):
        check_rewards(recipe(place), None, store=store)
    backend.change = squashed(lambda value: 1 / (1 + math.exp(-value)))
    check_rewards(recipe(place), None, store=store)
    told = capsys.readouterr().err
    assert "lie between 0 and 1; if the server applies a sigmoid" in told and "sigmoid" not in quiet


def test_the_key_is_sent_and_never_told(backend, server, store, folder, monkeypatch):
    monkeypatch.setenv("PSYCHOCOUNSEL_API_KEY", SECRET_KEY)
    backend.change = lambda body: (401, json.dumps({"error": {"message": f"bad key {SECRET_KEY}"}}), {})
    with pytest.raises(UserError, match=": 401 ") as caught:
        opened(f"{server.root}/classify#{folder}", store).check()
    assert SECRET_KEY not in str(caught.value)
    assert server.asked[0][2]["authorization"] == f"Bearer {SECRET_KEY}"


def test_a_served_model_needs_a_chat_template_here(backend, server, store, folder, tmp_path):
    import shutil

    copied = shutil.copytree(folder, tmp_path / "model")
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        opened(f"{server.root}/get_reward#{copied}", store)
