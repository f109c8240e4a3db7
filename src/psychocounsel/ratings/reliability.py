"""Coefficients of agreement with intervals. Each is a function of sums over units, so one matrix product resamples all.

A table holds the scores of one question: a row for each unit (a reply), a column for each rater, NaN where a rater gave
no score. Coefficients over levels round scores between levels to the nearest one (a half goes up); those over distances
(`kappa_quadratic`, `alpha_interval`, `icc*`, `correlation`, `difference`) take scores as they are. A coefficient is NaN
where it is undefined: without doubly rated units, or without variation, where chance and agreement are one. Never 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sums = Mapping[str, Array]  # by name: (resamples, width)
LEVELS = (1, 2, 3, 4, 5)
FEWEST_UNITS = 10  # under so many units a bootstrap has too little to draw from
MOST_UNDEFINED = 0.05  # share of resamples without a value from which there is no interval
TINY = 1e-9
CHUNK = 64  # resamples in one matrix product
SHARES = ("exact", "within_one")


def coefficients(
    tables: Sequence[Array], units: NDArray[np.int64], *, raters: int, bootstrap: int = 0, seed: int = 0,
    levels: Sequence[int] = LEVELS,
) -> list[dict[str, Array]]:  # fmt: skip
    """For each table of shape (rows, columns) all coefficients, as arrays of shape (1 + bootstrap,): value, resamples.

    `units` gives the bootstrap unit of each row, 0 to n - 1; all rows of a unit are drawn together, and all tables see
    the same draws. `raters` is how many raters there are, which may be more than columns when each unit has few of
    them; ICC over a fixed panel then has no complete unit and is undefined.
    """
    count = int(units.max(initial=-1)) + 1
    names: list[dict[str, slice]] = []
    grouped: list[Array] = []
    for table in tables:
        sums, start = _sums(table, raters, levels), 0
        names.append({})
        for name, part in sums.items():
            names[-1][name] = slice(start, start := start + part.shape[1])
        grouped.append(_by_unit(np.hstack(list(sums.values())), units, count))
    totals = _draw(grouped, count, bootstrap, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        return [
            {
                name: function({key: t[:, at] for key, at in place.items()}, levels)
                for name, function in COEFFICIENTS.items()
            }
            for place, t in zip(names, totals, strict=True)
        ]


def resample(sums: Array, units: NDArray[np.int64], bootstrap: int, seed: int, count: int | None = None) -> Array:
    """Column totals of (rows, width), first as observed, then in `bootstrap` draws of units (Philox).

    `count` is the number of units where some of them may have no row. Equal counts and seeds draw equal units.
    """
    count = int(units.max(initial=-1)) + 1 if count is None else count
    return _draw([_by_unit(sums, units, count)], count, bootstrap, seed)[0]


def _by_unit(sums: Array, units: NDArray[np.int64], count: int) -> Array:
    grouped = np.zeros((count, sums.shape[1]))
    np.add.at(grouped, units, sums)
    return grouped


def _draw(grouped: Sequence[Array], count: int, bootstrap: int, seed: int) -> list[Array]:
    """Totals of each (count, width) as observed and in `bootstrap` draws of `count` units, the same for all."""
    totals = [[part.sum(axis=0, keepdims=True)] for part in grouped]
    if count >= FEWEST_UNITS:
        random = np.random.Generator(np.random.Philox(seed))
        for start in range(0, bootstrap, CHUNK):
            size = min(CHUNK, bootstrap - start)
            drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(size)]
            times = np.stack(drawn).astype(np.float64)
            for part, total in zip(grouped, totals, strict=True):
                total.append(times @ part)
    return [np.vstack(total) for total in totals]


def estimate(draws: Array, share_of: float | None = None) -> dict[str, float | None]:
    """Value and 95 % percentile interval of (value, resamples), rounded to 6 digits, None where undefined.

    There is no interval when resamples are too few, often undefined, or all equal (perfect agreement has no spread to
    draw from). A share of `share_of` units then takes Wilson's interval instead.
    """
    value = float(draws[0])
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    low, high = None, None
    defined = draws[1:][np.isfinite(draws[1:])]
    if len(defined) > 1 and len(defined) >= (1 - MOST_UNDEFINED) * (len(draws) - 1) and np.ptp(defined) > TINY:
        low, high = (float(end) for end in np.percentile(defined, [2.5, 97.5]))
    elif (share_of and len(draws) > 1) or (share_of and share_of < FEWEST_UNITS):
        low, high = wilson(value, share_of)
    rounded = [None if end is None else round(end, 6) + 0.0 for end in (value, low, high)]  # + 0.0: no -0.0
    return dict(zip(("value", "low", "high"), rounded, strict=True))


def wilson(share: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval of a share of n."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def quadratic_weights(count: int) -> Array:
    """Agreement weights 1 - (k - l)^2 / (q - 1)^2 of q levels."""
    k = np.arange(count)
    return np.asarray(1 - (k[:, None] - k[None, :]) ** 2 / max(count - 1, 1) ** 2)


def ordinal_weights(count: int) -> Array:
    """Gwet's (2014, ch. 3) ordinal weights: 1 - C(|k - l| + 1, 2) / C(q, 2)."""
    distance = np.abs(np.arange(count)[:, None] - np.arange(count)[None, :])
    return np.asarray(1 - distance * (distance + 1) / max(count * (count - 1), 1))


