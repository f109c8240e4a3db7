"""Stage 9: publish. The pairs as others get them: checked licences, Parquet in two schemas, a card that says all."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.preference import RATED
from psychocounsel.publish.parquet import Table, form_schemas
from psychocounsel.publish.rows import FORMS, Published, is_complete, published_name, split_name
from psychocounsel.publish.stored import Stored
from psychocounsel.recipe import PublishTable
from psychocounsel.records import Pair, Response, Speech

MAIN = ("train", "dev", "test")
Sets = Mapping[str, Callable[[], Iterable[Pair]]]  # each set of pairs, as often as it is wanted


@dataclass
class Census:
    """What there is to publish, by set of pairs; `numbers` counts the pairs of each speech, those in two sets once."""

    pairs: Counter[str] = field(default_factory=Counter)
    complete: Counter[str] = field(default_factory=Counter)
    speeches: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    topics: Counter[str] = field(default_factory=Counter)


def take_census(sets: Sets, speeches: Stored[Speech]) -> Census:
    """Count the pairs, their sources (pairs by source and licence) and topics (speeches). Raises UserError for none."""
    census = Census()
    for name, read in sets.items():
        seen: set[str] = set()
        for pair in read():
            census.pairs[name] += 1
            census.complete[name] += is_complete(pair)
            seen.add(pair.speech_id)
            numbers = census.numbers.setdefault(pair.speech_id, {})
            numbers.setdefault(pair.id, len(numbers))
        census.speeches[name] = len(seen)
    if not any(census.pairs[name] for name in MAIN):
        raise UserError("publish: there are no pairs to publish; lower pairs.gap, or add judges or responses")
    for speech_id, numbers in census.numbers.items():
        speech = speeches[speech_id]
        census.sources[speech.source, speech.license] += len(numbers)
        census.topics[speech.topic or "unknown"] += 1
    return census


def write_tables(
    sets: Sets,
    census: Census,
    speeches: Stored[Speech],
    responses: Stored[Response],
    overall: Mapping[str, float],
    judges: Mapping[str, tuple[str, ...]],
    principles: Sequence[str],
    table: PublishTable,
    folder: Path,
) -> dict[str, list[Table]]:
    """Write every set in every form below `folder`; gives the tables by config, 'released' or 'trl' first.

    Hard test sets get configs of their own ('released-hard'), so that nobody trains on them by taking all splits. Sets
    without rows get no file. `judges` are the names of those who rated a response. Raises UserError when the released
    schema cannot hold a single pair.
    """
    schemas = form_schemas(principles)
    forms = [*dict.fromkeys(table.schemas), "scores"]
    if "released" in forms and not any(census.complete.values()):
        raise UserError(
            f"publish: no pair has scores on all of {', '.join(RATED)}, as the released schema demands; "
            'write schemas = ["trl"] in [publish]'
        )
    made: dict[str, list[Table]] = {}
    for kind, names in (("", MAIN), ("-hard", tuple(name for name in sets if name not in MAIN))):
        for form in forms:
            shutil.rmtree(folder / f"{form}{kind}", ignore_errors=True)
            made[f"{form}{kind}"] = []
        for name in names:
            rows = {form: census.complete[name] if form == "released" else census.pairs[name] for form in forms}
            tables = {
                form: Table(folder / f"{form}{kind}", split_name(name), schemas[form], rows[form]) for form in forms
            }
            for item in _published(sets[name](), census, speeches, responses, overall, judges):
                for form, open_table in tables.items():
                    if form != "released" or is_complete(item.pair):
                        open_table.add(FORMS[form](item))
            for form, open_table in tables.items():
                open_table.close()
                if open_table.examples:
                    made[f"{form}{kind}"].append(open_table)
    return {config: tables for config, tables in made.items() if tables}


def _published(
    pairs: Iterable[Pair],
    census: Census,
    speeches: Stored[Speech],
    responses: Stored[Response],
    overall: Mapping[str, float],
    judges: Mapping[str, tuple[str, ...]],
) -> Iterator[Published]:
    for pair in pairs:
        chosen, rejected = (_renamed(responses[key]) for key in (pair.chosen, pair.rejected))
        both = tuple(name for name in judges.get(pair.chosen, ()) if name in judges.get(pair.rejected, ()))
        scores = (overall[pair.chosen], overall[pair.rejected])
        number = census.numbers[pair.speech_id][pair.id]
        yield Published(pair, speeches[pair.speech_id], chosen, rejected, number, scores, both)


def _renamed(response: Response) -> Response:
    return response.model_copy(update={"model": published_name(response.model)})


def raters(rows: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Published names of the judges of each response, sorted, from (response id, judge) of all ratings."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    names: dict[str, str] = {}
    found: dict[str, tuple[str, ...]] = {}
    for response_id, judge in rows:
        name = names.setdefault(judge, published_name(judge))
        both = tuple(sorted({*found.get(response_id, ()), name}))
        found[response_id] = known.setdefault(both, both)  # one tuple for all responses of one panel
    return found


def sizes(tables: Mapping[str, Sequence[Table]]) -> dict[str, int]:
    """Bytes on the disk by config."""
    return {
        config: sum(path.stat().st_size for path in chain(*(t.files for t in made))) for config, made in tables.items()
    }
