"""The records every stage reads and writes: frozen, strict, content-addressed, JSON Lines at rest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from psychocounsel.errors import UserError

Risk = Literal["none", "passive", "active", "imminent", "harm_to_others", "harm_from_other"]
Speaker = Literal["self", "about_another", "minor"]
Split = Literal["train", "dev", "test", "arena"]
Finish = Literal["stop", "length", "refused", "filtered"]
SECONDS = "seconds.json"  # how long parts of a stage took: the one file that differs from run to run
Score = Annotated[float, Field(ge=1, le=5, allow_inf_nan=False)]


def content_id(value: Any) -> str:
    """16 hex digits of blake2b over the canonical JSON of `value` (sorted keys, no spaces, UTF-8)."""
    return short_hash(canonical_json(value))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def short_hash(text: str) -> str:
    """16 hex digits of blake2b over a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def file_hash(path: Path) -> str:
    """32 hex digits of blake2b over a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Record(BaseModel):
    """Base of all records: immutable, unknown fields are errors."""

    # an unforeseen fault ends in a traceback, and whoever shares that must not share a client's words
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Turn(Record):
    """One utterance of a dialogue."""

    role: Literal["client", "therapist"]
    text: str = Field(min_length=1)


class Speech(Record):
    """What a client said: a dialogue that ends with the client (a single message is a dialogue of length one)."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    source: str
    source_id: str = ""
    license: str = ""
    origin: str = Field(
        default="", description="where the row was read: a file with its hash, or a hub id with revision"
    )
    topic: str | None = None
    topic_by: str = ""
    secondary: tuple[str, ...] = Field(default=(), max_length=2)
    stage: str | None = None
    risk: Risk | None = None
    speaker: Speaker | None = None
    cluster: str = ""
    split: Split | None = None

    def model_post_init(self, context: Any) -> None:
        if self.turns[-1].role != "client":
            raise ValueError("a speech ends with the client's turn")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        return content_id([[turn.role, turn.text] for turn in self.turns])

    @property
    def text(self) -> str:
        """The client's last message."""
        return self.turns[-1].text


class Response(Record):
    """A counsellor reply to a speech by one model (or person). `call_id` names the call that made it."""

    speech_id: str
    model: str
    text: str
    sampling: dict[str, Any] = Field(default_factory=dict)
    finish: Finish = "stop"
    call_id: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        return content_id([self.speech_id, self.model, self.text])


class Rating(Record):
    """Scores of one judge (model or human) for one response; None means 'no basis to score'.

    `levels` holds the probability of each score from 1 to 5 where the judge's endpoint gives one. `call_id` names the
    call the scores were read from (several with commas between, when each principle was a question of its own).
    """

    response_id: str
    judge: str
    scores: dict[str, Score | None]
    levels: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    reasons: dict[str, str] = Field(default_factory=dict)
    stage: str | None = None
    risk: str | None = None
    prompt_id: str = ""
    call_id: str = ""


class Pair(Record):
    """Two responses to one speech, the better one first. Scores are means over judges.

    `judges` scored both and `votes`, a share of them, put the chosen one first (a judge's tie counts half);
    `probability` is P(chosen beats rejected) given the judges' noise.
    """

    speech_id: str
    chosen: str
    rejected: str
    chosen_scores: dict[str, float | None]
    rejected_scores: dict[str, float | None]
    gap: float
    uncertainty: float | None = None
    judges: int = 0
    votes: float = 0.0
    probability: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        return content_id([self.chosen, self.rejected])


class Verdict(Record):
    """One judge's comparison of two policies' replies to a speech, in one order of presentation.

    `value` is 1 when `a` wins outright, 0 when `b` does, .5 for a tie, None when the judge gave no verdict.
    """

    speech_id: str
    a: str
    b: str
    judge: str
    sample: int = 0
    a_first: bool
    value: Annotated[float, Field(ge=0, le=1)] | None
    principles: dict[str, float] = Field(default_factory=dict)
    words_a: int = 0
    words_b: int = 0
    chars_a: int = 0
    chars_b: int = 0
    call_id: str = ""


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON Lines file; bad lines raise a UserError that names them."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                row = _load(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file first") from error
            except ValueError as error:
                raise UserError(f"{path}:{number}: not JSON ({error}); each line must hold one object") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
            yield number, row


def _load(text: str) -> Any:
    """JSON without its two traps: NaN and Infinity are errors, escaped half characters become '?'."""
    value = STRICT.decode(text)
    if "\\ud" in text or "\\uD" in text:
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def _not_a_number(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value, write null")


STRICT = json.JSONDecoder(parse_constant=_not_a_number)


def read_records(path: Path, kind: type[AnyRecord]) -> list[AnyRecord]:
    """Read a JSON Lines file of one record type. Computed fields in the file (ids) are ignored on reading."""
    records = []
    for number, row in read_rows(path):
        row.pop("id", None)
        try:
            records.append(kind.model_validate(row))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or kind.__name__
            raise UserError(f"{path}:{number}: {where}: {first['msg']}") from error
    return records


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON Lines atomically (temporary file, then rename). Returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    count = 0
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return count


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records as JSON Lines atomically, ids included so that people and other tools can join files."""
    return write_rows(path, (record.model_dump(mode="json") for record in records))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
