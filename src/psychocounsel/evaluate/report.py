"""The report: one self-contained HTML page from what the stages left on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from psychocounsel.evaluate import plots
from psychocounsel.principles import Principle, load_topics
from psychocounsel.records import Pair, Rating, Speech

FIGURE_LABELS = {
    "reward.accuracy": "Reward model orders held-out pairs as the labels do",
    "reward.length_baseline": "Preferring the longer reply, same pairs",
    "judge.pair_agreement": "Grading judge orders the same pairs as the labels do",
    "winrate.offline_vs_base": "Offline policy against its base",
    "winrate.online_vs_base": "Online policy against its base",
    "winrate.online_vs_offline": "Online against offline policy",
}


@dataclass(frozen=True)
class ReportData:
    """What a report is made of. `curves` maps a training's name to its metrics rows."""

    name: str
    metrics: Mapping[str, Mapping[str, Any]]
    stages: Sequence[Mapping[str, Any]]
    speeches: Sequence[Speech]
    ratings: Sequence[Rating]
    pairs: Mapping[str, Sequence[Pair]]
    principles: Sequence[Principle]
    agreement: Mapping[str, Mapping[str, Any]]
    contests: Sequence[Mapping[str, Any]]
    reward_scores: Mapping[str, Sequence[float]]
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    samples: Sequence[Mapping[str, Any]]
    stamps: Sequence[str]
    judges: Sequence[str]
    versions: Mapping[str, str]


def render(data: ReportData) -> str:
    """The HTML text. Everything a client or model wrote is escaped; nothing is loaded from elsewhere."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    environment.filters["figure"] = figure_text
    template = environment.from_string(
        files("psychocounsel.evaluate").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        data=data,
        labels={key: text for key, text in FIGURE_LABELS.items() if key in data.metrics},
        plots=draw(data),
        verdict=verdict(data.metrics),
    )


def draw(data: ReportData) -> dict[str, str]:
    """All plots by name, as SVG text."""
    labelled = [(text, data.metrics[key]) for key, text in FIGURE_LABELS.items() if key in data.metrics]
    topics = Counter(speech.topic or "unknown" for speech in data.speeches)
    order = {key: topics[key] for key in [*load_topics(), "unknown"] if topics[key]}
    scores = {
        principle.id: [score for rating in data.ratings if (score := rating.scores.get(principle.id)) is not None]
        for principle in data.principles
    }
    gaps = [pair.gap for pair in data.pairs.get("train", [])]
    drawn = {
        "forest": plots.forest(labelled, "Main results with 95 percent intervals"),
        "scores": plots.score_bars(scores, "Ratings by principle"),
        "gaps": plots.histogram(gaps, "Gap of train pairs", "difference of overall scores"),
        "topics": plots.bars(order, "Speeches by topic", "speeches"),
        "reward": plots.two_histograms(
            data.reward_scores["chosen"],
            data.reward_scores["rejected"],
            "Reward of held-out replies",
            "reward model score",
        ),
    }
    for contest in data.contests:
        name = f"{contest['a']}-{contest['b']}"
        rows = [
            *contest["by_principle"].items(),
            *((f"topic {key}", row) for key, row in contest["by_topic"].items()),
        ]
        drawn[f"detail-{name}"] = plots.forest(rows, f"{contest['a']} against {contest['b']} by principle and topic")
    for name, metrics in data.curves.items():
        drawn[f"curve-{name}"] = plots.curves(_series(metrics), f"Training curve {name}", "loss")
    return drawn


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for key, name in (("loss", "train"), ("dev_loss", "dev")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            found[name] = ([x for x, _ in points], [y for _, y in points])
    return found


def percent(value: float | None) -> str:
    """0.873 -> '87.3 %'; None -> 'undefined'."""
    return "undefined" if value is None else f"{100 * value:.1f} %"


def figure_text(figure: Mapping[str, Any]) -> str:
    """A share with its interval and n, as people read it."""
    if figure["value"] is None:
        return "undefined (n = 0)"
    interval = "" if figure["low"] is None else f" [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
    return f"{percent(figure['value'])}{interval}, n = {figure['n']}"


def verdict(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the figures allow to be said, in sentences; never more than the intervals carry."""
    lines = []
    for key, text in (("winrate.offline_vs_base", "offline"), ("winrate.online_vs_base", "online")):
        row = metrics.get(key)
        if row and row["low"] is not None:
            outcome = "beats" if row["low"] > 0.5 else "loses to" if row["high"] < 0.5 else "cannot be told apart from"
            lines.append(f"The {text} policy {outcome} its base on speeches nobody trained on.")
    reward, length = metrics.get("reward.accuracy"), metrics.get("reward.length_baseline")
    if reward and length and reward["low"] is not None and length["high"] is not None:
        outcome = (
            "clearly better than" if reward["low"] > length["high"]
            else "clearly worse than" if reward["high"] < length["low"]
            else "not clearly better than (the intervals overlap)"
        )  # fmt: skip
        lines.append(f"The reward model orders held-out pairs {outcome} preferring the longer reply.")
    return lines


def read_metrics_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; an absent file gives none."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
