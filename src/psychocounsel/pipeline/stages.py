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
from psychocounsel.pairs.audit import audit
from psychocounsel.pipeline.collection import speeches_stage
from psychocounsel.pipeline.context import Run
from psychocounsel.pipeline.examples import examples
from psychocounsel.ratings import rate_responses
from psychocounsel.ratings.agreement import Intervals, agreement_table, mean_kappa, short_table
from psychocounsel.ratings.judge import Item
from psychocounsel.ratings.probes import probe_all
from psychocounsel.records import write_records, write_text
from psychocounsel.responses import respond

Counts = dict[str, Any]
REFERENCE = ".reference.sqlite"  # beside the run folders, for all of them: hashes and numbers


def responses_stage(run: Run, folder: Path) -> Counts:
    pool = [model for name in run.recipe.responses.models for model in open_models(name, table=run.recipe.models)]
    speeches = run.speeches()
    responses = respond(speeches, pool, run.recipe.responses, run.store, run.recipe.seed)
    write_records(folder / "responses.jsonl", responses)
    models = Counter(response.model for response in responses)
    topics = {speech.id: speech.topic or "unknown" for speech in speeches}
    refused = [response for response in responses if response.finish in ("refused", "filtered")]
    return {
        "responses": len(responses),
        "empty": sum(not response.text for response in responses),
        "speeches": len({response.speech_id for response in responses}),
        "models": dict(sorted(models.items())),
        "finish": dict(sorted(Counter(response.finish for response in responses).items())),
        "refused_by_topic": dict(sorted(Counter(topics[response.speech_id] for response in refused).items())),
        "refused_by_model": dict(sorted(Counter(response.model for response in refused).items())),
    }


def ratings_stage(run: Run, folder: Path) -> Counts:
    table, speeches, responses = run.recipe.ratings, run.speeches(), run.responses()
    outcome = rate_responses(speeches, responses, run.rubric, table, run.store, run.recipe.models)
    write_records(folder / "ratings.jsonl", outcome.ratings)
    write_records(folder / "unrated.jsonl", outcome.unrated)
    speech_of = {response.id: response.speech_id for response in responses}
    cluster_of = {speech.id: speech.cluster for speech in speeches}
    intervals = Intervals(seed=run.recipe.seed)
    agreement = agreement_table(outcome.ratings, run.rubric, speech_of, cluster_of, intervals)
    write_text(folder / "agreement.json", json.dumps(agreement, indent=1, ensure_ascii=False))
    if table.probes:
        by_id = {speech.id: speech for speech in speeches}
        items = [Item(by_id[response.speech_id], response) for response in responses]
        probes = probe_all(outcome.judges, items, outcome.ratings, run.rubric, run.store, table.probes, run.recipe.seed)
        write_text(folder / "probes.json", json.dumps(probes, indent=1))
    kappa = mean_kappa(short_table(agreement))
    return {
        "ratings": len(outcome.ratings),
        "rated": len({rating.response_id for rating in outcome.ratings}),
        "judges": outcome.counts,
        "refused_by_topic": outcome.refused_by("topic"),
        "refused_by_model": outcome.refused_by("model"),
        "mean_kappa": None if kappa is None else round(kappa, 3),
    }


def pairs_stage(run: Run, folder: Path) -> Counts:
    sets = build_pairs(run.speeches(), run.responses(), run.ratings(), run.principles, run.recipe.pairs)
    if not sets.pairs["train"]:
        raise UserError(
            f"pairs: no train pair came out ({dict(sets.left_out) or 'no speech has two rated replies'}); "
            "are all replies tied? Lower pairs.gap, votes or probability, or add judges or responses"
        )
    for split, pairs in sets.pairs.items():
        write_records(folder / f"{split}.jsonl", pairs)
    for name, pairs in sets.hard.items():
        write_records(folder / f"test-{name}.jsonl", pairs)
    overall = {key: round(value, 6) for key, value in sorted(sets.overall.items())}
    write_text(folder / "overall.json", json.dumps(overall, indent=0))
    write_text(folder / "audit.json", json.dumps(audit(sets, run.principles), indent=1))
    return {
        **{split: len(pairs) for split, pairs in sets.pairs.items()},
        "hard": {name: len(pairs) for name, pairs in sets.hard.items()},
        "left_out": dict(sorted(sets.left_out.items())),
        "set_aside": dict(sorted(sets.set_aside.items())),
    }


