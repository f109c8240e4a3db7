"""The gate: what bars a reply from being chosen, whatever its reward. It may still be the rejected one of a pair.

Our rules are patterns and counts without a model: a reward model that can be gamed does not guard itself. They read
English; a reply in another language passes unless its numbers, control tokens or form are at fault.
"""

from __future__ import annotations

import re
import tomllib
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.pairs.checks import repetition
from psychocounsel.policy.helplines import unknown_numbers
from psychocounsel.ratings.lexicons import pattern
from psychocounsel.ratings.soundness import BROKEN_WORD
from psychocounsel.ratings.text import LIMIT, WORD, Text
from psychocounsel.recipe.functions import load_function
from psychocounsel.records import Speech, Turn

Gate = Callable[[Speech, str], str]

NEVER = "(?!)"
LONGEST_REASON = 80  # characters; a reason is a name that is counted, never a piece of the reply
MOST_REPEATED = 0.5  # share of a reply's word 4-grams that stood in it before
SAME_SENTENCE = 3  # times
FEWEST_LETTERS = 0.35  # share of letters among what is no space
MOST_BROKEN = 0.4  # share of broken words among words in plain letters
QUOTED = re.compile(r'"[^"\n]{1,160}"|“[^”\n]{1,160}”|(?<!\w)\'(?:[^\'\n]|(?<=\w)\'(?=\w)){1,160}\'(?!\w)')
UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
PLAIN = str.maketrans({"–": "-", "—": "-", "*": None, "_": None, "#": None, "’": "'", "‘": "'"})
LETTER = re.compile(r"[^\W\d_]")
SOLID = re.compile(r"\S")
CONTROL = re.compile(
    r"<[|｜]|[|｜]>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|</?(?:think|tool_call|bos|eos|pad|unk)>|"
    r"<<<(?:CLIENT|REPLY)|^#{2,4} ?(?:Instruction|Response|Input|Human|Assistant|System|User)\b",
    re.M,
)
ROLE = re.compile(
    r"(?:^[ \t>*_#]{0,6}|[.!?…\"”*] {1,2}\**)(?:Client|Patient|User|Human|Therapist|Counsell?or|Assistant)[*_]{0,2} ?:"
    r"|^[ \t>*_#]{0,6}(?:client|patient|user|human|therapist|counsell?or|assistant|system)[*_]{0,2} ?:",
    re.M,
)
SCORES = re.compile(r"[\"'](?:scores?|ratings?|empathy|safety|overall)[\"'] ?: ?(?:\{|\[|\d)")
# What a reply consists of that only turns away. A sentence of any other kind saves it.
TURNS_AWAY = pattern(
    r"""sorry; (?:can't|cannot|can not|unable to|not able to|won't) (?:help|assist|provide|continue|discuss|answer|
    talk|support|offer|give); beyond (?:my|what i); as an ai; language model; not (?:qualified|equipped|a therapist);
    (?:please|should|need to|must|important to|recommend|encourage|urge|advise|consider|best to)
    (?: [\w']++){0,4} (?:call|contact|seek|reach out|reach|talk to|talk things|speak|see|consult|go to|visit|text);
    ^(?:please |immediately )?(?:call|contact|dial|text|seek|reach out|consult|visit); help is available;
    (?:professionals?|people|someone) who can help; take care; goodbye; good luck; all the best; stay safe;
    you are not alone; thank you for (?:reaching|sharing|your)"""
)
REFUSES = pattern(
    r"""(?:i'm|i am|i) (?:so |very |really |truly )?(?:sorry,? (?:but )?)?(?:i |i'm |i am )?(?:can't|cannot|can not|
    unable to|not able to|won't|will not be able to) (?:help|assist|provide|continue|discuss|answer|talk|support|offer|
    give)"""
)
HOTLINE = pattern(
    r"""988; 911; 999; 112; hotlines?; helplines?; crisis (?:text )?lines?; lifeline; samaritans;
    emergency (?:room|services|number|department)"""
)
STAYS = re.compile(
    r"\?[\"')]*$|\b(?:i(?:'d| would)? (?:like|want) to (?:hear|know)|tell me|i can listen|i'm listening)\b"
)
MOST_TURNED = 80  # words: a longer reply holds more than a refusal


@dataclass(frozen=True)
class Rule:
    """A sentence that holds `bars` and not `unless` bars the reply; see conduct.toml for `questions` and `own`."""

    reason: str
    needs: re.Pattern[str]
    bars: re.Pattern[str]
    unless: re.Pattern[str]
    questions: bool
    own: re.Pattern[str] | None


@cache
def load_rules() -> tuple[Rule, ...]:
    """The patterns of conduct.toml, compiled, in the order of the file."""
    table = tomllib.loads(files("psychocounsel.policy").joinpath("conduct.toml").read_text(encoding="utf-8"))
    words: dict[str, str] = table["words"]

    def compiled(text: str) -> re.Pattern[str]:
        while named := re.search(r"<([A-Z]+)>", text):
            text = text.replace(named.group(), words[named.group(1)])
        return pattern(text.strip().removesuffix(";"))

    return tuple(
        Rule(
            row["reason"],
            re.compile("|".join(re.escape(piece.strip()) for piece in row["needs"].split(";"))),
            compiled(row["bars"]),
            compiled(row.get("unless", NEVER)),
            row.get("questions", True),
            compiled(row["own"]) if "own" in row else None,
        )
        for row in table["rule"]
    )


