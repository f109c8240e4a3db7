"""The report: one self-contained HTML page from what the stages left on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.evaluate import plots, rounds
from psychocounsel.evaluate.contest.plots import draw_contests
from psychocounsel.evaluate.page import environment
from psychocounsel.evaluate.results import Results
from psychocounsel.principles import Principle, load_topics
from psychocounsel.records import Pair, Rating, Speech

FIGURE_LABELS = {
    "reward.accuracy": "Reward model orders held-out pairs as the labels do",
    "reward.length_baseline": "Preferring the longer reply, same pairs",
    "judge.pair_agreement": "Grading judge orders the same pairs as the labels do",
    "winrate.offline_vs_base": "Offline policy against its base",
    "winrate.online_vs_base": "Online policy against its base",
    "winrate.online_vs_offline": "Online against offline policy",
    "winrate.prompt_vs_base": "Base with a system text from the principles, against base",
    "winrate.few_shot_vs_base": "Base with that text and examples, against base",
    "winrate.best_of_n_vs_base": "Best of N replies of base by reward, against base",
    "winrate.online_vs_best_of_n": "Online policy against best of N replies of base",
}
CHALLENGERS = {  # of base, as sentences name them
    "offline": "offline policy",
    "online": "online policy",
    "prompt": "base policy with a system text from the principles",
    "few_shot": "base policy with that text and examples",
    "best_of_n": "best of N replies of the base policy",
}


@dataclass(frozen=True)
class ReportData:
    """What a report is made of. `contests` holds tables of contests and differences of candidates, `curves` maps a
    training's name to its metrics rows; `best_of` and `online` are the curve of best-of-N and the looks at the online
    rounds, None when there were none."""

    results: Results
    stages: Sequence[Mapping[str, Any]]
    speeches: Sequence[Speech]
    ratings: Sequence[Rating]
    pairs: Mapping[str, Sequence[Pair]]
    principles: Sequence[Principle]
    agreement: Mapping[str, Mapping[str, Any]]
    contests: Mapping[str, Any]
    reward_scores: Mapping[str, Sequence[float]]
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    samples: Sequence[Mapping[str, Any]]
    best_of: Mapping[str, Any] | None = None
    online: Mapping[str, Any] | None = None

    @property
    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """The figures as the plots and the template take them."""
        return {key: figure.model_dump() for key, figure in self.results.metrics.items()}


def render(data: ReportData) -> str:
    """The HTML text. Everything a client or model wrote is escaped; nothing is loaded from elsewhere."""
    template = environment().get_template("run.html.j2")
    text: str = template.render(
        results=data.results,
        data=data,
        labels={key: text for key, text in FIGURE_LABELS.items() if key in data.metrics},
        plots=draw(data),
        verdict=verdict(data.metrics),
        told=rounds.round_sentences(data.online) if data.online else [],
        throughput=rounds.throughput(data.online["looks"]) if data.online else [],
        monitors=rounds.MONITORS,
    )
    return text


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
    names = [{"id": one.id, "name": one.name} for one in data.principles]
    drawn |= draw_contests({**data.contests, "principles": names})
    for name, metrics in data.curves.items():
        drawn[f"curve-{name}"] = plots.curves(_series(metrics), f"Training curve {name}", "loss")
    return drawn | (_best_of(data.best_of) if data.best_of else {}) | (_online(data.online) if data.online else {})


def _best_of(found: Mapping[str, Any]) -> dict[str, str]:
    points = found["points"]
    panels = {
        "reward gain, standard deviations": [(point["kl"], point["reward"]) for point in points],
        "judges' win rate against one reply": [(point["kl"], point["winrate"]) for point in points],
    }
    centres = dict(zip(panels, (0.0, 0.5), strict=True))
    drawn = {name: [row for row in rows if row[1]["value"] is not None] for name, rows in panels.items()}
    ticks = {point["kl"]: str(point["n"]) for point in points}
    return {
        "best-of": plots.bands(drawn, "Best of N replies", "N, placed by its KL from the base policy", centres, ticks)
    }


def _online(online: Mapping[str, Any]) -> dict[str, str]:
    """Reward and judges by round, and the monitors that have a value."""
    looks = online["looks"]
    main = {"reward gain over the start": "reward", "judges' win rate against the start": "judge"}
    panels = {text: points for text, name in main.items() if (points := rounds.series(looks, name))}
    watched = {text: points for name, text in rounds.MONITORS.items() if (points := rounds.series(looks, name))}
    ticks = {look["round"]: f"{look['round']}{' best' if look['round'] == online['best'] else ''}" for look in looks}
    centres = dict(zip(main, (0.0, 0.5), strict=True))
    drawn = {}
    if panels:
        drawn["rounds"] = plots.bands(panels, "Reward and judges by online round", "round", centres, ticks)
    if watched:
        drawn["monitors"] = plots.small_multiples(watched, "Monitors by online round", "round", online["best"])
    return drawn


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for key, name in (("loss", "train"), ("dev_loss", "dev")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            found[name] = ([x for x, _ in points], [y for _, y in points])
    return found


def verdict(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the figures allow to be said, in sentences; never more than the intervals carry."""
    lines = []
    best = metrics.get("online.best_round")
    for name, text in CHALLENGERS.items():
        row = metrics.get(f"winrate.{name}_vs_base")
        if name == "online" and best and best["value"] == 0:
            lines.append("Online rounds did not beat the policy they started from; that policy is kept as online.")
        elif row and row["low"] is not None:
            outcome = "beats" if row["low"] > 0.5 else "loses to" if row["high"] < 0.5 else "cannot be told apart from"
            whose = "its base" if name in ("offline", "online") else "base"
            lines.append(f"The {text} {outcome} {whose} on speeches nobody trained on.")
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