def supervised_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.supervised import Texts, supervise

    texts = Texts(run.speeches(), run.responses(), run.overall())
    return supervise(texts, run.recipe.base, run.recipe.supervised, run.recipe.seed, folder)


def reward_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.reward.train import train_reward
    from psychocounsel.supervised import starting_model

    table = run.recipe.reward
    base = table.base or starting_model(run.folder.stage("supervised"))
    found = examples(run, table.mix)
    counts = train_reward(found.both, base, table, run.recipe.seed, folder, [p.id for p in run.principles])
    return {**counts, **_calibrated(run, folder / "model"), **({"mixed": found.mixed} if table.mix else {})}


def _calibrated(run: Run, model: Path) -> Counts:
    """Put a reward model's scores on the scale of the ratings, by the dev split; nothing without dev pairs."""
    from psychocounsel.reward.calibrate import calibrate_model, write_calibration
    from psychocounsel.training.processes import main_process, together

    pairs = run.pairs()["dev"]
    if pairs and main_process():
        speeches = {speech.id: speech for speech in run.speeches()}
        responses = {response.id: response for response in run.responses()}
        held = {response.id for response in responses.values() if speeches[response.speech_id].split == "dev"}
        ratings = {key: value for key, value in run.overall().items() if key in held and responses[key].text}
        table = run.recipe.reward
        found = calibrate_model(model, pairs, ratings, speeches, responses, max_length=table.max_length)
        write_calibration(model, found)
    together()
    return {"temperature": round(found.temperature, 4)} if pairs and main_process() else {}


def policy_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.supervised import starting_model

    start = starting_model(run.folder.stage("supervised"))
    cache = run.folder.path.parent / REFERENCE
    counts: Counts = {"offline": _once(folder / "offline", lambda place: _offline(run, start, place, cache))}
    if run.recipe.policy.online.rounds:
        from psychocounsel.pipeline.online import online_rounds

        counts |= online_rounds(run, folder, start)
    return counts


def _once(place: Path, make: Callable[[Path], Counts]) -> Counts:
    """What `make` counts. A part of a stage that is finished is not made again; of several processes one writes."""
    from psychocounsel.training.processes import main_process, together

    note = place / "counts.json"
    known = note.exists()
    together()  # everyone has looked before anyone writes
    if not known:
        made = make(place)
        if main_process():
            write_text(note, json.dumps(made))
        together()
    counts: Counts = json.loads(note.read_text(encoding="utf-8"))
    return counts


def _offline(run: Run, start: str, place: Path, cache: Path) -> Counts:
    from psychocounsel.policy.offline import train_policy
    from psychocounsel.training.adapters import Start

    table = run.recipe.policy
    found = examples(run, table.mix)
    counts = train_policy("offline", Start(start), found.both, table, run.recipe.seed, place, cache=cache)
    return {**counts, **({"mixed": found.mixed} if table.mix else {})}


def evaluate_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.pipeline.evaluation import evaluate

    return evaluate(run, folder)


def publish_stage(run: Run, folder: Path) -> Counts:
    from psychocounsel.pipeline.publishing import publish

    return publish(run, folder)


STAGE_FUNCTIONS: dict[str, Callable[[Run, Path], Counts]] = {
    "speeches": speeches_stage,
    "responses": responses_stage,
    "ratings": ratings_stage,
    "pairs": pairs_stage,
    "supervised": supervised_stage,
    "reward": reward_stage,
    "policy": policy_stage,
    "evaluate": evaluate_stage,
    "publish": publish_stage,
}
