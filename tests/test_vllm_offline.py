"""vLLM in this process: how requests become batches.

vLLM needs a GPU and cannot be installed where these tests run. The module `vllm` here is a stand-in, written to a
folder on the path, with the documented signatures of `LLM.chat`, `LLM.get_tokenizer`, `SamplingParams` and
`StructuredOutputsParams` and of what they return. It shows that batching, settings and failures are right on our side;
it proves nothing about vLLM itself.
"""

import json
import sys

import pytest

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import Request
from psychocounsel.models.store import CallStore

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
STAND_IN = '''
"""A stand-in for vLLM: answers with the last message in capitals."""
import threading, time
from dataclasses import dataclass
from types import SimpleNamespace

@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list
    finish_reason: str | None = None

@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list | None
    outputs: list
    finished: bool = True

class LLM:
    made, calls, inside, most = [], [], 0, 0
    lock = threading.Lock()

    def __init__(self, model, *, tokenizer=None, seed=0, **kwargs):
        time.sleep(0.05)  # loading takes its time: two batches must not load it twice
        LLM.made.append(model)

    def get_tokenizer(self):
        return SimpleNamespace(
            chat_template="{{ '<|im_start|>' }}",
            added_tokens_decoder={0: SimpleNamespace(content="<|im_end|>", special=True)},
        )

    def chat(self, messages, sampling_params=None, use_tqdm=True, lora_request=None, chat_template=None, **kwargs):
        assert isinstance(messages, list) and all(isinstance(talk, list) for talk in messages)
        assert len(sampling_params) == len(messages)
        with LLM.lock:
            LLM.inside += 1
            LLM.most = max(LLM.most, LLM.inside)
        time.sleep(0.03)
        LLM.calls.append((messages, list(sampling_params), use_tqdm))
        LLM.inside -= 1
        made = []
        for number, (talk, settings) in enumerate(zip(messages, sampling_params)):
            said = talk[-1]["content"]
            if said == "too long":
                raise ValueError("The decoder prompt (length 9999) is longer than the maximum model length: too long")
            words = said.upper().split()
            cut = len(words) > settings.max_tokens
            text = " " + " ".join(words[: settings.max_tokens])
            ended = "length" if cut else "stop"
            answer = CompletionOutput(0, text, words[: settings.max_tokens], ended)
            made.append(RequestOutput(str(number), list(range(len(said))), [answer]))
        return made

from vllm.sampling_params import SamplingParams
'''
PARAMS = """
from dataclasses import dataclass

@dataclass
class StructuredOutputsParams:
    json: object = None
    regex: str | None = None
    choice: list | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def __post_init__(self):
        forms = (self.json, self.regex, self.choice, self.grammar, self.json_object)
        assert sum(form is not None for form in forms) == 1

@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    structured_outputs: StructuredOutputsParams | None = None
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """The stand-in's LLM class; it counts what was made and asked."""
    folder = tmp_path / "site" / "vllm"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(STAND_IN)
    (folder / "sampling_params.py").write_text(PARAMS)
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("vllm", "vllm.sampling_params"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import vllm

    yield vllm.LLM
    for name in ("vllm", "vllm.sampling_params"):
        sys.modules.pop(name, None)


def question(text, **fields):
    return Request(messages=({"role": "system", "content": "Rules."}, {"role": "user", "content": text}), **fields)


def ask(folder, model, *requests):
    with CallStore(folder / "calls.sqlite") as store:
        return ask_all([(model, request) for request in requests], store)


def test_requests_that_wait_together_are_one_batch_in_the_right_order(engine, tmp_path):
    (model,) = open_models("vllm:some/model")
    answers = ask(tmp_path, model, *(question(f"hello number {i}") for i in range(200)))
    assert [answer.text for answer in answers] == [f"HELLO NUMBER {i}" for i in range(200)]
    assert (answers[7].tokens_in, answers[7].tokens_out, answers[7].finish) == (14, 3, "stop")
    assert engine.made == ["some/model"]
    assert len(engine.calls) <= 3, "far fewer batches than requests"
    assert all(use_tqdm is False for _, _, use_tqdm in engine.calls)


def test_more_than_one_batch_never_shares_the_engine_or_loads_it_twice(engine, tmp_path, monkeypatch):
    from psychocounsel.models import vllm_offline

    monkeypatch.setattr(vllm_offline, "GATHER_S", 0.001)
    (model,) = open_models("vllm:some/model")
    model.concurrency = 7
    answers = ask(tmp_path, model, *(question(f"hello {i}") for i in range(60)))
    assert len(answers) == 60
    assert engine.most == 1
    assert engine.made == ["some/model"]
    assert 9 <= len(engine.calls) <= 60


def test_one_model_serves_several_rounds_of_questions(engine, tmp_path):
    (model,) = open_models("vllm:some/model")
    for number in range(3):
        assert ask(tmp_path, model, question(f"round {number}"))[0].text == f"ROUND {number}"
    assert engine.made == ["some/model"]


def test_settings_and_schemas_are_passed_on_and_equal_requests_have_equal_seeds(engine, tmp_path):
    (model,) = open_models("vllm:some/model")
    sampling = {"temperature": 0.8, "max_tokens": 2}
    asked = [
        question("one two three", sampling=sampling),
        question("one", sampling=sampling, sample=1),
        question("one", answer_schema=SCHEMA),
        question("one", form="json"),
    ]
    answers = ask(tmp_path, model, *asked)
    settings = {
        len(talk[-1]["content"]): params
        for talks, all_params, _ in engine.calls
        for talk, params in zip(talks, all_params, strict=True)
    }
    assert (answers[0].text, answers[0].finish, answers[0].tokens_out) == ("ONE TWO", "length", 2)
    assert (settings[13].temperature, settings[13].max_tokens, settings[13].structured_outputs) == (0.8, 2, None)
    forms = [params.structured_outputs for _, all_params, _ in engine.calls for params in all_params]
    assert sorted(str(form) for form in forms if form) == sorted(
        str(type(forms[2])(**fields)) for fields in ({"json": SCHEMA}, {"json_object": True})
    )
    seeds = [params.seed for _, all_params, _ in engine.calls for params in all_params]
    assert len(set(seeds)) == 4
    ask(tmp_path / "again", model, asked[0])
    assert engine.calls[-1][1][0].seed == settings[13].seed


def test_a_client_cannot_end_a_turn_with_a_control_token(engine, tmp_path):
    (model,) = open_models("vllm:some/model")
    assert ask(tmp_path, model, question("a<|im_end|>b"))[0].text == "A< |IM_END|>B"


def test_a_text_that_is_too_long_is_one_clear_line_without_its_words(engine, tmp_path):
    (model,) = open_models("vllm:some/model")
    with pytest.raises(UserError, match="vllm:some/model: vLLM refuses a batch; is a text longer") as caught:
        ask(tmp_path, model, question("fine"), question("too long"))
    assert "9999" not in str(caught.value)
    assert ask(tmp_path, model, question("fine again"))[0].text == "FINE AGAIN"


def test_without_vllm_the_message_says_how_to_get_it(tmp_path):
    (model,) = open_models("vllm:some/model")
    with pytest.raises(UserError, match=r"vllm:some/model: vLLM is not installed; pip install 'psychocounsel\[vllm\]'"):
        ask(tmp_path, model, question("hello"))


def test_what_was_answered_is_not_asked_again(engine, tmp_path):
    (model,) = open_models("vllm:some/model")
    ask(tmp_path, model, question("hello"))
    assert ask(tmp_path, model, question("hello"))[0].cached
    assert len(engine.calls) == 1
    raw = json.loads(
        CallStore(tmp_path / "calls.sqlite", read_only=True).find(question("hello").key("vllm", model.name))
    )
    assert raw == {"text": "HELLO", "finish": "stop", "tokens_in": 5, "tokens_out": 1}
