"""Who is compared: the policies of a run, baselines beside them, their replies, and the best-of-N curve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psychocounsel.evaluate.baselines import choose_examples, example_messages, system_messages
from psychocounsel.evaluate.contest.arena import Contest, hold
from psychocounsel.evaluate.rounds import read_rounds
from psychocounsel.pipeline.context import Run
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.ratings.judge import Judge
from psychocounsel.records import Speech, Verdict, read_rows, write_records, write_rows, write_text

if TYPE_CHECKING:
    from psychocounsel.evaluate.best_of import Curve
    from psychocounsel.evaluate.policies import Policy

CURVE = "best-of.json"
REWARDS = "best-of.jsonl"  # rewards of all replies that best-of-N chooses among


def policies(run: Run) -> list[Policy]:
    """Base, offline, the best online round as online, and the baselines of the recipe.

    Where no round beat the policy that the rounds started from, online is that policy.
    """
    from psychocounsel.evaluate.policies import Policy
    from psychocounsel.supervised import starting_model
    from psychocounsel.training.adapters import Start

    place, table = run.folder.stage("policy"), run.recipe.evaluate
    base = Policy("base", Start(starting_model(run.folder.stage("supervised"))))
    offline = Policy("offline", Start(str(place / "offline" / "model")))
    found = [base, offline]
    if online := read_rounds(place):
        start = (base if run.recipe.policy.online.start == "base" else offline).start
        best = Start(str(place / f"online-{online['best']}" / "model")) if online["best"] else start
        found.append(Policy("online", best))
    if "prompt" in table.baselines:
        found.append(Policy("prompt", base.start, system_messages(run.principles)))
    if "few-shot" in table.baselines:
        shown = choose_examples(run.speeches(), run.responses(), run.ratings(), run.principles, run.recipe.seed)
        found.append(Policy("few-shot", base.start, example_messages(run.principles, shown)))
    if "best-of-n" in table.baselines:
        found.append(Policy("best-of-n", base.start, best_of=table.best_of))
    return found


def contests(names: Sequence[str]) -> list[tuple[str, str]]:
    """Who meets whom: every policy and base; online also offline and best-of-n."""
    pairs = [(name, names[0]) for name in names[1:]]
    return pairs + [("online", other) for other in ("offline", "best-of-n") if {"online", other} <= set(names)]


def replies_of(run: Run, chosen: Sequence[Speech], folder: Path) -> dict[str, list[dict[str, str]]]:
    """Replies of all policies to the chosen speeches; what was put before the dialogues is kept in before.json."""
    from psychocounsel.evaluate.policies import policy_replies

    recipe, found = run.recipe, policies(run)
    write_text(
        folder / "before.json",
        json.dumps({p.name: p.before for p in found if p.before}, indent=1, ensure_ascii=False),
    )
    return policy_replies(
        found,
        chosen,
        recipe.evaluate,
        recipe.policy.max_length,
        recipe.seed,
        folder,
        lambda speeches, replies: pool_rewards(run, speeches, replies, folder / REWARDS),
        run.store,
        recipe.models,
    )


def pool_rewards(
    run: Run, speeches: Sequence[Speech], replies: Sequence[Mapping[str, str]], path: Path
) -> dict[str, list[float]]:
    """Rewards of base's replies by speech, in the order of their numbers, by the reward model of the run; made once."""
    if not path.is_file():
        from psychocounsel.reward.score import RewardModel

        model = RewardModel(run.folder.stage("reward") / "model", run.recipe.reward.max_length)
        items = [(chat_messages(s.turns), [texts[s.id] for texts in replies]) for s in speeches]
        scored = model.read(items, label="rewards of replies")
        write_rows(
            path,
            (
                {"speech_id": speech.id, "sample": number, "reward": round(one.reward, 6)}
                for speech, row in zip(speeches, scored, strict=True)
                for number, one in enumerate(row)
            ),
        )
    found: dict[str, list[float]] = {speech.id: [] for speech in speeches}
    for _, row in read_rows(path):
        found[row["speech_id"]].append(row["reward"])
    return found


def best_of_curve(
    run: Run, chosen: Sequence[Speech], replies: Sequence[Mapping[str, str]], judges: Sequence[Judge], folder: Path
) -> Curve:
    """The best-of-N curve of base's replies; verdicts on the picks and the curve are kept in the folder."""
    from psychocounsel.evaluate.best_of import curve, verdicts_of_picks
    from psychocounsel.policy.monitors import best_of_n_kl

    table = run.recipe.evaluate
    rewards = pool_rewards(run, chosen, replies, folder / REWARDS)

    def judged(contest: Contest, asked: Sequence[Speech]) -> list[Verdict]:
        return hold(contest, asked, judges, run.principles, run.store)

    verdicts = verdicts_of_picks(chosen, replies, rewards, table.best_of, "base", judged)
    first = {(v.speech_id, v.judge, v.a_first, v.a): v for some in verdicts.values() for v in some}
    write_records(folder / "verdicts-best-of.jsonl", first.values())
    found = curve(
        rewards, verdicts, {s.id: s for s in chosen}, best_of_n_kl, bootstrap=table.bootstrap, seed=run.recipe.seed
    )
    write_text(folder / CURVE, json.dumps(found.told(), indent=1))
    return found


def read_curve(folder: Path) -> dict[str, Any] | None:
    """The curve that the stage left, for the report; None when the recipe asked for none."""
    path = folder / CURVE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
