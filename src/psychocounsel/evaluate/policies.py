"""Replies of every policy to the held-out speeches, made once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.best_of import best
from psychocounsel.models.store import CallStore
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.sampling import Engine, Prompt, Sample, Sampling, open_engine, owed, read_prompts
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.progress import progress
from psychocounsel.recipe import EvaluateTable, ModelsTable
from psychocounsel.records import Speech, content_id, read_rows, write_rows
from psychocounsel.training.adapters import Start
from psychocounsel.training.encoding import Encoder

UNBOUNDED = 1 << 30  # tokens
Texts = list[dict[str, str]]  # for each sample: reply text by speech id
Score = Callable[[Sequence[Speech], Sequence[Mapping[str, str]]], dict[str, list[float]]]


@dataclass(frozen=True)
class Policy:
    """Something that answers speeches: a model, and messages put before each dialogue (a system text, examples).

    With `best_of` it is the best, by reward, of so many replies of the policy with the same model and messages.
    """

    name: str
    start: Start
    before: tuple[dict[str, str], ...] = ()
    best_of: int = 0

    def same_source(self, other: Policy) -> bool:
        """Do both sample from the same distribution?"""
        return (self.start, self.before) == (other.start, other.before)


def held_out(speeches: Sequence[Speech], table: EvaluateTable, seed: int) -> list[Speech]:
    """The speeches policies are compared on: the recipe's splits, at most `limit` by content hash, ordered by id."""
    chosen = sorted(
        (s for s in speeches if s.split in table.speeches), key=lambda s: content_id([seed, "evaluate", s.id])
    )
    return sorted(chosen[: table.limit], key=lambda speech: speech.id)


def policy_replies(
    policies: Sequence[Policy],
    speeches: Sequence[Speech],
    table: EvaluateTable,
    max_length: int,
    seed: int,
    folder: Path,
    score: Score | None = None,
    store: CallStore | None = None,
    models: ModelsTable | None = None,
) -> dict[str, Texts]:
    """By policy, for each sample: reply text by speech id; the first policy, base, has as many as best-of-N needs.

    `score` gives the rewards of all those replies, by speech in the order of their numbers; best-of-N needs it. All
    prompts are read before anything is sampled. Finished files are used again, a half-made one is gone on with.
    Raises UserError for a prompt that a model cannot read and for replies that an engine still owes.
    """
    paths = {policy.name: folder / f"replies-{policy.name}.jsonl" for policy in policies}
    plain = [policy for policy in policies if not policy.best_of]
    wanted = {policy.name: table.samples for policy in plain}
    wanted[plain[0].name] = max([table.samples, table.best_of, *(table.samples * p.best_of for p in policies)])
    twins = {policy.name: next(other for other in plain if policy.same_source(other)).name for policy in plain}
    asked = {
        policy.name: policy_prompts(policy, speeches, wanted[policy.name], table, max_length)
        for policy in plain
        if not paths[policy.name].is_file() and twins[policy.name] == policy.name
    }
    sampling = Sampling(table.temperature, table.max_new_tokens, seed)
    replies: dict[str, Texts] = {}
    for start in dict.fromkeys(policy.start for policy in plain if policy.name in asked):  # weights are loaded once
        engine = open_engine(start, table.engine, store, models)
        try:
            for name in (policy.name for policy in plain if policy.start == start and policy.name in asked):
                _write_replies(paths[name], name, speeches, asked[name], engine, sampling, table.engine.retries)
        finally:
            engine.close()
    for policy in plain:
        path = paths[policy.name]
        if not path.is_file():  # the same model under another name: the same replies, not a second draw
            rows = (row for _, row in read_rows(paths[twins[policy.name]]) if row["sample"] < table.samples)
            write_rows(path, rows)
        replies[policy.name] = _read_replies(path, wanted[policy.name])
    for policy in (policy for policy in policies if policy.best_of):
        if score is None:
            raise ValueError(f"{policy.name} is chosen by reward; give `score`")
        source = next(other.name for other in plain if policy.same_source(other))
        rewards = score(speeches, replies[source])
        if not paths[policy.name].is_file():
            write_rows(paths[policy.name], _picked(paths[source], rewards, policy.best_of, table.samples))
        replies[policy.name] = _read_replies(paths[policy.name], table.samples)
    return replies


def policy_prompts(
    policy: Policy, speeches: Sequence[Speech], samples: int, table: EvaluateTable, max_length: int
) -> list[Prompt]:
    """The speeches as the policy reads them. Every policy reads the same dialogue, cut to half of `max_length`; what is
    put before it takes no room from it. Raises UserError where the chat template or the context forbids that."""
    encoder = Encoder(load_tokenizer(policy.start.model), max_length)
    if not policy.before:
        return read_prompts(encoder, speeches, samples)
    wide = Encoder(encoder.tokenizer, UNBOUNDED)
    _check_template(wide, policy)
    prompts = []
    for speech in speeches:
        dialogue, _ = encoder.prompt(chat_messages(speech.turns))
        messages, ids = wide.prompt([*policy.before, *dialogue])
        prompts.append(Prompt(speech.id, messages, ids, tuple(range(samples))))
    longest = max((len(prompt.ids) for prompt in prompts), default=0) + table.max_new_tokens
    room = _context(policy.start.model)
    if room and longest > room:
        raise UserError(
            f"evaluate.baselines: '{policy.name}' needs {longest} tokens for prompt and reply and its model reads "
            f"{room}; leave '{policy.name}' out, lower max_new_tokens, or take a base with a longer context"
        )
    return prompts


