"""The contests of one evaluation together: corrected p-values, candidates against each other, metrics and items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from psychocounsel.evaluate.contest.tables import ContestTable, PolicyDifference
from psychocounsel.evaluate.results import ItemValue, metric_part
from psychocounsel.evaluate.significance import holm, paired_difference
from psychocounsel.evaluate.statistics import Figure, count


def adjusted(tables: Sequence[ContestTable]) -> list[ContestTable]:
    """The same tables with Holm's p-values over all contests of an evaluation."""
    tested = {str(place): table.p for place, table in enumerate(tables) if table.p is not None}
    found = holm(tested, list(tested)) if tested else {}
    return [
        table.model_copy(update={"adjusted": round(found[str(place)].adjusted, 6) if str(place) in found else None})
        for place, table in enumerate(tables)
    ]


def policy_differences(
    tables: Sequence[ContestTable], *, bootstrap: int = 10_000, seed: int = 0
) -> list[PolicyDifference]:
    """Paired tests between all candidates that met one baseline, on the speeches both have a value for, with Holm."""
    found: list[PolicyDifference] = []
    for one, two in combinations(tables, 2):
        first, second = ({row.speech_id: row.value for row in table.speeches} for table in (one, two))
        common = first.keys() & second.keys()
        if one.b != two.b or not common:
            continue
        clusters = {row.speech_id: row.cluster for row in one.speeches}
        tested = paired_difference(
            {key: first[key] for key in common}, {key: second[key] for key in common}, clusters,
            bootstrap=bootstrap, seed=seed,
        )  # fmt: skip
        found.append(PolicyDifference(a=one.a, b=two.a, difference=tested.difference, p=tested.p, adjusted=None))
    p_values = {str(place): row.p for place, row in enumerate(found)}
    corrected = holm(p_values, list(p_values)) if found else {}
    return [
        row.model_copy(update={"adjusted": round(corrected[str(place)].adjusted, 6)}) for place, row in enumerate(found)
    ]


def metric_name(kind: str, table: ContestTable) -> str:
    """`winrate.A_vs_B` and its kin, as results.json names them."""
    return f"{kind}.{metric_part(table.a)}_vs_{metric_part(table.b)}"


def contest_metrics(table: ContestTable) -> dict[str, Figure]:
    """The figures of a contest for results.json."""
    found = {metric_name("winrate", table): table.headline.win_rate}
    if table.length:
        found[metric_name("winrate_lc", table)] = table.length.controlled
    if table.style:
        found[metric_name("winrate_style", table)] = table.style.controlled
    if table.compliance:
        found[metric_name("winrate_compliant", table)] = table.compliance.win_rate
        found[metric_name("compliant", table)] = table.compliance.compliant
    if table.dependence and table.dependence.effective is not None:
        found[metric_name("effective_judges", table)] = count(
            table.dependence.effective, "judges", table.dependence.judges
        )
    found[metric_name("missing_verdicts", table)] = count(
        table.headline.missing_verdicts, "share of verdicts", table.headline.verdicts
    )
    lost, judged = table.headline.missing, table.headline.win_rate.n
    share = lost / max(lost + judged, 1)
    found[metric_name("missing_speeches", table)] = count(share, "share of speeches", lost + judged)
    for row in table.standings:
        found[f"{metric_name('winrate', table)}.judge.{row.judge}"] = row.win_rate
    for principle in table.principles:
        found[f"{metric_name('winrate', table)}.{principle.id}"] = principle.win_rate
    return found


def contest_items(table: ContestTable) -> Iterable[ItemValue]:
    """The values behind the win rates, overall and by principle."""
    name = metric_name("winrate", table)
    for row in table.speeches:
        known = {"chars_a": row.chars_a, "chars_b": row.chars_b}
        yield ItemValue(metric=name, item=row.speech_id, cluster=row.cluster, value=row.value, known=known)
        for key, value in row.principles.items():
            yield ItemValue(metric=f"{name}.{key}", item=row.speech_id, cluster=row.cluster, value=value)
