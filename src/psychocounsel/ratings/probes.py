"""Probes of a judge as an instrument: what it is asked beyond the ratings, so that its biases become figures.

Replies are drawn by content hash, every question goes through the call store, and what is measured lies in `biases`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.models.calls import together
from psychocounsel.models.store import CallStore
from psychocounsel.principles import Principle
from psychocounsel.progress import progress
from psychocounsel.ratings import biases
from psychocounsel.ratings.attacks import CONTROL, Attack, load_attacks, plant
from psychocounsel.ratings.judge import Item, Judge, rate_all
from psychocounsel.records import Rating, Response, Speech, content_id

ATTACKS_PER_ITEM = 4
LONGER = 0.5  # padding adds this share of the reply's words, and at least one sentence
PADDING = (  # no feeling, no fact, no advice, no question, no "may" or "perhaps" that a rubric could reward
    "That is one way of putting this into words.",
    "It is said here as it comes, and it is meant as it is said.",
    "More words for the same thing are other words for the same thing.",
    "What was said just now is said once more in this way.",
    "In other words, it is as it was put above.",
    "This is written down at this point for the sake of completeness.",
    "All of this belongs together, each part with the other parts.",
    "It is the kind of thing that is said at such a point.",
)
SENTENCE_GAP = re.compile(r"(?<=[.!?…])(\s+)")
Comparing = tuple[Speech, str, str]


@dataclass(frozen=True)
class Plan:
    """Everything a judge is asked. `attacks`: (item, attack, attacked item, item with a control text)."""

    items: list[Item]
    pairs: list[tuple[Item, Item]]
    padded: list[Item]
    attacks: list[tuple[Item, Attack, Item, Item]]

    def ratings(self) -> list[Item]:
        """Every item to rate with the levels in their usual order, each once."""
        planted = [item for _, _, attacked, control in self.attacks for item in (attacked, control)]
        return list({item.response.id: item for item in (*self.items, *self.padded, *planted)}.values())

    def comparisons(self) -> list[Comparing]:
        """Every comparison, both orders: of two replies to a speech, and of a reply with its padded self."""
        both = [*self.pairs, *zip(self.items, self.padded, strict=True)]
        rows = [(a.speech, x.response.text, y.response.text) for a, b in both for x, y in ((a, b), (b, a))]
        return list({_key(row): row for row in rows}.values())


def planned_calls(count: int, per_rating: int = 1) -> int:
    """Most calls that probes of `count` replies cost one judge, second tries of unreadable answers not counted.

    `per_rating`: calls that one rating takes. The replies as they stand were rated before and cost nothing again.
    """
    places = len({attack.place for attack in load_attacks()})
    ratings = 1 + 1 + ATTACKS_PER_ITEM + min(ATTACKS_PER_ITEM, places)  # padded, reversed, attacked, controls
    return count * (ratings * per_rating + 4)


def plan_probes(
    items: Iterable[Item],
    principles: Sequence[Principle],
    count: int,
    seed: int = 0,
    families: Collection[str] | None = None,
) -> Plan:
    """Draw `count` replies, a second reply to the same speech for each, and attacks (of `families`; None: all)."""
    every = {item.response.id: item for item in items if item.response.text.strip()}
    drawn = sorted(every.values(), key=lambda item: content_id([seed, "probe", item.response.id]))[:count]
    by_speech: dict[str, list[Item]] = defaultdict(list)
    for item in every.values():
        by_speech[item.speech.id].append(item)
    pairs: dict[frozenset[str], tuple[Item, Item]] = {}
    for item in drawn:
        others = [other for other in by_speech[item.speech.id] if other.response.text != item.response.text]
        if others:
            other = min(others, key=lambda other: content_id([seed, item.response.id, other.response.id]))
            pairs.setdefault(frozenset((item.response.id, other.response.id)), (item, other))
    attacks = [found for item in drawn for found in _planted(item, principles, seed, families)]
    return Plan(drawn, list(pairs.values()), [padded(item) for item in drawn], attacks)


def _planted(
    item: Item, principles: Sequence[Principle], seed: int, families: Collection[str] | None
) -> list[tuple[Item, Attack, Item, Item]]:
    def order(attack: Attack) -> str:
        return content_id([seed, item.response.id, attack.place, attack.direction, attack.text])

    ordered = sorted(load_attacks(), key=order)
    chosen = [a for a in ordered if a.family != CONTROL and (families is None or a.family in families)]
    found = []
    for attack in chosen[:ATTACKS_PER_ITEM]:
        control = next(a for a in ordered if a.family == CONTROL and a.place == attack.place)
        found.append((item, attack, plant(item, attack, principles), plant(item, control, principles)))
    return found


def padded(item: Item) -> Item:
    """The item with sentences that say nothing put between its own, so that its first and last words stay."""
    text = item.response.text
    start = int(content_id(["padding", item.response.id]), 16)
    missing = max(1.0, LONGER * len(text.split()))
    added: list[str] = []
    while missing > 0:
        added.append(PADDING[(start + len(added)) % len(PADDING)])
        missing -= len(added[-1].split())
    parts = SENTENCE_GAP.split(text)  # sentence, gap, sentence, …
    gaps = len(parts) // 2
    for number, sentence in enumerate(added if gaps else []):
        parts[2 * (number % gaps)] += f" {sentence}"
    longer = "".join(parts) if gaps else f"{' '.join(added)} {text}"
    return Item(item.speech, Response(speech_id=item.speech.id, model=item.response.model, text=longer))


def probe_all(
    judges: Iterable[Judge],
    items: Sequence[Item],
    ratings: Sequence[Rating],
    principles: tuple[Principle, ...],
    store: CallStore,
    count: int,
    seed: int = 0,
) -> dict[str, Any]:
    """{"count", "seed", "judges": {name: figures}}: every judge of a panel probed on the same replies."""
    found = {judge.name: probe_judge(judge, items, principles, store, count, seed, ratings=ratings) for judge in judges}
    return {"count": count, "seed": seed, "judges": found}


def probe_judge(
    judge: Judge,
    items: Sequence[Item],
    principles: tuple[Principle, ...],
    store: CallStore,
    count: int,
    seed: int = 0,
    families: Collection[str] | None = None,
    ratings: Sequence[Rating] = (),
) -> dict[str, Any]:
    """Position, verbosity, scale order, self-preference and injection of one judge on `count` replies, JSON-ready.

    `ratings`: what all judges gave to `items`, for self-preference. A second run with the same store costs nothing.
    """
    if str(getattr(getattr(judge, "model", None), "kind", "")).startswith("recorded"):
        return {"replies": 0, "not_measurable": "recorded: cannot be asked"}
    plan = plan_probes(items, principles, count, seed, families)
    if not plan.items:
        return {"replies": 0, "not_measurable": "there is no reply to ask about"}
    backwards = judge.reversed()
    reverse = [] if backwards is judge else plan.items
    total = len(plan.ratings()) + len(plan.comparisons()) + len(reverse)
    with progress(f"probes {judge.name}", total) as advance:
        rated = _rated(judge, plan.ratings(), principles, store, advance)
        turned = _rated(backwards, reverse, principles, store, advance)
        values = _compared(judge, plan.comparisons(), principles, store, advance)

    def wins(first: Item, second: Item) -> float | None:
        return values[_key((first.speech, first.response.text, second.response.text))]

    both = list(zip(plan.items, plan.padded, strict=True))
    against = [(item, wins(longer, item)) for item, longer in both]
    against += [(item, None if (value := wins(item, longer)) is None else 1 - value) for item, longer in both]
    return {
        "replies": len(plan.items),
        "statuses": dict(sorted(Counter(status for _, status in rated.values()).items())),
        "position": biases.position([(a, wins(a, b), wins(b, a)) for a, b in plan.pairs]),
        "verbosity": biases.verbosity(
            [(item, rated[item.response.id][0], rated[longer.response.id][0]) for item, longer in both],
            against,
            principles,
        ),
        "scale_order": biases.scale_order(
            [(item, rated[item.response.id][0], turned[item.response.id][0]) for item in reverse], principles
        )
        if reverse
        else {"not_measurable": "this judge is shown no levels"},
        "self_preference": biases.self_preference(judge.name, judge.family, items, ratings, principles),
        "injection": biases.injection(
            [
                biases.Attacked(item, attack, *(rated[x.response.id][0] for x in (item, attacked, control)))
                for item, attack, attacked, control in plan.attacks
            ],
            principles,
        ),
    }


def _rated(
    judge: Judge,
    items: Sequence[Item],
    principles: tuple[Principle, ...],
    store: CallStore,
    advance: Callable[..., None],
) -> dict[str, tuple[Rating | None, str]]:
    results = rate_all(judge, items, principles, store, advance)
    return {item.response.id: result for item, result in zip(items, results, strict=True)}


def _key(row: Comparing) -> tuple[str, str, str]:
    return row[0].id, row[1], row[2]


def _compared(
    judge: Judge,
    rows: Sequence[Comparing],
    principles: tuple[Principle, ...],
    store: CallStore,
    advance: Callable[..., None],
) -> dict[tuple[str, str, str], float | None]:
    """The value of every comparison (1 = the first reply wins), at the judge's own concurrency."""

    async def one(speech: Speech, first: str, second: str) -> float | None:
        found = await judge.compare(speech, first, second, principles, store)
        advance()
        return found.value

    model = getattr(judge, "model", None)
    lane = (judge.concurrency, ((place, one(*row)) for place, row in enumerate(rows)))
    values = together([lane], store, [] if model is None else [model])
    return dict(zip(map(_key, rows), values, strict=True))