def _check_template(encoder: Encoder, policy: Policy) -> None:
    """Raise a UserError when the system text does not reach the model: templates refuse it, or silently drop it."""
    from jinja2 import TemplateError

    read = []
    for text in ("Be kind.", "Be brief."):
        try:
            messages = [{"role": "system", "content": text}, {"role": "user", "content": "Hello."}]
            read.append(encoder.prompt(messages)[1])
        except TemplateError:
            read = [[], []]
            break
    if read[0] == read[1]:
        raise UserError(
            f"evaluate.baselines: the chat template of the base model takes no system text; leave '{policy.name}' out, "
            "or take a base whose template has one"
        )


def _context(name: str) -> int:
    """The longest text a model reads, in tokens; 0 when its configuration does not say."""
    from transformers import AutoConfig

    folder = Path(name).expanduser()
    try:
        config = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else name)
    except (OSError, ValueError):  # a server's policy may be here as a tokenizer alone
        return 0
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 0)


def sampled(
    engine: Engine, prompts: Sequence[Prompt], sampling: Sampling, retries: int, name: str
) -> Iterator[list[tuple[Prompt, Sample]]]:
    """The samples of all prompts, a call's worth at a time, long prompts first; what an engine owes is asked for again.

    Raises UserError when it still owes after `retries` more tries; what it gave until then has been yielded.
    """
    order = sorted(prompts, key=lambda prompt: (-len(prompt.ids), prompt.id))
    size = max(1, engine.prompts_at_once(max((len(prompt.numbers) for prompt in prompts), default=1)))
    with progress(f"replies {name}", sum(len(prompt.numbers) for prompt in prompts)) as advance:
        for place in range(0, len(order), size):
            part = order[place : place + size]
            found = owed(engine, part, sampling, retries)
            got = [(prompt, sample) for prompt, some in zip(part, found, strict=True) for sample in some]
            advance(len(got))
            yield got
            if missing := sum(len(prompt.numbers) for prompt in part) - len(got):
                raise UserError(
                    f"evaluate: engine '{engine.name}' still owes {missing} replies of {name} after {retries + 1} "
                    "tries; the same command asks for the rest, or raise evaluate.engine.retries"
                )


def _write_replies(
    path: Path,
    name: str,
    speeches: Sequence[Speech],
    prompts: Sequence[Prompt],
    engine: Engine,
    sampling: Sampling,
    retries: int,
) -> None:
    """Sample into a file beside `path` that grows with each call, then write `path` whole, in the order of speeches."""
    part = path.with_suffix(".sampled.part")
    rows = _complete_rows(part)
    write_rows(part, rows)  # a line that was cut off by a crash must not be continued
    known = {(row["speech_id"], row["sample"]) for row in rows}
    left = [replace(p, numbers=tuple(n for n in p.numbers if (p.id, n) not in known)) for p in prompts]
    left = [prompt for prompt in left if prompt.numbers]
    told = {speech.id: chat_messages(speech.turns) for speech in speeches}
    with part.open("a", encoding="utf-8") as file:
        for got in sampled(engine, left, sampling, retries, name):
            for prompt, sample in got:
                asked = told[prompt.id]
                row = {"speech_id": prompt.id, "sample": sample.number, "text": sample.text, "finish": sample.finish,
                       "cut": prompt.messages[-len(asked) :] != asked}  # fmt: skip
                rows.append(row)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    order = {speech.id: place for place, speech in enumerate(speeches)}
    write_rows(path, sorted(rows, key=lambda row: (order[row["speech_id"]], row["sample"])))
    part.unlink()


def _complete_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file whose last line may be half written."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    return [json.loads(line) for line in whole.split("\n") if line]


def _picked(source: Path, rewards: Mapping[str, Sequence[float]], size: int, samples: int) -> Iterator[dict[str, Any]]:
    """Rows of the best of each `size` replies: sample s is chosen among numbers s * size to (s + 1) * size - 1."""
    found = {(row["speech_id"], row["sample"]): row for _, row in read_rows(source)}
    for speech_id, values in rewards.items():
        for sample in range(samples):
            number = best(values, sample * size, (sample + 1) * size)
            yield {**found[speech_id, number], "sample": sample, "picked": number}


def _read_replies(path: Path, samples: int) -> Texts:
    replies = [dict[str, str]() for _ in range(samples)]
    for _, row in read_rows(path):
        replies[row["sample"]][row["speech_id"]] = row["text"]
    return replies


def reply_counts(folder: Path, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """By what happened and policy: replies that did not end, empty ones, and those to a dialogue that was cut."""
    counts: dict[str, dict[str, int]] = {"unfinished": {}, "empty": {}, "to cut dialogues": {}}
    for name in names:
        rows = [row for _, row in read_rows(folder / f"replies-{name}.jsonl")]
        for key, number in (
            ("unfinished", sum(row["finish"] == "length" for row in rows)),
            ("empty", sum(not row["text"] for row in rows)),
            ("to cut dialogues", sum(row["cut"] for row in rows)),
        ):
            counts[key] |= {name: number} if number else {}
    return {key: found for key, found in counts.items() if found}
