"""Do two judges put the replies to a speech in the same order? What a preference set needs most of its judges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psychocounsel.ratings.reliability import Array, estimate, resample

SAME = 1e-9  # overall scores this close are a tie: a mean of seven has rounding in its last digits


def order_sums(first: Array, second: Array, speeches: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """For each pair of replies to one speech, shape (pairs, 6), and the row of its first reply.

    Columns: both judges order it; both in the same way; both give scores; same verdict with ties as a third one; a tie
    for the first judge; a tie for the second.
    """
    rank = np.argsort(speeches, kind="stable")
    parts, rows, lag = [np.zeros((0, 6))], [np.zeros(0, dtype=np.int64)], 1
    while lag < len(rank):
        a, b = rank[:-lag], rank[lag:]
        inside = speeches[a] == speeches[b]
        if not inside.any():
            break
        a, b = a[inside], b[inside]
        mine, theirs = _verdict(first[a] - first[b]), _verdict(second[a] - second[b])
        given = np.isfinite(mine) & np.isfinite(theirs)
        decided = given & (mine != 0) & (theirs != 0)
        same = given & (mine == theirs)
        ties = (given & (mine == 0), given & (theirs == 0))
        parts.append(np.stack([decided, decided & same, given, same, *ties], axis=1).astype(float))
        rows.append(a)
        lag += 1
    return np.vstack(parts), np.concatenate(rows)


def _verdict(difference: Array) -> Array:
    return np.asarray(np.where(np.abs(difference) <= SAME, 0.0, np.sign(difference)))


def order_agreement(
    sums: Array, units: NDArray[np.int64], *, count: int | None = None, bootstrap: int = 0, seed: int = 0
) -> tuple[dict[str, object], Array]:
    """Shares of pairs ordered alike with intervals over `count` `units` (speech clusters), and the draws of `alike`.

    `alike`: of the pairs that both judges order, the share ordered alike. `gamma` = 2 alike - 1, its chance-corrected
    form (Goodman & Kruskal 1954): which reply of a pair comes first is arbitrary, so chance is one half. `three_way`
    counts a tie as a third verdict and `three_way_kappa` is its chance-corrected form, again for either order.
    """
    totals = resample(sums, units, bootstrap, seed, count)
    decided, same, given, verdict, tie, other = (totals[:, k] for k in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        alike, three = same / decided, verdict / given
        a, b = tie / given, other / given
        chance = a * b + (1 - a) * (1 - b) / 2
        kappa = np.where(1 - chance > SAME, (three - chance) / (1 - chance), np.nan)
    used = len(np.unique(units[sums[:, 0] > 0])) if bootstrap else 0
    row: dict[str, object] = {
        "pairs": int(totals[0, 0]),
        "with_ties": int(totals[0, 2]),
        "alike": estimate(alike, used),
        "gamma": estimate(2 * alike - 1),
        "three_way": estimate(three, used),
        "three_way_kappa": estimate(kappa),
    }
    return row, alike
