"""What scorers were trained on, so that they are not measured on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psychocounsel.recipe import Source
from psychocounsel.records import Speech, read_records
from psychocounsel.run import RunFolder
from psychocounsel.speeches.clean import client_text
from psychocounsel.speeches.sources import read_source


def trained_on(place: str) -> list[str]:
    """What clients say in the training speeches of a run, or in a source as recipes name them."""
    run = RunFolder(Path(place))
    if (run.path / "recipe.json").is_file():
        speeches = read_records(run.stage("speeches") / "speeches.jsonl", Speech)
        return [client_text(one) for one in speeches if one.split in ("train", "dev")]
    return [client_text(one) for one in read_source(Source(load=place))]


def runs_of(models: Sequence[str]) -> list[str]:
    """The run folders that models lie in (RUN/6-reward/model), each once."""
    found = [
        str(folder) for model in models for folder in Path(model).parents[:2] if (folder / "recipe.json").is_file()
    ]
    return list(dict.fromkeys(found))
