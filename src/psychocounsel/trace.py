"""`psychocounsel trace`: where a pair comes from. Its source row, both replies, every rating and every raw answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.store import CallStore
from psychocounsel.run import RunFolder

Row = dict[str, Any]
FEWEST = 6  # hex digits of an id
MOST = 8  # records that an ambiguous id lists
RULE = ("rule", "gap", "test_gap", "votes", "probability")
FILES = {"pair": "pairs", "response": "responses", "speech": "speeches"}


def trace(path: Path, wanted: str) -> Row:
    """All that a run holds about a pair, a response or a speech, ready for JSON: `kind`, `id`, `speech`, `responses`
    (each with `calls`, `overall` and `ratings`, each of those with `calls`), `pairs`, `rule`.

    `wanted` is an id or its first 6 hex digits or more. Raises UserError for a folder that is no run, an id that
    nothing or more than one record has, and files that hold no records.
    """
    folder = RunFolder(path)
    if not (path / "recipe.json").is_file():
        raise UserError(f"{path}: not a run folder (it has no recipe.json)")
    kind, found = _find(folder, wanted.strip().lower())
    speech_id = found["id"] if kind == "speech" else found["speech_id"]
    speech = next(_rows(_files(folder, "speech"), speech_id, "id"), {"id": speech_id})
    pairs = list(_rows(_files(folder, "pair"), speech_id, "speech_id"))
    if kind == "pair":
        pairs = [pair for pair in pairs if pair["id"] == found["id"]]
        shown = [found["chosen"], found["rejected"]]
    elif kind == "response":
        pairs = [pair for pair in pairs if found["id"] in (pair["chosen"], pair["rejected"])]
        shown = [found["id"]]
    else:
        shown = [row["id"] for row in _rows(_files(folder, "response"), speech_id, "speech_id")]
    settings = manifest.settings if (manifest := folder.manifest("pairs")) else {}
    return {
        "kind": kind,
        "id": found["id"],
        "speech": speech,
        "responses": list(_responses(folder, shown)),
        "pairs": pairs,
        "rule": {key: settings[key] for key in RULE if key in settings},
    }


def _responses(folder: RunFolder, shown: list[str]) -> Iterator[Row]:
    overall = _overall(folder)
    store_path = folder.path / "calls.sqlite"
    store = CallStore(store_path, read_only=True) if store_path.is_file() else None
    try:
        for key in shown:
            response: Row = next(_rows(_files(folder, "response"), key, "id"), {"id": key})
            response["overall"] = overall.get(key)
            response["calls"] = _calls(store, response)
            response["ratings"] = [
                {**rating, "calls": _calls(store, rating)}
                for rating in _rows([folder.stage("ratings") / "ratings.jsonl"], key, "response_id")
            ]
            yield response
    finally:
        if store is not None:
            store.__exit__(None, None, None)


def _calls(store: CallStore | None, row: Row) -> list[Row]:
    """The calls behind a record: endpoint, model, what was asked (long texts in full) and the raw body."""
    return [_call(store, key) for key in str(row.get("call_id") or "").split(",") if key]


def _call(store: CallStore | None, call_id: str) -> Row:
    columns = ("endpoint", "model", "status", "request", "raw")
    query = "SELECT kind, model, status, request, raw FROM calls WHERE id = ?"
    row = store.reader.execute(query, (call_id,)).fetchone() if store else None
    if store is None or row is None:
        return {"id": call_id, "status": "not in calls.sqlite"}
    call = {"id": call_id, **dict(zip(columns, row, strict=True)), "request": json.loads(row[3])}
    for message in call["request"]["messages"]:
        text = store.reader.execute("SELECT text FROM texts WHERE id = ?", (message["text"],)).fetchone()
        message["text"] = text[0] if text else ""
    return call


def _find(folder: RunFolder, wanted: str) -> tuple[str, Row]:
    """The one pair, response or speech whose id begins so; a pair that lies in two sets is one record."""
    if not re.fullmatch(rf"[0-9a-f]{{{FEWEST},16}}", wanted):
        raise UserError(f"'{wanted[:40]}': not an id; write at least {FEWEST} of its hexadecimal digits")
    found: dict[tuple[str, str], Row] = {}
    for kind in FILES:
        for row in _rows(_files(folder, kind), wanted, "id"):
            found.setdefault((kind, row["id"]), row)
    if not found:
        raise UserError(f"{folder.path}: no pair, response or speech has an id that begins with {wanted}")
    if len(found) > 1:
        named = ", ".join(f"{kind} {key}" for kind, key in sorted(found)[:MOST])
        more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
        raise UserError(f"{wanted}: {len(found)} ids begin so: {named}{more}; write more digits")
    ((kind, _), row) = next(iter(found.items()))
    return kind, row


def _files(folder: RunFolder, kind: str) -> list[Path]:
    place = folder.stage(FILES[kind])
    if kind == "pair":
        return sorted(place.glob("*.jsonl"), key=lambda file: (file.stem.startswith("test-"), file.name))
    return [place / f"{FILES[kind]}.jsonl"]


def _rows(paths: list[Path], wanted: str, field: str) -> Iterator[Row]:
    """Rows whose `field` begins with `wanted`; pairs are told their set. Only lines that hold the digits are parsed."""
    digits = wanted.encode()
    for path in paths:
        if not path.is_file():
            continue
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if digits not in line:
                    continue
                try:
                    row = json.loads(line)
                    matches = str(row.get(field, "")).startswith(wanted)
                except (ValueError, AttributeError) as error:
                    raise UserError(f"{path}:{number}: not a JSON object; was the file changed by hand?") from error
                if matches:
                    yield {**row, "set": path.stem} if "chosen" in row else row


def _overall(folder: RunFolder) -> Row:
    path = folder.stage("pairs") / "overall.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error


def show_trace(path: Path, wanted: str, as_json: bool) -> None:
    """Print a trace for people, or as one JSON object."""
    found = trace(path, wanted)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for heading, lines in _told(found):
        console.rule(Text(visible(heading)), align="left")
        for name, value in lines:
            console.print(Text.assemble((f"{name}: ", "bold"), visible(value)), soft_wrap=False)


def _told(found: Row) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(name, text)]) in the order of the making."""
    speech = found["speech"]
    names = ("source", "source_id", "license", "origin", "split", "cluster", "topic", "topic_by", "stage", "risk")
    lines = [(name, str(speech[name])) for name in names if speech.get(name)]
    lines += [(turn["role"], turn["text"]) for turn in speech.get("turns", [])]
    yield f"Speech {speech['id']}", lines
    for response in found["responses"]:
        side = {pair.get(side): side for pair in found["pairs"] for side in ("chosen", "rejected")}.get(response["id"])
        name = side if found["kind"] == "pair" and side else "response"
        yield f"{name.capitalize()} {response['id']}", _told_response(response)
        for rating in response["ratings"]:
            yield f"Rating of {name} {response['id']} by {rating.get('judge')}", _told_rating(rating)
    for pair in found["pairs"]:
        yield f"Pair {pair['id']} in {pair['set']}", _told_pair(pair, found)


