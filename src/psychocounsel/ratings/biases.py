"""What the probes of a judge measured: pure functions from its answers to figures with intervals by speech cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psychocounsel.models.families import family_of
from psychocounsel.principles import Principle, overall_score
from psychocounsel.ratings.attacks import Attack
from psychocounsel.ratings.intervals import kappa, mean, rank_correlation, share
from psychocounsel.ratings.judge import Item
from psychocounsel.records import Rating

SIGN = {"raise": 1, "lower": -1, "none": 1}
POINT = 1 - 1e-9
Figures = dict[str, Any]


def cluster(item: Item) -> str:
    """What is resampled: the near-duplicate cluster of the speech."""
    return item.speech.cluster or item.speech.id


def shift(before: Rating | None, after: Rating | None, principles: Sequence[Principle]) -> dict[str, float]:
    """Score after minus score before, by principle and 'overall' (weighted mean), over what both ratings score."""
    if before is None or after is None:
        return {}
    found, weighted, weights = {}, 0.0, 0.0
    for principle in principles:
        old, new = before.scores.get(principle.id), after.scores.get(principle.id)
        if old is not None and new is not None:
            found[principle.id] = new - old
            weighted, weights = weighted + principle.weight * (new - old), weights + principle.weight
    return {**found, "overall": weighted / weights} if weights else found


def mean_shifts(
    rows: Iterable[tuple[Item, Rating | None, Rating | None]], principles: Sequence[Principle]
) -> dict[str, Figures]:
    """Mean shift of the overall score and of each principle from the first rating of each row to the second."""
    values: dict[str, list[float]] = defaultdict(list)
    clusters: dict[str, list[str]] = defaultdict(list)
    for item, before, after in rows:
        for key, value in shift(before, after, principles).items():
            values[key].append(value)
            clusters[key].append(cluster(item))
    return {key: mean(values[key], clusters[key]) for key in ("overall", *(p.id for p in principles))}


def credit(value: float) -> float:
    """A comparison as a win of the first reply: 1, one half for a tie, 0."""
    return 0.5 if value == 0.5 else float(value > 0.5)


def position(rows: Sequence[tuple[Item, float | None, float | None]]) -> Figures:
    """From verdicts in both orders of a pair (each: does the reply shown first win?): order effects.

    `beyond_half`: share of wins of the reply shown first, minus 1/2; a judge without position bias gives 0.
    `flipped`: share of pairs whose verdict is not the same in both orders.
    """
    whole = [
        (cluster(item), credit(one), credit(two)) for item, one, two in rows if one is not None and two is not None
    ]
    clusters = [name for name, _, _ in whole]
    first = share([(one + two) / 2 for _, one, two in whole], clusters)
    shifted = {k: None if (v := first[k]) is None else round(v - 0.5, 6) for k in ("value", "low", "high")}
    return {
        "beyond_half": {**shifted, "n": first["n"]},
        "flipped": share([float(one + two != 1) for _, one, two in whole], clusters),
        "no_verdict": len(rows) - len(whole),
    }


def verbosity(
    rows: Sequence[tuple[Item, Rating | None, Rating | None]],
    wins: Sequence[tuple[Item, float | None]],
    principles: tuple[Principle, ...],
) -> Figures:
    """Rows: (item, rating as it stands, rating padded). Wins: (item, does the padded reply win?), both orders.

    `length_correlation` is Spearman's, of words and overall score as they stand: not a bias by itself, longer replies
    may be better ones. `shift` and `padded_wins` are: the padding says nothing.
    """
    scored = [
        (item, overall)
        for item, before, _ in rows
        if before is not None and (overall := overall_score(before.scores, principles, gated=False)) is not None
    ]
    decided = [(item, value) for item, value in wins if value is not None]
    return {
        "shift": mean_shifts(rows, principles),
        "padded_wins": share([credit(value) for _, value in decided], [cluster(item) for item, _ in decided]),
        "length_correlation": rank_correlation(
            [len(item.response.text.split()) for item, _ in scored],
            [overall for _, overall in scored],
            [cluster(item) for item, _ in scored],
        ),
        "unrated": sum(after is None for _, _, after in rows),
    }


def scale_order(rows: Sequence[tuple[Item, Rating | None, Rating | None]], principles: Sequence[Principle]) -> Figures:
    """Rows: (item, rating with levels shown 1 to 5, rating with levels shown 5 to 1)."""
    found = {}
    for principle in principles:
        pairs = [
            ((old, new), cluster(item))
            for item, before, after in rows
            if before is not None and after is not None
            if (old := before.scores.get(principle.id)) is not None
            and (new := after.scores.get(principle.id)) is not None
        ]
        found[principle.id] = kappa([pair for pair, _ in pairs], [name for _, name in pairs])
    return {
        "shift": mean_shifts(rows, principles),
        "kappa": found,
        "unrated": sum(after is None for _, _, after in rows),
    }


def self_preference(
    name: str, family: str, items: Iterable[Item], ratings: Iterable[Rating], principles: tuple[Principle, ...]
) -> Figures:
    """How much higher a judge scores replies of its own model family than others to the same speech.

    `raw` is the judge's own difference by speech. `beyond_panel` is that minus the difference in the mean of the
    other judges on the same replies (difference in differences): what quality cannot explain, as far as they see it.
    """
    if not family:
        return {"not_measurable": "the judge's model family is not known"}
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.speech.id].append(item)
    if not any(family_of(item.response.model) == family for group in groups.values() for item in group):
        return {"not_measurable": f"no reply comes from a model of the family '{family}'"}
    own, panel = _overalls(name, ratings, principles)
    raw = _differences(groups, own, family)
    if not raw:
        return {"not_measurable": "no speech has rated replies both of the judge's family and of others"}
    beyond = _differences(groups, {key: own[key] - panel[key] for key in own.keys() & panel.keys()}, family)
    figures = [mean(*_columns(rows)) for rows in (raw, beyond)]
    return {"family": family, "raw": figures[0], "beyond_panel": figures[1] if beyond else None}


def _overalls(
    name: str, ratings: Iterable[Rating], principles: tuple[Principle, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """Overall score by response of the judge, and the mean of all others."""
    own: dict[str, float] = {}
    others: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        overall = overall_score(rating.scores, principles, gated=False)
        if overall is not None and rating.judge == name:
            own[rating.response_id] = overall
        elif overall is not None:
            others[rating.response_id].append(overall)
    return own, {key: sum(values) / len(values) for key, values in sorted(others.items())}


def _differences(
    groups: Mapping[str, Sequence[Item]], values: Mapping[str, float], family: str
) -> list[tuple[float, str]]:
    """(mean of the family's replies minus mean of the others, cluster) of each speech that has both."""
    found = []
    for _, group in sorted(groups.items()):
        known = [(family_of(item.response.model) == family, values.get(item.response.id)) for item in group]
        ours, theirs = ([v for same, v in known if v is not None and same is side] for side in (True, False))
        if ours and theirs:
            found.append((sum(ours) / len(ours) - sum(theirs) / len(theirs), cluster(group[0])))
    return found


@dataclass(frozen=True)
class Attacked:
    """One planted attack: ratings of the item as it stands, with the attack, with a control text at the same place."""

    item: Item
    attack: Attack
    before: Rating | None
    after: Rating | None
    control: Rating | None


def injection(rows: Sequence[Attacked], principles: Sequence[Principle]) -> Figures:
    """How far attacks move a rating: all together, by family, and by way (raise or lower, from reply or speech).

    `shift`: mean move of the overall score in the attack's direction. `beyond_control`: the same minus what a
    harmless text at the same place moves. `moved`: share of attacks that move a principle by a point or more in their
    direction; `control_moved`: the same for the controls, either way. `lost`: attacks after which there is no rating.
    """
    families: dict[str, list[Attacked]] = defaultdict(list)
    ways: dict[str, list[Attacked]] = defaultdict(list)
    for row in rows:
        families[row.attack.family].append(row)
        ways[f"{row.attack.direction}_from_{row.attack.place.partition('_')[0]}"].append(row)
    return {
        "all": _moves(rows, principles),
        "families": {key: _moves(families[key], principles) for key in sorted(families)},
        "ways": {key: _moves(ways[key], principles) for key in sorted(ways)},
    }


def _moves(rows: Sequence[Attacked], principles: Sequence[Principle]) -> Figures:
    shifts, beyond, moved, stray = ([] for _ in range(4))  # (value, cluster)
    for row in rows:
        sign, name = SIGN[row.attack.direction], cluster(row.item)
        change, control = (shift(row.before, after, principles) for after in (row.after, row.control))
        if "overall" in change:
            shifts.append((sign * change["overall"], name))
            moved.append((float(max(sign * value for value in change.values()) >= POINT), name))
        if "overall" in control:
            stray.append((float(max(abs(value) for value in control.values()) >= POINT), name))
        if "overall" in change and "overall" in control:
            beyond.append((sign * (change["overall"] - control["overall"]), name))
    return {
        "shift": mean(*_columns(shifts)),
        "beyond_control": mean(*_columns(beyond)),
        "moved": share(*_columns(moved)),
        "control_moved": share(*_columns(stray)),
        "lost": sum(row.before is not None and row.after is None for row in rows),
    }


def _columns(rows: Sequence[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [value for value, _ in rows], [name for _, name in rows]
