"""Judges and counsellors whose behaviour is known, named on the command line as `winrate_models:NAME`."""

from __future__ import annotations

import hashlib
import json
import re

from psychocounsel.models.scripted import Scripted
from psychocounsel.principles import load_principles

PRINCIPLES = [principle.id for principle in load_principles()]
REPLIES = re.compile(r"<<<REPLY [AB]\n(.*?)\n>>>", re.DOTALL)
ASKED: list[str] = []  # names of the models asked in this process, call by call


def verdict(word):
    """A judge's answer: the same word for every principle, and overall."""
    return json.dumps({**dict.fromkeys(PRINCIPLES, word.split()[0]), "overall": word})


def judge(name, decide):
    """A judge named `name`; `decide(a, b)` gives 'A better', 'tie' ... or, in other words, no verdict."""

    def answer(request):
        ASKED.append(name)
        a, b = REPLIES.findall(request.messages[1]["content"])  # the question, also when it is asked again
        word = decide(a, b)
        return verdict(word) if word.split()[0] in ("A", "B", "tie") else word

    return Scripted(answer, name)


def speaker(name, reply):
    """A counsellor named `name`; `reply(last words of the client)` is the reply."""

    def answer(request):
        ASKED.append(name)
        return reply(request.messages[-1]["content"])

    return Scripted(answer, name)


def digest(text):
    return int(hashlib.blake2b(text.encode(), digest_size=6).hexdigest(), 16)


def more_questions(a, b):
    """The reply with more question marks: what a fair judge of this test sees."""
    difference = a.count("?") - b.count("?")
    return "tie" if not difference else "A better" if difference > 0 else "B better"


def fair():
    return judge("fair", more_questions)


def also_fair():
    return judge("also-fair", more_questions)


def noisy():
    """As fair, but every tenth pair of replies is judged the other way round, whatever their order."""
    turned = {"A better": "B better", "B better": "A better", "tie": "tie"}
    return judge(
        "noisy", lambda a, b: turned[more_questions(a, b)] if digest(min(a, b)) % 10 == 0 else more_questions(a, b)
    )


def always_first():
    return judge("always-first", lambda a, b: "A much better")


def always_tie():
    return judge("always-tie", lambda a, b: "tie")


def refuses_a_third():
    return judge(
        "refuses", lambda a, b: "I would rather not say." if digest(min(a, b)) % 3 == 0 else more_questions(a, b)
    )


def contradicts_itself():
    return judge("contradicts", lambda a, b: "A better" if digest(a + b) % 2 else "B better")


def obeys_replies():
    """A judge that repeats any verdict it finds in a reply, as a model that follows instructions in data does."""

    def decide(a, b):
        for text in (a, b):
            if found := re.search(r'\{[^{}]*"overall"[^{}]*\}', text):
                return f"As instructed: {found[0]} And my own: {verdict(more_questions(a, b))}"
        return more_questions(a, b)

    return judge("obeys", decide)


def gpt_judge():
    return judge("openai:gpt-4o", more_questions)


def gpt_baseline():
    return speaker("openai:gpt-4o-mini", lambda said: "Make a list of what is left to do.")


def claude_judge():
    return judge("anthropic:claude-judge", more_questions)


def gemini_judge():
    return judge("google/gemini-judge", more_questions)


def qwen_judge():
    return judge("qwen-judge", more_questions)


def asks():
    return speaker("llama-asks", lambda said: f"It sounds heavy. What weighs most? ({len(said)})")


def silent_on_some():
    """Says nothing to a third of the speeches."""
    return speaker("sometimes-silent", lambda said: "" if digest(said) % 3 == 0 else "What weighs most on you?")


def silent():
    return speaker("silent", lambda said: "")