def _sums(table: Array, raters: int, levels: Sequence[int]) -> dict[str, Array]:
    """What each row adds to the totals, (rows, width) by name."""
    q, columns = len(levels), table.shape[1]
    present = np.isfinite(table)
    x = np.where(present, table - (levels[0] + levels[-1]) / 2, 0.0)  # centred: sums of squares keep their digits
    level = np.where(present, np.clip(np.floor(np.nan_to_num(table) - levels[0] + 0.5), 0, q - 1), -1)
    hot = [(level == k).astype(float) for k in range(q)]
    counts = np.stack([part.sum(axis=1) for part in hot], axis=1)
    m, total, squares = present.sum(axis=1).astype(float), x.sum(axis=1), (x * x).sum(axis=1)
    some, two = m >= 1, m >= 2
    pairs = np.where(two, 1 / np.maximum(m * (m - 1), 1), 0.0)
    others = np.where(two, 1 / np.maximum(m - 1, 1), 0.0)

    def agreed(weights: Array) -> Array:
        """Mean weight over a row's pairs of scores."""
        return np.asarray((((counts @ weights) * counts).sum(axis=1) - m) * pairs)

    near, margins = np.zeros(len(table)), np.zeros((len(table), 2 * q + 7))
    for i in range(columns):
        for j in range(i + 1, columns):
            both = (present[:, i] & present[:, j]).astype(float)
            a, b = x[:, i] * both, x[:, j] * both
            near += both * (np.abs(a - b) <= 1 + TINY)
            same = both * (level[:, i] == level[:, j])
            parts = [both, same, (a - b) ** 2, a, b, a * a, b * b]
            parts += [part[:, i] * both for part in hot] + [part[:, j] * both for part in hot]
            margins += np.stack(parts, axis=1)
    upper = [counts[:, c] * counts[:, k] * others for c in range(q) for k in range(c + 1, q)]
    complete = ((m == raters) & (columns == raters) & two).astype(float)
    return {
        "rows": np.stack([two, some], axis=1).astype(float),
        "agreed": np.stack(
            [agreed(np.eye(q)), agreed(quadratic_weights(q)), agreed(ordinal_weights(q)), 2 * near * pairs], axis=1
        ),
        "shares": counts / np.maximum(m, 1)[:, None],
        "pairs": margins,
        "counts": counts * two[:, None],
        "unlike": np.stack(upper, axis=1) if upper else np.zeros((len(table), 0)),
        "moments": np.stack([two, m, m * m, total, squares, total * total / np.maximum(m, 1)], axis=1) * two[:, None],
        "distance": (2 * (m * squares - total * total) * others)[:, None],
        "complete": np.column_stack([np.ones(len(table)), total * total, squares, x]) * complete[:, None],
    }


def _defined(value: Array, where: NDArray[np.bool_]) -> Array:
    return np.where(where, value, np.nan)


def _agreed(column: int) -> Callable[[Sums, Sequence[int]], Array]:
    return lambda t, levels: _defined(t["agreed"][:, column] / t["rows"][:, 0], t["rows"][:, 0] > 0)


def _gwet(column: int, weights: Callable[[int], Array]) -> Callable[[Sums, Sequence[int]], Array]:
    """Gwet (2008, 2014) AC1 and AC2: chance from the mean share of each level; several raters, missing scores."""

    def coefficient(t: Sums, levels: Sequence[int]) -> Array:
        q = len(levels)
        share = t["shares"] / t["rows"][:, 1:2]
        chance = weights(q).sum() / (q * (q - 1)) * (share * (1 - share)).sum(axis=1)
        value = (t["agreed"][:, column] / t["rows"][:, 0] - chance) / (1 - chance)
        return _defined(value, (t["rows"][:, 0] > 0) & (share.max(axis=1) < 1 - TINY))

    return coefficient


def _cohen(t: Sums, levels: Sequence[int]) -> Array:
    """Cohen (1960) over all pairs of raters of a unit, the earlier column first."""
    n, same, q = t["pairs"][:, 0], t["pairs"][:, 1], len(levels)
    chance = (t["pairs"][:, 7 : 7 + q] * t["pairs"][:, 7 + q :]).sum(axis=1) / n**2
    return _defined((same / n - chance) / (1 - chance), (n > 0) & (1 - chance > TINY))


def _pair_moments(t: Sums) -> tuple[Array, ...]:
    n = t["pairs"][:, 0]
    distance, a, b, aa, bb = (t["pairs"][:, k] / n for k in range(2, 7))
    return n, distance, a, b, aa, bb