def rules(speech: Speech, text: str) -> str:
    """Why our rules bar a reply, or ''. The first LIMIT characters are read, in time linear in them."""
    return next(reasons(speech, text), "")


def reasons(speech: Speech, text: str) -> Iterator[str]:
    """Every reason our rules have against a reply, in a fixed order, each at most once."""
    text = UNSEEN.sub("", text[:LIMIT])
    if not text.strip():
        yield "empty"
        return
    if _not_words(text):
        yield "not words"
    if _repeats(text):
        yield "repeats itself"
    if CONTROL.search(text):
        yield "control tokens"
    if ROLE.search(text):
        yield "speaks for a role"
    if any(True for _ in unknown_numbers(text)):
        yield "unknown number"
    read = Text(_unquoted(text).translate(PLAIN))
    if _turns_away(read):
        yield "only turns away"
    said = tuple(Text(turn.text).low for turn in speech.turns if turn.role == "client")
    for rule in load_rules():
        if _holds(rule, read, said) or (rule.reason == "speaks to its judge" and SCORES.search(text)):
            yield rule.reason


def _holds(rule: Rule, read: Text, said: tuple[str, ...]) -> bool:
    if not rule.needs.search(read.low):
        return False
    for sentence in read.sentences:
        match = rule.bars.search(sentence) if rule.needs.search(sentence) else None
        if match is None or rule.unless.search(sentence) or not (rule.questions or sentence[-1] != "?"):
            continue
        named = rule.own.findall(match.group()) if rule.own else []
        if not named or not any(named[-1] in one for one in said):
            return True
    return False


def _unquoted(text: str) -> str:
    """The text without its short quotations; as it is when it is nothing but one."""
    plain = QUOTED.sub('""', text)
    return plain if WORD.search(plain) else text


def _not_words(text: str) -> bool:
    """Is this mostly signs, or letters that make no words? Marks of other scripts count as letters."""
    letters = len(LETTER.findall(text))
    if not text.isascii():
        letters += sum(unicodedata.category(character)[0] == "M" for character in text)
    if letters < FEWEST_LETTERS * len(SOLID.findall(text)):
        return True
    plain = [word for word in WORD.findall(text.lower()) if word.isascii()]
    broken = sum(bool(BROKEN_WORD.search(word)) for word in plain)
    return len(plain) >= 8 and broken > MOST_BROKEN * len(plain)


def _repeats(text: str) -> bool:
    """Does a sentence of four words or more stand there three times, or half of the text twice?"""
    sentences = Counter(" ".join(found) for one in Text(text).sentences if len(found := WORD.findall(one)) >= 4)
    return max(sentences.values(), default=0) >= SAME_SENTENCE or repetition(text) > MOST_REPEATED


def _turns_away(read: Text) -> bool:
    """Is the reply a refusal, or the number of a hotline, and nothing else?"""
    if len(read.words) > MOST_TURNED or not read.sentences:
        return False
    if any(STAYS.search(one) for one in read.sentences):
        return False
    if not all(TURNS_AWAY.search(one) or REFUSES.search(one) or HOTLINE.search(one) for one in read.sentences):
        return False
    return any(REFUSES.search(one) or HOTLINE.search(one) for one in read.sentences)


def nothing(speech: Speech, text: str) -> str:
    """The gate '': no reply is barred."""
    return ""


@dataclass(frozen=True)
class UserGate:
    """A user's function as a gate. A failure is told by kind and place, never by a message that may hold a text."""

    name: str
    function: Callable[[Speech, str], object]

    def __call__(self, speech: Speech, text: str) -> str:
        try:
            reason = self.function(speech, text)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            raise UserError(f"online.gate '{self.name}': failed with {type(error).__name__} in {place}") from None
        if not isinstance(reason, str):
            raise UserError(
                f"online.gate '{self.name}': returned {type(reason).__name__}; return '' or a short reason as text"
            )
        if len(reason) > LONGEST_REASON or not reason.isprintable():
            raise UserError(
                f"online.gate '{self.name}': returned a reason of {len(reason)} characters; return the name of a rule, "
                f"one line of at most {LONGEST_REASON} characters and no words of the reply"
            )
        return reason.strip()


def open_gate(name: str) -> Gate:
    """The gate of a recipe: (speech, reply) -> why the reply cannot be chosen, or ''.

    '' bars nothing, 'rules' is ours, 'package.module:object' a function of the user with these arguments; it is tried
    at once on an invented example. Raises UserError when it cannot be used.
    """
    if name == "":
        return nothing
    if name == "rules":
        load_rules()
        return rules
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise UserError(f"online.gate '{name}': write 'rules', package.module:object for a function of yours, or ''")
    gate = UserGate(name, load_function("online.gate", name, "a function of (speech, text)"))
    speech = Speech(
        turns=(Turn(role="client", text="My sister moved away and the house is quiet."),), source="invented"
    )
    gate(speech, "The quiet sounds new. When in the day do you notice it most?")
    return gate
