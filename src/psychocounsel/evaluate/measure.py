"""From pairs, scores and verdicts to the figures and tables of the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluate.arena import counts, win_rate
from psychocounsel.evaluate.statistics import Figure
from psychocounsel.models.chat import family_of
from psychocounsel.principles import Principle, load_topics
from psychocounsel.ratings.judge import Judge
from psychocounsel.recipe import EvaluateTable
from psychocounsel.records import Speech, Verdict


def check_independence(
    judges: Sequence[Judge], labellers: Sequence[tuple[str, str]], base: str, table: EvaluateTable
) -> list[str]:
    """Why judges are not independent: same family as a labeller or as the base model, unknown, or fitted on labels.

    Returns the reasons; without `allow_dependent` any reason is an error. `labellers` are (name, family).
    """
    reasons = []
    for judge in judges:
        if judge.family == "embedded":
            reasons.append(
                "the embedded judge was fitted on ratings of the same kind as the labels, among them all rated "
                "MentalChat16K replies: a run on those is in-sample for it"
            )
            continue
        if not judge.family:
            reasons.append(f"the family of {judge.name} is unknown, so nobody can say that it is independent")
        for name, family in [*labellers, (f"base model {base}", family_of(base))]:
            if judge.name == name or (family and judge.family == family):
                reasons.append(f"{judge.name} and {name} are of one family ({judge.family or judge.name})")
    if reasons and not table.allow_dependent:
        raise UserError(
            f"evaluate: whoever labels may not grade: {reasons[0]}; name another judge, "
            "or set evaluate.allow_dependent = true (the report is then stamped)"
        )
    return reasons


def contest_table(
    verdicts: Sequence[Verdict],
    speeches: Mapping[str, Speech],
    principles: Sequence[Principle],
    table: EvaluateTable,
    seed: int,
) -> dict[str, Any]:
    """Everything the report says about one contest: overall, by split, by principle, by coarse topic."""

    def rate(part: Sequence[Verdict], principle: str = "") -> dict[str, Any]:
        figure: Figure = win_rate(part, speeches, bootstrap=table.bootstrap, seed=seed, principle=principle)
        return figure.model_dump()

    topics = load_topics()
    by_topic: dict[str, list[Verdict]] = defaultdict(list)
    by_split: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        speech = speeches[verdict.speech_id]
        topic = topics.get(speech.topic or "")
        by_topic[topic.coarse if topic else "unknown"].append(verdict)
        by_split[speech.split or "unknown"].append(verdict)
    words_a = [verdict.words_a for verdict in verdicts if verdict.a_first]
    words_b = [verdict.words_b for verdict in verdicts if verdict.a_first]
    return {
        "a": verdicts[0].a,
        "b": verdicts[0].b,
        "overall": rate(verdicts),
        "counts": counts(verdicts),
        "words": {"a": round(sum(words_a) / len(words_a), 1), "b": round(sum(words_b) / len(words_b), 1)},
        "by_split": {key: rate(part) for key, part in sorted(by_split.items())},
        "by_principle": {principle.id: rate(verdicts, principle.id) for principle in principles},
        "by_topic": {key: rate(part) for key, part in sorted(by_topic.items())},
    }
