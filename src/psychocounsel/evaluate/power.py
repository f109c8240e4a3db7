"""What a comparison can show before it is paid for: half-widths, detectable differences, and calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, variance

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import FEW
from psychocounsel.evaluate.gate.rules import without_parts
from psychocounsel.evaluate.results import ItemValue
from psychocounsel.records import Record

SPREAD = 0.30  # standard deviation of s_i over speeches, of a panel of three judges
PAIRED_SPREAD = 0.35  # of the difference of two policies on one speech
CONFIDENCE, POWER = 0.95, 0.80
ORDERS = 2
CONTEST, AGAINST = "winrate.", "_vs_"  # metrics of contests: winrate.A_vs_B


class Plan(Record):
    """What a design can show: points are shares (.042 is 4.2 points). `calls` are for one policy against one baseline.

    `effective` is how many independent speeches the `speeches` in `clusters` are worth.
    """

    speeches: int
    clusters: int
    judges: int
    samples: int
    effective: float
    half_width: float
    detectable: float
    calls: int


def half_width(speeches: int, spread: float = SPREAD, *, clusters: int | None = None, alike: float = 1.0) -> float:
    """Half of the 95 % interval of a win rate: quantile * spread * sqrt(design / N).

    `clusters` of near-duplicates hold the speeches (None: each stands alone); `alike` is the correlation of s_i within
    one, 1 where a near-duplicate says nothing new. The quantile is the normal one, or Student's under 300 clusters, as
    in the interval itself. Raises UserError for a design that cannot be.
    """
    groups = _checked(speeches, spread, clusters, alike)
    return (
        _quantile((1 + CONFIDENCE) / 2, groups) * spread * math.sqrt(design_effect(speeches, groups, alike) / speeches)
    )


def detectable(
    speeches: int,
    spread: float = PAIRED_SPREAD,
    *,
    clusters: int | None = None,
    alike: float = 1.0,
    power: float = POWER,
) -> float:
    """The true difference of two policies on the same speeches that is found with `power` (5 %, two-sided)."""
    groups = _checked(speeches, spread, clusters, alike)
    if not 0.5 <= power < 1:
        raise UserError(f"power: {power} is no power; give at least .5 and under 1, for example .8")
    both = _quantile((1 + CONFIDENCE) / 2, groups) + _quantile(power, groups)
    return both * spread * math.sqrt(design_effect(speeches, groups, alike) / speeches)


def speeches_for(width: float, spread: float = SPREAD) -> int:
    """Fewest speeches, each on its own, whose half-width is at most `width`."""
    if not 0 < width < 1:
        raise UserError(f"power: a half-width of {width} is not one; give a share, for example .02 for 2 points")
    return _fewest(lambda n: half_width(n, spread), width)


def speeches_to_detect(difference: float, spread: float = PAIRED_SPREAD, power: float = POWER) -> int:
    """Fewest speeches, each on its own, on which a true paired difference is found with `power`."""
    if not 0 < difference < 1:
        raise UserError(f"power: a difference of {difference} is not one; give a share, for example .02 for 2 points")
    return _fewest(lambda n: detectable(n, spread, power=power), difference)


def panel_spread(one: float, judges: int, rho: float) -> float:
    """Standard deviation of the mean of `judges` verdicts that have the spread `one` each and correlate by `rho`."""
    if judges < 1 or not 0 <= rho <= 1 or one <= 0:
        raise UserError("power: a panel needs a judge, a spread above 0 and a correlation from 0 to 1")
    return one * math.sqrt((1 + (judges - 1) * rho) / judges)


def calls(speeches: int, judges: int, samples: int = 1) -> int:
    """Verdicts to ask for, for one policy against one baseline: every judge, both orders, every sample."""
    if min(speeches, judges, samples) < 1:
        raise UserError("power: a comparison needs at least one speech, one judge and one sample")
    return speeches * judges * samples * ORDERS


def design_effect(speeches: int, clusters: int, alike: float) -> float:
    """1 + (m - 1) * alike for clusters of m = speeches / clusters on average (Kish 1965)."""
    return 1 + (speeches / clusters - 1) * alike


def plan(
    speeches: int,
    judges: int = 3,
    *,
    clusters: int | None = None,
    samples: int = 1,
    spread: float = SPREAD,
    paired_spread: float = PAIRED_SPREAD,
    alike: float = 1.0,
    power: float = POWER,
) -> Plan:
    """Everything about one design. Raises UserError for one that cannot be."""
    groups = _checked(speeches, spread, clusters, alike)
    return Plan(
        speeches=speeches,
        clusters=groups,
        judges=judges,
        samples=samples,
        effective=round(speeches / design_effect(speeches, groups, alike), 1),
        half_width=round(half_width(speeches, spread, clusters=groups, alike=alike), 6),
        detectable=round(detectable(speeches, paired_spread, clusters=groups, alike=alike, power=power), 6),
        calls=calls(speeches, judges, samples),
    )


def spreads(items: Mapping[str, Mapping[str, ItemValue]]) -> tuple[float | None, float | None]:
    """Standard deviations of s_i, and of its difference between two candidates that met one baseline.

    `items` are values by metric and item, of win rates among others. Several contests, or pairs of them, are pooled by
    their mean variance. None where there is no contest, no pair, or no variation.
    """
    contests = {name: found for name, found in sorted(items.items()) if name.startswith(CONTEST) and AGAINST in name}
    whole, _ = without_parts({name: name for name in contests})
    pairs = [
        (contests[a], contests[b])
        for a, b in combinations(whole, 2)
        if a.rpartition(AGAINST)[2] == b.rpartition(AGAINST)[2]
    ]
    return (
        _pooled([[row.value for row in contests[name].values()] for name in whole]),
        _pooled([[a[key].value - b[key].value for key in a.keys() & b.keys()] for a, b in pairs]),
    )


def _pooled(columns: Sequence[Sequence[float]]) -> float | None:
    variances = [variance(column) for column in columns if len(column) > 1]
    return (fmean(variances) ** 0.5 or None) if variances else None


def _checked(speeches: int, spread: float, clusters: int | None, alike: float) -> int:
    groups = speeches if clusters is None else clusters
    if not 2 <= groups <= speeches:
        raise UserError(f"power: {groups} clusters of {speeches} speeches; give two or more, and no more than speeches")
    if not 0 < spread <= 1 or not 0 <= alike <= 1:
        raise UserError("power: the spread must be above 0 and at most 1, the likeness within clusters from 0 to 1")
    return groups


def _quantile(share: float, clusters: int) -> float:
    from scipy.stats import norm, t

    return float(t.ppf(share, clusters - 1) if clusters < FEW else norm.ppf(share))


def _fewest(width_of: Callable[[int], float], width: float) -> int:
    """The smallest n with width_of(n) <= width, for a width that falls as n grows."""
    low, high = 1, 2
    while width_of(high) > width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if width_of(middle) > width else (low, middle)
    return high
