"""vLLM in a process of its own: what it is told, what comes back, and every way in which it can end.

vLLM needs a GPU and cannot be installed where these tests run. The package `vllm` here is a stand-in on the path of the
worker process, with the documented signatures of `LLM`, `SamplingParams` and `LoRARequest`; it samples from real tiny
models through transformers, each reply with a generator of its own seed. Processes, pipes, signals and tokens are real;
it proves nothing about vLLM itself.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from chain_model import chain_model
from conftest import CLIENT_LINES, make_speech

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_policy
from psychocounsel.policy import vllm_engine
from psychocounsel.policy.sampling import Prompt, Sample, Sampling, open_engine, read_prompts
from psychocounsel.policy.vllm_engine import VllmEngine, WorkerProcess, adapter_rank
from psychocounsel.policy.vllm_worker import without_numbers
from psychocounsel.recipe import EngineTable, LoraTable
from psychocounsel.training.adapters import Start, add_adapters, merged
from psychocounsel.training.checkpoints import save_model
from psychocounsel.training.encoding import Encoder

PIECES = ("You sound ", "worn out. ", "What ", "would ", "rest ", "look like?")
GREEDY, DRAWN, HOT = Sampling(0.0, 8, 1), Sampling(1.0, 8, 1), Sampling(60.0, 8, 1)
STAND_IN = '''
"""A stand-in for vLLM. What it does wrong on purpose is named by VLLM_STAND_IN; what it was asked goes to a log."""
import json, os, signal, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

WRONG = os.environ.get("VLLM_STAND_IN", "")
if WRONG == "absent part":
    import no_such_part_of_vllm
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True

    def __post_init__(self):
        assert self.top_k >= -1 and 0 < self.top_p <= 1 and -(2**63) <= self.seed < 2**63

def log(**row):
    with open(os.environ["VLLM_STAND_IN_LOG"], "a") as file:
        file.write(json.dumps(row) + "\\n")

class LLM:
    def __init__(self, model, *, tokenizer=None, gpu_memory_utilization=0.9, generation_config="auto",
                 enable_prefix_caching=None, max_num_batched_tokens=None, max_model_len=None, enable_lora=False,
                 max_lora_rank=16):
        print("INFO loading weights", flush=True)
        print("INFO loading weights", file=sys.stderr, flush=True)
        if WRONG == "hang":
            time.sleep(60)
        if WRONG == "no memory":
            raise ValueError("No available memory for the cache blocks.\\nTry [12, 400, 7] less")
        if WRONG == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            log(child=child.pid)
        assert generation_config == "vllm" and max_lora_rank in RANKS
        log(pid=os.getpid(), model=model, tokenizer=tokenizer, memory=gpu_memory_utilization, rank=max_lora_rank,
            prefix=enable_prefix_caching, batch=max_num_batched_tokens, length=max_model_len, lora=enable_lora,
            launcher=sorted(name for name in os.environ if name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")))
        if WRONG == "":
            from transformers import AutoModelForCausalLM
            self.model = AutoModelForCausalLM.from_pretrained(model).eval()
            self.adapted = False

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        assert len(sampling_params) == len(prompts) and not use_tqdm
        if WRONG in ("killed", "child"):
            print("CUDA out of memory", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if WRONG == "exit":
            os._exit(7)
        if WRONG == "fails":
            raise ValueError(f"The prompt {prompts[0]['prompt_token_ids']} is longer than the model")
        if WRONG == "fewer":
            return [SimpleNamespace(outputs=[]) for _ in prompts[1:]]
        if WRONG == "gives up":
            reasons = ["abort", "stop", "length"]
            return [
                SimpleNamespace(outputs=[SimpleNamespace(token_ids=[9, 9], finish_reason=reasons[i % 3])] if i else [])
                for i in range(len(prompts))
            ]
        if WRONG == "slow":
            log(asked=True)
            time.sleep(60)
        if lora_request is not None and not self.adapted:
            from peft import PeftModel
            self.model, self.adapted = PeftModel.from_pretrained(self.model, lora_request.lora_path).eval(), True
        log(prompts=[prompt["prompt_token_ids"] for prompt in prompts], seeds=[p.seed for p in sampling_params],
            settings=[[p.n, p.temperature, p.top_p, p.top_k, p.max_tokens, p.detokenize] for p in sampling_params[:1]])
        return [self.reply(prompt["prompt_token_ids"], settings) for prompt, settings in zip(prompts, sampling_params)]

    def reply(self, prompt, settings):
        import torch
        draw = torch.Generator().manual_seed(settings.seed)
        new, reason = [], "length"
        with torch.inference_mode():
            while len(new) < settings.max_tokens and reason == "length":
                logits = self.model(input_ids=torch.tensor([prompt + new])).logits[0, -1].float()
                if settings.temperature:
                    token = int(torch.multinomial((logits / settings.temperature).softmax(-1), 1, generator=draw))
                else:
                    token = int(logits.argmax())
                new.append(token)
                if token in settings.stop_token_ids:
                    reason = "stop"
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(new), text="", finish_reason=reason)])
'''
LORA = """
class LoRARequest:
    def __init__(self, lora_name, lora_int_id, lora_path=""):
        assert lora_int_id > 0
        self.lora_name, self.lora_int_id, self.lora_path = lora_name, lora_int_id, lora_path
