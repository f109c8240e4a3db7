"""Recorded models: replies made earlier, by us, by other software or by people, served through the same protocol."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections import defaultdict
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.chat import ChatModel, Completion, Request
from psychocounsel.preference import read_preferences
from psychocounsel.privacy import known_values, scrub
from psychocounsel.privacy.counselchat import ANSWER_COLUMNS, counselchat_rows, persons
from psychocounsel.recipe import data_path
from psychocounsel.records import content_id, file_hash, read_rows


class RecordedModel:
    """Replies by key; `fields` names the parts of a request's subject that make the key."""

    concurrency = 64

    def __init__(self, name: str, fields: tuple[str, ...], replies: dict[tuple[str, ...], str]) -> None:
        self.name = name
        self.kind = f"recorded:{content_id(sorted(map(list, replies.items())))}"  # an edited recording answers anew
        self.fields = fields
        self.replies = replies

    def _key(self, request: Request) -> tuple[str, ...]:
        return tuple(request.subject.get(field, "") for field in self.fields)

    def can_answer(self, request: Request) -> bool:
        return self._key(request) in self.replies

    async def send(self, request: Request) -> str:
        try:
            return json.dumps({"text": self.replies[self._key(request)]}, ensure_ascii=False)
        except KeyError:
            raise UserError(f"{self.name}: no recorded reply for {self._key(request)}") from None

    def read(self, raw: str) -> Completion:
        return Completion.model_validate_json(raw)


def open_recording(where: str, purpose: str) -> list[ChatModel]:
    """All models of a recording: 'embedded' (package data), a file, a folder, 'preference:PLACE', 'counselchat:FILE'.

    `#NAME` after any of these chooses one of them; 'embedded/NAME' does as well.
    """
    place, only = _place_and_name(where)
    models = _models_at(place, purpose)
    chosen = [model for model in models if not only or model.name == only]
    if not chosen:
        raise UserError(
            f"recorded:{where}: no recorded model of that name; there are {', '.join(m.name for m in models)}"
        )
    return chosen


def _place_and_name(where: str) -> tuple[str, str]:
    """Where the recording is, and the one model that is wanted ('': all). A '#' in a file's own name is no mark."""
    if where.startswith("embedded/"):
        return "embedded", where.removeprefix("embedded/")
    place, mark, name = where.rpartition("#")
    path = where.removeprefix("counselchat:").removeprefix("preference:")
    return (place, name) if mark and place and not data_path(path).exists() else (where, "")


def _models_at(place: str, purpose: str) -> list[ChatModel]:
    if place.startswith("counselchat:"):
        return list(_counselchat_models(data_path(place.removeprefix("counselchat:")), purpose))
    if place.startswith("preference:"):
        return list(_preference_models(place.removeprefix("preference:"), purpose))
    path = embedded_file(f"{purpose}.jsonl") if place == "embedded" else data_path(place)
    if not path.is_dir():
        return list(_open_file(path, purpose))
    parts = sorted(path.glob("*.jsonl"))
    if not parts:
        raise UserError(f"{path}: no *.jsonl recordings in this folder")
    return [model for part in parts for model in _open_file(part, purpose)]


def embedded_file(name: str) -> Path:
    """A file of the embedded default."""
    return Path(str(files("psychocounsel.embedded").joinpath(name)))


def question_key(value: Any) -> str:
    """The source id of a FastChat question, apart from other sources' plain numbers."""
    return f"question:{value}"


def _open_file(path: Path, purpose: str) -> list[RecordedModel]:
    read = _read_reply if purpose == "responses" else _read_rating
    replies: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], str]] = defaultdict(dict)
    for number, row in read_rows(path):
        try:
            name, fields, key, text = read(row, path)
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a recorded {'reply' if purpose == 'responses' else 'rating'} ({error!r}); "
                "see docs/responses.md and docs/ratings.md for the known shapes"
            ) from error
        replies[name, fields].setdefault(key, text)  # a second run of the same question does not replace the first
    if not replies:
        raise UserError(f"{path}: empty; expected one recorded reply per line")
    return [RecordedModel(name, fields, found) for (name, fields), found in sorted(replies.items())]


