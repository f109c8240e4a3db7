"""Tables of the recipe for what makes the data: principles, models, speeches, responses, ratings, pairs, publish."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Table(BaseModel):
    """Base of all recipe tables: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PrincipleText(Table):
    """A new principle, or new words for an existing one (fields left out keep their text)."""

    id: str = Field(pattern=r"^[a-z][a-z_]*$")
    name: str | None = None
    definition: str | None = None
    grounding: str | None = None
    anchors: list[str] | None = Field(default=None, min_length=5, max_length=5)
    failures: list[str] | None = None
    weight: float | None = Field(default=None, ge=0)
    gate: bool | None = None


class PrinciplesTable(Table):
    drop: list[str] = Field(default=[], description="ids of principles to leave out")
    weight: dict[str, Annotated[float, Field(ge=0)]] = Field(default={}, description="id = weight in the overall score")
    reword: list[PrincipleText] = Field(default=[], description="new words for existing principles")
    add: list[PrincipleText] = Field(default=[], description="further principles")


class ModelsTable(Table):
    """How models are called. None of it shapes an answer, so all of it may change while a run is under way."""

    concurrency: Positive = Field(default=64, description="most calls at once to one endpoint; adapts below that")
    timeout: Annotated[float, Field(gt=0)] = Field(default=120.0, description="seconds until a call counts as hung")
    attempts: Positive = Field(default=6, description="tries of one call before the run stops")
    budget: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="US dollars; no call is sent that could pass it"
    )
    prices: str = Field(default="", description="a price file of your own; '' takes the one of the package")


class Source(Table):
    """Where speeches come from: 'embedded', a known data set, a file, a hub data set or a function of the user."""

    load: str = Field(
        min_length=1,
        description="'embedded', 'counselchat:FILE', 'fastchat:FILE', 'preference:FILE', 'hub:OWNER/NAME', a known "
        "set, a .csv, .jsonl or .parquet file, or 'package.module:function'",
    )
    turns: str = Field(default="", description="column that holds a dialogue: a list of {role, text} or the like")
    text: str = Field(default="", description="column that holds the client's words")
    id: str = Field(default="", description="column that holds an id")
    topic: str = Field(default="", description="column that holds a topic key")
    license: str = Field(default="", description="licence of the texts, stored on every record")
    limit: Positive | None = Field(default=None, description="read at most so many rows")


class PrivacyTable(Table):
    """What happens to personal data in texts of all sources but the invented embedded ones."""

    mode: Literal["replace", "report", "off"] = "replace"
    model: str = Field(default="", description="a model string that reads each text once more for what was missed")
    keep_map: bool = Field(default=False, description="write the reversible map of pseudonyms beside the run folder")
    contexts: Annotated[int, Field(ge=0)] = Field(default=5, description="sampled contexts per type in the report")


class SpeechesTable(Table):
    sources: list[Source] = Field(default=[Source(load="embedded")], min_length=1)
    min_chars: Positive = 100
    max_chars: Positive = 1000
    language: str = Field(default="en", description="keep this language (ISO 639-1); '' keeps all")
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.8, description="word 3-gram Jaccard from which the later row is dropped"
    )
    cluster: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.4, description="Jaccard from which two speeches share a cluster, so a split"
    )
    content: bool = Field(default=True, description="drop boilerplate, fragments and texts that no client wrote")
    encoder: str = Field(
        default="", description="a local encoder or hub id for a semantic near-duplicate pass; '' none"
    )
    semantic: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95, description="cosine of the encoder from which two speeches share a cluster"
    )
    dev: Fraction = 0.1
    test: Fraction = 0.2
    external: list[Source] = Field(default=[], description="data sets the splits are compared with for leakage")
    topics: str = Field(default="tfidf", description="who gives topics: 'tfidf', 'none', or a model string")
    classify: Literal["missing", "all"] = Field(
        default="missing",
        description="speeches a topic model reads: those without a topic, or all (risk, speaker and an accuracy too)",
    )
    privacy: PrivacyTable = PrivacyTable()


class ResponsesTable(Table):
    models: list[str] = Field(default=["recorded:embedded"], min_length=1, description="the pool of candidate models")
    per_speech: Positive = Field(default=4, description="models drawn per speech, by content hash")
    samples: Positive = Field(default=1, description="replies of each drawn model; several make same-model pairs")
    temperature: Annotated[float, Field(ge=0)] = 0.8
    max_tokens: Positive = 512
    limit: Positive | None = Field(default=None, description="answer at most so many speeches (by content hash)")


class RatingsTable(Table):
    judges: list[str] = Field(default=["recorded:embedded"], min_length=1)
    max_tokens: Positive = 1200
    ask: Literal["all", "each"] = Field(default="all", description="all principles in one question, or one each")
    answer: Literal["auto", "decision", "schema", "json", "text"] = Field(
        default="auto", description="form of a judge's answer; 'auto' takes the strictest its endpoint honours"
    )
    probes: Annotated[int, Field(ge=0)] = Field(
        default=0, description="replies on which every judge is probed for its biases; 0 asks nothing"
    )


class PairsTable(Table):
    rule: Literal["gate", "paper"] = "gate"
    gap: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="least difference of overall scores in a train pair"
    )
    test_gap: Annotated[float, Field(ge=0)] = Field(
        default=0.5, description="least difference of best and worst in a test pair"
    )
    votes: Share = Field(default=0.0, description="least share of the judges that put the chosen reply first")
    probability: Share = Field(
        default=0.0, description="least P(chosen beats rejected) given how much the judges differ"
    )
    max_words: Positive | None = Field(default=None, description="no chosen reply is longer than this")
    max_repetition: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="no chosen reply repeats a larger share of its word 4-grams"
    )
    length_tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="word counts this close (as a share) make a length-matched hard pair"
    )


class PublishTable(Table):
    """The data set as others get it."""

    title: str = Field(default="", description="name on the card; '' takes the recipe's name")
    license: str = Field(default="", description="licence of the published set (an SPDX id); '' asks for one")
    schemas: list[Literal["released", "trl"]] = Field(default=["released", "trl"], min_length=1)
    accept: list[str] = Field(
        default=[], description="licences of sources you have checked yourself and may redistribute"
    )
    hub: str = Field(default="", description="OWNER/NAME of a hub data set to push to; '' stays on this machine")
