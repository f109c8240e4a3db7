"""The stages as the pipeline runs them: read what earlier stages left, call the pure part, write what it returns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models import open_models
from psychocounsel.pairs import build_pairs
from psychocounsel.pipeline.context import Run
from psychocounsel.ratings import rate_responses
from psychocounsel.ratings.agreement import judge_agreement, mean_kappa
from psychocounsel.records import Speech, write_records
from psychocounsel.responses import respond
from psychocounsel.run import write_text
from psychocounsel.speeches import collect
from psychocounsel.speeches.sources import read_embedded, read_source
from psychocounsel.speeches.topics import fill_by_model, fill_by_tfidf

Counts = dict[str, Any]


def speeches_stage(run: Run, folder: Path) -> Counts:
    table = run.recipe.speeches
    raw = [speech for source in table.sources for speech in read_source(source)]

    def fill(speeches: list[Speech]) -> list[Speech]:
        if table.topics == "tfidf":
            return fill_by_tfidf(speeches, [*speeches, *read_embedded()])
        if table.topics == "none":
            return speeches
        return fill_by_model(speeches, open_models(table.topics)[0], run.store)

    collection = collect(raw, table, run.recipe.seed, fill)
    write_records(folder / "speeches.jsonl", collection.speeches)
    write_records(folder / "dropped.jsonl", collection.dropped)
    splits = Counter(str(speech.split) for speech in collection.speeches)
    return {
        "read": collection.read,
        "kept": len(collection.speeches),
        "dropped": collection.reasons(),
        "splits": dict(sorted(splits.items())),
        "clusters": len({speech.cluster for speech in collection.speeches}),
        "topics": len({speech.topic for speech in collection.speeches if speech.topic}),
    }


def responses_stage(run: Run, folder: Path) -> Counts:
    pool = [model for name in run.recipe.responses.models for model in open_models(name)]
    responses = respond(run.speeches(), pool, run.recipe.responses, run.store, run.recipe.seed)
    write_records(folder / "responses.jsonl", responses)
    models = Counter(response.model for response in responses)
    return {
        "responses": len(responses),
        "empty": sum(not response.text for response in responses),
        "speeches": len({response.speech_id for response in responses}),
        "models": dict(sorted(models.items())),
        "finish": dict(sorted(Counter(response.finish for response in responses).items())),
    }


def ratings_stage(run: Run, folder: Path) -> Counts:
    outcome = rate_responses(run.speeches(), run.responses(), run.principles, run.recipe.ratings, run.store)
    write_records(folder / "ratings.jsonl", outcome.ratings)
    agreement = judge_agreement(outcome.ratings, run.principles)
    write_text(folder / "agreement.json", json.dumps(agreement, indent=1))
    kappa = mean_kappa(agreement)
    return {
        "ratings": len(outcome.ratings),
        "rated": len({rating.response_id for rating in outcome.ratings}),
        "judges": outcome.counts,
        "mean_kappa": None if kappa is None else round(kappa, 3),
    }


def pairs_stage(run: Run, folder: Path) -> Counts:
    sets = build_pairs(run.speeches(), run.responses(), run.ratings(), run.principles, run.recipe.pairs)
    if not sets.pairs["train"]:
        raise UserError(
            f"pairs: no train pair came out ({dict(sets.left_out) or 'no speech has two rated replies'}); "
            "are all replies tied? Lower pairs.gap, add judges or responses"
        )
    for split, pairs in sets.pairs.items():
        write_records(folder / f"{split}.jsonl", pairs)
    overall = {key: round(value, 6) for key, value in sorted(sets.overall.items())}
    write_text(folder / "overall.json", json.dumps(overall, indent=0))
    return {
        **{split: len(pairs) for split, pairs in sets.pairs.items()},
        "left_out": dict(sorted(sets.left_out.items())),
    }


def supervised_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.supervised import Texts, supervise

    texts = Texts(run.speeches(), run.responses(), run.overall())
    return supervise(texts, run.recipe.base, run.recipe.supervised, run.recipe.seed, folder)


def reward_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.reward.train import train_reward
    from psychocounsel.supervised import starting_model

    base = run.recipe.reward.base or starting_model(run.folder.stage("supervised"))
    speeches = {speech.id: speech for speech in run.speeches()}
    responses = {response.id: response for response in run.responses()}
    return train_reward(run.pairs(), speeches, responses, base, run.recipe.reward, run.recipe.seed, folder)


def policy_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.policy.offline import open_encoder, train_policy
    from psychocounsel.policy.online import run_round
    from psychocounsel.reward.train import pair_groups
    from psychocounsel.supervised import starting_model

    table, seed = run.recipe.policy, run.recipe.seed
    start = starting_model(run.folder.stage("supervised"))
    all_speeches, pairs = run.speeches(), run.pairs()
    speeches = {speech.id: speech for speech in all_speeches}
    responses = {response.id: response for response in run.responses()}
    encoder = open_encoder(start, table)
    counts: Counts = {}
    if not (folder / "offline" / "counts.json").exists():
        train_groups, dev_groups = (
            pair_groups(encoder, pairs[split], speeches, responses) for split in ("train", "dev")
        )
        made = train_policy("offline", start, (train_groups, dev_groups), table, seed, folder / "offline")
        write_text(folder / "offline" / "counts.json", json.dumps(made))
    counts["offline"] = json.loads((folder / "offline" / "counts.json").read_text(encoding="utf-8"))
    current, reward = folder / "offline", str(run.folder.stage("reward") / "model")
    for number in range(table.online.rounds):
        place = folder / f"online-{number + 1}"
        if not (place / "counts.json").exists():
            made = run_round(number, str(current / "model"), reward, all_speeches, table, seed, place)
            write_text(place / "counts.json", json.dumps(made))
        counts[place.name] = json.loads((place / "counts.json").read_text(encoding="utf-8"))
        current = place
    return counts


def evaluate_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.pipeline.evaluation import evaluate

    return evaluate(run, folder)


STAGE_FUNCTIONS: dict[str, Callable[[Run, Path], Counts]] = {
    "speeches": speeches_stage,
    "responses": responses_stage,
    "ratings": ratings_stage,
    "pairs": pairs_stage,
    "supervised": supervised_stage,
    "reward": reward_stage,
    "policy": policy_stage,
    "evaluate": evaluate_stage,
}
