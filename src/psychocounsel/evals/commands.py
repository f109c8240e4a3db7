"""The command group `psychocounsel eval`. Heavy libraries are imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Measure policies, reward models and judges, with intervals; compare two evaluations. No training needed.",
)


# eval winrate
Speeches = Annotated[
    str, typer.Option("--speeches", help="Speeches to answer: a source as in recipes (fastchat:FILE, FILE.jsonl, ...).")
]
Candidates = Annotated[
    list[str], typer.Option("--candidate", help="A model string, or NAME=MODEL for a name of your own. Repeatable.")
]
Baseline = Annotated[str, typer.Option("--baseline", help="The model that every candidate is compared with.")]
Judges = Annotated[list[str], typer.Option("--judge", help="'embedded', or any model string. Repeatable.")]
Labellers = Annotated[
    list[str] | None, typer.Option("--labelled-by", help="Who made the labels a candidate learnt from. Repeatable.")
]
Families = Annotated[
    list[str] | None, typer.Option("--family", help="NAME=FAMILY: whose model a name is, if it does not tell.")
]
Column = Annotated[str, typer.Option(help="Column of a table; '' looks for the usual names.")]


@app.command()
def winrate(
    speeches: Speeches,
    candidate: Candidates,
    baseline: Baseline,
    judge: Judges,
    folder: Annotated[Path, typer.Option("--to", help="Folder of the evaluation; the same command continues.")],
    samples: Annotated[int, typer.Option(min=1, help="Replies of each model to each speech.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="Of the models that answer; 0 is greedy.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many speeches, by content hash.")] = None,
    match_length: Annotated[bool, typer.Option(help="Ask candidates to be no longer than the baseline.")] = False,
    common: Annotated[bool, typer.Option(help="Compare only on speeches that both answered.")] = False,
    labelled_by: Labellers = None,
    base: Annotated[str, typer.Option(help="The model that a candidate was trained from.")] = "",
    family: Families = None,
    allow_dependent: Annotated[bool, typer.Option(help="Let dependent judges grade; stamps the page.")] = False,
    text: Column = "",
    id_: Annotated[str, typer.Option("--id", help="Column of ids, which recorded models answer by.")] = "",
    topic: Annotated[str, typer.Option(help="Column of fine topics.")] = "",
    bootstrap: Annotated[int, typer.Option(min=100, help="Draws behind each interval.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of draws and of the limit.")] = 0,
    budget: Annotated[float | None, typer.Option(min=0, help="US dollars that no call may pass.")] = None,
    name: Annotated[str, typer.Option(help="Name on the page; '' takes the folder's.")] = "",
) -> None:
    """Pairwise win rate of candidates against a baseline, by judges who are independent of both."""
    from psychocounsel.evals.lineup import Settings, declared_families
    from psychocounsel.evals.prompts import source_of
    from psychocounsel.evals.winrate import winrate as run

    settings = Settings(
        source_of(speeches, text, id_, topic), tuple(candidate), baseline, tuple(judge), samples, temperature,
        max_tokens, limit, match_length, common, tuple(labelled_by or ()), base, declared_families(family or ()),
        bootstrap, seed,
    )  # fmt: skip
    run(settings, folder, name, budget, allow_dependent)


@app.command()
def rm() -> None:
    """Reward models and judges on labelled pairs: accuracy, calibration, length, invariance."""
    raise NotImplementedError


@app.command()
def ood() -> None:
    """Reward models and judges on public human labels, each beside its trivial baselines."""
    raise NotImplementedError


@app.command()
def agree() -> None:
    """How far raters agree: people, judges, labels; on ratings or on verdicts."""
    raise NotImplementedError


@app.command()
def power() -> None:
    """What a comparison can show before it is paid for."""
    raise NotImplementedError


@app.command()
def report() -> None:
    """Make the page of a finished evaluation again. Asks nobody."""
    raise NotImplementedError


@app.command()
def gate() -> None:
    """Compare two evaluations by the rules of a gate file; exit code 1 when one is broken."""
    raise NotImplementedError
