"""Linguistic markers of one counselling reply: what the embedded judge sees, and nothing else.

Each feature is a count, a share or a length-normalised rate that a reader can check by eye. The lists are in
`lexicons`. Everything runs in linear time on any text; a reply beyond `LIMIT` characters is read up to there.
"""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from psychocounsel.ratings.lexicons import (
    CLOSED_START,
    COMMAND_VERBS,
    EMOTION,
    FUNCTION,
    LEADING,
    MARKERS,
    NUMBER_WORDS,
    OPEN_START,
    READY,
    RISK,
    SELF_HARM,
    STOCK_QUESTION,
    STRONG_RISK,
    UNREADY,
    VIOLENCE,
)
from psychocounsel.ratings.text import WORD, Text, is_content, stem

ITEM = re.compile(r"^\s{0,8}(?:[-*•–]|\(?\d{1,2}[.):]|step \d)\s?\S", re.MULTILINE)
MARKDOWN = re.compile(r"\*\*|^#{1,6} |^\s{0,4}[-*•] |`", re.MULTILINE)


def features(speech: str, response: str) -> NDArray[np.float64]:
    """The markers of `response` as a reply to `speech`, in the order of FEATURES. Never NaN or infinite."""
    row = _row(Text(speech), Text(response))
    values = np.array([row[name] for name in FEATURES], dtype=np.float64)
    return np.clip(np.nan_to_num(values), -50.0, 50.0)