def _preference_models(place: str, purpose: str) -> list[RecordedModel]:
    """Replies of a preference set in the released schema, one model per name; or its ratings, one judge per labeller.

    Keys are source ids: the words of a speech may be repaired or get pseudonyms before anybody answers it.
    """
    found = read_preferences(place)
    asked = {speech.id: speech.source_id for speech in found.speeches}
    answers = {response.id: response for response in found.responses}
    replies: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], str]] = defaultdict(dict)
    if purpose == "responses":
        for response in found.responses:
            replies[response.model, ("source_id",)].setdefault((asked[response.speech_id],), response.text.strip())
    else:
        for rating in found.ratings:
            reply = answers[rating.response_id]
            key = (asked[reply.speech_id], reply.model)
            replies[rating.judge, ("source_id", "model")].setdefault(key, json.dumps(rating.scores))
    return [RecordedModel(name, fields, texts) for (name, fields), texts in sorted(replies.items())]


def _counselchat_models(path: Path, purpose: str) -> list[RecordedModel]:
    """counsel-chat's answers: the k-th one to each question, in the order of the file, is model 'counsel-chat:k'.

    The file carries therapists' names, phones and pages. They go at reading, in any mode of privacy, so that none can
    reach the call store or a run folder.
    """
    if purpose != "responses":
        raise UserError(f"recorded:counselchat:{path}: holds answers, no ratings; use it in responses.models")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    replies = _counselchat_replies(path, file_hash(path))
    return [RecordedModel(name, ("source_id",), replies[name]) for name in sorted(replies, key=_number)]


@lru_cache(maxsize=2)
def _counselchat_replies(path: Path, _content: str) -> dict[str, dict[tuple[str, ...], str]]:
    """Scrubbed answers by model and question; read once for each content of the file."""
    rows = list(counselchat_rows(path, ANSWER_COLUMNS))
    known = known_values(tuple(persons((row["therapistInfo"], row["therapistURL"]) for row in rows)))
    texts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        texts[f"counsel-chat:{row['questionID']}"].append(" ".join(scrub([_mended(row["answerText"])], known).texts))
    replies: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for key, answers in texts.items():
        for k, text in enumerate(answers, 1):
            if text:
                replies[f"counsel-chat:{k}"][(key,)] = text
    return dict(replies)


def _number(name: str) -> int:
    return int(name.rpartition(":")[2])


def _mended(text: str) -> str:
    """HTML entities resolved, Unicode NFC, no control characters, single spaces; lines stay."""
    text = unicodedata.normalize("NFC", html.unescape(html.unescape(text))).replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf") or c == "\t")
    return re.sub(r" ?\n ?", "\n", re.sub(r"[^\S\n]+", " ", text)).strip()


def _read_reply(row: dict[str, Any], path: Path) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
    if "choices" in row:  # FastChat answers: the file's name is the model's name
        return (
            path.stem,
            ("source_id",),
            (question_key(row["question_id"]),),
            _text(row["choices"][0]["turns"][0]),
        )
    field = "speech_id" if "speech_id" in row else "source_id"
    return _text(row["model"]), (field,), (str(row[field]),), _text(row["text"])


def _read_rating(row: dict[str, Any], path: Path) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
    if "question_id" in row:  # ratings of FastChat answers by named raters
        answer = {key: row[key] for key in ("stage", "risk", "scores", "note") if key in row}
        key = (question_key(row["question_id"]), _text(row["model"]))
        return (
            _text(row["rater"]),
            ("source_id", "model"),
            key,
            json.dumps({**answer, "scores": row["scores"]}, ensure_ascii=False),
        )
    return _text(row["judge"]), ("response_id",), (_text(row["response_id"]),), _text(row["reply"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__} where a text belongs")
    return value.strip()
