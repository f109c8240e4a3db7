"""What rewards a reply: reward models, servers of them, judges, or a function of the user; a missing one is never 0.

Sources say what they make of each reply, and that is stored as it is (`score_rows`). How the sources are combined
(`merits`) is decided from the stored rows, so that it can change without asking anybody again.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Protocol

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.store import CallStore
from psychocounsel.principles import Principle
from psychocounsel.recipe import OnlineTable, Recipe
from psychocounsel.records import Speech

Key = tuple[str, int]  # a candidate: speech id, number of the sample
Row = Mapping[str, Any]
Candidates = tuple[Speech, Sequence[tuple[int, str]]]  # a speech and its replies by number
DIGITS = 6
NOT_A_NUMBER = "not a number"
NO_SPREAD = (
    "policy.online.pessimism: {} is the only source of rewards and has no bootstrap heads that could disagree; set "
    "reward.bootstrap to 2 or more, name several sources, or set pessimism to 0"
)


@dataclass(frozen=True)
class Reading:
    """What one source says of one reply. `reward` None: it said nothing usable, `why` tells; that is never a 0.

    `spread` is the standard deviation among the bootstrap heads of a reward model that has some.
    """

    reward: float | None
    spread: float | None = None
    principles: dict[str, float] = field(default_factory=dict)
    why: str = ""


class Rewards(Protocol):
    """A source of rewards. Only differences between replies to one speech mean something.

    `shared`: each of several processes scores a part; otherwise the first does all. `check` finds out, before anything
    is sampled, what opening cannot tell: a server is asked one tiny question. Weights are loaded at the first score,
    and `close` frees them; a later score loads them again.
    """

    name: str
    shared: bool

    def check(self) -> None: ...
    def score(self, items: Sequence[tuple[Speech, Sequence[str]]], label: str) -> list[list[Reading]]: ...
    def close(self) -> None: ...


def open_rewards(
    recipe: Recipe,
    reward: str | None,
    principles: tuple[Principle, ...] | None = None,
    store: CallStore | None = None,
) -> list[Rewards]:
    """The sources of `policy.online.rewards`, in their order. Nothing is loaded or sent; a user's function is tried.

    `reward` is the model folder of the reward stage, which the source 'reward' names; None while it is not made yet.
    `principles` are the rubric of judges (default: the recipe's). Servers and judges need a `store`, and are asked as
    `[models]` and `[ratings]` say; what they answered is not asked again. Dialogues are cut to `policy.max_length`.
    Raises UserError for a source that cannot be used.
    """
    from psychocounsel.policy.reward_sources import check_settings, open_source

    online = recipe.policy.online
    if twice := [name for name, count in Counter(online.rewards).items() if count > 1]:
        raise UserError(f"policy.online.rewards names {twice[0]} twice; it agrees with itself, name different ones")
    check_settings(recipe, reward)
    return [open_source(name, reward, recipe, principles, store) for name in online.rewards]


def check_rewards(
    recipe: Recipe,
    reward: str | None,
    principles: tuple[Principle, ...] | None = None,
    store: CallStore | None = None,
) -> list[Rewards]:
    """All sources, opened and checked for what opening cannot tell. For one process, before anything is sampled.

    Raises UserError. A hub id that was not downloaded before is only checked when it is loaded.
    """
    sources = open_rewards(recipe, reward, principles, store)
    for source in sources:
        source.check()
    return sources


def score_rows(
    sources: Sequence[Rewards],
    items: Sequence[Candidates],
    gate: Callable[[Speech, str], str],
    label: str = "rewards",
) -> list[dict[str, Any]]:
    """What every source and the gate say of every candidate: rows in the order of the items.

    {speech_id, sample, rewards: {source: number or null}}, and where there is something to say, gate (why it is
    barred), spread and principles by source, and why by source (why there is no reward). Texts are stripped, as in
    training; equal ones of a speech are scored once.
    """
    texts = [list(dict.fromkeys(text.strip() for _, text in replies)) for _, replies in items]
    asked = [(speech, found) for (speech, _), found in zip(items, texts, strict=True)]
    barred = [{text: gate(speech, text) for text in found} for speech, found in asked]
    said: list[dict[str, dict[str, Reading]]] = [{text: {} for text in found} for found in texts]
    for source in sources:
        shown = f"{label} {source.name}" if len(sources) > 1 else label
        for readings, found, place in zip(source.score(asked, shown), texts, said, strict=True):
            for text, reading in zip(found, readings, strict=True):
                place[text][source.name] = reading
    return [
        _row(speech, number, barred[place][text.strip()], said[place][text.strip()])
        for place, (speech, replies) in enumerate(items)
        for number, text in replies
    ]


def _row(speech: Speech, number: int, barred: str, readings: Mapping[str, Reading]) -> dict[str, Any]:
    found = {name: _finite(reading) for name, reading in readings.items()}
    further = {
        "spread": {name: round(r.spread, DIGITS) for name, r in found.items() if r.spread is not None},
        "principles": {
            name: {key: round(value, DIGITS) for key, value in r.principles.items()}
            for name, r in found.items()
            if r.principles
        },
        "why": {name: r.why for name, r in found.items() if r.reward is None},
    }
    rewards = {name: None if r.reward is None else round(r.reward, DIGITS) for name, r in found.items()}
    row: dict[str, Any] = {"speech_id": speech.id, "sample": number, "rewards": rewards}
    return row | {key: value for key, value in {"gate": barred, **further}.items() if value}


def _finite(reading: Reading) -> Reading:
    """A reading that can be written down: one with a number that is none has no reward."""
    if reading.reward is None:
        return Reading(None, why=reading.why or "no reason given")
    numbers = (reading.reward, reading.spread or 0.0, *reading.principles.values())
    return reading if all(map(math.isfinite, numbers)) else Reading(None, why=NOT_A_NUMBER)


def scales_of(rows: Iterable[Row], table: OnlineTable | None = None) -> dict[str, float]:
    """By source, the standard deviation of its rewards within speeches, pooled; 1.0 where there is no spread.

    With a `table` that weighs principle heads, of their weighted sums. Where no speech has two rewards (a look at one
    reply each), the standard deviation over all replies stands in for it.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name in row["rewards"]:
            if (value := _value(row, name, table)) is not None:
                found[name][row["speech_id"]].append(value)
            else:
                found[name]  # a source without any reward still has a scale
    return {name: _pooled(list(groups.values())) for name, groups in found.items()}


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    if all(len(group) < 2 for group in groups):
        groups = [[value for group in groups for value in group]]
    squares, freedom = 0.0, 0
    for group in groups:
        if len(group) > 1:
            middle = fmean(group)
            squares += sum((value - middle) ** 2 for value in group)
            freedom += len(group) - 1
    scale = math.sqrt(squares / freedom) if freedom else 0.0
    return scale if scale > 10**-DIGITS else 1.0  # less than what rounding leaves is no spread


def merits(
    rows: Sequence[Row], table: OnlineTable, scales: Mapping[str, float] | None = None
) -> dict[Key, float | None]:
    """What each candidate is worth, to be compared within its speech; None where any source has no reward for it.

    One source: its reward, or with `table.principles` the weighted sum of its principle heads, less `pessimism` times
    the spread of its bootstrap heads. Several: each less its mean over the speech's candidates that all have rewarded,
    divided by its scale (`scales`, or those of these rows); their mean less `pessimism` times their standard deviation.
    Raises UserError for principles or a spread that no row has.
    """
    names = _sources(rows)
    _check_known(rows, table, names)
    values = {(row["speech_id"], row["sample"]): _values(row, names, table) for row in rows}
    if len(names) < 2:
        spread = {(row["speech_id"], row["sample"]): _spread(row, table) for row in rows}
        return {key: None if found is None else found[0] - spread[key] for key, found in values.items()}
    widths = scales_of(rows, table) if scales is None else scales
    by_speech: dict[str, list[list[float]]] = defaultdict(list)
    for (speech_id, _), found in values.items():
        if found is not None:
            by_speech[speech_id].append(found)
    middles = {key: [fmean(column) for column in zip(*found, strict=True)] for key, found in by_speech.items()}

    def merit(speech_id: str, found: list[float]) -> float:
        parts = zip(found, middles[speech_id], names, strict=True)
        on_scale = [(value - middle) / widths.get(name, 1.0) for value, middle, name in parts]
        return fmean(on_scale) - table.pessimism * stdev(on_scale)

    return {key: None if found is None else merit(key[0], found) for key, found in values.items()}


def quarantine(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The candidates that a source gave no reward: {speech_id, sample, why: {source: reason}}."""
    names = _sources(rows)
    found = []
    for row in rows:
        told = row.get("why", {})
        why = {name: told.get(name, "not scored") for name in names if row["rewards"].get(name) is None}
        if why or not names:
            found.append({"speech_id": row["speech_id"], "sample": row["sample"], "why": why})
    return found


def check_rewards_found(rows: Sequence[Row], table: OnlineTable, where: str) -> None:
    """Raise UserError when more than `max_missing` of the candidates are without a reward, or no source tells replies
    apart. A source among several that says the same of every reply decides nothing; that is said on standard error."""
    lost = quarantine(rows)
    if len(lost) > table.max_missing * len(rows):
        reasons = Counter(f"{name}: {why}" for row in lost for name, why in row["why"].items())
        told = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        raise UserError(
            f"{where}: {len(lost)} of {len(rows)} candidates have no reward, more than policy.online.max_missing = "
            f"{table.max_missing:g} allows: {told}; mend the cause, remove the round's scores.jsonl, and run the same "
            "command"
        )
    names = _sources(rows)
    known = {name: [value for row in rows if (value := _value(row, name, table)) is not None] for name in names}
    flat = [name for name, values in known.items() if len(values) > 1 and len(set(values)) == 1]
    if flat and len(flat) == len(names):
        raise UserError(
            f"{where}: {' and '.join(flat)} gave each of the {len(rows)} replies the same reward "
            f"({known[flat[0]][0]:g}); nothing can be learnt from that: are all replies alike, or the source broken?"
        )
    for name in flat:
        print(f"{where}: {name} gave every reply the same reward and decides nothing", file=sys.stderr)


def _sources(rows: Iterable[Row]) -> list[str]:
    """The sources in the order in which rows name them."""
    return list(dict.fromkeys(name for row in rows for name in row["rewards"]))


def _values(row: Row, names: Sequence[str], table: OnlineTable) -> list[float] | None:
    """What every source makes of a candidate, in their order; None when one of them is missing."""
    found = [value for name in names if (value := _value(row, name, table)) is not None]
    if not found or len(found) < len(names):
        return None
    return None if len(names) == 1 and table.pessimism and names[0] not in row.get("spread", {}) else found


def _value(row: Row, name: str, table: OnlineTable | None) -> float | None:
    """A source's reward of a candidate, or the weighted sum of its principle heads; None where there is none."""
    reward: float | None = row["rewards"].get(name)
    if reward is None or table is None or not table.principles:
        return reward
    heads = row.get("principles", {}).get(name, {})
    if any(key not in heads for key in table.principles):
        return None
    return math.fsum(weight * heads[key] for key, weight in table.principles.items())


def _spread(row: Row, table: OnlineTable) -> float:
    """What uncertainty takes off the reward of a single source."""
    return table.pessimism * next(iter(row.get("spread", {}).values()), 0.0)


def _check_known(rows: Sequence[Row], table: OnlineTable, names: Sequence[str]) -> None:
    """Raise UserError when no row of a source has what the table asks of it."""
    for name in names:
        rewarded = [row for row in rows if row["rewards"].get(name) is not None]
        heads = dict.fromkeys(key for row in rewarded for key in row.get("principles", {}).get(name, {}))
        if rewarded:
            check_heads(name, table.principles, list(heads))
        if rewarded and len(names) == 1 and table.pessimism and not any(name in r.get("spread", {}) for r in rewarded):
            raise UserError(NO_SPREAD.format(name))


def check_heads(name: str, wanted: Iterable[str], known: Sequence[str]) -> None:
    """Raise UserError when a source has no head for one of the principles that are `wanted`."""
    for key in wanted:
        if key not in known:
            has = (
                f"its heads are {', '.join(known)}"
                if known
                else "it has none; set reward.principles, or leave that out"
            )
            raise UserError(
                f"policy.online.principles: {name} has no head for '{key}'{nearest(key, list(known)) or ';'} {has}"
            )
