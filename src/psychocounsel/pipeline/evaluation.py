"""The evaluate stage and the report at the edge: reads a run's folders, measures, writes figures and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.accuracy import length_scores, pair_accuracy
from psychocounsel.evaluate.arena import Contest, hold, win_rate
from psychocounsel.evaluate.measure import check_independence, contest_table
from psychocounsel.evaluate.statistics import Figure, count
from psychocounsel.models.chat import family_of
from psychocounsel.pipeline.context import Run
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.ratings import described, open_judges
from psychocounsel.ratings.agreement import mean_kappa, short_table
from psychocounsel.ratings.judge import Judge, ScoringJudge
from psychocounsel.records import Pair, Response, Speech, Verdict, write_records, write_rows
from psychocounsel.run import STAGES, write_text

SAMPLES = 8
MEASURED = STAGES[: STAGES.index("evaluate") + 1]  # publishing a run changes none of its results
RESULTS_SCHEMA = "psychocounsel-results/1"


def evaluate(run: Run, folder: Path) -> dict[str, Any]:
    """Reward accuracy, judge agreement and the contests between policies; everything into `folder`."""
    from psychocounsel.evaluate.policies import held_out, policy_replies

    table, seed = run.recipe.evaluate, run.recipe.seed
    judges = open_judges(table.judges, run.recipe.ratings, run.recipe.models, tie=table.tie)
    labellers = sorted({(rating.judge, family_of(rating.judge)) for rating in run.ratings()})
    stamps = check_independence(judges, labellers, run.recipe.base, table)
    speeches = {speech.id: speech for speech in run.speeches()}
    responses = {response.id: response for response in run.responses()}
    pairs = run.pairs()["test"]
    figures = _reward_figures(run, pairs, speeches, responses, folder)
    figures["judge.pair_agreement"] = _judge_agreement(run, pairs, speeches, responses, judges)
    chosen = held_out(list(speeches.values()), table, seed)
    if not chosen:
        raise UserError(
            f"evaluate: no speech is in the splits {table.speeches}; raise speeches.test or name other splits"
        )
    replies = policy_replies(policies(run), chosen, table, run.recipe.policy.max_length, seed, folder)
    names = list(replies)
    matches = [(candidate, names[0]) for candidate in names[1:]] + ([(names[2], names[1])] if len(names) > 2 else [])
    tables = []
    for a, b in matches:
        verdicts = [
            verdict
            for sample in range(table.samples)
            for verdict in hold(
                Contest(a, b, replies[a][sample], replies[b][sample], sample), chosen, judges, run.principles, run.store
            )
        ]
        write_records(folder / f"verdicts-{a}-{b}.jsonl", verdicts)
        tables.append(contest_table(verdicts, speeches, run.principles, table, seed))
        figures[f"winrate.{a}_vs_{b}"] = _win_rate(run, verdicts, speeches)
    write_rows(
        folder / "samples.jsonl", _samples(chosen, {name: found[0] for name, found in replies.items()}, judges, run)
    )
    write_text(folder / "contests.json", json.dumps(tables, indent=1))
    write_text(
        folder / "figures.json",
        json.dumps({key: f.model_dump(mode="json") for key, f in figures.items()}, indent=1),
    )
    stamp = {"dependent": sorted(set(stamps)), "judges": [described(judge) for judge in judges]}
    write_text(folder / "stamps.json", json.dumps(stamp, indent=1))
    return {"speeches": len(chosen), "contests": len(tables), "dependent": bool(stamps)}


def policies(run: Run) -> dict[str, str]:
    """Policy names and model folders: base, offline, and the last online round as online."""
    from psychocounsel.supervised import starting_model

    place = run.folder.stage("policy")
    found = {
        "base": starting_model(run.folder.stage("supervised")),
        "offline": str(place / "offline" / "model"),
    }
    if run.recipe.policy.online.rounds:
        found["online"] = str(place / f"online-{run.recipe.policy.online.rounds}" / "model")
    return found


def _reward_figures(
    run: Run,
    pairs: Sequence[Pair],
    speeches: Mapping[str, Speech],
    responses: Mapping[str, Response],
    folder: Path,
) -> dict[str, Figure]:
    from psychocounsel.reward.score import RewardModel

    hard = run.hard_pairs()
    used = sorted({key for some in (pairs, *hard.values()) for pair in some for key in (pair.chosen, pair.rejected)})
    settings = {"bootstrap": run.recipe.evaluate.bootstrap, "seed": run.recipe.seed}
    scores: dict[str, float] = {}
    if used:
        model = RewardModel(run.folder.stage("reward") / "model", run.recipe.reward.max_length)
        items = [(speeches[responses[key].speech_id], responses[key].text) for key in used]
        scores = dict(zip(used, model.score(items, label="reward scores"), strict=True))
    write_rows(
        folder / "reward-scores.jsonl",
        ({"response_id": key, "score": round(value, 6)} for key, value in scores.items()),
    )
    lengths = length_scores(responses)
    figures = {
        "reward.accuracy": pair_accuracy(pairs, scores, speeches, **settings),
        "reward.length_baseline": pair_accuracy(pairs, lengths, speeches, **settings),
    }
    for name, found in hard.items():
        if found:
            figures[f"reward.accuracy_{name.replace('-', '_')}"] = pair_accuracy(found, scores, speeches, **settings)
    if matched := hard["length-matched"]:
        figures["reward.length_baseline_length_matched"] = pair_accuracy(matched, lengths, speeches, **settings)
    return figures


def _judge_agreement(
    run: Run,
    pairs: Sequence[Pair],
    speeches: Mapping[str, Speech],
    responses: Mapping[str, Response],
    judges: Sequence[Judge],
) -> Figure:
    """Do the grading judges order the labelled test pairs as the labels do? The same code as the arena."""
    best, worst = (
        {pair.speech_id: responses[getattr(pair, side)].text for pair in pairs} for side in ("chosen", "rejected")
    )
    asked = [speeches[pair.speech_id] for pair in pairs]
    verdicts = hold(Contest("chosen", "rejected", best, worst), asked, judges, run.principles, run.store)
    figure = _win_rate(run, verdicts, speeches)
    return figure.model_copy(update={"unit": "share of pairs"})


def _win_rate(run: Run, verdicts: Sequence[Verdict], speeches: Mapping[str, Speech]) -> Figure:
    return win_rate(verdicts, speeches, bootstrap=run.recipe.evaluate.bootstrap, seed=run.recipe.seed)


def _samples(
    chosen: Sequence[Speech], replies: Mapping[str, Mapping[str, str]], judges: Sequence[Judge], run: Run
) -> list[dict[str, Any]]:
    from psychocounsel.principles import overall_score

    scorer = next((judge.scorer for judge in judges if isinstance(judge, ScoringJudge)), None)

    def overall(speech: Speech, text: str) -> float | None:
        if scorer is None:
            return None
        return overall_score(scorer.score(dialogue_text(speech.turns), text), run.principles, gated=True)

    return [
        {
            "topic": speech.topic or "unknown",
            "speech": dialogue_text(speech.turns),
            "replies": [
                {"policy": name, "text": texts[speech.id], "overall": overall(speech, texts[speech.id])}
                for name, texts in replies.items()
            ],
        }
        for speech in chosen[:SAMPLES]
    ]


def write_results(run: Run) -> None:
    """RUN/results.json (a stable interface) and RUN/report.html, from what the finished stages left."""
    place = run.folder.stage("evaluate")
    figures = {key: Figure.model_validate(row) for key, row in json.loads((place / "figures.json").read_text()).items()}
    manifests = [manifest for name in MEASURED if (manifest := run.folder.manifest(name))]
    pairs = run.pairs()
    for split in ("train", "dev", "test"):
        figures[f"pairs.{split}"] = count(len(pairs[split]), "pairs", len(pairs[split]))
    figures["speeches.kept"] = count(len(run.speeches()), "speeches", len(run.speeches()))
    figures["ratings.mean_kappa"] = _kappa_figure(run)
    figures["seconds.total"] = count(sum(manifest.seconds for manifest in manifests), "seconds", len(manifests))
    metrics = {key: figure.model_dump(mode="json") for key, figure in sorted(figures.items())}
    stamps = json.loads((place / "stamps.json").read_text(encoding="utf-8"))
    body = {
        "schema": RESULTS_SCHEMA,
        "name": run.recipe.name,
        "dependent": stamps["dependent"],
        "metrics": metrics,
    }
    write_text(run.folder.path / "results.json", json.dumps(body, indent=1, ensure_ascii=False))
    write_text(run.folder.path / "report.html", _report(run, metrics, stamps))


def _kappa_figure(run: Run) -> Figure:
    table = _agreement(run)
    kappa = mean_kappa(table)
    n = max((row["n"] for row in table.values()), default=0)
    return Figure(value=None if kappa is None else round(kappa, 4), n=n, unit="mean quadratic kappa")


def _agreement(run: Run) -> dict[str, dict[str, Any]]:
    return short_table(json.loads((run.folder.stage("ratings") / "agreement.json").read_text(encoding="utf-8")))


def _report(run: Run, metrics: Mapping[str, Mapping[str, Any]], stamps: Mapping[str, list[str]]) -> str:
    from psychocounsel.evaluate.report import ReportData, read_metrics_rows, render
    from psychocounsel.records import read_rows

    place, pairs = run.folder.stage("evaluate"), run.pairs()
    scores = {row["response_id"]: row["score"] for _, row in read_rows(place / "reward-scores.jsonl")}
    sides = {side: [scores[getattr(pair, side)] for pair in pairs["test"]] for side in ("chosen", "rejected")}
    manifests = {name: manifest for name in MEASURED if (manifest := run.folder.manifest(name))}
    curves = {
        name: rows
        for name, path in {
            "language model": run.folder.stage("supervised") / "language" / "metrics.jsonl",
            "supervised": run.folder.stage("supervised") / "metrics.jsonl",
            "reward": run.folder.stage("reward") / "metrics.jsonl",
            "offline": run.folder.stage("policy") / "offline" / "metrics.jsonl",
            "online": run.folder.stage("policy") / f"online-{run.recipe.policy.online.rounds}" / "metrics.jsonl",
        }.items()
        if (rows := read_metrics_rows(path))
    }
    return render(
        ReportData(
            name=run.recipe.name,
            metrics=metrics,
            stages=[
                {"name": name, "text": counts_text(manifest.counts), "seconds": manifest.seconds}
                for name, manifest in manifests.items()
            ],
            speeches=run.speeches(),
            ratings=run.ratings(),
            pairs=pairs,
            principles=run.principles,
            agreement=_agreement(run),
            contests=json.loads((place / "contests.json").read_text(encoding="utf-8")),
            reward_scores=sides,
            curves=curves,
            samples=[row for _, row in read_rows(place / "samples.jsonl")],
            stamps=stamps["dependent"],
            judges=stamps["judges"],
            versions=manifests["evaluate"].versions,
        )
    )


def counts_text(counts: Mapping[str, Any]) -> str:
    """Counts of a stage in one readable line; nested counts in brackets."""
    parts = []
    for key, value in counts.items():
        if isinstance(value, dict):
            value = f"({counts_text(value)})" if value else "none"
        elif value is None:
            value = "undefined"
        elif isinstance(value, float):
            value = f"{value:.4g}"
        parts.append(f"{key.replace('_', ' ')} {value}")
    return ", ".join(parts)
