"""The protocol of `eval winrate` for other frameworks: they bring the replies, we bring baseline and judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.evals.candidates import answers, open_policy, requests
from psychocounsel.evals.lineup import declared_families
from psychocounsel.evals.prompts import read_prompts
from psychocounsel.evaluate.contest.arena import Contest, hold
from psychocounsel.evaluate.contest.independence import check_independence, dependence_reasons, parties
from psychocounsel.evaluate.contest.verdicts import Headline, ballots, headline, standings
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.principles.prompts import COUNSELLOR, chat_messages
from psychocounsel.ratings import open_judges
from psychocounsel.ratings.judge import Judge
from psychocounsel.recipe import ModelsTable, ResponsesTable, Source
from psychocounsel.records import Speech, Verdict


@dataclass(frozen=True)
class Protocol:
    """Speeches, the baseline's replies to them, judges, and why these are dependent. Calls are kept in `folder`."""

    candidate: str
    baseline: str
    speeches: tuple[Speech, ...]
    replies: Mapping[str, str]
    judges: tuple[Judge, ...]
    dependent: tuple[str, ...]
    folder: Path

    def messages(self, speech: Speech) -> list[dict[str, str]]:
        """What a candidate is asked, as chat messages: the counsellor's instruction and the dialogue."""
        return chat_messages(speech.turns, COUNSELLOR)

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """Verdicts on a candidate's replies, given by speech id, in both orders. Empty replies have none: missing is
        never a tie."""
        both = {key: text.strip() for key, text in replies.items() if text.strip() and self.replies.get(key)}
        asked = [speech for speech in self.speeches if speech.id in both]
        contest = Contest(self.candidate, self.baseline, both, {key: self.replies[key] for key in both})
        with CallStore(self.folder / "calls.sqlite") as store:
            return hold(contest, asked, self.judges, load_principles(), store)

    def result(self, verdicts: Sequence[Verdict], bootstrap: int = 10_000, seed: int = 0) -> Headline | None:
        """The win rate with its interval over clusters of speeches, by the judges fit for it; None without verdicts."""
        if not verdicts:
            return None
        table = ballots(verdicts, {speech.id: speech.cluster or speech.id for speech in self.speeches})
        return headline(table, standings(table, bootstrap=bootstrap, seed=seed), bootstrap=bootstrap, seed=seed)


def open_protocol(
    speeches: str,
    baseline: str,
    judges: Sequence[str],
    folder: Path | str,
    *,
    candidate: str = "candidate",
    labelled_by: Sequence[str] = (),
    families: Sequence[str] = (),
    allow_dependent: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> Protocol:
    """Read the speeches, answer them by the baseline (through the call store in `folder`), and open the judges.

    Names are those of `eval winrate`; `candidate` is the name of the model that the framework runs, by which its family
    is known. Raises UserError for what cannot stand in a comparison, a dependent judge among it.
    """
    place, table = Path(folder), ModelsTable()
    place.mkdir(parents=True, exist_ok=True)
    opened = tuple(open_judges(judges, models=table))
    policy = open_policy(baseline, "baseline", table)
    others = parties(labellers=labelled_by, candidates=[candidate], baselines=[policy.model.name])
    reasons = dependence_reasons(opened, others, declared_families(families))
    told = check_independence(reasons, allow_dependent, "eval", "set allow_dependent (the result is then marked)")
    prompts = read_prompts(Source(load=speeches), limit, seed)
    with CallStore(place / "calls.sqlite") as store:
        found = answers(policy, requests(prompts.speeches, ResponsesTable()), store)
    replies = {key: reply.text for (key, _), reply in found.items() if reply.text}
    if not replies:
        raise UserError(f"{baseline}: gave no reply with any text to {len(prompts.speeches)} speeches")
    return Protocol(candidate, policy.name, prompts.speeches, replies, opened, tuple(told), place)