def _told_response(response: Row) -> list[tuple[str, str]]:
    lines = [("model", str(response.get("model"))), ("finish", str(response.get("finish")))]
    lines += [("sampling", json.dumps(response.get("sampling"))), ("text", str(response.get("text")))]
    if response["overall"] is not None:
        lines.append(("overall", f"{response['overall']:g}"))
    return lines + _told_calls(response["calls"])


def _told_rating(rating: Row) -> list[tuple[str, str]]:
    reasons = rating.get("reasons") or {}
    lines = []
    for name, score in rating.get("scores", {}).items():
        shown = "no basis" if score is None else f"{score:g}"
        lines.append((name, f"{shown}, {reasons[name]}" if reasons.get(name) else shown))
    if rating.get("prompt_id"):
        lines.append(("prompt", rating["prompt_id"]))
    return lines + _told_calls(rating["calls"])


def _told_calls(calls: list[Row]) -> list[tuple[str, str]]:
    lines = []
    for call in calls:
        lines.append(("call", " ".join([call["id"], f"to {call['model']}" if "model" in call else "", call["status"]])))
        lines += [("raw answer", str(call["raw"]))] if "raw" in call else []
    return lines or [("call", "none is recorded")]


def _told_pair(pair: Row, found: Row) -> list[tuple[str, str]]:
    """Why the pair came about."""
    overall = {row["id"]: row["overall"] for row in found["responses"]}
    scores = [overall.get(pair[side]) for side in ("chosen", "rejected")]
    rule = found["rule"]
    least = rule.get("test_gap" if pair["set"].startswith("test") else "gap", 0)
    demand = f"a gap below {least:g}" if pair["set"] == "test-near-ties" else f"a gap of {least:g} or more"
    against = f" ({scores[0]:g} against {scores[1]:g})" if None not in scores else ""
    lines = [("chosen", pair["chosen"]), ("rejected", pair["rejected"]), ("gap", f"{pair['gap']:g}{against}")]
    if rule:
        lines.append(("rule", f"{rule.get('rule')}, {demand}"))
    if pair.get("judges"):
        lines.append(("votes", f"{pair['votes']:.0%} of {pair['judges']} judge(s) put the chosen reply first"))
    if pair.get("probability") is not None:
        lines.append(("probability", f"{pair['probability']:g} that the chosen reply is the better one"))
    if pair.get("uncertainty") is not None:
        lines.append(("uncertainty", f"{pair['uncertainty']:g} points between the judges"))
    return lines


def visible(text: str) -> str:
    """Control characters as signs, so that a hostile text cannot steer the terminal. Line breaks and tabs stay."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", _sign, text)


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"\\u{code:04x}"
