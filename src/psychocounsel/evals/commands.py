"""The command group `psychocounsel eval`. Heavy libraries are imported inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Measure policies, reward models and judges, with intervals; compare two evaluations. No training needed.",
)


@app.command()
def winrate() -> None:
    """Pairwise win rate of candidates against a baseline, by judges who are independent of both."""
    raise NotImplementedError


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


Bootstrap = Annotated[int, typer.Option("--bootstrap", min=2, help="Draws behind each interval.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")]


@app.command()
def power(
    speeches: Annotated[str, typer.Option("--speeches", help="Numbers of speeches, with commas.")] = "",
    judges: Annotated[int, typer.Option("--judges", min=1, help="Judges of the panel.")] = 3,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Replies of each policy per speech.")] = 1,
    clusters: Annotated[
        int | None, typer.Option("--clusters", min=2, help="Clusters of near-duplicates; default: each speech its own.")
    ] = None,
    spread: Annotated[
        float | None, typer.Option("--spread", help="Standard deviation of a speech's value. [default: 0.3]")
    ] = None,
    paired_spread: Annotated[
        float | None, typer.Option("--paired-spread", help="That of the difference of two policies. [default: 0.35]")
    ] = None,
    alike: Annotated[float, typer.Option("--alike", help="Correlation of values within a cluster.")] = 1.0,
    chance: Annotated[float, typer.Option("--power", help="Chance to find a difference that is there.")] = 0.8,
    width: Annotated[float | None, typer.Option("--half-width", help="How many speeches give it, as a share.")] = None,
    difference: Annotated[float | None, typer.Option("--detect", help="How many speeches find it, as a share.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Take the spreads from a finished evaluation or run.")
    ] = None,
    target: Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")] = None,
) -> None:
    """What a comparison can show before it is paid for: half-widths, detectable differences, calls."""
    from psychocounsel.errors import UserError
    from psychocounsel.evals.power import show_power

    try:
        counts = [int(part) for part in speeches.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--speeches {speeches}: write whole numbers with commas, for example 500,1000") from None
    show_power(
        counts, judges=judges, samples=samples, clusters=clusters, spread=spread, paired_spread=paired_spread,
        alike=alike, power=chance, width=width, difference=difference, source=source, target=target,
    )  # fmt: skip


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="The folder of a finished evaluation.")]) -> None:
    """Make the page of a finished evaluation again. Asks nobody."""
    from psychocounsel.evals.place import write_page

    print(f"Report: {write_page(folder)}")


@app.command()
def gate(
    rules: Annotated[Path, typer.Argument(help="Rules (TOML); recipes/gate/gate.toml is a complete example.")],
    candidate: Annotated[Path, typer.Option("--candidate", help="Folder of the new evaluation or run.")],
    baseline: Annotated[Path, typer.Option("--baseline", help="Folder of the one it must not fall behind.")],
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a Markdown table to this file.")] = None,
    bootstrap: Bootstrap = 10_000,
    seed: Seed = 0,
) -> None:
    """Compare two evaluations by the rules of a gate file; exit code 1 when one is broken."""
    from psychocounsel.evals.gate import pass_gate

    if not pass_gate(rules, candidate, baseline, junit=junit, markdown=markdown, bootstrap=bootstrap, seed=seed):
        sys.exit(1)
