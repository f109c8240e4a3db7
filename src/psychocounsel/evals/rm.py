"""`eval rm`: reward models and judges on labelled pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from psychocounsel.errors import UserError, nearest
from psychocounsel.evals.pairs import read_pairs
from psychocounsel.evals.place import Found, evaluation
from psychocounsel.evals.scorers import Named, open_scorers
from psychocounsel.evaluate.contest.independence import EMBEDDED, IN_SAMPLE
from psychocounsel.evaluate.pairs.figures import PairFigures, asked_of, credits_of, pair_figures, score_replies
from psychocounsel.evaluate.pairs.invariance import PROBES, Probe, measure_probes, plan_probes
from psychocounsel.evaluate.pairs.labelled import LabelledPair, LabelledPairs
from psychocounsel.evaluate.results import ItemValue
from psychocounsel.evaluate.statistics import Figure, cluster_mean, count
from psychocounsel.evaluate.wording import figure_text
from psychocounsel.principles import load_principles
from psychocounsel.records import content_id


def evaluate_rm(
    models: Sequence[str],
    judges: Sequence[str],
    pairs: str,
    folder: Path,
    *,
    responses: str = "",
    speeches: str = "",
    validation: str = "",
    probes: str = "all",
    most: int = 200,
    limit: int | None = None,
    ceiling: float | None = None,
    max_length: int = 2048,
    bootstrap: int = 10_000,
    seed: int = 0,
    budget: float | None = None,
    name: str = "",
) -> Path:
    """Measure every scorer on the same pairs; results, tables and the page go into `folder`. Returns the page."""
    names = _probe_names(probes)
    if ceiling is not None and not 0 <= ceiling <= 1:
        raise UserError(f"--ceiling {ceiling}: is a share, from 0 to 1")
    settings = {
        "models": list(models), "judges": list(judges), "pairs": pairs, "responses": responses, "speeches": speeches,
        "validation": validation, "probes": names, "most": most, "limit": limit, "ceiling": ceiling,
        "max_length": max_length, "bootstrap": bootstrap, "seed": seed,
    }  # fmt: skip
    found = read_pairs(pairs, responses, speeches)
    held = read_pairs(validation, responses, speeches, "dev").pairs if validation else []
    if limit is not None and limit < len(found.pairs):
        found.counts["left out: over the limit"] = len(found.pairs) - limit
        found.pairs = sorted(found.pairs, key=lambda pair: content_id([seed, "limit", pair.id]))[:limit]
    with evaluation(folder, "eval rm", settings, budget) as place:
        scorers = open_scorers(models, judges, load_principles(), place.store, max_length)
        planned, drawn = plan_probes(found.pairs, names, most, seed)
        asked = asked_of(found, held) + [said for row in planned for said in (row.before, row.after)]
        tables: list[dict[str, Any]] = []
        in_sample = [IN_SAMPLE for one in scorers if one.judge is not None and one.judge.family == EMBEDDED]
        made = Found({}, {}, dependent=in_sample, judges=[one.told for one in scorers])
        for scorer in scorers:
            scores = score_replies(scorer.score, asked)
            figures = pair_figures(
                scorer.name, found, scores, held, logits=scorer.logits, bootstrap=bootstrap, seed=seed
            )
            probed = measure_probes(planned, names, scores, drawn, bootstrap=bootstrap, seed=seed)
            made.metrics |= metrics_of(figures, probed)
            made.items += [
                ItemValue(metric=f"rm.{scorer.name}.accuracy", item=pair.id, cluster=pair.cluster, value=value)
                for pair, value in credits_of(found.pairs, scores)
            ]
            tables.append(_told(scorer, figures, probed))
        human = ceiling_of(found, ceiling, bootstrap, seed)
        if human is not None:
            made.metrics["rm.ceiling"] = human
        made.tables = {"scorers": tables, "ceiling": human.model_dump() if human else None, "set": found.name}
        made.about = _about(found, held)
        report = place.finish(name or f"{found.name}: reward models and judges", made)
    Console().print(_table(tables, human))
    return report


def metrics_of(figures: PairFigures, probes: Sequence[Probe]) -> dict[str, Figure]:
    """Names and figures for results.json."""
    at = f"rm.{figures.name}"
    found = {f"{at}.accuracy": figures.accuracy, f"{at}.missing": count(figures.missing, "pairs", figures.missing)}
    found |= {f"{at}.baseline.{key.replace(' ', '_')}": value for key, value in figures.baselines.items()}
    if held := figures.calibration:
        for key in ("nll", "brier", "ece", "auc"):
            measured = getattr(held.after, key)
            found[f"{at}.{key}"] = Figure(**measured.model_dump(), n=held.after.n, unit=key)
        found[f"{at}.temperature"] = count(held.temperature, "temperature", held.after.n)
    if length := figures.length:
        for key in ("longer", "shorter", "within"):
            found[f"{at}.length.{key}"] = getattr(length, key)
        found[f"{at}.length.slope"] = length.per_log_length
        if length.apart is not None:
            found[f"{at}.length_gap"] = count(abs(length.apart), "difference in share of pairs", figures.accuracy.n)
    if figures.best_of:
        found[f"{at}.best_of"] = figures.best_of
    for key, figure in figures.parts["hard sets"].items():
        found[f"{at}.hard.{key.replace(' ', '_')}"] = figure
    return found | {f"{at}.probe.{probe.name}": probe.figure for probe in probes}


def ceiling_of(found: LabelledPairs, given: float | None, bootstrap: int, seed: int) -> Figure | None:
    """How often a second rater orders a pair as the first did; a number that was given stands without an interval."""
    if found.ceiling is not None:
        values, clusters = found.ceiling
        return cluster_mean(values, clusters, "share of pairs", bootstrap=bootstrap, seed=seed)
    return None if given is None else count(given, "share of pairs, as given")


def _probe_names(text: str) -> list[str]:
    if text in ("all", "none"):
        return list(PROBES) if text == "all" else []
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in PROBES:
            raise UserError(
                f"--probes {name}: no such probe{nearest(name, list(PROBES))}; there are {', '.join(PROBES)}"
            )
    return list(dict.fromkeys(names))


def _told(scorer: Named, figures: PairFigures, probes: Sequence[Probe]) -> dict[str, Any]:
    return {
        "told": scorer.told,
        "logits": scorer.logits,
        "figures": figures.model_dump(mode="json"),
        "probes": [probe.model_dump(mode="json") for probe in probes],
    }


def _about(found: LabelledPairs, held: Sequence[LabelledPair]) -> dict[str, Any]:
    return {
        "pairs": len(found.pairs),
        "clusters of speeches": len({pair.cluster for pair in found.pairs}),
        "what was read": dict(found.counts),
        "validation pairs": len(held),
        "choices among several replies": len(found.choices),
        "licence": found.license or "not told",
    }


def _table(tables: Sequence[Mapping[str, Any]], human: Figure | None) -> Table:
    table = Table(title="Reward models and judges on labelled pairs", title_justify="left")
    for heading in ("scorer", "accuracy", "ECE", "longer", "shorter", "probes passed"):
        table.add_column(heading, overflow="fold")
    for row in tables:
        figures, probes = row["figures"], [probe for probe in row["probes"] if probe["passes"] is not None]
        ece = figures["calibration"]["after"]["ece"]["value"] if figures["calibration"] else None
        length = figures["length"]
        table.add_row(
            figures["name"], figure_text(figures["accuracy"]), "" if ece is None else f"{ece:.3f}",
            figure_text(length["longer"]) if length else "", figure_text(length["shorter"]) if length else "",
            f"{sum(probe['passes'] for probe in probes)} of {len(probes)}",
        )  # fmt: skip
    if tables:
        for key, value in tables[0]["figures"]["baselines"].items():
            table.add_row(f"rule: {key}", figure_text(value), "", "", "", "")
    if human is not None:
        table.add_row("raters among themselves", figure_text(human.model_dump()), "", "", "", "")
    return table
