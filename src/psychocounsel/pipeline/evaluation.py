"""The evaluate stage and the report at the edge: reads a run's folders, measures, writes figures and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.baselines import check_baselines
from psychocounsel.evaluate.contest.arena import Contest, hold, speech_values, win_rate
from psychocounsel.evaluate.contest.family import adjusted, contest_items, contest_metrics, policy_differences
from psychocounsel.evaluate.contest.tables import ContestTable, contest_table
from psychocounsel.evaluate.pairs.accuracy import length_scores, pair_accuracy, pair_items
from psychocounsel.evaluate.results import ItemValue, Results, write_results
from psychocounsel.evaluate.rounds import read_rounds, round_figures
from psychocounsel.evaluate.statistics import Figure, count
from psychocounsel.pipeline.contenders import best_of_curve, contests, replies_of
from psychocounsel.pipeline.context import Run
from psychocounsel.pipeline.preflight import independent
from psychocounsel.pipeline.reporting import MEASURED, agreement_of, counts_text, report
from psychocounsel.pipeline.reward_figures import sureness
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.ratings import described, open_judges
from psychocounsel.ratings.agreement import mean_kappa
from psychocounsel.ratings.judge import Judge, ScoringJudge
from psychocounsel.records import Pair, Response, Speech, Verdict, read_rows, write_records, write_rows, write_text

SAMPLES = 8
__all__ = ["counts_text", "evaluate", "finish"]


def evaluate(run: Run, folder: Path) -> dict[str, Any]:
    """Reward accuracy, judge agreement and the contests between policies; everything into `folder`."""
    from psychocounsel.evaluate.policies import held_out, reply_counts

    table, seed = run.recipe.evaluate, run.recipe.seed
    check_baselines(table)
    judges = open_judges(table.judges, run.recipe.ratings, run.recipe.models, tie=table.tie)
    reasons = independent(run.recipe, judges, sorted({rating.judge for rating in run.ratings()}))
    speeches = {speech.id: speech for speech in run.speeches()}
    chosen = held_out(list(speeches.values()), table, seed)
    if not chosen:
        raise UserError(
            f"evaluate: no speech is in the splits {table.speeches}; raise speeches.test or name other splits"
        )
    replies = replies_of(run, chosen, folder)  # before judges are asked: a prompt may turn out not to fit
    responses = {response.id: response for response in run.responses()}
    pairs = run.pairs()["test"]
    figures = _reward_figures(run, pairs, speeches, responses, folder)
    figures["judge.pair_agreement"] = _judge_agreement(run, pairs, speeches, responses, judges)
    tables = _contests(run, chosen, replies, judges, list(reasons), folder)
    for one in tables:
        figures |= contest_metrics(one)
    if table.best_of:
        figures |= best_of_curve(run, chosen, replies["base"], judges, folder).figures()
    write_rows(
        folder / "samples.jsonl", _samples(chosen, {name: found[0] for name, found in replies.items()}, judges, run)
    )
    told = {
        "contests": [one.model_dump(mode="json") for one in tables],
        "differences": [
            one.model_dump(mode="json") for one in policy_differences(tables, bootstrap=table.bootstrap, seed=seed)
        ],
    }
    write_text(folder / "contests.json", json.dumps(told, indent=1, ensure_ascii=False))
    write_text(
        folder / "figures.json",
        json.dumps({key: f.model_dump(mode="json") for key, f in figures.items()}, indent=1),
    )
    stamps = sorted({reason for told in reasons.values() for reason in told})
    stamp = {"dependent": stamps, "judges": [described(judge) for judge in judges]}
    write_text(folder / "stamps.json", json.dumps(stamp, indent=1))
    return {
        "speeches": len(chosen),
        "contests": len(tables),
        **reply_counts(folder, list(replies)),
        "dependent": bool(stamps),
    }


def _contests(
    run: Run,
    chosen: Sequence[Speech],
    replies: Mapping[str, Sequence[Mapping[str, str]]],
    judges: Sequence[Judge],
    dependent: Sequence[str],
    folder: Path,
) -> list[ContestTable]:
    """All contests between the policies; the verdicts on each are kept in the folder."""
    table, speeches = run.recipe.evaluate, {speech.id: speech for speech in chosen}
    verdicts: dict[tuple[str, str], list[Verdict]] = {}
    for a, b in contests(list(replies)):
        verdicts[a, b] = [
            verdict
            for sample in range(table.samples)
            for verdict in hold(
                Contest(a, b, replies[a][sample], replies[b][sample], sample), chosen, judges, run.principles, run.store
            )
        ]
        write_records(folder / f"verdicts-{a}-{b}.jsonl", verdicts[a, b])
    values = {
        pair: speech_values([one for one in found if one.judge not in dependent] or found)
        for pair, found in verdicts.items()
    }
    return adjusted(
        [
            contest_table(
                found,
                speeches,
                run.principles,
                dependent=dependent,
                texts={key: (replies[a][0][key], replies[b][0][key]) for key in speeches},
                others={other: row for (other, against), row in values.items() if against == b and other != a},
                bootstrap=table.bootstrap,
                seed=run.recipe.seed,
            )
            for (a, b), found in verdicts.items()
        ]
    )


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
    return figures | sureness(run.folder.stage("reward") / "model", pairs, scores, speeches, responses, **settings)


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


def finish(run: Run) -> None:
    """RUN/results.json, items.jsonl (stable interfaces) and RUN/report.html, from what the finished stages left."""
    place = run.folder.stage("evaluate")
    figures = {key: Figure.model_validate(row) for key, row in json.loads((place / "figures.json").read_text()).items()}
    manifests = [manifest for name in MEASURED if (manifest := run.folder.manifest(name))]
    pairs = run.pairs()
    for split in ("train", "dev", "test"):
        figures[f"pairs.{split}"] = count(len(pairs[split]), "pairs", len(pairs[split]))
    figures["speeches.kept"] = count(len(run.speeches()), "speeches", len(run.speeches()))
    figures["ratings.mean_kappa"] = _kappa_figure(run)
    figures["seconds.total"] = count(sum(manifest.seconds for manifest in manifests), "seconds", len(manifests))
    online = read_rounds(run.folder.stage("policy"))
    figures |= round_figures(online) if online else {}
    stamps = json.loads((place / "stamps.json").read_text(encoding="utf-8"))
    results = Results(
        name=run.recipe.name,
        dependent=stamps["dependent"],
        judges=stamps["judges"],
        versions=manifests[-1].versions,
        metrics=dict(sorted(figures.items())),
    )
    write_results(run.folder.path, results, _items(run, pairs["test"]))
    write_text(run.folder.path / "report.html", report(run, results, online))


def _items(run: Run, pairs: Sequence[Pair]) -> list[ItemValue]:
    """What stands behind the win rates and the reward model's accuracy, item by item."""
    place = run.folder.stage("evaluate")
    scores = {row["response_id"]: row["score"] for _, row in read_rows(place / "reward-scores.jsonl")}
    found = pair_items("reward.accuracy", pairs, scores, {speech.id: speech for speech in run.speeches()})
    tables = json.loads((place / "contests.json").read_text(encoding="utf-8"))["contests"]
    return found + [item for row in tables for item in contest_items(ContestTable.model_validate(row))]


def _kappa_figure(run: Run) -> Figure:
    table = agreement_of(run)
    kappa = mean_kappa(table)
    n = max((row["n"] for row in table.values()), default=0)
    return Figure(value=None if kappa is None else round(kappa, 4), n=n, unit="mean quadratic kappa")
