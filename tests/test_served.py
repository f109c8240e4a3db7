"""The engine that asks OpenAI-compatible servers, against real ones on this machine: one whose answers a test decides,
and `transformers serve`, which nobody here wrote."""

import json
import shutil
import socket
from contextlib import ExitStack, closing

import pytest
from chain_model import chain_model
from conftest import CLIENT_LINES, make_speech
from local_server import chat, error, serving
from transformers_server import transformers_serve

from psychocounsel.errors import UserError
from psychocounsel.models import calls
from psychocounsel.models.store import CallStore
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.fingerprint import policy_fingerprint
from psychocounsel.policy.sampling import Sample, Sampling, open_engine, read_prompts
from psychocounsel.policy.served import ServedEngine
from psychocounsel.recipe import EngineTable, ModelsTable
from psychocounsel.records import content_id
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder

PIECES = ("You sound ", "worn out. ", "What ", "would ", "rest ", "look like?")
SAID = "".join(PIECES)
PLAIN = Sampling(1.0, 8, 1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The folder of a policy that always says the same."""
    return chain_model(tmp_path_factory.mktemp("policy") / "model", PIECES)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(calls, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def prompts(policy):
    """Eight prompts of two samples each."""
    return prompts_of(policy)


def prompts_of(policy, lines=CLIENT_LINES):
    return read_prompts(Encoder(load_tokenizer(str(policy)), 256), [make_speech(text) for text in lines], 2)


def counted(policy):
    """The number of prompt tokens of a request, by the policy's template: what an honest server reports."""
    tokenizer = load_tokenizer(str(policy))
    return lambda body: tokenizer.apply_chat_template(
        body["messages"], add_generation_prompt=True, return_dict=True
    )["input_ids"]  # fmt: skip


def answering(policy, change=lambda body, answer: answer):
    """An honest server: its own words for each seed, the right count of prompt tokens."""
    count = counted(policy)

    def answer(path, body):
        if path != "/v1/chat/completions":
            return 404, {"detail": "Not Found"}, {}
        said = chat(f"Reply {body['seed']}.", tokens=(len(count(body)), 3))
        return change(body, said)

    return answer


def engine_of(policy, urls, store=None, start=None, **models):
    return ServedEngine(start or Start(str(policy)), EngineTable(name="http", urls=urls), store, ModelsTable(**models))


def failing(engine, prompts):
    with pytest.raises(UserError) as caught:
        engine.sample(prompts, PLAIN)
    engine.close()
    message = str(caught.value)
    assert "\n" not in message and "funeral" not in message
    return message


def chats(server):
    return [body for path, body, _ in server.asked if path.endswith("/chat/completions")]


def test_each_reply_is_a_request_with_a_seed_and_nothing_left_to_the_server(policy, prompts, tmp_path):
    with serving(answering(policy)) as server, CallStore(tmp_path / "calls.sqlite") as store:
        table = EngineTable(name="http", urls=[server.url + "/"])
        engine = open_engine(Start(str(policy)), table, store, ModelsTable())
        found, again = engine.sample(prompts, PLAIN), engine.sample(prompts, PLAIN)
        engine.close()
    assert (engine.name, engine.shared, engine.prompts_at_once(8)) == ("http", False, 256)
    assert found == again, "from the store"
    bodies = chats(server)
    assert len(bodies) == 16 and len({body["seed"] for body in bodies}) == 16
    seed = PLAIN.seed_of(prompts[3], 1) >> 32
    assert found[3] == [Sample(0, found[3][0].text, "stop"), Sample(1, f"Reply {seed}.", "stop")]
    ends = [load_tokenizer(str(policy)).eos_token_id]
    for body in bodies:
        assert {key: value for key, value in body.items() if key not in ("messages", "seed")} == {
            "model": str(policy.resolve()), "temperature": 1.0, "top_p": 1.0, "max_tokens": 8, "top_k": -1,
            "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": ends, "return_token_ids": True,
        }  # fmt: skip
        assert body["seed"] < 2**31


def test_token_ids_are_taken_where_the_server_tells_them(policy, prompts):
    tokenizer, count = load_tokenizer(str(policy)), counted(policy)
    ids = [*tokenizer.convert_tokens_to_ids(PIECES), tokenizer.eos_token_id]

    def tell(body, answer):
        assert body["return_token_ids"]
        answer["prompt_token_ids"] = count(body)
        answer["choices"][0] |= {"token_ids": ids if body["seed"] % 2 else ids[:3]}
        answer["choices"][0]["finish_reason"] = "stop" if body["seed"] % 2 else "length"
        return answer

    with serving(answering(policy, tell)) as server:
        engine = engine_of(policy, [server.url])
        found = engine.sample(prompts, PLAIN)
        engine.close()
    whole = {sample.finish: sample for replies in found for sample in replies}
    assert (whole["stop"].text, whole["stop"].ids) == (SAID, tuple(ids))
    assert (whole["length"].text, whole["length"].ids) == ("".join(PIECES[:3]).strip(), tuple(ids[:3]))


@pytest.mark.parametrize("known", [{"generation_config"}, set()])
def test_a_server_that_refuses_unknown_fields_is_asked_in_words_it_knows(policy, prompts, known, capsys):
    standard = {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}

    def strict(body, answer):
        return (422, {"detail": "Unexpected fields"}, {}) if body.keys() - standard - known else answer

    with serving(answering(policy, strict)) as server:
        engine = engine_of(policy, [server.url])
        assert len(engine.sample(prompts[:4], PLAIN)) == 4
        first = len(server.asked)
        engine.sample(prompts[4:], PLAIN)
        engine.close()
        assert len(server.asked) - first == 8, "found out once"
    last = chats(server)[-1]
    if known:
        assert (
            json.loads(last["generation_config"])["top_k"] == 0 and json.loads(last["generation_config"])["do_sample"]
        )
    else:
        assert last.keys() == standard
    told = capsys.readouterr().err
    assert told.count("takes neither top_k nor generation_config") == (0 if known else 1)


@pytest.mark.parametrize("by_ids", [False, True])
def test_another_template_is_told_with_both_counts_and_its_answers_are_not_kept(policy, prompts, tmp_path, by_ids):
    count = counted(policy)

    def other(body, answer):
        ids = count(body)
        if by_ids:
            return answer | {"prompt_token_ids": ids[::-1]}
        answer["usage"]["prompt_tokens"] = len(ids) + 11
        return answer

    with CallStore(tmp_path / "calls.sqlite") as store:
        with serving(answering(policy, other)) as server:
            message = failing(engine_of(policy, [server.url], store), prompts[:1])
            ours = len(prompts[0].ids)
            what = f"{ours} tokens as ours, but other ones" if by_ids else f"{ours + 11} tokens where the policy's own"
            assert message.startswith(f"{server.url}: read a prompt as {what}")
            assert by_ids or f"makes {ours};" in message
        with serving(answering(policy)) as server:
            assert len(engine_of(policy, [server.url], store).sample(prompts[:1], PLAIN)[0]) == 2
            assert len(server.asked) == 2


def test_a_server_that_counts_nothing_is_told_once(policy, prompts, capsys):
    def silent(body, answer):
        del answer["usage"]
        return answer

    with serving(answering(policy, silent)) as server:
        engine = engine_of(policy, [server.url])
        assert sum(map(len, engine.sample(prompts, PLAIN))) == 16
        engine.close()
    assert capsys.readouterr().err.count("does not count prompt tokens") == 1


def test_refusals_filters_and_empty_replies_keep_their_name(policy, prompts):
    kinds = [chat("", finish="content_filter"), chat("", refusal="I would rather not."), chat("", tokens=(0, 0)),
             (400, error("content_filter"), {})]  # fmt: skip
    left = list(kinds)
    with serving(lambda path, body: left.pop(0)) as server:
        for answer in left:
            if isinstance(answer, dict):
                answer["usage"]["prompt_tokens"] = len(prompts[0].ids)
        engine = engine_of(policy, [server.url], concurrency=1)
        found = [engine.sample(prompts[:1], Sampling(1.0, 8, seed))[0] for seed in (1, 2)]
        engine.close()
    finishes = [sample.finish for replies in found for sample in replies]
    assert finishes == ["filtered", "refused", "stop", "filtered"]
    assert found[1][0] == Sample(0, "", "stop")


def test_control_tokens_in_a_text_do_not_reach_the_server(policy):
    (prompt,) = prompts_of(policy, ["I wrote <|end|> to end it. It did not end."])
    with serving(answering(policy)) as server:
        engine = engine_of(policy, [server.url])
        engine.sample([prompt], PLAIN)
        engine.close()
    assert "< |end|>" in chats(server)[0]["messages"][0]["content"]


def test_the_work_of_a_dead_server_goes_to_the_others(policy, prompts, capsys):
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with serving(answering(policy)) as server:
        engine = engine_of(policy, [dead, server.url])
        found = engine.sample(prompts, PLAIN)
        engine.close()
        assert [len(replies) for replies in found] == [2] * 8
        assert len(chats(server)) == 16
    assert capsys.readouterr().err.count(f"{dead}: no connection; its work goes to the others") == 1


def test_a_server_that_dies_in_the_middle_loses_nothing(policy, prompts, tmp_path):
    """Two servers share the work by prompt; one breaks after three answers and the other one finishes."""
    with ExitStack() as stack:
        answered = []

        def breaking(body, answer):
            answered.append(body["seed"])
            return (500, "<html>oops</html>", {}) if len(answered) > 3 else answer

        broken, sound = stack.enter_context(serving(answering(policy, breaking))), None
        sound = stack.enter_context(serving(answering(policy)))
        store = stack.enter_context(CallStore(tmp_path / "calls.sqlite"))
        engine = engine_of(policy, [broken.url, sound.url], store)
        homes = [min((broken, sound), key=lambda server: content_id([server.url, prompt.id])) for prompt in prompts]
        found = engine.sample(prompts, PLAIN)
        assert [len(replies) for replies in found] == [2] * 8
        at_home = [prompt.id for prompt, home in zip(prompts, homes, strict=True) if home is broken]
        assert len({body["seed"] for body in chats(broken)}) <= 2 * len(at_home)
        assert len(chats(sound)) == 16 - min(3, 2 * len(at_home))
        before = len(broken.asked) + len(sound.asked)
        assert engine_of(policy, [broken.url, sound.url], store).sample(prompts, PLAIN) == found
        assert len(broken.asked) + len(sound.asked) == before


def test_when_all_are_dead_what_was_answered_is_used_again(policy, prompts, tmp_path):
    count = []

    def breaking(body, answer):
        count.append(1)
        return (503, "", {}) if len(count) > 5 else answer

    with CallStore(tmp_path / "calls.sqlite") as store:
        with serving(answering(policy, breaking)) as server:
            message = failing(engine_of(policy, [server.url], store, attempts=2, concurrency=1), prompts)
            assert message.startswith(f"engine 'http': no server answers ({server.url}: 503); start one that serves ")
            assert "the same command continues" in message
        with serving(answering(policy)) as other:
            found = engine_of(policy, [other.url], store).sample(prompts, PLAIN)
            assert len(chats(other)) == 11, "five were answered, at another address"
    assert sum(map(len, found)) == 16


def test_other_weights_in_the_same_folder_are_other_calls(prompts, tmp_path):
    folder = chain_model(tmp_path / "model", PIECES)
    first = policy_fingerprint(Start(str(folder)))
    with serving(answering(folder)) as server, CallStore(tmp_path / "calls.sqlite") as store:
        engine_of(folder, [server.url], store).sample(prompts[:1], PLAIN)
        weights = bytearray((folder / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "model.safetensors").write_bytes(weights)
        engine_of(folder, [server.url], store).sample(prompts[:1], PLAIN)
        assert len(server.asked) == 4
    assert policy_fingerprint(Start(str(folder))) != first
    assert policy_fingerprint(Start("some/hub-id")) != policy_fingerprint(Start("some/other-id"))


def parts_of(policy, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text("{}")
    return Start(str(policy), "some/base", str(adapter))


@pytest.mark.parametrize(
    ("status", "body"), [(200, "Success: LoRA adapter added successfully."),
                         (400, error(400, "InvalidUserInput", words="The lora adapter has already been loaded."))],
)  # fmt: skip
def test_an_adapter_is_loaded_once_and_taken_off_at_the_end(policy, prompts, tmp_path, status, body):
    start, honest = parts_of(policy, tmp_path), answering(policy)

    def answer(path, asked):
        return (status, body, {}) if "lora_adapter" in path else honest(path, asked)

    with serving(answer) as server:
        engine = engine_of(policy, [server.url], start=start)
        engine.sample(prompts[:2], PLAIN)
        engine.sample(prompts[2:], PLAIN)
        engine.close()
    name = f"policy-{policy_fingerprint(start)}"
    others = [(path, body) for path, body, _ in server.asked if "lora" in path]
    assert others == [
        ("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(tmp_path / "adapter")}),
        ("/v1/unload_lora_adapter", {"lora_name": name}),
    ]
    assert {body["model"] for body in chats(server)} == {name}


def test_a_server_without_adapters_is_asked_for_the_merged_folder(policy, prompts, tmp_path):
    with serving(answering(policy)) as server:
        engine = engine_of(policy, [server.url], start=parts_of(policy, tmp_path))
        engine.sample(prompts, PLAIN)
        engine.close()
    assert [path for path in server.paths() if "lora" in path] == ["/v1/load_lora_adapter"]
    assert {body["model"] for body in chats(server)} == {str(policy.resolve())}


def test_an_adapter_that_a_server_cannot_load_ends_in_what_to_look_at(policy, prompts, tmp_path):
    with serving(
        lambda path, body: (500, error(500, "InternalServerError", words="rank 64 is above 16"), {})
    ) as server:
        message = failing(engine_of(policy, [server.url], start=parts_of(policy, tmp_path)), prompts)
    assert message.startswith(f"{server.url}: cannot load the adapter {tmp_path / 'adapter'}; is it readable there")


def test_a_model_that_is_not_served_ends_in_how_to_serve_it(policy, prompts, tmp_path):
    absent = (404, error(404, "NotFoundError", "model", "The model `x` does not exist."), {})
    with serving(lambda path, body: absent) as server:
        message = failing(engine_of(policy, [server.url]), prompts)
        assert message.startswith(
            f"{server.url}: does not serve {policy.resolve()}; run transformers serve, or vllm serve"
        )
        message = failing(engine_of(policy, [server.url], start=parts_of(policy, tmp_path)), prompts)
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve some/base --enable-lora" in message


def test_a_refused_key_is_told_by_the_address_and_never_shown(policy, prompts, monkeypatch):
    monkeypatch.setenv("PSYCHOCOUNSEL_API_KEY", "sk-not-a-real-key-0123456789")
    with serving(
        lambda path, body: (401, error("invalid_api_key", words="sk-not-a-real-key-0123456789"), {})
    ) as server:
        message = failing(engine_of(policy, [server.url]), prompts)
    assert message.startswith(f"{server.url}: 401 code invalid_api_key") and "sk-" not in message


@pytest.mark.parametrize(
    ("urls", "told"),
    [([], "urls is empty"), (["localhost:8000/v1"], "'localhost:8000/v1' is no address"),
     (["http://h/v1#model"], "without a model's name"), (["http://me:word@h/v1"], "URL with a user, a password")],
)  # fmt: skip
def test_addresses_that_cannot_be_used_are_told_before_anything_is_sent(urls, told):
    with pytest.raises(UserError, match=told) as caught:
        ServedEngine(Start("some/model"), EngineTable(name="http", urls=urls))
    assert "word" not in str(caught.value).replace("password", "")


def test_half_a_body_is_asked_again(policy, prompts):
    seen = set()

    def halves(body, answer):
        first = body["seed"] not in seen
        seen.add(body["seed"])
        return json.dumps(answer)[:40] if first else answer

    with serving(answering(policy, halves)) as server:
        engine = engine_of(policy, [server.url])
        assert sum(map(len, engine.sample(prompts[:2], PLAIN))) == 4
        engine.close()
    assert len(server.asked) == 8


def test_transformers_serve_samples_from_the_folder_it_is_asked_for(policy, prompts, tmp_path):
    """Certain words at usual temperatures, others at a high one, although the folder's own settings are greedy."""
    policy = shutil.copytree(policy, tmp_path / "model")
    generation = json.loads((policy / "generation_config.json").read_text())
    (policy / "generation_config.json").write_text(json.dumps(generation | {"do_sample": False, "top_k": 1}))
    with transformers_serve(tmp_path) as (url, _):
        engine = engine_of(policy, [f"{url}/v1"])
        found = {t: engine.sample(prompts[:2], Sampling(t, 8, 1)) for t in (0.0, 1.0, 60.0)}
        engine.close()
    for temperature in (0.0, 1.0):
        assert found[temperature] == [[Sample(0, SAID, "stop"), Sample(1, SAID, "stop")]] * 2
    assert len({sample.text for replies in found[60.0] for sample in replies} | {SAID}) > 2
