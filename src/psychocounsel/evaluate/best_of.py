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
from numpy.typing import NDArray

from psychocounsel.evaluate.contest.arena import Contest, speech_values
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.ratings.reliability import FEWEST_UNITS, resample
from psychocounsel.records import Speech, Verdict

Hold = Callable[[Contest, Sequence[Speech]], list[Verdict]]
Values = dict[str, float]  # by speech id
Column = NDArray[np.float64]
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
    pairs = sorted(combinations(sorted(gains), 2), key=lambda pair: (pair[1], pair[0]))
    series = {(name, n): of[n] for name, of in (("gain", gains), ("win", wins)) for n in of}
    differences = {
        (name, pair): {key: value - of[pair[0]][key] for key, value in of[pair[1]].items() if key in of[pair[0]]}
        for name, of in (("gain", gains), ("win", wins))
        for pair in pairs
    }
    draws = _draws({**series, **differences}, speeches, bootstrap, seed)
    points = [
        Point(
            n,
            kl(n),
            _figure(draws["gain", n], len(gains[n]), "standard deviations of the reward"),
            _figure(draws["win", n], len(wins[n]), "share of speeches"),
        )
        for n in gains
    ]
    turn, sentence = _turn(pairs, draws)
    return Curve(points, spread, turn, sentence)


def _turn(pairs: Sequence[tuple[int, int]], draws: Mapping[Any, Column]) -> tuple[int | None, str]:
    """The first N that the judges like less than a smaller one while the reward likes it more.

    Both paired differences must have intervals beyond 0. The level is shared by all pairs of sizes (Bonferroni), since
    the smaller size is looked for among all of them.
    """
    level = LEVEL / max(len(pairs), 1)
    for pair in pairs:
        won, lost = (_interval(draws[name, pair], level) for name in ("gain", "win"))
        if won is not None and lost is not None and won[1] > 0 and lost[2] < 0:
            return pair[1], (
                f"Over-optimisation from N = {pair[1]}: compared with N = {pair[0]} the reward rises by {won[0]:.2f} "
                f"standard deviations, and the judges' win rate changes by {100 * lost[0]:+.1f} points "
                f"[{100 * lost[1]:+.1f}, {100 * lost[2]:+.1f}]"
            )
    return None, ""


def _draws(
    series: Mapping[Any, Values], speeches: Mapping[str, Speech], bootstrap: int, seed: int
) -> dict[Any, Column]:
    """The mean of each series, then its means in draws of clusters of speeches: (1 + draws,). All see the same draws.

    Under 10 clusters, or where all values are equal, there is the mean alone; without values it is nan.
    """
    ids = sorted({key for values in series.values() for key in values})
    units = np.unique([speeches[key].cluster for key in ids], return_inverse=True)[1].astype(np.int64)
    table = np.array(
        [[part for values in series.values() for part in ((1.0, values[key]) if key in values else (0.0, 0.0))]
         for key in ids]
    )  # fmt: skip
    totals = resample(table, units, bootstrap, seed)
    found = {}
    for place, (name, values) in enumerate(series.items()):
        with np.errstate(invalid="ignore", divide="ignore"):
            means = totals[:, 2 * place + 1] / totals[:, 2 * place]
        steady = len(set(values.values())) < 2 or len({speeches[key].cluster for key in values}) < FEWEST_UNITS
        found[name] = means[:1] if steady else means
    return found


def _interval(draws: Column, level: float = LEVEL) -> tuple[float, float, float] | None:
    """Value and percentile interval; None where there is no interval."""
    defined = draws[1:][np.isfinite(draws[1:])]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [50 * level, 100 - 50 * level])
    return float(draws[0]), float(low), float(high)


def _figure(draws: Column, n: int, unit: str) -> Figure:
    if not n:
        return Figure(value=None, n=0, unit=unit)
    value, low, high = _interval(draws) or (float(draws[0]), None, None)
    ends = [None if number is None else round(number, 4) + 0.0 for number in (value, low, high)]  # + 0.0: no -0.0
    return Figure(value=ends[0], low=ends[1], high=ends[2], n=n, unit=unit)


def _spread(rows: Sequence[Sequence[float]]) -> float:
    """Standard deviation of the reward among the replies to one speech, pooled over speeches."""
    squares = sum(float(np.var(row)) * len(row) for row in rows)
    freedom = sum(len(row) - 1 for row in rows)
    return float(np.sqrt(squares / freedom)) if freedom > 0 else 0.0
