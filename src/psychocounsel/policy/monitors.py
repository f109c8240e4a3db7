"""What a collapse looks like in the replies themselves: figures of texts, and the limits at which rounds stop.

Pure functions of texts: exact, no draw, and time grows as that of sorting all words. A policy that games its reward
shows it in few ways: a phrase that pays, one opening, padding, the same reply to everybody. The figures mean little
alone; they are read against those of the policy the rounds started from, on the same speeches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from psychocounsel.pairs.checks import words
from psychocounsel.ratings.text import Text
from psychocounsel.recipe import LimitsTable

Replies = Mapping[str, Sequence[tuple[str, str]]]  # speech id -> (text, finish) of each reply to it
Numbers = NDArray[np.int64]
Interval = tuple[float | None, float | None]  # low, high

RUN = 5  # words of an opening, of a phrase, and of a run that a reply repeats
SHARED = 3  # words of the runs by which replies are compared
SAMPLE = 1000  # runs of words among which the different ones are counted
TINY = 1e-9  # a figure this close to its limit has not passed it


def text_figures(replies: Replies) -> dict[str, float]:
    """Figures of one policy's replies. All are 0 for no replies; none is ever NaN or infinite.

    - `replies`: how many; `words`: mean, between white space; `truncated`, `empty`: shares of replies.
    - `distinct_1`, `_2`, `_3`: expected share of different runs of 1, 2, 3 words among SAMPLE drawn without
      replacement from those of all replies (rarefaction, Hurlbert 1971, Ecology 52: 577; among all where there are
      fewer). Plain distinct-n falls with length alone (Liu et al. 2022, arXiv 2202.13587), so longer replies would
      look like a collapse.
    - `opening`: largest share of replies with the same first five words (a shorter reply is compared whole); `phrase`:
      largest share that holds the same five words in a row. 0 where no two replies agree.
    - `similarity`: mean over all pairs of replies to different speeches of |a & b| / sqrt(|a| |b|), with a and b the
      sets of runs of three words of each (a shorter reply counts whole).
    - `repetition`: mean share of a reply's runs of five words that stood in it before.
    """
    flat = [(speech, text, finish) for speech, row in replies.items() for text, finish in row]
    count = len(flat)
    read = [Text(text).words for _, text, _ in flat]
    runs = _runs(read)
    figures = {
        "replies": float(count),
        "words": _mean([words(text) for _, text, _ in flat]),
        "truncated": _mean([finish == "length" for _, _, finish in flat]),
        "empty": _mean([not text.strip() for _, text, _ in flat]),
    }
    for n in (1, 2, 3):
        figures[f"distinct_{n}"] = _distinct(runs[n][0])
    openings = [tuple(row[:RUN]) for row in read if row]
    figures["opening"] = _largest(np.array(_numbered(openings), dtype=np.int64), count)
    figures["phrase"] = _largest(_once(*runs[RUN])[0], count)
    figures["similarity"] = _similarity(read, runs[SHARED], [speech for speech, _, _ in flat])
    figures["repetition"] = _mean(_repeated(runs[RUN], count))
    return figures


def speech_figures(replies: Replies) -> dict[str, dict[str, float]]:
    """`words`, `truncated`, `empty` and `repetition` of each speech: means over its replies, by speech id.

    For a bootstrap over speeches (or their clusters). A speech without replies is left out.
    """
    found: dict[str, dict[str, float]] = {"words": {}, "truncated": {}, "empty": {}, "repetition": {}}
    for speech, row in replies.items():
        if row:
            found["words"][speech] = _mean([words(text) for text, _ in row])
            found["truncated"][speech] = _mean([finish == "length" for _, finish in row])
            found["empty"][speech] = _mean([not text.strip() for text, _ in row])
            found["repetition"][speech] = _mean(_repeated(_runs([Text(text).words for text, _ in row])[RUN], len(row)))
    return found


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _numbered(items: Sequence[object]) -> list[int]:
    """Equal items get equal numbers, from 0 in order of appearance."""
    known: dict[object, int] = {}
    return [known.setdefault(item, len(known)) for item in items]


def _runs(read: Sequence[Sequence[str]]) -> dict[int, tuple[Numbers, Numbers]]:
    """n -> (number of the wording, number of the reply) of every run of n words, for n from 1 to RUN."""
    ids = np.array(_numbered([word for row in read for word in row]), dtype=np.int64)
    reply = np.repeat(np.arange(len(read)), [len(row) for row in read]).astype(np.int64)
    vocabulary = int(ids.max(initial=0)) + 1
    start, wording = np.arange(len(ids)), ids
    found = {1: (ids, reply)}
    for n in range(2, RUN + 1):
        inside = start + n - 1 < len(ids)
        start, wording = start[inside], wording[inside]
        whole = reply[start] == reply[start + n - 1]
        start, wording = start[whole], wording[whole]
        wording = np.unique(wording * vocabulary + ids[start + n - 1], return_inverse=True)[1].astype(np.int64)
        found[n] = (wording, reply[start])
    return found


def _once(wording: Numbers, reply: Numbers) -> tuple[Numbers, Numbers]:
    """The runs with each wording once per reply."""
    width = int(wording.max(initial=0)) + 1
    both = np.unique(reply * width + wording)
    return both % width, both // width


def _largest(wording: Numbers, count: int) -> float:
    """The count of the commonest wording as a share of `count`; 0 when it stands there once."""
    most = int(np.bincount(wording).max(initial=0))
    return most / count if most > 1 else 0.0


def _distinct(wording: Numbers) -> float:
    """Expected number of wordings among `size` runs drawn without replacement, as a share of `size`."""
    total = len(wording)
    size = min(SAMPLE, total)
    if not size:
        return 0.0
    times, kinds = np.unique(np.bincount(wording), return_counts=True)
    different = 0.0
    for t, k in zip(times.tolist(), kinds.tolist(), strict=True):
        different += k * (1 - _missed(total, t, size))
    return different / size


def _missed(total: int, times: int, size: int) -> float:
    """P(none of `times` marked runs is among `size` drawn from `total`): C(total - times, size) / C(total, size)."""
    if total - times < size:
        return 0.0
    parts = ((total - times, 1), (total - times - size, -1), (total, -1), (total - size, 1))
    return math.exp(min(0.0, sum(sign * math.lgamma(n + 1) for n, sign in parts)))


def _repeated(runs: tuple[Numbers, Numbers], count: int) -> NDArray[np.float64]:
    """Share of each reply's runs whose wording stood in it before; 0 for a reply without runs."""
    every = np.bincount(runs[1], minlength=count)
    different = np.bincount(_once(*runs)[1], minlength=count)
    return np.asarray((every - different) / np.maximum(every, 1), dtype=np.float64)