"""


def standing_in(place, patch):
    """Put the stand-in on the worker's path; `say(WRONG)` says what goes wrong, and gives what it was asked."""
    folder = place / "site" / "vllm"
    (folder / "lora").mkdir(parents=True)
    (folder / "__init__.py").write_text(STAND_IN)
    (folder / "lora" / "__init__.py").write_text("")
    (folder / "lora" / "request.py").write_text(LORA)
    log = place / "log.jsonl"
    patch.syspath_prepend(place / "site")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(place / "site"), os.environ.get("PYTHONPATH", "")]))
    patch.setenv("VLLM_STAND_IN_LOG", str(log))

    def say(wrong=""):
        patch.setenv("VLLM_STAND_IN", wrong)
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    say()
    return say


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    return standing_in(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return chain_model(tmp_path_factory.mktemp("chain") / "model", PIECES)


def prompts_for(folder, samples=2, lines=CLIENT_LINES[:2]):
    encoder = Encoder(load_policy(str(folder))[0], 128)
    return read_prompts(encoder, [make_speech(text) for text in lines], samples)


def failing(folder):
    engine = VllmEngine(Start(str(folder)), EngineTable(name="vllm"))
    try:
        with pytest.raises(UserError) as caught:
            engine.sample(prompts_for(folder), GREEDY)
    finally:
        engine.close()
    message = str(caught.value)
    assert "\n" not in message
    return message


def alive(pid):
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid, seconds=10):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


@pytest.fixture(scope="module")
def sampled(chain, tmp_path_factory):
    """One process at work: (prompts, replies by name, what it was asked, whether it lived before and after close)."""
    with pytest.MonkeyPatch.context() as patch:
        asked = standing_in(tmp_path_factory.mktemp("sampled"), patch)()
        for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
            patch.setenv(name, "1")
        prompts = prompts_for(chain)
        engine = open_engine(Start(str(chain)), EngineTable(name="vllm", memory=0.5, max_batch_tokens=4096))
        assert (engine.name, engine.shared, engine.sample([], DRAWN)) == ("vllm", False, [])
        found = {
            "certain": engine.sample(prompts, DRAWN),
            "short": engine.sample(prompts[:1], Sampling(1.0, 3, 1)),
            "hot": engine.sample(prompts, HOT),
            "alone": engine.sample([Prompt(prompts[1].id, [], prompts[1].ids, (1,))], HOT),
            "greedy": engine.sample(prompts, GREEDY),
        }
        lived = alive(asked()[0]["pid"])
        engine.close()
        lives = alive(asked()[0]["pid"])
        engine.close()
        return prompts, found, asked(), (lived, lives)


def test_replies_are_the_models_own_with_their_tokens_and_end(sampled, chain):
    _, found, _, _ = sampled
    tokenizer, whole = load_policy(str(chain))[0], found["certain"]
    assert [[sample.number for sample in replies] for replies in whole] == [[0, 1], [0, 1]]
    ids = (*tokenizer.convert_tokens_to_ids(PIECES), tokenizer.eos_token_id)
    assert whole[0][0] == found["greedy"][0][0] == Sample(0, "".join(PIECES), "stop", ids)
    assert found["short"][0][1] == Sample(1, "".join(PIECES[:3]).strip(), "length", ids[:3])


