"""The command group `psychocounsel eval`. Heavy libraries are imported inside the commands."""

from __future__ import annotations

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