def _similarity(read: Sequence[Sequence[str]], runs: tuple[Numbers, Numbers], speeches: Sequence[str]) -> float:
    """Mean cosine of the replies' sets over all pairs of different speeches, in linear time.

    With u the sets as unit vectors, the sum over all ordered pairs is |sum u|^2; that within speeches is taken off.
    """
    from scipy.sparse import csr_array

    wording, reply = _once(*runs)
    first = int(wording.max(initial=-1)) + 1
    short = [place for place, row in enumerate(read) if 0 < len(row) < SHARED]
    whole = [first + number for number in _numbered([tuple(read[place]) for place in short])]
    column = np.concatenate([wording, np.array(whole, dtype=np.int64)])
    row = np.concatenate([reply, np.array(short, dtype=np.int64)])
    if not len(column):
        return 0.0
    sizes = np.bincount(row, minlength=len(read))
    groups = np.array(_numbered(speeches), dtype=np.int64)
    weight = 1 / np.sqrt(sizes[row])
    shape = (int(groups.max()) + 1, int(column.max()) + 1)
    by_speech = csr_array((weight, (groups[row], column)), shape=shape)  # equal places are added up
    by_speech.sum_duplicates()
    within = float((by_speech.data**2).sum())
    between = float((np.bincount(column, weight) ** 2).sum()) - within
    each = np.bincount(groups).astype(float)
    pairs = float(each.sum() ** 2 - (each**2).sum())
    return min(1.0, max(0.0, between / pairs)) if pairs else 0.0