def _row(speech: Text, response: Text) -> dict[str, float]:
    counts = {name: len(found.findall(response.low)) for name, found in MARKERS.items()}
    return {
        **_length(response),
        **_marker_rates(response, counts),
        **_questions(speech, response),
        **_specificity(speech, response),
        **_sentence_kinds(speech, response),
        **_form(response),
        **_risk(speech, response, counts),
        **_stage(speech, response, counts),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _length(response: Text) -> dict[str, float]:
    words = len(response.words)
    lengths = [len(WORD.findall(sentence)) for sentence in response.sentences] or [0]
    log = math.log1p(words)
    return {
        "log_words": log,
        "below_40": max(0.0, math.log(40 / max(words, 5))),
        "above_120": max(0.0, math.log(max(words, 1) / 120)),
        "sentence_words": float(np.mean(lengths)),
        "type_token": _share(len(set(response.words[:100])), len(response.words[:100])),
    }


def _marker_rates(response: Text, counts: dict[str, int]) -> dict[str, float]:
    """Per 100 words, on a square-root scale: the first use tells more than the tenth."""
    hundreds = max(len(response.words), 30) / 100
    names = (
        "tentative contrast you_said you_perceived advice must leave choice affirm stock_sympathy generic "
        "cheering jargon diagnosis verdict stereotype dismiss refer you connective plan refusal "
        "medication limits"
    )
    rates = {name: min(5.0, math.sqrt(counts[name] / hundreds)) for name in names.split()}
    opening = " ".join(response.sentences[:1])
    last = " ".join(response.sentences[-1:])
    felt = [word for word in response.words if word in EMOTION]
    return {
        **rates,
        "stock_opening": float(bool(MARKERS["stock_sympathy"].search(opening) or MARKERS["generic"].search(opening))),
        "stock_ending": float(bool(MARKERS["generic"].search(last) or MARKERS["cheering"].search(last))),
        "exclamations": min(3.0, response.low.count("!") / hundreds),
        "feeling_words": min(3.0, math.sqrt(len(set(felt)) / hundreds)),
        "advice_without_leave": min(5.0, counts["advice"] / hundreds) * float(not counts["leave"] + counts["choice"]),
        "function_share": _share(sum(word in FUNCTION for word in response.words), len(response.words)),
    }


def _questions(speech: Text, response: Text) -> dict[str, float]:
    asked = response.questions
    matter = set(speech.content)
    kinds = [_question_kind(sentence) for sentence in asked]
    hits = [len({stem(w) for w in WORD.findall(q) if is_content(w)} & matter) for q in asked]
    last = bool(asked) and asked[-1] == response.sentences[-1]
    return {
        "one_question": float(len(asked) == 1),
        "stacked_questions": min(4.0, math.log1p(max(0, len(asked) - 2)) * 2),
        "ends_with_question": float(last),
        "open_question": float("open" in kinds),
        "leading_question": min(2.0, float(kinds.count("leading"))),
        "stock_question": min(2.0, float(kinds.count("stock"))),
        "specific_question": math.log1p(max(hits, default=0)),
        "specific_open_end": float(last and kinds[-1] == "open" and 6 <= len(WORD.findall(asked[-1])) <= 32),
        "short_question": float(last and len(WORD.findall(asked[-1])) <= 5),
    }


def _question_kind(sentence: str) -> str:
    clause = re.split(r"[,;:–—] ", sentence)[-1] if not OPEN_START.match(sentence) else sentence
    if LEADING.search(sentence):
        return "leading"
    if STOCK_QUESTION.search(sentence):
        return "stock"
    if any(
        OPEN_START.match(part) or re.search(r"\b(?:and|so|then|but) (?:what|how|which|who|where)\b", part)
        for part in (clause, sentence)
    ) or re.search(r"[,;:] (?:what|how|which|who|where|when)\b", sentence):
        return "open"
    return "closed" if CLOSED_START.match(sentence) or CLOSED_START.match(clause) else "other"


def _specificity(speech: Text, response: Text) -> dict[str, float]:
    said, replied = speech.content, response.content
    matter, picked = set(said), set(said) & set(replied)
    quarter = max(1, math.ceil(len(said) / 4))
    parts = [set(said[i : i + quarter]) for i in range(0, len(said), quarter)]
    first, last = (
        {stem(w) for w in WORD.findall(" ".join(s)) if is_content(w)}
        for s in (response.sentences[:1], response.sentences[-1:])
    )
    tail = {stem(w) for w in speech.words[-40:] if is_content(w)}
    runs = set(zip(*(speech.words[i:] for i in range(5)), strict=False))
    mine = list(zip(*(response.words[i:] for i in range(5)), strict=False))
    facts = speech.names & (set(response.words) | response.names)
    strangers = {w for w in response.names - speech.names - set(speech.words) if w not in NUMBER_WORDS}
    felt = {stem(word) for word in speech.words if word in EMOTION}
    return {
        "picked_share": _share(len(picked), len(set(replied))),
        "picked_rate": _share(100 * len(picked), max(len(response.words), 25)),
        "facts_picked": math.log1p(len(facts)),
        "strangers": math.log1p(len(strangers)),
        "quarters_picked": float(sum(bool(part & picked) for part in parts)) / max(1, len(parts)),
        "tail_picked": _share(len(tail & picked), len(tail)),
        "opening_picked": math.log1p(len(first & matter)),
        "ending_picked": math.log1p(len(last & matter)),
        "copied": _share(sum(run in runs for run in mine), len(mine)),
        "feelings_met": math.log1p(len(felt & {stem(word) for word in response.words if word in EMOTION})),
    }


def _sentence_kinds(speech: Text, response: Text) -> dict[str, float]:
    """Shares of sentences that reflect, command, advise, lecture: the reply's proportions, not its length."""
    matter = set(speech.content)
    kinds: Counter[str] = Counter()
    best = 0
    for sentence in response.sentences:
        words = WORD.findall(sentence)
        hits = len({stem(word) for word in words if is_content(word)} & matter)
        second = bool(MARKERS["you"].search(sentence))
        advice = bool(MARKERS["advice"].search(sentence))
        commands = _commands(sentence)
        kinds["command"] += commands > 0
        kinds["advice"] += advice
        statement = not sentence.rstrip("\"'”’) ").endswith("?") and not advice and not commands
        if statement and second and hits >= 2:
            kinds["reflection"] += 1
            best = max(best, hits)
            kinds["complex"] += bool(MARKERS["contrast"].search(sentence) or MARKERS["tentative"].search(sentence))
        kinds["bare"] += statement and not hits
    total = max(1, len(response.sentences))
    return {
        "reflection_share": kinds["reflection"] / total,
        "complex_reflections": math.log1p(kinds["complex"]),
        "best_reflection": math.log1p(best),
        "command_share": kinds["command"] / total,
        "advice_share": kinds["advice"] / total,
        "bare_share": kinds["bare"] / total,
    }


def _commands(sentence: str) -> int:
    """Imperatives: a bare verb that opens the sentence or a clause of it ('…, and tell them')."""
    if sentence.rstrip("\"'”’) ").endswith("?"):
        return 0
    heads = re.findall(r"(?:^|[,;:] (?:and |then |so |or |but )?(?:please |just |always |never )?)([a-z']+)", sentence)
    heads = [head for head in heads[:1] if head in COMMAND_VERBS] + [
        head
        for head in heads[1:]
        if head in COMMAND_VERBS and head not in {"let", "look", "show", "work", "face", "call"}
    ]
    return min(5, len(heads))


def _form(response: Text) -> dict[str, float]:
    words = response.words
    fours = list(zip(*(words[i:] for i in range(4)), strict=False))
    repeated = 1 - _share(len(set(fours)), len(fours)) if fours else 0.0
    stripped = response.raw.strip()
    return {
        "list_items": math.log1p(len(ITEM.findall(response.low))),
        "markdown": math.log1p(len(MARKDOWN.findall(response.low))),
        "repeated_fours": repeated,
        "unfinished": float(bool(stripped) and stripped[-1] not in ".!?…\"'”’)"),
    }


def _risk(speech: Text, response: Text, counts: dict[str, int]) -> dict[str, float]:
    risk = bool(RISK.search(speech.low))
    strong = bool(STRONG_RISK.search(speech.low))
    harm, violence = bool(SELF_HARM.search(speech.low)), bool(VIOLENCE.search(speech.low))
    named, crisis = counts["names_death"] > 0, counts["crisis_text"] > 0
    passed = not (named or crisis or counts["safety_word"])
    asked = any(MARKERS["names_death"].search(q) or MARKERS["safety_word"].search(q) for q in response.questions)
    return {
        "risk": float(risk or strong),
        "risk_unnamed": float((risk or strong) and passed),
        "strong_risk_unnamed": float(strong and passed),
        "risk_named": float(risk and named),
        "risk_asked": float(risk and asked),
        "risk_human": float(risk and named and counts["human"] > 0),
        "risk_crisis_text": float(risk and crisis),
        "asked_without_cue": float(asked and not risk),
        "crisis_without_cue": float(crisis and not risk and not harm),
        "harm_unnamed": float(harm and passed),
        "violence_met": float(violence and counts["safety_word"] > 0),
    }


def _stage(speech: Text, response: Text, counts: dict[str, int]) -> dict[str, float]:
    ready, unready = bool(READY.search(speech.low)), bool(UNREADY.search(speech.low))
    hundreds = max(len(response.words), 30) / 100
    pushing = min(4.0, math.sqrt((counts["advice"] + counts["plan"]) / hundreds))
    commands = math.log1p(sum(_commands(sentence) for sentence in response.sentences))
    asks = "?" in speech.low
    return {
        "ready_x_advice": ready * pushing,
        "unready_x_advice": unready * pushing,
        "unready_x_commands": unready * commands,
        "client_asks_x_advice": asks * pushing,
    }


FEATURES: tuple[str, ...] = tuple(_row(Text(""), Text("")))
