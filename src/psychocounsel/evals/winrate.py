"""`psychocounsel eval winrate`: any models against a baseline, by judges who are independent of both; no training."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evals.announce import reply_line, verdict_line
from psychocounsel.evals.candidates import TOKENS_OVER, TOKENS_PER_WORD, Policy, answers, requests
from psychocounsel.evals.lineup import LineUp, Settings, line_up
from psychocounsel.evals.place import Evaluation, Found, evaluation
from psychocounsel.evaluate.contest.arena import hold, speech_values
from psychocounsel.evaluate.contest.family import adjusted, contest_items, contest_metrics, policy_differences
from psychocounsel.evaluate.contest.replies import (
    COMPLIANT,
    Replies,
    Reply,
    ReplyCounts,
    compliance,
    contests,
    first_texts,
    reply_counts,
    word_limits,
)
from psychocounsel.evaluate.contest.tables import ContestTable, contest_table
from psychocounsel.evaluate.contest.words import cautions, conclusion
from psychocounsel.evaluate.results import metric_part
from psychocounsel.evaluate.wording import figure_text
from psychocounsel.principles import load_principles
from psychocounsel.ratings import described
from psychocounsel.recipe import ModelsTable, ResponsesTable
from psychocounsel.records import Verdict, content_id, write_records, write_rows

REPLIES, VERDICTS = "replies.jsonl", "verdicts.jsonl"
TO_COME = Reply("", "stop")


def winrate(settings: Settings, folder: Path, name: str, budget: float | None, allow_dependent: bool) -> None:
    """Answer, judge, measure, write the folder, and print what was found."""
    if budget is not None and not math.isfinite(budget):
        raise UserError(f"--budget {budget}: is no number; write US dollars, or leave the option out")
    lineup = line_up(settings, ModelsTable(), allow_dependent)
    with evaluation(folder, "eval winrate", settings.stored(), budget) as place:
        replies = replies_of(lineup, settings, place)
        write_rows(folder / REPLIES, _reply_rows(replies))
        verdicts = verdicts_on(lineup, replies, place)
        write_records(folder / VERDICTS, (verdict for found in verdicts.values() for verdict in found))
        tables = tables_of(lineup, settings, replies, verdicts)
        page = place.finish(name or folder.resolve().name, found_in(lineup, settings, replies, tables, place))
    _print(tables)
    print(f"Page: {page}")


def replies_of(lineup: LineUp, settings: Settings, place: Evaluation) -> dict[str, Replies]:
    """Every policy's replies: the recorded first, which cost nothing; with --match-length the baseline's before those
    of candidates. A recorded reply, the only one there is, stands in every sample."""
    table = ResponsesTable(samples=settings.samples, temperature=settings.temperature, max_tokens=settings.max_tokens)
    once = table.model_copy(update={"samples": 1})
    replies: dict[str, Replies] = {}
    for policy in (policy for policy in lineup.policies if policy.recorded):
        found = answers(policy, requests(lineup.asked(policy), once), place.store)
        samples = range(settings.samples)
        replies[policy.name] = {(key, sample): reply for (key, _), reply in found.items() for sample in samples}
    _announce(lineup, table, replies, place)
    for policy in (policy for policy in lineup.policies if not policy.recorded):
        matched = settings.match_length and policy is not lineup.baseline
        limits = word_limits(replies[lineup.baseline.name]) if matched else None
        replies[policy.name] = answers(policy, requests(lineup.asked(policy), table, limits), place.store)
    for name, given in replies.items():
        if not any(reply.text for reply in given.values()):
            raise UserError(f"{name}: none of {len(given)} replies has any text; check the model and --max-tokens")
    return replies


def _reply_rows(replies: Mapping[str, Replies]) -> Iterator[dict[str, Any]]:
    """Rows that can be read again as a recording (`recorded:FILE#NAME`)."""
    for name, found in replies.items():
        for (speech, sample), reply in found.items():
            yield {"speech_id": speech, "model": name, "sample": sample, **reply._asdict()}


def _announce(lineup: LineUp, table: ResponsesTable, recorded: Mapping[str, Replies], place: Evaluation) -> None:
    """Say what is asked of whom and what it can cost, before it is sent. What the store holds is not asked again."""
    budget = place.store.budget
    if budget is None:
        return
    expected, told = dict(recorded), []
    for policy in (policy for policy in lineup.policies if not policy.recorded):
        asked = requests(lineup.asked(policy), table)
        told.append(reply_line(policy.model, asked, budget))
        expected[policy.name] = {(request.subject["speech_id"], request.sample): TO_COME for request in asked}
    speeches = {speech.id: speech for speech in lineup.prompts.speeches}
    pairs = [
        (speeches[key[0]], a[key].text, b[key].text)
        for policy in lineup.candidates
        for a, b in [_both(lineup, policy, expected)]
        for key in a.keys() & b.keys()
    ]
    told += [verdict_line(judge, pairs, load_principles(), table.max_tokens, budget) for judge in lineup.judges]
    print("\n".join(f"  {line}" for line in told), file=sys.stderr)


def _both(lineup: LineUp, candidate: Policy, replies: Mapping[str, Replies]) -> tuple[Replies, Replies]:
    """The replies of a contest. Two recorded policies have one sample: the others would only be the same again."""
    found = replies[candidate.name], replies[lineup.baseline.name]
    if candidate.recorded and lineup.baseline.recorded:
        a, b = ({key: reply for key, reply in some.items() if key[1] == 0} for some in found)
        return a, b
    return found


def verdicts_on(lineup: LineUp, replies: Mapping[str, Replies], place: Evaluation) -> dict[str, list[Verdict]]:
    """All verdicts by candidate: every judge, both orders, every sample to which both sides said something."""
    found: dict[str, list[Verdict]] = {}
    for policy in lineup.candidates:
        held = list(contests(policy.name, lineup.baseline.name, *_both(lineup, policy, replies)))
        if not held:
            raise UserError(
                f"{policy.name} and {lineup.baseline.name}: there is no speech to which both gave a reply with any text"
            )
        found[policy.name] = [
            verdict
            for contest in held
            for verdict in hold(
                contest,
                [speech for speech in lineup.prompts.speeches if speech.id in contest.replies_a],
                lineup.judges,
                load_principles(),
                place.store,
            )
        ]
    return found


def tables_of(
    lineup: LineUp, settings: Settings, replies: Mapping[str, Replies], verdicts: Mapping[str, Sequence[Verdict]]
) -> list[ContestTable]:
    """One table for each contest, corrected for their number."""
    speeches = {speech.id: speech for speech in lineup.prompts.speeches}
    drawn = {"bootstrap": settings.bootstrap, "seed": settings.seed}
    panel = {judge.name for judge in lineup.judges} - lineup.reasons.keys() or {judge.name for judge in lineup.judges}
    values = {
        name: speech_values([verdict for verdict in found if verdict.judge in panel])
        for name, found in verdicts.items()
    }
    tables = []
    for policy in lineup.candidates:
        a, b = _both(lineup, policy, replies)
        table = contest_table(
            verdicts[policy.name],
            speeches,
            load_principles(),
            dependent=list(lineup.reasons),
            texts=first_texts(a, b),
            others={name: row for name, row in values.items() if name != policy.name},
            **drawn,
        )
        if settings.match_length:
            kept = compliance(verdicts[policy.name], a, word_limits(b), speeches, table.headline.judges, **drawn)
            table = table.model_copy(update={"compliance": kept})
        tables.append(table)
    return adjusted(tables)


def found_in(
    lineup: LineUp,
    settings: Settings,
    replies: Mapping[str, Replies],
    tables: Sequence[ContestTable],
    place: Evaluation,
) -> Found:
    """Metrics, items and all that the page shows."""
    drawn = {"bootstrap": settings.bootstrap, "seed": settings.seed}
    clusters = {speech.id: speech.cluster for speech in lineup.prompts.speeches}
    counts = [
        reply_counts(
            policy.name,
            {key: reply for key, reply in replies[policy.name].items() if key[1] == 0 or not policy.recorded},
            clusters,
            **drawn,
        )
        for policy in lineup.policies
    ]
    metrics = {f"missing_replies.{metric_part(row.policy)}": row.missing_share for row in counts}
    for table in tables:
        metrics |= contest_metrics(table)
    principles = [{"id": principle.id, "name": principle.name} for principle in load_principles()]
    shown = {
        "contests": [table.model_dump(mode="json") for table in tables],
        "differences": [row.model_dump(mode="json") for row in policy_differences(tables, **drawn)],
        "principles": principles,
        "replies": [row.model_dump(mode="json") for row in counts],
        "notes": _notes(lineup, settings, tables, counts),
    }
    return Found(
        metrics,
        shown,
        [item for table in tables for item in contest_items(table)],
        dependent=[reason for reasons in lineup.reasons.values() for reason in reasons],
        judges=[described(judge) for judge in lineup.judges],
        about=_about(lineup, place),
    )


def _about(lineup: LineUp, place: Evaluation) -> dict[str, Any]:
    prompts, store = lineup.prompts, place.store
    store.flush()
    calls: Counter[str] = Counter()
    for model, _, answered, _ in store.by_model():
        calls[model] += answered
    return {
        "speeches": len(prompts.speeches),
        "clusters": len({speech.cluster for speech in prompts.speeches}),
        "prompts": content_id([speech.id for speech in prompts.speeches]),
        "origins": sorted({speech.origin for speech in prompts.speeches if speech.origin}),
        "licences": sorted({speech.license or "not stated" for speech in prompts.speeches}),
        "policies": {policy.name: policy.source for policy in lineup.policies},
        "calls": dict(sorted(calls.items())),
        "dollars": round(store.spent(), 4),
    }


def _notes(
    lineup: LineUp, settings: Settings, tables: Sequence[ContestTable], counts: Sequence[ReplyCounts]
) -> list[str]:
    """What a reader has to know about speeches and replies, in sentences."""
    told = lineup.prompts.notes()
    for table in tables:
        meant = len(lineup.meetings[table.a])
        judged = len(table.speeches) + table.headline.missing
        if meant < len(lineup.prompts.speeches):
            told.append(f"{table.a} against {table.b}: only the {meant} speeches that both answered (--common).")
        if judged < meant:
            told.append(
                f"{table.a} against {table.b}: {meant - judged} of {meant} speeches are left out, because one of the "
                "two gave no reply with any text. That is no tie and no loss; look at whose replies are missing."
            )
    for row in counts:
        ends = {"missing": row.missing, "refused": row.refused, "filtered": row.filtered, "cut": row.truncated}
        odd = ", ".join(f"{number} {what}" for what, number in ends.items() if number)
        told.append(f"{row.policy}: {row.asked} replies, {row.words} words on average{f'; {odd}' if odd else ''}.")
    if settings.match_length:
        told.append(
            f"Candidates were asked for at most as many words as {lineup.baseline.name} used, with a cap of "
            f"{TOKENS_PER_WORD} tokens a word and {TOKENS_OVER} more; up to {COMPLIANT} times the words counts as kept."
        )
    return told


def _print(tables: Sequence[ContestTable]) -> None:
    """The headline of every contest, and the sentence that its interval allows."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for table in tables:
        head, length = table.headline, table.length
        rows = {
            "win rate": figure_text(head.win_rate.model_dump()),
            "at equal length": figure_text(length.controlled.model_dump()) if length else "undefined",
            "won, tied, lost, missing": f"{head.wins}, {head.ties}, {head.losses}, {head.missing}",
            "judges": ", ".join(head.judges) or "none is fit",
        }
        shown = Table(title=Text(conclusion(table)), title_justify="left", show_header=False)
        for label, told in [*rows.items(), *(("", caution) for caution in cautions(table))]:
            shown.add_row(label, Text(told))
        console.print(shown)
