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
from psychocounsel.evals.scorers import Named, check_scorers, open_scorers
from psychocounsel.evals.trained import runs_of, trained_on
from psychocounsel.evaluate.contest.independence import EMBEDDED, dependence_reasons, parties
from psychocounsel.evaluate.human.labels import NEAR
from psychocounsel.evaluate.pairs.figures import PairFigures, asked_of, credits_of, pair_figures, score_replies
from psychocounsel.evaluate.pairs.invariance import PROBES, Probe, measure_probes, plan_probes
from psychocounsel.evaluate.pairs.labelled import LabelledPairs
from psychocounsel.evaluate.results import ItemValue
from psychocounsel.evaluate.statistics import Figure, cluster_mean, count
from psychocounsel.evaluate.wording import figure_text
from psychocounsel.principles import load_principles
from psychocounsel.records import Speech, Turn, content_id
from psychocounsel.speeches.clean import client_text
from psychocounsel.speeches.held_out import HeldOut


def evaluate_rm(
    models: Sequence[str],
    judges: Sequence[str],
    pairs: str,
    folder: Path,
    *,
    responses: str = "",
    speeches: str = "",
    validation: str = "",
    training: Sequence[str] = (),
    labelled_by: Sequence[str] = (),
    families: Mapping[str, str] | None = None,
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
    check_scorers(models, judges)
    if ceiling is not None and not 0 <= ceiling <= 1:
        raise UserError(f"--ceiling {ceiling}: is a share, from 0 to 1")
    settings = {
        "models": list(models), "judges": list(judges), "pairs": pairs, "responses": responses, "speeches": speeches,
        "validation": validation, "training": list(training), "labelled_by": list(labelled_by),
        "families": dict(families or {}), "probes": names, "most": most, "limit": limit, "ceiling": ceiling,
        "max_length": max_length, "bootstrap": bootstrap, "seed": seed,
    }  # fmt: skip
    found = limited(unseen(read_pairs(pairs, responses, speeches), pairs, models, training), limit, seed)
    held = read_pairs(validation, responses, speeches, "dev") if validation else None
    held = held and apart_from(held, found)
    with evaluation(folder, "eval rm", settings, budget) as place:
        scorers = open_scorers(models, judges, load_principles(), place.store, max_length)
        planned, drawn = plan_probes(found.pairs, names, most, seed)
        fitted = held.pairs if held else []
        asked = asked_of(found, fitted) + [said for row in planned for said in (row.before, row.after)]
        tables: list[dict[str, Any]] = []
        stamps = stamps_of(scorers, [*found.labellers, *labelled_by], families)
        made = Found({}, {}, dependent=stamps, judges=[one.told for one in scorers])
        for scorer in scorers:
            scores = score_replies(scorer.score, asked)
            figures = pair_figures(
                scorer.name, found, scores, fitted, logits=scorer.logits, bootstrap=bootstrap, seed=seed
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


def unseen(found: LabelledPairs, place: str, models: Sequence[str], training: Sequence[str]) -> LabelledPairs:
    """The pairs whose speeches no scorer was trained on, as far as that is known: what is nearly a speech of
    `training`, or of the run that a model lies in, is left out for all. Test pairs of that run are apart from it."""
    places = [*training, *(run for run in runs_of(models) if Path(run).resolve() != Path(place).resolve())]
    if not places:
        return found
    seen = HeldOut((text for one in dict.fromkeys(places) for text in trained_on(one)), NEAR)
    kept = found.only(lambda turns: not seen.holds(_client(turns)), "left out: nearly a training speech")
    if not kept.pairs:
        raise UserError(f"{place}: a scorer was trained on the speech of every pair ({', '.join(places)}); name others")
    return kept


def apart_from(held: LabelledPairs, found: LabelledPairs) -> LabelledPairs:
    """Validation pairs whose speeches are not nearly those of the pairs."""
    tested = HeldOut({_client(pair.turns) for pair in found.pairs}, NEAR)
    return held.only(lambda turns: not tested.holds(_client(turns)), "left out: nearly a speech of the pairs")


def limited(found: LabelledPairs, limit: int | None, seed: int) -> LabelledPairs:
    """At most so many pairs, by content hash, and what else belongs to their dialogues."""
    if limit is None or limit >= len(found.pairs):
        return found
    kept = sorted(found.pairs, key=lambda pair: content_id([seed, "limit", pair.id]))[:limit]
    dialogues = {pair.turns for pair in kept}
    fewer = found.only(lambda turns: turns in dialogues, "left out: over the limit")
    fewer.counts["left out: over the limit"] = len(found.pairs) - limit
    fewer.pairs = kept
    return fewer


def _client(turns: tuple[Turn, ...]) -> str:
    return client_text(Speech(turns=turns, source="eval"))


def stamps_of(scorers: Sequence[Named], labellers: Sequence[str], families: Mapping[str, str] | None) -> list[str]:
    """Why a judge's accuracy may be its own echo: it labelled the pairs, or one of its family did."""
    judges = [one.judge for one in scorers if one.judge is not None]
    known = judges if labellers else [judge for judge in judges if judge.family == EMBEDDED]
    reasons = dependence_reasons(known, parties(labellers=labellers), families)
    return list(dict.fromkeys(reason for told in reasons.values() for reason in told))


def metrics_of(figures: PairFigures, probes: Sequence[Probe]) -> dict[str, Figure]:
    """Names and figures for results.json."""
    at = f"rm.{figures.name}"
    found = {f"{at}.accuracy": figures.accuracy, f"{at}.missing": count(figures.missing, "pairs", figures.missing)}
    found |= {f"{at}.baseline.{key.replace(' ', '_')}": value for key, value in figures.baselines.items()}
    if held := figures.calibration:
        for key in ("nll", "brier", "ece"):
            measured = getattr(held.after, key)
            found[f"{at}.{key}"] = Figure(**measured.model_dump(), n=held.after.n, unit=key)
        found[f"{at}.temperature"] = count(held.temperature, "temperature", held.fitted)
    if length := figures.length:
        for key in ("longer", "shorter", "within"):
            found[f"{at}.length.{key}"] = getattr(length, key)
        found[f"{at}.length.slope"] = length.per_log_length
        found[f"{at}.length.only"] = length.length_only
        found[f"{at}.length_gap"] = length.apart
    for key in ("best_of", "auc", "agreed_auc", "with_rater"):
        if (figure := getattr(figures, key)) is not None:
            found[f"{at}.{key}"] = figure
    for key, figure in figures.parts["hard sets"].items():
        found[f"{at}.hard.{key.replace(' ', '_')}"] = figure
    return found | {f"{at}.probe.{probe.name}": probe.figure for probe in probes}


def ceiling_of(found: LabelledPairs, given: float | None, bootstrap: int, seed: int) -> Figure | None:
    """How often a second rater orders a pair as the first did; a number that was given stands without an interval."""
    if found.rated:
        alike, clusters = [row.alike for row in found.rated], [row.pair.cluster for row in found.rated]
        return cluster_mean(alike, clusters, "share of pairs", bootstrap=bootstrap, seed=seed)
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
        "counts": {key: value for key, value in sorted(scorer.counts.items()) if value},
        "figures": figures.model_dump(mode="json"),
        "probes": [probe.model_dump(mode="json") for probe in probes],
    }


def _about(found: LabelledPairs, held: LabelledPairs | None) -> dict[str, Any]:
    return {
        "pairs": len(found.pairs),
        "clusters of speeches": len({pair.cluster for pair in found.pairs}),
        "what was read": dict(found.counts),
        "validation pairs": len(held.pairs) if held else 0,
        "validation, as read": dict(held.counts) if held else {},
        "pairs of several raters": len(found.rated),
        "choices among several replies": len(found.choices),
        "labelled by": list(found.labellers) or "not told",
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
