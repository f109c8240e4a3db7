"""Length-controlled win rate: what the win rate would be if both policies wrote replies of one length.

After the length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475): a fractional logit of s_i on the
difference in length, read off where that difference is 0. Questions and reflections are never controlled for: they are
what the policies are trained to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from psychocounsel.errors import UserError
from psychocounsel.evaluate.clusters import (
    FEWEST,
    SKEWED,
    TINY,
    Array,
    Clusters,
    Interval,
    clusters_of,
    mean_interval,
    numbers,
    of_draws,
    skewness,
    weight_blocks,
)
from psychocounsel.evaluate.logit import Fits, exact, fit_logit, refit
from psychocounsel.evaluate.statistics import Figure, figure
from psychocounsel.records import Record

MOVED = 0.10  # a correction beyond it is a warning (the rule of AlpacaEval)
NEAR = 0.5  # pairs whose lengths differ by less than half a standard deviation ...
LEAST_NEAR = 0.2  # ... must be this many, or equal length is a guess beyond the data
FEWEST_POLICIES = 4  # from so many on, the difficulty of a speech can be taken from the other policies
EDGE = 0.02  # shares are held this far from 0 and 1 before their logit is taken
BLOCK = 2**20  # weights in one block of refits
UNIT = "share of speeches at equal length"
STYLES = ("bullets", "bold", "headers")


class LengthControlled(Record):
    """The win rate at equal length beside the raw one. `controlled` is None where it cannot be told; `notes` say why.

    `slope` is phi, the change in log odds from far shorter to equal (or equal to far longer), with a cluster-robust
    interval. `spread` is the standard deviation of the difference in length, in `unit`; `near` the share of pairs
    within half of it; `extrapolated` says that these are too few. `penalised` of `draws` refits were separated.
    `style` holds the coefficients of the style variant, per standard deviation.
    """

    win_rate: float
    controlled: Figure
    slope: Figure
    unit: str
    spread: float
    near: float
    extrapolated: bool
    penalised: int
    draws: int
    style: dict[str, float]
    notes: tuple[str, ...]


class Design(NamedTuple):
    """Columns of the regression (n, p): constant, tanh(d), styles, difficulty last; `equal` has d and styles at 0."""

    columns: Array
    equal: Array
    styles: tuple[str, ...]


def length_controlled(
    values: ArrayLike,
    clusters: Sequence[str],
    lengths_a: ArrayLike,
    lengths_b: ArrayLike,
    *,
    difficulty: ArrayLike | None = None,
    style: ArrayLike | None = None,
    unit: str = "characters",
    bootstrap: int = 2_000,
    seed: int = 0,
) -> LengthControlled:
    """Fit logit E[s_i] = theta + phi tanh(d_i) (+ psi gamma_i) and give the mean of sigma(theta + psi gamma_i).

    `values` s_i (n,) within 0 and 1, one cluster name for each, and the lengths of both replies in `unit`; d_i is the
    difference over its standard deviation. `difficulty` gamma_i (n,) is that of `difficulties`; `style` (n, 3) are
    differences of `style_density`, a minus b. The slope and its interval come from statsmodels' GLM with a
    cluster-robust covariance, the interval of the controlled rate from refits with cluster-bootstrap weights.

    Raises UserError for NaN, values outside 0 to 1, negative lengths and lists of unequal length.
    """
    s, a, b = numbers(values, "win values"), numbers(lengths_a, "lengths"), numbers(lengths_b, "lengths")
    if not s.size or not len(s) == len(a) == len(b) == len(clusters):
        raise UserError("evaluate: length control needs values, and a cluster and two lengths for each")
    if s.min() < 0 or s.max() > 1 or min(a.min(), b.min()) < 0:
        raise UserError("evaluate: length control needs values within 0 and 1 and lengths of 0 or more")
    spread = float(np.std(a - b))
    d = (a - b) / spread if spread > TINY else np.zeros_like(s)
    near = float((np.abs(d) < NEAR).mean()) if spread > TINY else float((np.abs(a - b) <= TINY).mean())
    notes, impossible = _first_notes(s, a - b, spread)
    raw = float(s.mean())
    found: dict[str, object] = {
        "win_rate": round(raw, 4), "unit": unit, "spread": round(spread, 2), "near": round(near, 4),
        "extrapolated": near < LEAST_NEAR, "penalised": 0, "draws": 0, "style": {},
    }  # fmt: skip
    if impossible:
        nothing = Figure(value=None, n=len(s), unit=UNIT)
        return LengthControlled.model_validate({**found, "controlled": nothing, "slope": nothing, "notes": notes})
    design, dropped = _design(d, spread, difficulty, style, len(s))
    numbered = clusters_of(clusters)
    fit = fit_logit(s, design.columns, np.ones((1, len(s))))
    rate = float(_rates(fit.beta, design, np.ones((1, len(s))))[0])
    interval, refits = _interval(s, design, numbered, fit.beta[0], rate, bootstrap, seed)
    notes += [*dropped, *_last_notes(raw, rate, near, bool(fit.penalised[0]), refits)]
    found |= {
        "controlled": figure(rate, interval, len(s), UNIT),
        "slope": _slope(s, design, numbered, fit, spread),
        "penalised": int(refits.penalised.sum()),
        "draws": len(refits.penalised),
        "style": {name: round(float(fit.beta[0, at]), 4) for at, name in enumerate(design.styles, 1 + (spread > TINY))},
        "notes": notes,
    }
    return LengthControlled.model_validate(found)


def difficulties(values: Mapping[str, ArrayLike], policy: str) -> Array | None:
    """gamma_i (speeches,): mean logit of a speech over the other policies, centred. None under four policies.

    `values` gives s_i of each policy on the same speeches, all against one baseline; NaN where missing. A speech that
    no other policy answered gets 0, the mean. Raises UserError for an unknown policy or unequal lengths.
    """
    if policy not in values:
        raise UserError(f"evaluate: there is no policy {policy} among {', '.join(sorted(values))}")
    if len(values) < FEWEST_POLICIES:
        return None
    rows = [np.asarray(row, dtype=np.float64) for name, row in sorted(values.items()) if name != policy]
    if len({len(row) for row in rows}) > 1 or len(rows[0]) != len(np.asarray(values[policy])):
        raise UserError("evaluate: difficulties need all policies on the same speeches")
    shares = np.clip(np.stack(rows), EDGE, 1 - EDGE)
    logits = np.log(shares / (1 - shares))
    known = np.isfinite(logits)
    heard = known.sum(axis=0)
    mean = np.where(known, logits, 0.0).sum(axis=0) / np.maximum(heard, 1)
    centre = float(mean[heard > 0].mean()) if (heard > 0).any() else 0.0
    return np.asarray(np.where(heard > 0, mean - centre, 0.0))


def _first_notes(s: Array, difference: Array, spread: float) -> tuple[list[str], bool]:
    """What is odd before anything is fitted, and whether nothing can be fitted at all."""
    if len(s) == 1:
        return ["one speech: nothing can be told about length"], True
    if spread <= TINY and abs(float(difference[0])) > TINY:
        return ["the difference in length is the same for every speech: it cannot be told from the policies"], True
    notes = []
    if spread <= TINY:
        notes.append("both replies to every speech have one length: there is nothing to control for")
    if float(np.ptp(s)) <= TINY:
        notes.append("every verdict is a tie" if abs(s[0] - 0.5) <= TINY else "every speech has the same value")
    return notes, False


def _last_notes(raw: float, rate: float, near: float, separated: bool, refits: Fits) -> list[str]:
    notes = []
    if abs(rate - raw) > MOVED:
        notes.append(f"length control moves the win rate by {100 * (rate - raw):+.1f} points; read the replies")
    if near < LEAST_NEAR:
        notes.append(f"extrapolated: only {near:.0%} of pairs are of about equal length")
    if separated:
        notes.append("length (or the policy) decides every verdict: the fit is penalised")
    elif refits.penalised.any():
        notes.append(f"{int(refits.penalised.sum())} of {len(refits.penalised)} refits are penalised (separated)")
    return notes


def _design(
    d: Array, spread: float, difficulty: ArrayLike | None, style: ArrayLike | None, n: int
) -> tuple[Design, list[str]]:
    columns, names, notes = [np.ones(n)], [], []
    if spread > TINY:
        columns.append(np.tanh(d))
    marks = numbers(np.zeros((n, 0)) if style is None else style, "style")
    if marks.ndim != 2 or len(marks) != n or marks.shape[1] not in (0, len(STYLES)):
        raise UserError(f"evaluate: style needs a row of {len(STYLES)} differences for each value")
    for name, column in zip(STYLES, marks.T, strict=False):
        scale = float(np.std(column))
        if scale <= TINY:
            alike = float(np.abs(column).max()) <= TINY
            notes.append(f"{name}: {'used alike' if alike else 'the same difference'} in every pair, not controlled")
            continue
        if np.linalg.matrix_rank(np.column_stack([*columns, column])) == len(columns):
            notes.append(f"{name}: goes with length or another style in every pair, not controlled apart from it")
            continue
        columns.append(column / scale)
        names.append(name)
    equal = np.zeros((n, len(columns)))
    equal[:, 0] = 1
    made = np.column_stack(columns)
    if difficulty is not None:
        gamma = numbers(difficulty, "difficulties")
        if gamma.shape != (n,):
            raise UserError("evaluate: difficulties need one number for each value")
        made, equal = np.column_stack([made, gamma]), np.column_stack([equal, gamma])
    return Design(made, equal, tuple(names)), notes


def _rates(beta: Array, design: Design, weights: Array) -> Array:
    """The mean chance at equal length for each row of coefficients and weights, (draws,)."""
    chances = 1 / (1 + np.exp(-np.clip(beta @ design.equal.T, -30, 30)))
    return np.asarray((weights * chances).sum(axis=1) / weights.sum(axis=1))


def _interval(
    s: Array, design: Design, clusters: Clusters, start: Array, rate: float, bootstrap: int, seed: int
) -> tuple[Interval, Fits]:
    none = Fits(np.zeros((0, len(start))), np.zeros(0, dtype=bool))
    if float(np.ptp(s)) <= TINY:  # no refit would differ, though other speeches might
        return mean_interval(s, clusters, share=True), none
    if clusters.count < FEWEST or bootstrap < 2:
        return Interval(None, None, f"under {FEWEST} clusters"), none
    rows = max(1, BLOCK // len(s))

    def without() -> Iterator[Array]:
        for first in range(0, clusters.count, rows):
            left = np.arange(first, min(first + rows, clusters.count))
            yield (clusters.member[None, :] != left[:, None]).astype(np.float64)

    refits = refit(s, design.columns, item_weights(clusters, bootstrap, seed), start)
    draws = _each(refits, design, item_weights(clusters, bootstrap, seed))
    # the jackknife costs a refit for each cluster: only where the draws are skewed
    left = (
        _each(refit(s, design.columns, without(), start), design, without()) if abs(skewness(draws)) > SKEWED else None
    )
    return of_draws(rate, draws, left), refits


def item_weights(clusters: Clusters, draws: int, seed: int) -> Iterator[Array]:
    """Blocks of cluster-bootstrap weights of the items, (some draws, n); equal seeds give equal weights."""
    rows = max(1, BLOCK // len(clusters.member))
    for block in weight_blocks(clusters.count, draws, seed, rows * clusters.count):
        yield block[:, clusters.member]


def controlled_draws(
    values: Array, lengths: tuple[Array, Array], clusters: Clusters, draws: int, seed: int
) -> tuple[float, Array] | str:
    """The length-controlled rate and its bootstrap draws (draws,), without difficulties; or why there is none.

    Two policies on the same items see the same weights, so that the difference of their draws is a paired one.
    """
    longer = lengths[0] - lengths[1]
    spread = float(np.std(longer))
    notes, impossible = _first_notes(values, longer, spread)
    if impossible:
        return notes[0]
    d = longer / spread if spread > TINY else np.zeros_like(values)
    design, _ = _design(d, spread, None, None, len(values))
    whole = np.ones((1, len(values)))
    fit = fit_logit(values, design.columns, whole)
    refits = refit(values, design.columns, item_weights(clusters, draws, seed), fit.beta[0])
    return float(_rates(fit.beta, design, whole)[0]), _each(refits, design, item_weights(clusters, draws, seed))


def _each(fits: Fits, design: Design, blocks: Iterator[Array]) -> Array:
    """The rate of each refit, by the weights it was fitted with."""
    found, at = [], 0
    for block in blocks:
        found.append(_rates(fits.beta[at : at + len(block)], design, block))
        at += len(block)
    return np.concatenate(found)


def _slope(s: Array, design: Design, clusters: Clusters, fit: Fits, spread: float) -> Figure:
    """phi by statsmodels, with a cluster-robust interval (Liang and Zeger 1986); none where the fit is penalised or
    leaves no error."""
    unit = "log odds"
    if spread <= TINY:
        return Figure(value=None, n=len(s), unit=unit)
    told = fit.penalised[0] or exact(s, design.columns, fit.beta[0])
    if told or clusters.count < FEWEST or float(np.ptp(s)) <= TINY:
        return figure(float(fit.beta[0, 1]), Interval(None, None, "penalised or too few"), len(s), unit)
    from scipy.stats import t
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    model = GLM(s, design.columns, family=Binomial())
    found = model.fit(cov_type="cluster", cov_kwds={"groups": clusters.member})
    value, half = float(found.params[1]), float(t.ppf(0.975, clusters.count - 1) * found.bse[1])
    return figure(value, Interval(value - half, value + half, "cluster-robust"), len(s), unit)
