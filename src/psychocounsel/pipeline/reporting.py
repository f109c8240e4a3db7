"""What the report is made of: reads what the finished stages left, and hands it to the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from psychocounsel.evaluate.results import Results
from psychocounsel.pipeline.contenders import read_curve
from psychocounsel.pipeline.context import Run
from psychocounsel.ratings.agreement import short_table
from psychocounsel.run import STAGES

MEASURED = STAGES[: STAGES.index("evaluate") + 1]  # publishing a run changes none of its results


def report(run: Run, results: Results, online: Mapping[str, Any] | None) -> str:
    """The page of a finished run. `online` are the looks at its online rounds, None when there were none."""
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
            "online": run.folder.stage("policy") / f"online-{_shown_round(online)}" / "metrics.jsonl",
        }.items()
        if (rows := read_metrics_rows(path))
    }
    return render(
        ReportData(
            results=results,
            stages=[
                {"name": name, "text": counts_text(manifest.counts), "seconds": manifest.seconds}
                for name, manifest in manifests.items()
            ],
            speeches=run.speeches(),
            ratings=run.ratings(),
            pairs=pairs,
            principles=run.principles,
            agreement=agreement_of(run),
            contests=json.loads((place / "contests.json").read_text(encoding="utf-8")),
            reward_scores=sides,
            curves=curves,
            samples=[row for _, row in read_rows(place / "samples.jsonl")],
            best_of=read_curve(place),
            online=online,
        )
    )


def _shown_round(online: Mapping[str, Any] | None) -> int:
    """The round whose training curve stands on the page: the one that is kept, or the last when none is."""
    return 0 if online is None else int(online["best"] or online["looks"][-1]["round"])


def agreement_of(run: Run) -> dict[str, dict[str, Any]]:
    """The judges' agreement by principle, short."""
    return short_table(json.loads((run.folder.stage("ratings") / "agreement.json").read_text(encoding="utf-8")))


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
