"""The released PsychoCounsel-Preference schema, one flat row a pair, to our records and back without loss.

Columns: `ID` (text), `prefID` (whole number), `question`, `chosen`, `rejected`, `chosen_model`, `rejected_model`, and
`chosen_X_rating`, `rejected_X_rating` (whole numbers from 1 to 5) for the seven principles X (arXiv 2502.19731).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError, nearest
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.recipe import data_path
from psychocounsel.records import Pair, Rating, Response, Speech, Split, Turn
from psychocounsel.rows import READERS, Row, file_origin, folder_license, hub_origin, hub_rows, table_rows

RELEASED = "Psychotherapy-LLM/PsychoCounsel-Preference"
LICENSES = {RELEASED: "CC BY-NC 4.0"}
LABELLER = "openai:gpt-4o"  # who rated the released replies
RATED = ("empathy", "relevance", "clarity", "safety", "exploration", "autonomy", "staging")
TEXTS = ("ID", "question", "chosen", "rejected", "chosen_model", "rejected_model")
SIDES = ("chosen", "rejected")
NUMBERS = ("prefID", *(f"{side}_{name}_rating" for name in RATED for side in SIDES))
COLUMNS = ("ID", "prefID", *TEXTS[1:], *NUMBERS[1:])
SPLITS: dict[str, Split] = {"train": "train", "test": "test", "validation": "dev", "dev": "dev"}


@dataclass(frozen=True)
class PairKey:
    """What a flat row says beyond its pair: split as named there, ids, and columns that the schema does not have."""

    split: str
    id: str
    pref_id: int
    rest: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class PreferenceSet:
    """A released set as records. `pairs[i]` belongs to `keys[i]`, in the order of the rows; `columns` in theirs."""

    speeches: list[Speech]
    responses: list[Response]
    ratings: list[Rating]
    pairs: list[Pair]
    keys: list[PairKey]
    columns: tuple[str, ...] = COLUMNS

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """The flat rows by split: what was read, row for row and value for value."""
        speeches = {speech.id: speech for speech in self.speeches}
        responses = {response.id: response for response in self.responses}
        splits: dict[str, list[dict[str, Any]]] = {key.split: [] for key in self.keys}
        for pair, key in zip(self.pairs, self.keys, strict=True):
            chosen, rejected = responses[pair.chosen], responses[pair.rejected]
            row = flat_row(pair, speeches[pair.speech_id], chosen, rejected, key.id, key.pref_id) | dict(key.rest)
            splits[key.split].append({column: row[column] for column in self.columns})
        return splits


def flat_row(pair: Pair, speech: Speech, chosen: Response, rejected: Response, id: str, pref_id: int) -> dict[str, Any]:
    """A pair as one row of the released schema. A dialogue becomes one text with speaker labels.

    Means over several judges are rounded to the nearest whole number, halves up. Raises UserError when one of the seven
    principles has no score, because the schema has no word for that.
    """
    row: dict[str, Any] = {
        "ID": id,
        "prefID": pref_id,
        "question": dialogue_text(speech.turns),
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_model": chosen.model,
        "rejected_model": rejected.model,
    }
    for name in RATED:
        for side, scores in zip(SIDES, (pair.chosen_scores, pair.rejected_scores), strict=True):
            score = scores.get(name)
            if score is None:
                raise UserError(
                    f"pair {pair.id}: the {side} reply has no score for '{name}', and the released schema needs all "
                    f'of {", ".join(RATED)}; leave this pair out, or write schemas = ["trl"]'
                )
            row[f"{side}_{name}_rating"] = int(score + 0.5)
    return row


def read_preferences(place: str) -> PreferenceSet:
    """Read a set in the released schema: a hub id, a local folder in hub layout, or a .parquet, .jsonl or .json file.

    A file is one split: 'test' or 'validation' when its name begins so, else 'train'. Raises UserError that names the
    row for missing columns, values of a wrong kind, ratings outside 1 to 5, and replies that were rated in two ways.
    """
    path = data_path(place)
    reader = _Reader(place)
    if path.suffix in READERS:
        named = next((split for split in SPLITS if path.stem.lower().startswith(split)), "train")
        rows = table_rows(path)
        reader.read(named, rows, file_origin(path), "")
    else:
        for split, found in hub_rows(place).items():
            if split not in SPLITS:  # whether it may be trained on, nobody can tell from its name
                raise UserError(f"{place}: a split named '{split}'; the released set has {', '.join(SPLITS)}")
            reader.read(split, iter(found), hub_origin(place, found), LICENSES.get(place) or folder_license(place))
    if not reader.pairs:
        raise UserError(f"{place}: holds no preference rows")
    return reader.finished()


def write_preferences(preferences: PreferenceSet, folder: Path) -> list[Path]:
    """Write a set in hub layout: `data/SPLIT-00000-of-00001.parquet` per split, and a card unless there is one."""
    import pyarrow
    import pyarrow.parquet

    paths = []
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in preferences.rows().items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        part = path.with_name(path.name + ".part")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), part)
        part.replace(path)
        paths.append(path)
    card = folder / "README.md"
    if not card.exists():
        files = "".join(f"  - split: {key}\n    path: data/{key}-*\n" for key in preferences.rows())
        card.write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n", encoding="utf-8")
    return [*paths, card]


class _Reader:
    """Collects records row by row. Everything is known by content, so that a reply in six pairs is one response."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.speeches: dict[str, Speech] = {}
        self.responses: dict[str, Response] = {}
        self.scores: dict[str, dict[str, int]] = {}
        self.pairs: list[Pair] = []
        self.keys: list[PairKey] = []
        self.columns: tuple[str, ...] = COLUMNS
        self.source_ids: set[str] = set()

    def read(self, split: str, rows: Iterator[Row], origin: str, license_: str) -> None:
        for number, row in enumerate(rows, 1):
            where = f"{self.place}: {split} row {number}"
            _check(row, where)
            if not self.pairs:
                self.columns = tuple(row)
            elif set(row) != set(self.columns):
                odd = ", ".join(sorted(set(row) ^ set(self.columns)))
                raise UserError(f"{where}: has other columns than the first row ({odd}); give all rows the same")
            speech = self._speech(row, split, origin, license_)
            chosen, rejected = (self._response(row, side, speech, where) for side in SIDES)
            self.pairs.append(self._pair(speech, chosen, rejected))
            rest = {key: value for key, value in row.items() if key not in COLUMNS}
            self.keys.append(PairKey(split, row["ID"], row["prefID"], rest))

    def _speech(self, row: Row, split: str, origin: str, license_: str) -> Speech:
        turns = (Turn(role="client", text=row["question"]),)
        speech = Speech(turns=turns, source="preference", license=license_, origin=origin, split=SPLITS.get(split))
        known = self.speeches.get(speech.id)
        if known is None:
            source_id = f"preference:{row['ID']}"
            if source_id in self.source_ids:  # two questions under one ID
                source_id += f":{speech.id}"
            self.source_ids.add(source_id)
            known = speech.model_copy(update={"source_id": source_id})
        elif speech.split == "test" and known.split != "test":  # in both splits: nobody may train on it
            known = known.model_copy(update={"split": "test"})
        self.speeches[speech.id] = known
        return known

    def _response(self, row: Row, side: str, speech: Speech, where: str) -> Response:
        response = Response(speech_id=speech.id, model=row[f"{side}_model"], text=row[side])
        scores = {name: row[f"{side}_{name}_rating"] for name in RATED}
        known = self.scores.setdefault(response.id, scores)
        different = [name for name in RATED if known[name] != scores[name]]
        if different:
            raise UserError(
                f"{where} (ID '{row['ID']}'): the {side} reply of {response.model} has other ratings than in an "
                f"earlier row ({', '.join(different)}); keep one of the two rows"
            )
        return self.responses.setdefault(response.id, response)

    def _pair(self, speech: Speech, chosen: Response, rejected: Response) -> Pair:
        better, worse = self.scores[chosen.id], self.scores[rejected.id]
        gap = (sum(better.values()) - sum(worse.values())) / len(RATED)
        return Pair(
            speech_id=speech.id,
            chosen=chosen.id,
            rejected=rejected.id,
            chosen_scores=dict(better),
            rejected_scores=dict(worse),
            gap=round(gap, 6),
            judges=1,
            votes=float(gap > 0) if gap else 0.5,
        )

    def finished(self) -> PreferenceSet:
        ratings = [Rating(response_id=key, judge=LABELLER, scores=dict(found)) for key, found in self.scores.items()]
        return PreferenceSet(
            list(self.speeches.values()), list(self.responses.values()), ratings, self.pairs, self.keys, self.columns
        )


def _check(row: Row, where: str) -> None:
    for column in COLUMNS:
        if column not in row:
            raise UserError(
                f"{where}: no column '{column}'{nearest(column, list(row)) or '.'} "
                f"The released schema has {', '.join(COLUMNS)}"
            )
    named = f"{where} (ID '{row['ID']}')" if isinstance(row["ID"], str) else where
    for column in TEXTS:
        if not isinstance(row[column], str):
            raise UserError(f"{named}: '{column}' is {_kind(row[column])}, a text belongs there")
    if not row["question"]:
        raise UserError(f"{named}: 'question' is empty; a pair without a speech cannot be used, remove the row")
    for column in NUMBERS:
        value = row[column]
        if not isinstance(value, int) or isinstance(value, bool):
            raise UserError(f"{named}: '{column}' is {_kind(value)}, a whole number belongs there")
        if column != "prefID" and not 1 <= value <= 5:
            raise UserError(f"{named}: '{column}' is {value}, a rating is a whole number from 1 to 5")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value!r:.20}" if isinstance(value, (int, float)) else type(value).__name__
