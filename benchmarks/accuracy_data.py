"""Rated replies for accuracy_vs_trl.py: preference pairs from real ratings, split by post, and a starting model.

Two sets. `mentalchat`: replies of 25 models to posts, read in place from the shared data. `embedded`: the package's own
replies. A reply's score is the plain mean of its seven principles, and the mean over raters where several rated it.
Two replies to one post are a pair when their scores lie GAP or more apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from psychocounsel.models.recorded import embedded_file
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.ratings.rated import Rated, package_rows, shared_rows
from psychocounsel.recipe import EmbeddedModel, SupervisedTable, data_path
from psychocounsel.records import Response, Speech, Turn, short_hash
from psychocounsel.training.examples import Example

SETS = ("mentalchat", "embedded")
GAP = 0.5  # as in the recipe of these ratings; two raters of one reply differ by 0.15 on average
HELD_OUT = 1 / 3  # of the posts
MODEL = EmbeddedModel(vocabulary=2048, hidden=64, layers=1, heads=2, context=1024, epochs=3, lr=4e-3, batch=16)


@dataclass(frozen=True)
class Split:
    """Examples to train on, examples held out, and what the language model learns from; no post is in both."""

    train: list[Example]
    held_out: list[Example]
    speeches: list[Speech]
    responses: list[Response]


def rated_rows(name: str) -> list[Rated]:
    """Every rated reply of a set; none where the shared data is absent."""
    if name == "mentalchat":
        return shared_rows(data_path("$PSYCHOCOUNSEL_DATA"))
    folder = embedded_file("ratings.jsonl").parent
    return [row for test in (False, True) for row in package_rows(folder, test=test)]


def overall(row: Rated) -> float:
    return sum(row.scores) / len(row.scores)


def example(post: str, rows: list[Rated]) -> Example:
    """One post with its rated replies and all pairs of them that lie far enough apart."""
    messages = chat_messages([Turn(role="client", text=rows[0].speech.strip())])
    made = Example(post, messages, [row.response.strip() for row in rows])
    for one, two in combinations(range(len(rows)), 2):
        gap = overall(rows[one]) - overall(rows[two])
        if abs(gap) >= GAP - 1e-9 and made.replies[one] != made.replies[two]:
            made.pairs.append((one, two) if gap > 0 else (two, one))
            made.gaps.append(abs(gap))
    return made


def split(rows: list[Rated], seed: int, batch: int) -> Split:
    """A third of the posts held out, by the hash of post and seed; the train pairs cut to a multiple of `batch`.

    Without the cut, TRL's last batch of an epoch would be shorter than ours, which run on into the next epoch.
    """
    by_post: dict[str, list[Rated]] = {}
    for row in rows:
        by_post.setdefault(row.speech_id, []).append(row)
    order = sorted(by_post, key=lambda post: short_hash(f"{seed} {post}"))
    held = {post for post in order[: round(HELD_OUT * len(order))]}
    made = {post: example(post, by_post[post]) for post in order}
    train = [made[post] for post in order if post not in held and made[post].pairs]
    spare = sum(len(one.pairs) for one in train) % batch
    while spare:
        cut = min(spare, len(train[-1].pairs))
        kept = len(train[-1].pairs) - cut
        train[-1].pairs, train[-1].gaps, spare = train[-1].pairs[:kept], train[-1].gaps[:kept], spare - cut
        train = train if kept else train[:-1]
    speeches, responses = [], []
    for post in order:
        if post not in held:
            speech = Speech(
                turns=(Turn(role="client", text=by_post[post][0].speech.strip()),), source="", split="train"
            )
            speeches.append(speech)
            for row in by_post[post]:
                responses.append(Response(speech_id=speech.id, model=row.writer, text=row.response.strip()))
    return Split(train, [made[post] for post in order if post in held and made[post].pairs], speeches, responses)


def starting_models(data: Split, seed: int, folder: Path) -> tuple[Path, Path]:
    """A small Llama that learned the language of the train posts and replies, and a reward model made of it.

    Both sides start from these files, the new score head included.
    """
    from psychocounsel.models.weights import load_scorer, load_tokenizer
    from psychocounsel.supervised import Texts, supervise
    from psychocounsel.training.checkpoints import save_model

    table = SupervisedTable(lr=1e-3, epochs=0, precision="fp32", max_length=MODEL.context, embedded=MODEL)
    scores = {response.id: 5.0 for response in data.responses}
    supervise(Texts(data.speeches, data.responses, scores), "embedded", table, seed, folder / "start")
    language, reward = folder / "start" / "model", folder / "start-reward"
    tokenizer = load_tokenizer(str(language))
    save_model(reward, load_scorer(str(language), tokenizer.pad_token_id, len(tokenizer), seed), tokenizer)
    return language, reward


def facts(data: Split, tokenizer: Any) -> dict[str, Any]:
    """Posts, pairs and the longest sequence."""
    lengths = [
        len(tokenizer.apply_chat_template([*one.messages, {"role": "assistant", "content": text}])["input_ids"])
        for one in (*data.train, *data.held_out)
        for text in one.replies
    ]
    return {
        "train_posts": len(data.train), "train_pairs": sum(len(one.pairs) for one in data.train),
        "held_out_posts": len(data.held_out), "held_out_pairs": sum(len(one.pairs) for one in data.held_out),
        "longest_sequence": max(lengths),
    }  # fmt: skip