def _quadratic(t: Sums, levels: Sequence[int]) -> Array:
    """Cohen (1968) with quadratic weights: 1 - E(x - y)^2 / E(x - y')^2, y' independent of x."""
    n, distance, a, b, aa, bb = _pair_moments(t)
    chance = aa + bb - 2 * a * b
    return _defined(1 - distance / chance, (n > 0) & (chance > TINY))


def _correlation(t: Sums, levels: Sequence[int]) -> Array:
    n, distance, a, b, aa, bb = _pair_moments(t)
    spread = (aa - a * a) * (bb - b * b)
    return _defined(
        ((aa + bb - distance) / 2 - a * b) / np.sqrt(np.maximum(spread, TINY**2)), (n > 0) & (spread > TINY)
    )


def _difference(t: Sums, levels: Sequence[int]) -> Array:
    """Mean of first minus second: how much milder the first rater is."""
    n, _, a, b, _, _ = _pair_moments(t)
    return _defined(a - b, n > 0)


def _alpha(metric: str) -> Callable[[Sums, Sequence[int]], Array]:
    """Krippendorff (2011): 1 - (N - 1) sum(o_ck d_ck) / sum(n_c n_k d_ck) over levels c < k."""

    def coefficient(t: Sums, levels: Sequence[int]) -> Array:
        counts, q = t["counts"], len(levels)
        c, k = np.triu_indices(q, 1)
        below = np.cumsum(counts, axis=1)
        between = below[:, k] - below[:, c] + (counts[:, c] - counts[:, k]) / 2
        d = np.ones_like(between) if metric == "nominal" else between**2
        chance = (counts[:, c] * counts[:, k] * d).sum(axis=1)
        value = 1 - (counts.sum(axis=1) - 1) * (t["unlike"] * d).sum(axis=1) / chance
        return _defined(value, chance > TINY)

    return coefficient


def _alpha_interval(t: Sums, levels: Sequence[int]) -> Array:
    n, total, squares = (t["moments"][:, k] for k in (1, 3, 4))
    chance = 2 * (n * squares - total**2) / (n - 1)
    return _defined(1 - t["distance"][:, 0] / chance, (n > 1) & (chance > TINY))


def _icc_one_way(t: Sums, levels: Sequence[int]) -> Array:
    """ICC(1,1) of McGraw & Wong (1996); units may have unequal numbers of raters (k0 in place of k)."""
    rows, n, nn, total, squares, between = (t["moments"][:, k] for k in range(6))
    row_mean = (between - total**2 / n) / (rows - 1)
    error = (squares - between) / (n - rows)
    k0 = (n - nn / n) / (rows - 1)
    whole = row_mean + (k0 - 1) * error
    return _defined((row_mean - error) / whole, (rows > 1) & (whole > TINY))


def _icc_two_way(of_mean: bool) -> Callable[[Sums, Sequence[int]], Array]:
    """ICC(A,1) and ICC(A,k) of McGraw & Wong (1996), ICC(2,1) and ICC(2,k) of Shrout & Fleiss (1979)."""

    def coefficient(t: Sums, levels: Sequence[int]) -> Array:
        n, totals, squares = (t["complete"][:, k] for k in range(3))
        columns = t["complete"][:, 3:]
        k = columns.shape[1]
        centre = columns.sum(axis=1) ** 2 / (n * k)
        between_rows, between_raters = totals / k - centre, (columns**2).sum(axis=1) / n - centre
        rows, raters = between_rows / (n - 1), between_raters / max(k - 1, 1)
        error = np.maximum(squares - centre - between_rows - between_raters, 0) / ((n - 1) * max(k - 1, 1))
        whole = rows + (raters - error) / n if of_mean else rows + (k - 1) * error + k * (raters - error) / n
        return _defined((rows - error) / whole, (n > 1) & (k > 1) & (whole > TINY))

    return coefficient


COEFFICIENTS: dict[str, Callable[[Sums, Sequence[int]], Any]] = {
    "exact": _agreed(0),
    "within_one": _agreed(3),
    "kappa": _cohen,
    "kappa_quadratic": _quadratic,
    "alpha_nominal": _alpha("nominal"),
    "alpha": _alpha("ordinal"),
    "alpha_interval": _alpha_interval,
    "ac1": _gwet(0, np.eye),
    "ac2": _gwet(1, quadratic_weights),
    "ac2_ordinal": _gwet(2, ordinal_weights),
    "icc_one_way": _icc_one_way,
    "icc": _icc_two_way(of_mean=False),
    "icc_mean": _icc_two_way(of_mean=True),
    "correlation": _correlation,
    "difference": _difference,
}
ON_DISTANCES = ("within_one", "kappa_quadratic", "alpha_interval", "icc_one_way", "icc", "icc_mean")
ON_TWO = ("correlation", "difference")