def test_the_process_is_told_what_samples_from_the_policy_itself(sampled, chain):
    prompts, _, (loaded, call, *_), (lived, lives) = sampled
    folder = str(chain.resolve())
    expected = {"model": folder, "tokenizer": folder, "memory": 0.5, "prefix": True, "batch": 4096, "length": 2048}
    assert {key: loaded[key] for key in expected} == expected, "a context as long as needed, not of 16384"
    assert (loaded["lora"], loaded["launcher"]) == (False, [])
    assert call["prompts"] == [prompts[0].ids] * 2 + [prompts[1].ids] * 2
    assert call["seeds"] == [DRAWN.seed_of(prompt, number) for prompt in prompts for number in (0, 1)]
    assert call["settings"] == [[1, 1.0, 1.0, -1, 8, False]]
    assert (lived, lives) == (True, False), "loaded once, and gone after close"


def test_a_sample_depends_on_its_own_seed_and_not_on_its_company(sampled):
    _, found, _, _ = sampled
    hot = found["hot"]
    assert hot[1][1] == found["alone"][0][0]
    assert len({sample.ids for replies in hot for sample in replies}) > 2


def test_a_policy_in_parts_is_its_base_with_the_adapter(stand_in, model_folder, tmp_path):
    tokenizer, model = load_policy(str(model_folder))
    adapted = add_adapters(model, LoraTable(rank=12, alpha=24), 0)
    draw = torch.Generator().manual_seed(5)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=draw) * 0.5
    adapted.save_pretrained(tmp_path / "adapter")
    save_model(tmp_path / "model", merged(adapted), tokenizer)
    asked, prompts = stand_in(), prompts_for(model_folder, samples=1)
    start = Start(str(tmp_path / "model"), str(model_folder), str(tmp_path / "adapter"))
    engine = VllmEngine(start, EngineTable(name="vllm"))
    parts = engine.sample(prompts, GREEDY)
    engine.close()
    loaded = asked()[0]
    assert (loaded["lora"], loaded["rank"], loaded["model"]) == (True, 16, str(model_folder.resolve()))
    tokenizer, model = load_policy(str(tmp_path / "model"))
    for prompt, replies in zip(prompts, parts, strict=True):
        whole = model.generate(torch.tensor([prompt.ids]), max_new_tokens=8, do_sample=False,
                               pad_token_id=tokenizer.pad_token_id)[0, len(prompt.ids) :].tolist()  # fmt: skip
        base = load_policy(str(model_folder))[1].generate(torch.tensor([prompt.ids]), max_new_tokens=8, do_sample=False,
                                                          pad_token_id=0)[0, len(prompt.ids) :].tolist()  # fmt: skip
        assert list(replies[0].ids) == whole != base


@pytest.mark.parametrize(
    ("fields", "rank"),
    [({"r": 8}, 8), ({"r": 9}, 16), ({"r": 8, "rank_pattern": {"q_proj": 40}}, 64), ({"r": 600}, 0),
     ({"r": 8, "use_dora": True}, 0), ({"r": 8, "modules_to_save": ["lm_head"]}, 0), ({"r": 8, "bias": "all"}, 0)],
)  # fmt: skip
def test_an_adapter_that_vllm_cannot_take_is_left_to_the_merged_model(tmp_path, fields, rank):
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    assert adapter_rank(str(tmp_path)) == rank


def test_a_folder_without_an_adapter_is_named(stand_in, tmp_path):
    with pytest.raises(UserError, match=r"adapter_config.json: no adapter of peft can be read there"):
        VllmEngine(Start("m", "b", str(tmp_path)), EngineTable(name="vllm"))


def test_without_vllm_the_message_says_how_to_get_it():
    with pytest.raises(UserError, match=r"engine 'vllm': vLLM is not installed; pip install 'psychocounsel\[vllm\]'"):
        VllmEngine(Start("some/model"), EngineTable(name="vllm"))


def test_without_vllm_in_the_workers_environment_too(stand_in, chain, monkeypatch):
    here = os.environ["PYTHONPATH"].split(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here[1:]))
    assert "vLLM is not installed; pip install 'psychocounsel[vllm]'" in failing(chain)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("absent part", ["the module no_such_part_of_vllm that it needs is absent"]),
        ("no memory", ["loading", "failed (ValueError: No available memory for the cache blocks. Try [...] less)"]),
        (
            "killed",
            ["sampling 4 replies", "ended by SIGKILL (out of memory?)", "its last lines:", "CUDA out of memory"],
        ),
        ("exit", ["its process ended with exit code 7"]),
        ("fails", ["sampling 4 replies failed (ValueError: The prompt [...] is longer than the model)"]),
        ("fewer", ["3 outputs for 4 prompts"]),
    ],
)
def test_however_it_ends_one_line_says_so_without_token_ids(stand_in, chain, wrong, told):
    stand_in(wrong)
    message = failing(chain)
    assert all(part in message for part in told), message
    assert str(prompts_for(chain)[0].ids[:4])[1:-1] not in message


