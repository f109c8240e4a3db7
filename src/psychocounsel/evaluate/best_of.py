"""Best-of-N: what choosing among N replies by reward gains, by the reward and by the judges, as N grows.

Choosing harder by a learned reward first helps and may then hurt (Gao et al. 2022, arXiv 2210.10760). Picks are nested:
for N the best of a speech's first N replies, so that all sizes share their replies and differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from psychocounsel.evaluate.arena import Contest, speech_values
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.ratings.reliability import FEWEST_UNITS, resample
from psychocounsel.records import Speech, Verdict

Hold = Callable[[Contest, Sequence[Speech]], list[Verdict]]
Values = dict[str, float]  # by speech id
LEVEL = 0.05  # of all differences between sizes together


@dataclass(frozen=True)
class Point:
    """One N. `reward` is the gain over one reply, in standard deviations among the replies to a speech; `winrate` the
    judges' verdict against one reply (share of speeches); `kl` the divergence from the policy, in nats."""

    n: int
    kl: float
    reward: Figure
    winrate: Figure


@dataclass(frozen=True)
class Curve:
    """The points and, where the intervals carry it, the N from which more choosing makes replies worse (`turn`)."""

    points: list[Point]
    spread: float
    turn: int | None = None
    sentence: str = ""

    def figures(self) -> dict[str, Figure]:
        """Named figures for results.json."""
        found = {f"best_of.reward_{point.n}": point.reward for point in self.points}
        found |= {f"best_of.winrate_{point.n}": point.winrate for point in self.points}
        count = max((point.reward.n for point in self.points), default=0)
        found["best_of.turn"] = Figure(value=self.turn, n=count, unit="replies to choose among")
        return found

    def told(self) -> dict[str, Any]:
        """The curve as JSON, for the report."""
        rows = [
            {"n": p.n, "kl": round(p.kl, 4), "reward": p.reward.model_dump(), "winrate": p.winrate.model_dump()}
            for p in self.points
        ]
        return {"points": rows, "spread": round(self.spread, 6), "turn": self.turn, "sentence": self.sentence}


