"""Policies that need no training: a system text written from the principles, and with it well-rated examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

from psychocounsel.errors import UserError
from psychocounsel.pairs.scores import Judged, pool
from psychocounsel.principles import Principle
from psychocounsel.principles.prompts import chat_messages, counsellor_prompt
from psychocounsel.recipe import EvaluateTable
from psychocounsel.records import Rating, Response, Speech, content_id

EXAMPLES = 4  # replies shown by 'few-shot'
NEAR = (0.5, 1.5)  # words of a shown reply, as a multiple of the median
GATE = 2.5  # a gate principle scored below this caps the overall score


@dataclass(frozen=True)
class Shown:
    """A train reply that 'few-shot' puts before the dialogue, with the speech it answers."""

    speech: Speech
    response: Response
    overall: float

    @property
    def words(self) -> int:
        return len(self.response.text.split())


def check_baselines(table: EvaluateTable) -> None:
    """Raise a UserError for baselines and a curve that cannot be made."""
    if "best-of-n" in table.baselines and table.best_of < 2:
        raise UserError("evaluate.baselines has 'best-of-n', which needs evaluate.best_of of 2 or more, for example 16")
    if table.best_of == 1:
        raise UserError("evaluate.best_of = 1 is the policy itself; set it to 2 or more, or to 0 for no curve")
    if table.best_of and table.temperature == 0:
        raise UserError(
            "evaluate.best_of chooses among different replies, and evaluate.temperature = 0 gives the same one each "
            "time; set a temperature above 0, for example 0.7, or best_of = 0"
        )


def system_messages(principles: Sequence[Principle]) -> tuple[dict[str, str], ...]:
    """What the baseline 'prompt' puts before a dialogue."""
    return ({"role": "system", "content": counsellor_prompt(principles)},)


def example_messages(principles: Sequence[Principle], shown: Iterable[Shown]) -> tuple[dict[str, str], ...]:
    """What the baseline 'few-shot' puts before a dialogue: the system text, then each example as turns of a talk."""
    messages = [*system_messages(principles)]
    for example in shown:
        messages += chat_messages(example.speech.turns)
        messages.append({"role": "assistant", "content": example.response.text})
    return tuple(messages)


def choose_examples(
    speeches: Sequence[Speech],
    responses: Sequence[Response],
    ratings: Sequence[Rating],
    principles: tuple[Principle, ...],
    seed: int,
    count: int = EXAMPLES,
) -> list[Shown]:
    """The best-rated train replies, each to a speech of another cluster and, while there are any, another topic.

    Only replies that ended, failed no gate and are about as long as the median of such replies, to speeches no longer
    than the median (examples take room). Equal ratings are put in order by content hash. The best one comes last, next
    to the dialogue. Raises UserError when no reply is left.
    """
    usable = _usable(speeches, responses, pool(ratings, principles, gated=True), principles)
    if not usable:
        raise UserError(
            "evaluate.baselines: 'few-shot' finds no rated train reply that passes the gate principles; leave it out, "
            "or add responses or judges"
        )
    middle = median_low([shown.words for shown in usable])
    usable = [shown for shown in usable if NEAR[0] * middle <= shown.words <= NEAR[1] * middle]
    longest = median_low([_length(shown.speech) for shown in usable])
    usable = [shown for shown in usable if _length(shown.speech) <= longest]
    usable.sort(key=lambda shown: (-shown.overall, content_id(["few-shot", seed, shown.response.id])))
    chosen: list[Shown] = []
    for another_topic in (True, False):
        for shown in usable:
            clusters, topics = {s.speech.cluster for s in chosen}, {s.speech.topic for s in chosen}
            taken = shown.speech.cluster in clusters or (another_topic and shown.speech.topic in topics)
            if len(chosen) < count and not taken:
                chosen.append(shown)
    return sorted(chosen, key=usable.index, reverse=True)


def _usable(
    speeches: Sequence[Speech],
    responses: Sequence[Response],
    judged: dict[str, Judged],
    principles: Sequence[Principle],
) -> list[Shown]:
    held = {speech.cluster for speech in speeches if speech.split != "train"}
    train = {speech.id: speech for speech in speeches if speech.split == "train" and speech.cluster not in held}
    gates = [principle.id for principle in principles if principle.gate]
    found = []
    for response in responses:
        speech, rated = train.get(response.speech_id), judged.get(response.id)
        if speech is None or rated is None or response.finish != "stop" or not response.text.strip():
            continue
        failed = any(score is not None and score < GATE for score in (rated.scores.get(gate) for gate in gates))
        if not failed and speech.turns[0].role == "client":  # templates want the user to begin
            found.append(Shown(speech, response, round(rated.overall, 6)))
    return found


def _length(speech: Speech) -> int:
    return sum(len(turn.text.split()) for turn in speech.turns)
