"""Reading judges' replies: tolerant of wrapping, strict about content. Every fault gets a name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.principles import Principle

MOST_ATTEMPTS = 500  # hostile text can hold a million opening braces
MOST_REASON = 2000  # characters of a reason that are kept; the whole answer stays in the call store
VALUES = {
    "a much better": 1.0,
    "a better": 0.75,
    "a": 0.75,
    "tie": 0.5,
    "b": 0.25,
    "b better": 0.25,
    "b much better": 0.0,
}


@dataclass
class Parsed:
    """Scores by principle (None = no basis, or not readable), reasons, and what was wrong with the reply."""

    scores: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    stage: str | None = None
    risk: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """At least half of the principles have a score."""
        scored = sum(score is not None for score in self.scores.values())
        return scored * 2 >= len(self.scores) > 0


def parse_scores(text: str, principles: Sequence[Principle], rated: str = "") -> Parsed:
    """Read {"principle": {"score", "reason"}}, {"principle": score} or {"scores": {...}}, in a fence or prose or bare.

    A score must be an integer from 1 to 5 or null; anything else is a problem and leaves the score None. `rated` is
    the text that was rated: scores that stand in it already are no rating, the judge may only be repeating them.
    """
    found = find_objects(text)
    bodies = [body for body in found.objects if _rates(body, principles)]
    planted = [_bare(body, principles) for body in find_objects(rated).objects if _rates(body, principles)]
    fault = ""
    if any(f'"{principle.id}"' in part for part in found.broken for principle in principles):
        fault = "a JSON object with scores is cut off or broken"
    elif not bodies:
        fault = "no JSON object with scores in the answer"
    elif any(_bare(body, principles) != _bare(bodies[0], principles) for body in bodies):
        fault = "several JSON objects with different scores"
    elif _bare(bodies[-1], principles) in planted:
        fault = "the scores repeat a rating that stands in the text to be rated"
    if fault:
        return Parsed(scores={p.id: None for p in principles}, problems=[fault])
    body = bodies[-1]
    table = _table(body)
    parsed = Parsed(stage=_word(body.get("stage")), risk=_word(body.get("risk")))
    for principle in principles:
        entry = table.get(principle.id, ...)
        if isinstance(entry, dict):
            reason = entry.get("reason")
            if isinstance(reason, str) and reason:
                parsed.reasons[principle.id] = _whole(reason[:MOST_REASON])
            entry = entry.get("score", ...)
        parsed.scores[principle.id] = _score(entry, principle.id, parsed.problems)
    return parsed


def parse_levels(
    levels: Mapping[str, Sequence[float]], principles: Sequence[Principle], *, reverse: bool
) -> tuple[Parsed, dict[str, tuple[float, ...]]]:
    """Expected scores (sum of level x probability) of a decision, and its distributions from level 1 to 5."""
    found: dict[str, tuple[float, ...]] = {}
    parsed = Parsed()
    for principle in principles:
        given = tuple(levels.get(principle.id, ()))
        parsed.scores[principle.id] = None
        if len(given) != len(principle.anchors):
            parsed.problems.append(f"no probabilities of five levels for {principle.id}")
            continue
        found[principle.id] = given[::-1] if reverse else given
        score = sum(level * share for level, share in enumerate(found[principle.id], 1))
        parsed.scores[principle.id] = round(min(max(score, 1.0), 5.0), 6)
    return parsed, found


def parse_comparison(text: str, principles: Sequence[Principle]) -> tuple[float | None, dict[str, float]]:
    """The overall value (1 = A much better ... 0 = B much better, None = no verdict) and the verdict per principle."""
    found = find_objects(text)
    bodies = [body for body in found.objects if "overall" in body] or [{}]
    verdicts = {_lower(body.get("overall")) for body in bodies}
    clear = len(verdicts) == 1 and not any('"overall"' in part for part in found.broken)
    body = bodies[-1] if clear else {}  # two verdicts are none
    by_principle = {p.id: VALUES[word] for p in principles if (word := _lower(body.get(p.id))) in VALUES}
    return VALUES.get(_lower(body.get("overall"))), by_principle


@dataclass
class Found:
    """The complete outermost JSON objects of a text in order, and its pieces that begin one and do not end it."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def find_objects(text: str) -> Found:
    """Look for JSON objects in a text. After many failed beginnings the rest counts as broken."""
    # NaN and Infinity become words, so never scores; line breaks inside a reason are forgiven.
    decoder = json.JSONDecoder(parse_constant=str, object_pairs_hook=_unambiguous, strict=False)
    found = Found()
    position, attempts, open_from = text.find("{"), 0, -1
    while position >= 0:
        attempts += 1
        if attempts > MOST_ATTEMPTS:
            found.broken.append(text[position if open_from < 0 else open_from :])
            return found
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            open_from = position if open_from < 0 else open_from
            end = position + 1
        else:
            if open_from >= 0 and not _inside(text, open_from, position):
                found.broken.append(text[open_from:position])
                open_from = -1
            found.objects.append(value)
        position = text.find("{", end)
    if open_from >= 0:
        found.broken.append(text[open_from:])
    return found


def _inside(text: str, start: int, position: int) -> bool:
    """Whether an object at `position` is a part of the one that begins, and breaks, at `start`."""
    before = text[start:position]
    return before.count("{") > before.count("}")


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys with two different values have none that could be read as a score."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        made[key] = "two values" if key in made and made[key] != value else value
    return made


def _table(body: dict[str, Any]) -> dict[str, Any]:
    nested = body.get("scores")
    return nested if isinstance(nested, dict) else body


def _rates(body: dict[str, Any], principles: Sequence[Principle]) -> bool:
    table = _table(body)
    return any(principle.id in table for principle in principles)


def _bare(body: dict[str, Any], principles: Sequence[Principle]) -> list[Any]:
    """The scores of an answer without its reasons, as they stand."""
    entries = [_table(body).get(principle.id) for principle in principles]
    return [entry.get("score") if isinstance(entry, dict) else entry for entry in entries]


def _score(entry: Any, name: str, problems: list[str]) -> int | None:
    if entry is ...:
        problems.append(f"no score for {name}")
    elif entry is None:
        return None
    elif (
        isinstance(entry, bool)
        or not isinstance(entry, int | float | str)
        or (isinstance(entry, str) and not re.fullmatch(r"\s*[1-5]\s*", entry))
    ):
        problems.append(f"{name}: {entry!r:.40} is not a score")
    elif (int(entry) if isinstance(entry, str) else entry) not in (1, 2, 3, 4, 5):
        problems.append(f"{name}: {entry!r:.40} is not a whole number from 1 to 5")
    else:
        return int(entry)
    return None


def _word(value: Any) -> str | None:
    return _whole(value.strip()[:40]) if isinstance(value, str) and value.strip() else None


def _whole(text: str) -> str:
    """The text with half characters (lone surrogates of a broken escape) replaced; no file could hold them."""
    return text.encode("utf-8", "replace").decode()


def _lower(value: Any) -> str:
    return value.strip().lower() if isinstance(value, str) else ""