def best_of_n_kl(n: int) -> float:
    """ln n - (n - 1) / n, in nats: how far the best of n samples may be from the policy they were drawn from.

    Stated by Stiennon et al. (2020, arXiv 2009.01325); an upper bound of the KL divergence, reached where no two of n
    samples are alike (Beirami et al. 2024, arXiv 2401.01879). ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"best of {n}: n starts at 1")
    return math.log(n) - (n - 1) / n


RISES = {  # figure, and limit of how many points it may rise: what is said of it
    "opening": "{} of replies begin with the same five words",
    "phrase": "{} of replies hold the same five words in a row",
    "similarity": "replies to different speeches share {} of their wording",
    "repetition": "replies repeat {} of their own runs of five words",
    "truncated": "{} of replies do not end",
}


def alarms(
    figures: Mapping[str, float],
    start: Mapping[str, float],
    limits: LimitsTable,
    *,
    kl: float | None = None,
    gain: Interval | None = None,
    judged: tuple[float | None, float | None, float | None] | None = None,
) -> list[str]:
    """Why the rounds have to stop, as sentences for people; [] when nothing is wrong.

    `figures` and `start` are text_figures of this round and of the policy the rounds started from, on the same
    speeches. `kl`: nats per reply from that policy. `gain`: 95 % interval of the reward's mean rise over it. `judged`:
    share of wins over it by a judge that the training did not see, with its interval. None: not known, no alarm. A
    number that is NaN has passed its limit. A figure at its limit has not.
    """
    found = [] if figures["replies"] else ["there are no replies"]
    ratio = figures["words"] / start["words"] if start["words"] else 0.0
    if not ratio <= limits.length + TINY:
        found.append(f"replies are {_told(ratio, limits.length)} times as long as at the start (limit {limits.length})")
    left = figures["distinct_2"] / start["distinct_2"] if start["distinct_2"] else 1.0
    if not left >= limits.distinct - TINY:
        found.append(
            f"of the different word pairs at the start {_told(100 * left, 100 * limits.distinct)} % are left "
            f"(limit {100 * limits.distinct:g} %)"
        )
    for name in RISES:
        if not figures[name] - start[name] <= getattr(limits, name) + TINY:
            found.append(_risen(name, figures[name], start[name], getattr(limits, name)))
    if limits.kl is not None and kl is not None and not kl <= limits.kl + TINY:
        found.append(f"the KL divergence from the start is {_told(kl, limits.kl)} nats per reply (limit {limits.kl:g})")
    return found + _hacked(gain, judged)


def _risen(name: str, now: float, before: float, limit: float) -> str:
    said = RISES[name].format(f"{_told(100 * now, 100 * (before + limit))} %")
    return f"{said}, {100 * before:.1f} % at the start (limit: {100 * limit:g} points more)"


def _told(value: float, limit: float) -> str:
    """The value with as few digits as tell it from its limit."""
    for digits in range(1, 6):
        text = f"{value:.{digits}f}"
        if text != f"{limit:.{digits}f}":
            return text
    return f"{value:g}"


def _hacked(gain: Interval | None, judged: tuple[float | None, float | None, float | None] | None) -> list[str]:
    """The reward rises, and whom the reward does not bind prefers the start: both beyond their intervals."""
    if gain is None or judged is None:
        return []
    value, low, high = judged
    if gain[0] is None or gain[0] <= 0 or high is None or high >= 0.5 or value is None or low is None:
        return []
    return [
        f"the reward rises while the judge prefers the start: it is being gamed (win rate {value:.3f}, {low:.3f} to "
        f"{high:.3f})"
    ]