def test_a_worker_that_hangs_at_the_start_is_ended(stand_in, chain, monkeypatch, capsys):
    monkeypatch.setattr(vllm_engine, "START_S", 3.0)
    monkeypatch.setattr(vllm_engine, "TELL_S", 0.5)
    stand_in("hang")
    began = time.monotonic()
    message = failing(chain)
    assert "took more than 3 s and counts as hung; its last lines: " in message and "INFO loading weights" in message
    assert time.monotonic() - began < 20
    told = capsys.readouterr().err
    assert "vllm: loading" in told and "s so far" in told and "INFO" not in told


def test_what_it_gave_up_is_owed_and_a_stop_by_another_token_has_no_ids(stand_in, chain):
    stand_in("gives up")
    engine = VllmEngine(Start(str(chain)), EngineTable(name="vllm"))
    replies = engine.sample(prompts_for(chain, samples=4, lines=CLIENT_LINES[:1]), GREEDY)[0]
    engine.close()
    assert [(sample.number, sample.finish, len(sample.ids)) for sample in replies] == [(1, "stop", 0), (2, "length", 2)]


def test_what_it_started_ends_with_it(stand_in, chain):
    asked = stand_in("child")
    assert "SIGKILL" in failing(chain)
    assert gone(asked()[0]["child"])


def test_ctrl_c_ends_it_at_once(stand_in, chain, monkeypatch):
    asked = stand_in("slow")
    engine = VllmEngine(Start(str(chain)), EngineTable(name="vllm"))
    plain = WorkerProcess._answer

    def interrupted(process, limit, what):
        if "sampling" in what:
            while not any("asked" in row for row in asked()):
                time.sleep(0.05)
            raise KeyboardInterrupt
        return plain(process, limit, what)

    monkeypatch.setattr(WorkerProcess, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.sample(prompts_for(chain), GREEDY)
    assert gone(asked()[0]["pid"])


def test_a_longer_prompt_loads_it_anew_with_more_room(stand_in, chain, monkeypatch):
    monkeypatch.setattr(vllm_engine, "ROOM", 64)
    asked, (prompt,) = stand_in("gives up"), prompts_for(chain, lines=CLIENT_LINES[:1])
    engine = VllmEngine(Start(str(chain)), EngineTable(name="vllm"))
    for ids in (prompt.ids[:20], prompt.ids[:10], prompt.ids * 8):
        engine.sample([Prompt(prompt.id, prompt.messages, ids, (0, 1))], GREEDY)
    engine.close()
    lengths = [row["length"] for row in asked()]
    assert lengths[0] == 64 and len(lengths) == 2
    assert lengths[1] % 64 == 0 and 0 <= lengths[1] - (len(prompt.ids) * 8 + 8) < 64


def test_a_worker_whose_parent_is_gone_ends(stand_in, chain, tmp_path):
    asked = stand_in("gives up")
    process = WorkerProcess()
    settings = {"model": str(chain), "tokenizer": str(chain), "room": 64, "rank": 0, "adapter": "", "memory": 0.5,
                "batch_tokens": 0}  # fmt: skip
    assert process.ask(settings, 60.0, "loading") == {"ready": True}
    process.process.stdin.close()
    assert process.process.wait(10) == 0 and not alive(asked()[0]["pid"])
    process.end(0.0)


def test_lists_of_token_ids_are_left_out_of_messages():
    assert (
        without_numbers("prompt [12, 3, 44] of\n3 [a] and [1, 2, ...] or (7)")
        == "prompt [...] of 3 [a] and [...] or (7)"
    )


def test_junk_on_standard_output_is_passed_over(stand_in, chain, tmp_path):
    """Printed before the worker has its own output: by a sitecustomize, as some clusters have one."""
    (tmp_path / "site" / "sitecustomize.py").write_text("print('welcome to the cluster'); print('{\"ready\": 1}')")
    stand_in("gives up")
    engine = VllmEngine(Start(str(chain)), EngineTable(name="vllm"))
    assert len(engine.sample(prompts_for(chain), GREEDY)) == 2
    engine.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