def sizes(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    return sorted({*(1 << power for power in range(most.bit_length())), most})


def best(rewards: Sequence[float], start: int, stop: int) -> int:
    """The number of the reply with the highest reward among numbers start to stop - 1; of equal ones the first."""
    return max(range(start, stop), key=lambda number: (rewards[number], -number))


def verdicts_of_picks(
    speeches: Sequence[Speech],
    replies: Sequence[Mapping[str, str]],
    rewards: Mapping[str, Sequence[float]],
    most: int,
    name: str,
    hold: Hold,
) -> dict[int, list[Verdict]]:
    """For each N the judges' verdicts on the pick against the speech's reply 0; a pick of several N is judged once.

    `replies[number]` maps speech ids to texts. A pick that is reply 0 itself ties without a call.
    """
    known: dict[tuple[str, int], list[Verdict]] = {}
    found = {}
    for n in sizes(most):
        picks = {speech.id: best(rewards[speech.id], 0, n) for speech in speeches}
        new = [speech for speech in speeches if (speech.id, picks[speech.id]) not in known]
        texts = {speech.id: replies[picks[speech.id]][speech.id] for speech in new}
        contest = Contest(f"best-of-{n}", name, texts, {speech.id: replies[0][speech.id] for speech in new})
        for verdict in hold(contest, new) if new else []:
            known.setdefault((verdict.speech_id, picks[verdict.speech_id]), []).append(verdict)
        found[n] = [verdict for item in picks.items() for verdict in known.get(item, [])]
    return found


def curve(
    rewards: Mapping[str, Sequence[float]],
    verdicts: Mapping[int, Sequence[Verdict]],
    speeches: Mapping[str, Speech],
    kl: Callable[[int], float],
    *,
    bootstrap: int,
    seed: int,
) -> Curve:
    """The curve over the sizes of `verdicts`. `rewards` are those of a speech's replies in the order of their numbers.

    Intervals resample clusters of speeches; under 10 clusters there are none.
    """
    spread = _spread(list(rewards.values()))
    gains: dict[int, Values] = {}
    wins: dict[int, Values] = {}
    for n in sorted(verdicts):
        gains[n] = {key: (row[best(row, 0, n)] - row[0]) / (spread or 1.0) for key, row in rewards.items()}
        wins[n] = speech_values(verdicts[n])
    clusters = {key: speech.cluster for key, speech in speeches.items()}
    settings = {"bootstrap": bootstrap, "seed": seed}
    points = [
        Point(
            n,
            kl(n),
            _figure(gains[n], clusters, "standard deviations of the reward", **settings),
            _figure(wins[n], clusters, "share of speeches", **settings),
        )
        for n in gains
    ]
    turn, sentence = _turn(gains, wins, clusters, **settings)
    return Curve(points, spread, turn, sentence)


def _turn(
    gains: Mapping[int, Values], wins: Mapping[int, Values], clusters: Mapping[str, str], *, bootstrap: int, seed: int
) -> tuple[int | None, str]:
    """The first N that the judges like less than a smaller one while the reward likes it more.

    Both paired differences must have intervals beyond 0. The level is shared by all pairs of sizes (Bonferroni), since
    the smaller size is looked for among all of them.
    """
    pairs = sorted(combinations(sorted(gains), 2), key=lambda pair: (pair[1], pair[0]))
    level = LEVEL / max(len(pairs), 1)
    for smaller, larger in pairs:
        lost = _interval(_difference(wins, larger, smaller), clusters, bootstrap=bootstrap, seed=seed, level=level)
        won = _interval(_difference(gains, larger, smaller), clusters, bootstrap=bootstrap, seed=seed, level=level)
        if lost[2] is not None and lost[2] < 0 and won[1] is not None and won[1] > 0:
            return larger, (
                f"Over-optimisation from N = {larger}: compared with N = {smaller} the reward rises by {won[0]:.2f} "
                f"standard deviations, and the judges' win rate changes by {100 * (lost[0] or 0):+.1f} points "
                f"[{100 * (lost[1] or 0):+.1f}, {100 * lost[2]:+.1f}]"
            )
    return None, ""


def _difference(values: Mapping[int, Values], larger: int, smaller: int) -> Values:
    """By speech, where both sizes have a value."""
    return {key: value - values[smaller][key] for key, value in values[larger].items() if key in values[smaller]}


def _figure(values: Values, clusters: Mapping[str, str], unit: str, *, bootstrap: int, seed: int) -> Figure:
    value, low, high = _interval(values, clusters, bootstrap=bootstrap, seed=seed)
    rounded = (None if number is None else round(number, 4) + 0.0 for number in (value, low, high))  # + 0.0: no -0.0
    return Figure(**dict(zip(("value", "low", "high"), rounded, strict=True)), n=len(values), unit=unit)


def _interval(
    values: Values, clusters: Mapping[str, str], *, bootstrap: int, seed: int, level: float = LEVEL
) -> tuple[float | None, float | None, float | None]:
    """Mean and percentile interval over clusters; no interval under 10 clusters or when all values are equal."""
    if not values:
        return None, None, None
    column = np.array(list(values.values()))
    names, units = np.unique([clusters[key] for key in values], return_inverse=True)
    mean = float(column.mean())
    if len(names) < FEWEST_UNITS or float(np.ptp(column)) == 0:
        return mean, None, None
    draws = resample(np.column_stack([np.ones_like(column), column]), units.astype(np.int64), bootstrap, seed)[1:]
    low, high = np.percentile(draws[:, 1] / draws[:, 0], [50 * level, 100 - 50 * level])
    return mean, float(low), float(high)


def _spread(rows: Sequence[Sequence[float]]) -> float:
    """Standard deviation of the reward among the replies to one speech, pooled over speeches."""
    squares = sum(float(np.var(row)) * len(row) for row in rows)
    freedom = sum(len(row) - 1 for row in rows)
    return float(np.sqrt(squares / freedom)) if freedom > 0 else 0.0
