"""Sampling eight replies a prompt: the engine 'transformers' beside plain `model.generate` on the same batch.

Both get the same left-padded prompts (system text and speech, about 100 to 300 tokens), the same model with random
weights in float32 and the same threads, and draw at temperature 1 without top-k and top-p, in turn. Replies have 80 to
350 tokens: a hook on the model, the same for both, keeps the end token away before that and then gives it an equal
chance at every token. What counts are tokens of replies per second, up to and with the end token. Greedy replies of
both sides have to be the same tokens.

    python benchmarks/generation.py [--prompts 3] [--rounds 3] [--threads 1] [--save]

The exit code is 1 while the goal is not met.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from comparison import spread
from side_by_side import build_data, save_result, settle
from training_data import SPEECH_TOKENS, SYSTEM, Lengths, read_texts

RESULT = Path(__file__).parent / "results" / "generation.json"
REPLIES, LEAST, MOST, MEAN = 8, 80, 350, 180
GOAL = 1.0


def read_prompts(tokenizer: Any, count: int, source: str = "auto") -> list[Any]:
    """Prompts of eight samples each, in the lengths of the training benchmark."""
    from psychocounsel.policy.sampling import Prompt
    from psychocounsel.training.encoding import Encoder

    encoder, lengths, found = Encoder(tokenizer, 2048), Lengths(tokenizer), []
    for speech, _ in read_texts(source).speeches:
        if len(found) < count and lengths.within(speech, SPEECH_TOKENS):
            chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": speech}]
            messages, ids = encoder.prompt(chat)
            found.append(Prompt(str(len(found)), messages, ids, tuple(range(REPLIES))))
    if len(found) < count:
        raise SystemExit(f"the texts give {len(found)} prompts; ask for no more --prompts")
    return found


def end_between(model: Any, tokenizer: Any, least: int, mean: float) -> None:
    """Make a model's replies end at some token from number `least` on, `mean` on average, and nowhere before; no other
    special token comes."""
    special, end = tokenizer.all_special_ids, tokenizer.eos_token_id
    chance = 1 / (mean - least)
    width = [0]

    def hook(_: Any, __: Any, given: dict[str, Any], output: Any) -> None:
        if given["input_ids"].shape[1] > 1:  # the prompt, padded
            width[0] = given["attention_mask"].shape[1]
        drawn = given["attention_mask"].shape[1] - width[0]
        logits = output.logits[:, -1]
        rest = math.log(logits.shape[-1])  # what the others sum up to, as random weights leave all near 0
        logits[:, special] = -1e4
        if drawn + 1 >= least:
            logits[:, end] = rest + math.log(chance)

    model.register_forward_hook(hook, with_kwargs=True)


class Plain:
    """What a user's simple loop does: every prompt as often as it has samples, padded, through `model.generate`."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    def __call__(self, prompts: list[Any], most: int, greedy: bool = False) -> list[list[int]]:
        import torch

        rows = [prompt.ids for prompt in prompts for _ in prompt.numbers]
        batch = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        drawn = {} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            output = self.model.generate(**batch, do_sample=not greedy, max_new_tokens=most, **drawn)
        new = output[:, batch["input_ids"].shape[1] :].tolist()
        self.tokenizer.batch_decode(new, skip_special_tokens=True)
        end = self.tokenizer.eos_token_id
        return [ids[: ids.index(end) + 1] if end in ids else ids for ids in new]


class Ours:
    """The engine on a model that is loaded already; a seed of its own for every round."""

    def __init__(self, tokenizer: Any, model: Any, rows: int) -> None:
        from psychocounsel.policy.generate import Replies

        self.replies, self.seed = Replies(tokenizer, model, rows), 0

    def __call__(self, prompts: list[Any], most: int, greedy: bool = False) -> list[list[int]]:
        from psychocounsel.policy.sampling import Sampling

        self.seed += 1
        found = self.replies.sample(prompts, Sampling(0.0 if greedy else 1.0, most, self.seed))
        return [list(sample.ids) for samples in found for sample in samples]


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Tokens of replies per second of both sides round by round, their ratio, and whether greedy replies agree."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder / "lm")
    model = AutoModelForCausalLM.from_pretrained(folder / "lm").float().eval()
    end_between(model, tokenizer, asked.least, asked.mean)
    prompts = read_prompts(tokenizer, asked.prompts, asked.source)
    sides = {"ours": Ours(tokenizer, model, asked.prompts * REPLIES), "plain": Plain(tokenizer, model)}
    few = prompts[:2]
    same = sides["ours"](few, 40, greedy=True) == sides["plain"](few, 40, greedy=True)  # it warms both up too
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    lengths: dict[str, list[int]] = {name: [] for name in sides}
    for number in range(asked.rounds):
        for name in list(sides)[:: 1 - 2 * (number % 2)]:
            start = time.perf_counter()
            drawn = [len(ids) for ids in sides[name](prompts, asked.most)]
            speeds[name].append(sum(drawn) / (time.perf_counter() - start))
            lengths[name] += drawn
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["plain"], strict=True)]
    return {
        "prompts": len(prompts), "replies": len(prompts) * REPLIES, "threads": asked.threads, "layers": asked.layers,
        "hidden": asked.hidden, "source": read_texts(asked.source).source,
        "prompt_tokens": spread([len(prompt.ids) for prompt in prompts], 0),
        "reply_tokens": {name: spread(found, 0) for name, found in lengths.items()},
        "mean_reply_tokens": {name: round(statistics.mean(found), 1) for name, found in lengths.items()},
        "tokens_per_s": {name: spread(found, 1) for name, found in speeds.items()},
        "ratio": spread(ratios), "greedy_replies_are_the_same": same, "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    for name, default in (("least", LEAST), ("mean", MEAN), ("most", MOST)):
        parser.add_argument(f"--{name}", type=int, default=default, help="tokens of a reply")
    parser.add_argument("--source", choices=("auto", "mentalchat", "embedded"), default="auto")
    for name, default in (("hidden", 384), ("layers", 8), ("heads", 6), ("intermediate", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name} with date and machine")
    asked = parser.parse_args(arguments)
    settle(asked.threads, __file__, arguments)
    with tempfile.TemporaryDirectory() as place:
        build_data(Path(place), 4, (asked.hidden, asked.layers, asked.heads, asked.intermediate), asked.source)
        figures = measure(Path(place), asked)
    met = figures["ratio"]["median"] >= GOAL and figures["greedy_replies_are_the_same"]
    goal = f"{GOAL:g} times plain model.generate at {REPLIES} replies a prompt, the same greedy replies"
    body = {"benchmark": "generation", "figures": figures, "goal": goal, "met": met}
    if asked.save:
        save_result(RESULT, body)
    print(json.dumps(body))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
