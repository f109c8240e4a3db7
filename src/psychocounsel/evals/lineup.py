"""Who takes part in `eval winrate`: settings, opened models and judges, speeches; all that can be refused is refused
here, before a call is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evals.candidates import Policy, answerable, check_policies, open_policy
from psychocounsel.evals.prompts import Prompts, read_prompts
from psychocounsel.evaluate.contest.independence import check_independence, dependence_reasons, parties
from psychocounsel.ratings import open_judges
from psychocounsel.ratings.judge import Judge
from psychocounsel.recipe import ModelsTable, Source
from psychocounsel.records import Speech


@dataclass(frozen=True)
class Settings:
    """What decides the figures of `eval winrate`, as it was asked for. `families` says whose models names are."""

    speeches: Source
    candidates: tuple[str, ...]
    baseline: str
    judges: tuple[str, ...]
    samples: int = 1
    temperature: float = 0.7
    max_tokens: int = 512
    limit: int | None = None
    match_length: bool = False
    common: bool = False
    labelled_by: tuple[str, ...] = ()
    base: str = ""
    families: Mapping[str, str] = field(default_factory=dict)
    bootstrap: int = 10_000
    seed: int = 0

    def stored(self) -> dict[str, Any]:
        """As the folder keeps it."""
        return {**asdict(self), "speeches": self.speeches.model_dump(exclude_defaults=True)}


@dataclass(frozen=True)
class LineUp:
    """Everybody who takes part. `reasons` say by judge why it is dependent; `meetings` are the ids of the speeches of
    each candidate's contest with the baseline."""

    candidates: tuple[Policy, ...]
    baseline: Policy
    judges: tuple[Judge, ...]
    reasons: Mapping[str, Sequence[str]]
    prompts: Prompts
    meetings: Mapping[str, frozenset[str]]

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The baseline first: with --match-length its replies say how long the others may be."""
        return (self.baseline, *self.candidates)

    def asked(self, policy: Policy) -> list[Speech]:
        """The speeches that a policy is asked: those of its contests."""
        sets = self.meetings.values() if policy is self.baseline else [self.meetings[policy.name]]
        return [speech for speech in self.prompts.speeches if any(speech.id in some for some in sets)]


def declared_families(texts: Sequence[str]) -> dict[str, str]:
    """{name: family} of NAME=FAMILY. Raises UserError for other shapes, and for a name with two families."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, family = text.rpartition("=")
        if not name or not family.strip():
            raise UserError(f"--family {text}: write NAME=FAMILY, such as --family my-tuned-model=mistral")
        if found.setdefault(name, family.strip()) != family.strip():
            raise UserError(f"--family {name}: is declared twice, as {found[name]} and {family}; keep one")
    return found


def line_up(settings: Settings, models: ModelsTable, allow_dependent: bool) -> LineUp:
    """Open and check everything. Raises UserError for the first thing that cannot stand in a comparison."""
    if not math.isfinite(settings.temperature):
        raise UserError(f"--temperature {settings.temperature}: is no number; 0 is greedy, 0.7 the default")
    candidates = tuple(open_policy(text, "--candidate", models) for text in settings.candidates)
    baseline = open_policy(settings.baseline, "--baseline", models)
    check_policies((baseline, *candidates))
    if settings.match_length and (fixed := next((policy for policy in candidates if policy.recorded), None)):
        raise UserError(
            f"--match-length: {fixed.name} is recorded and cannot be asked for replies of another length; leave the "
            "option out (the win rate at equal length needs no new replies), or name a model that can be asked"
        )
    if settings.samples > 1 and all(policy.recorded for policy in (baseline, *candidates)):
        raise UserError("--samples: all models are recorded, with one reply to each speech; leave the option out")
    judges = _judges(settings.judges, models)
    reasons = _reasons(settings, judges, candidates, baseline)
    check_independence(reasons, allow_dependent, "eval winrate", "add --allow-dependent (the page is then stamped)")
    prompts = read_prompts(settings.speeches, settings.limit, settings.seed)
    return LineUp(candidates, baseline, judges, reasons, prompts, _meetings(candidates, baseline, prompts, settings))


def _judges(names: Sequence[str], models: ModelsTable) -> tuple[Judge, ...]:
    judges = open_judges(names, models=models)
    opened = [judge.name for judge in judges]
    if repeated := next((name for name in opened if opened.count(name) > 1), None):
        raise UserError(f"--judge {repeated}: is named twice; a judge has one voice")
    for judge in judges:
        if getattr(getattr(judge, "model", None), "kind", "").startswith("recorded:"):
            raise UserError(f"--judge {judge.name}: is recorded and cannot compare replies; name 'embedded' or a model")
    return tuple(judges)


def _reasons(
    settings: Settings, judges: Sequence[Judge], candidates: Sequence[Policy], baseline: Policy
) -> dict[str, list[str]]:
    """Why judges are not independent, by judge. A family may be declared for a policy's own name as well."""
    declared = dict(settings.families)
    declared |= {p.model.name: declared[p.name] for p in (baseline, *candidates) if p.name in declared}
    others = parties(
        labellers=settings.labelled_by,
        base=settings.base,
        candidates=[policy.model.name for policy in candidates],
        baselines=[baseline.model.name],
    )
    return dependence_reasons(judges, others, declared)


def _meetings(
    candidates: Sequence[Policy], baseline: Policy, prompts: Prompts, settings: Settings
) -> dict[str, frozenset[str]]:
    """The speeches that a candidate and the baseline can both answer. Raises UserError for unequal sets."""
    everything = len(prompts.speeches)
    able = {policy.name: answerable(policy, prompts.speeches) for policy in (baseline, *candidates)}
    for name, found in able.items():
        if not found:
            raise UserError(f"{name}: has no reply to any of {everything} speeches; do the ids belong to them?")
        if len(found) < everything and not settings.common:
            raise UserError(
                f"{name}: has no reply to {everything - len(found)} of {everything} speeches, so the policies would "
                "be compared on different ones; add --common to take those that both sides of a contest answered"
            )
    meetings = {policy.name: frozenset(able[policy.name] & able[baseline.name]) for policy in candidates}
    if lonely := next((name for name, shared in meetings.items() if not shared), None):
        raise UserError(f"{lonely} and {baseline.name} have answered no speech in common; nothing can be compared")
    return meetings
