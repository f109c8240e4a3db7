"""How sure a pair is: P(chosen beats rejected), from how much judges differ over the same reply.

The model. A judge's overall score of a reply = the reply's merit + the judge's severity + noise. Noise has the same
variance for all judges and replies and is independent between them; merits of replies to one speech are normal around
the speech's mean. The merit is what judges of this kind would say on average: errors that all of them share are in it,
and no statistic over these judges can show them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from psychocounsel.pairs.scores import Judged

PRIOR_SIGMA = 0.25  # points: seven scores that are each off by about two thirds of a point, averaged
PRIOR_WEIGHT = 10  # the prior counts like so many residuals; it fades once a few dozen replies are rated twice


@dataclass(frozen=True)
class Noise:
    """What single overall scores are off by, in points of 1 to 5. `sigma` and `spread` are None where unknown.

    `severity`: what a judge gives above (+) or below (-) the others. `spread`: standard deviation of the merits of
    replies to one speech. `residuals`: how many free residuals `sigma` rests on, the prior not counted. `estimates`:
    merit and its variance (None when unknown) by reply.
    """

    sigma: float | None = None
    residuals: int = 0
    severity: dict[str, float] = field(default_factory=dict)
    spread: float | None = None
    estimates: dict[str, tuple[float, float | None]] = field(default_factory=dict)

    def probability(self, better: str, worse: str) -> float | None:
        """P(merit of reply `better` > merit of `worse`); None where nothing says how sure the scores are.

        Phi(gap / sqrt(v) * sqrt(2 s^2 / (2 s^2 + v))), v the variance of the gap and s the spread of merits: the gap
        is drawn to 0 as far as noise explains it, which the plain Phi(gap / sqrt(v)) leaves out.
        """
        (first, one), (second, two) = self.estimates[better], self.estimates[worse]
        if one is None or two is None or self.spread is None:
            return None
        gap, variance, prior = first - second, one + two, 2 * self.spread**2
        if variance == 0:
            return 0.5 if gap == 0 else float(gap > 0)
        z = gap / math.sqrt(variance) * math.sqrt(prior / (prior + variance))
        return 0.5 * math.erfc(-z / math.sqrt(2))


def estimate_noise(judged: Mapping[str, Judged], speech_of: Mapping[str, str]) -> Noise:
    """Noise, severities and merits of all rated replies; `speech_of` maps reply ids to speech ids."""
    sigma, residuals, severity = _two_way([found.own for _, found in sorted(judged.items()) if len(found.own) > 1])
    estimates = {key: _estimate(found, sigma, severity) for key, found in judged.items()}
    return Noise(sigma, residuals, severity, _spread(estimates, speech_of), estimates)


def _two_way(shared: Sequence[Mapping[str, float]]) -> tuple[float | None, int, dict[str, float]]:
    """(sigma, free residuals, severity by judge) of the model reply + judge, by least squares over shared replies."""
    if not shared:
        return None, 0, {}
    from scipy.sparse import csr_array

    judges = sorted({judge for own in shared for judge in own})
    number = {judge: i for i, judge in enumerate(judges)}
    row = np.repeat(np.arange(len(shared)), [len(own) for own in shared])
    column = np.array([number[judge] for own in shared for judge in own])
    y = np.array([value for own in shared for value in own.values()])
    size = np.bincount(row).astype(float)
    y -= (np.bincount(row, y) / size)[row]
    seen = csr_array((np.ones(len(y)), (row, column)), shape=(len(shared), len(judges)))
    scaled = csr_array((1 / size[row], (row, column)), shape=seen.shape)
    normal = np.diag(np.bincount(column).astype(float)) - (seen.T @ scaled).toarray()
    right = np.bincount(column, y)
    severity = np.linalg.pinv(normal, hermitian=True) @ right
    free = len(y) - len(shared) - int(np.linalg.matrix_rank(normal, hermitian=True))
    if free <= 0:
        return None, 0, {}
    left = max(0.0, float(y @ y - severity @ right))
    sigma = math.sqrt((left + PRIOR_WEIGHT * PRIOR_SIGMA**2) / (free + PRIOR_WEIGHT))
    return sigma, free, dict(zip(judges, severity.round(6).tolist(), strict=True))


def _estimate(reply: Judged, sigma: float | None, severity: Mapping[str, float]) -> tuple[float, float | None]:
    """A reply's merit and its variance. Replies may have different judges, so their severity is taken off first.

    The variance is sigma^2 / judges, or more where a judge's own levels say more.
    """
    n = len(reply.own)
    merit = reply.overall - sum(severity.get(judge, 0.0) for judge in reply.own) / n if n else reply.overall
    if not reply.stated:
        return merit, None if sigma is None or not n else sigma**2 / n
    total, floor = 0.0, 0.0 if sigma is None else sigma**2
    for judge in reply.own:
        if sigma is None and judge not in reply.stated:
            return merit, None
        total += max(floor, reply.stated.get(judge, 0.0))
    return merit, total / n**2


def _spread(estimates: Mapping[str, tuple[float, float | None]], speech_of: Mapping[str, str]) -> float | None:
    """Standard deviation of merits within speeches: what is left of the scores' variance without the noise."""
    rows = [
        (speech_of[key], merit, variance)
        for key, (merit, variance) in sorted(estimates.items())
        if key in speech_of and variance is not None
    ]
    if not rows:
        return None
    _, group = np.unique([row[0] for row in rows], return_inverse=True)
    merits, variances = np.array([row[1:] for row in rows], dtype=float).T
    size = np.bincount(group)
    free = len(rows) - len(size)
    if free == 0:
        return None
    inside = merits - (np.bincount(group, merits) / size)[group]
    several = size[group] > 1
    return math.sqrt(max(0.0, float(inside @ inside) / free - float(variances[several].mean())))
