"""An example of a judge of your own: a ChatModel that compares two replies by counting phrases. It is no authority.

The rule, all of it: +1 for each phrase that takes up what was said ("it sounds like", "you feel" ...), at most 3; +1
for each question, at most 2; -1 for each piece of advice nobody asked for ("you should", "you need to" ...), at most
3; -1 for words that wave away ("cheer up", "calm down" ...). The higher sum is better, by 3 or more much better; equal
sums tie. It reads English phrases, not meaning: try a comparison with it without spending anything; it can say nothing
about care.

    PYTHONPATH=examples psychocounsel eval winrate ... --judge rule_judge:judge --family rule-judge=rules
"""

from __future__ import annotations

import json
import re

from psychocounsel.models.chat import Completion, Request
from psychocounsel.principles import load_principles

REFLECTS = r"\b(?:it sounds (?:like|as if)|it seems (?:like|as if)|you (?:feel|sound|seem)|i hear|that must)\b"
ADVISES = r"\b(?:you (?:should|must|need to|have to|ought to)|why don't you|just try|i (?:suggest|recommend))\b"
DISMISSES = r"\b(?:cheer up|calm down|get over it|don't worry|others have it worse)\b"
REPLIES = re.compile(r"<<<REPLY (A|B)\n(.*?)\n>>>", re.DOTALL)


class RuleJudge:
    """Answers the comparison that ModelJudge asks; replies stand between marks that no text inside them can close."""

    name, kind, concurrency = "rule-judge", "rules-1", 1  # another rule wants another kind: answers are kept by it

    def can_answer(self, request: Request) -> bool:
        return True

    async def send(self, request: Request) -> str:
        replies = dict(REPLIES.findall(request.messages[1]["content"]))
        if set(replies) != {"A", "B"}:
            return "This is no comparison of two replies."  # no verdict: it counts as missing, not as a tie
        a, b = points(replies["A"]), points(replies["B"])
        parts = {
            "empathy": side(a["reflects"] - a["dismisses"], b["reflects"] - b["dismisses"]),
            "exploration": side(a["asks"], b["asks"]),
            "autonomy": side(b["advises"], a["advises"]),
        }
        verdict = {principle.id: parts.get(principle.id, "no rule") for principle in load_principles()}
        return json.dumps({**verdict, "overall": overall(total(a) - total(b))})

    def read(self, raw: str) -> Completion:
        return Completion(text=raw)


def points(reply: str) -> dict[str, int]:
    """What the rule counts in a reply."""
    text = reply.lower().replace("’", "'")
    return {
        "reflects": min(len(re.findall(REFLECTS, text)), 3),
        "asks": min(text.count("?"), 2),
        "advises": min(len(re.findall(ADVISES, text)), 3),
        "dismisses": len(re.findall(DISMISSES, text)),
    }


def total(found: dict[str, int]) -> int:
    return found["reflects"] + found["asks"] - found["advises"] - found["dismisses"]


def side(a: int, b: int) -> str:
    return "A" if a > b else "B" if b > a else "tie"


def overall(difference: int) -> str:
    if difference == 0:
        return "tie"
    return f"{'A' if difference > 0 else 'B'} {'much ' if abs(difference) >= 3 else ''}better"


def judge() -> RuleJudge:
    """What `--judge rule_judge:judge` calls."""
    return RuleJudge()
