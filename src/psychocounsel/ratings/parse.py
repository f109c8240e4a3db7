"""Reading judges' replies: tolerant of wrapping, strict about content. Every fault gets a name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.principles import Principle

MOST_ATTEMPTS = 500  # hostile text can hold a million opening braces
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


def parse_scores(text: str, principles: Sequence[Principle]) -> Parsed:
    """Read {"principle": {"score", "reason"}}, {"principle": score} or {"scores": {...}}, in a fence or prose or bare.

    A score must be an integer from 1 to 5 or null; anything else is a problem and leaves the score None.
    """
    bodies = [body for body in find_objects(text) if _rates(body, principles)]
    if not bodies:
        return Parsed(scores={p.id: None for p in principles}, problems=["no JSON object with scores in the answer"])
    if any(_bare(body, principles) != _bare(bodies[0], principles) for body in bodies):
        # One of them may have been planted by the text that is rated; which one, nobody can tell.
        return Parsed(scores={p.id: None for p in principles}, problems=["several JSON objects with different scores"])
    body = bodies[-1]
    table = _table(body)
    parsed = Parsed(stage=_word(body.get("stage")), risk=_word(body.get("risk")))
    for principle in principles:
        entry = table.get(principle.id, ...)
        if isinstance(entry, dict):
            reason = entry.get("reason")
            if isinstance(reason, str) and reason:
                parsed.reasons[principle.id] = _whole(reason)
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
    bodies = [body for body in find_objects(text) if "overall" in body] or [{}]
    verdicts = {_lower(body.get("overall")) for body in bodies}
    body = bodies[-1] if len(verdicts) == 1 else {}  # two verdicts are none
    by_principle = {p.id: VALUES[word] for p in principles if (word := _lower(body.get(p.id))) in VALUES}
    return VALUES.get(_lower(body.get("overall"))), by_principle


def find_objects(text: str) -> list[dict[str, Any]]:
    """All complete JSON objects of a text, outermost ones only, in order."""
    decoder = json.JSONDecoder(parse_constant=lambda name: name)  # NaN and Infinity become words, so never scores
    found = []
    position, attempts = text.find("{"), 0
    while position >= 0 and attempts < MOST_ATTEMPTS:
        attempts += 1
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            found += [value] if isinstance(value, dict) else []
        position = text.find("{", end)
    return found


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
