"""The speeches that policies are compared on: read as they are, each text once, near-duplicates in one cluster."""

from __future__ import annotations

from dataclasses import dataclass

from psychocounsel.errors import UserError
from psychocounsel.principles.prompts import dialogue_text
from psychocounsel.recipe import Source, SpeechesTable
from psychocounsel.records import Speech, content_id
from psychocounsel.speeches.clean import client_text, plain_words
from psychocounsel.speeches.dedup import near_duplicates
from psychocounsel.speeches.sources import read_source


@dataclass(frozen=True)
class Prompts:
    """Speeches by id, and what became of the rows that were read. Only `limit` leaves a usable speech out."""

    speeches: tuple[Speech, ...]
    read: int
    wordless: int
    repeated: int
    over_limit: int

    def notes(self) -> list[str]:
        """What a reader has to know, in sentences."""
        clusters = len({speech.cluster for speech in self.speeches})
        told = [f"{len(self.speeches)} speeches in {clusters} clusters of near-duplicates, of {self.read} rows read."]
        if self.repeated:
            told.append(f"{self.repeated} rows repeat the text of another and count once.")
        if self.wordless:
            told.append(f"{self.wordless} rows have no words of a client and are left out.")
        if self.over_limit:
            told.append(f"{self.over_limit} speeches are over the limit and were drawn out by content hash.")
        return told


def source_of(load: str, text: str, id_: str, topic: str) -> Source:
    """The source that --speeches names, with the columns of a table."""
    if not load.strip():
        raise UserError("--speeches: names nothing; write a source, such as fastchat:FILE, FILE.jsonl or embedded")
    return Source(load=load, text=text, id=id_, topic=topic)


def read_prompts(source: Source, limit: int | None, seed: int) -> Prompts:
    """Read a source as recipes do, without cleaning. Raises UserError where nothing can be asked."""
    raw = read_source(source)
    spoken = [speech for speech in raw if plain_words(client_text(speech))]
    by_id = {speech.id: speech for speech in reversed(spoken)}  # the first of equal texts stays
    if not by_id:
        raise UserError(f"--speeches: none of {len(raw)} rows has a client's words; name the column with --text")
    drawn = sorted(by_id.values(), key=lambda speech: content_id([seed, "evaluate", speech.id]))[:limit]
    chosen = sorted(drawn, key=lambda speech: speech.id)
    table = SpeechesTable()
    texts = [dialogue_text(speech.turns) for speech in chosen]
    roots = near_duplicates(texts, drop_at=table.near_duplicate, join_at=table.cluster).root
    return Prompts(
        tuple(
            speech.model_copy(update={"cluster": content_id(chosen[root].id)})
            for speech, root in zip(chosen, roots, strict=True)
        ),
        read=len(raw),
        wordless=len(raw) - len(spoken),
        repeated=len(spoken) - len(by_id),
        over_limit=len(by_id) - len(chosen),
    )
