"""The command group `psychocounsel eval`. Heavy libraries are imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Measure policies, reward models and judges, with intervals; compare two evaluations. No training needed.",
)

# power
Speeches = Annotated[str, typer.Option("--speeches", help="Numbers of speeches, with commas between.")]
ClusterCounts = Annotated[str, typer.Option("--clusters", help="Near-duplicate clusters, one for each number.")]
JudgeCount = Annotated[int, typer.Option("--judges", help="Judges in the panel.")]
SampleCount = Annotated[int, typer.Option("--samples", help="Replies of each policy to a speech.")]
Spread = Annotated[float | None, typer.Option("--spread", help="SD of a speech's value; 0.3 unless told.")]
PairedSpread = Annotated[
    float | None, typer.Option("--paired-spread", help="SD of two policies' difference; 0.35 unless told.")
]
Alike = Annotated[float, typer.Option("--alike", help="Correlation within a cluster, from 0 to 1.")]
Power = Annotated[float, typer.Option("--power", help="Chance of finding a difference that is there.")]
HalfWidth = Annotated[float | None, typer.Option("--half-width", help="Plan for this half-width; 0.02 is 2 points.")]
Detect = Annotated[float | None, typer.Option("--detect", help="Plan to find this difference; 0.02 is 2 points.")]
SpreadFrom = Annotated[Path | None, typer.Option("--from", help="Take the spreads from this evaluation's items.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

# report
EvaluationFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a finished evaluation.")]

# gate
GateFile = Annotated[Path, typer.Argument(metavar="GATE", help="A gate file, such as recipes/gates/release.toml.")]
CandidateFolder = Annotated[Path, typer.Option("--candidate", help="Folder of the run or evaluation that is tried.")]
BaselineFolder = Annotated[Path, typer.Option("--baseline", help="Folder of the one it is compared with.")]
JunitFile = Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML for a build server.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write a table for a pull request.")]
GateDraws = Annotated[int, typer.Option("--bootstrap", min=200, max=1_000_000, help="Draws for an interval.")]
GateSeed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the draws.")]


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
def power(
    speeches: Speeches = "",
    clusters: ClusterCounts = "",
    judges: JudgeCount = 3,
    samples: SampleCount = 1,
    spread: Spread = None,
    paired_spread: PairedSpread = None,
    alike: Alike = 1.0,
    power: Power = 0.8,
    half_width: HalfWidth = None,
    detect: Detect = None,
    source: SpreadFrom = None,
    as_json: AsJson = False,
) -> None:
    """What a comparison can show before it is paid for: half-widths, detectable differences, calls."""
    from psychocounsel.evals.power import Design, Wish, show_plans

    design = Design(judges, samples, spread, paired_spread, alike, power)
    show_plans(Wish(speeches, clusters, half_width, detect), design, source, as_json=as_json)


@app.command()
def report(folder: EvaluationFolder) -> None:
    """Make the page of a finished evaluation again. Asks nobody."""
    from psychocounsel.evals.report import make_page

    print(f"Report: {make_page(folder)}")


@app.command()
def gate(
    file: GateFile,
    candidate: CandidateFolder,
    baseline: BaselineFolder,
    junit: JunitFile = None,
    markdown: MarkdownFile = None,
    bootstrap: GateDraws = 10_000,
    seed: GateSeed = 0,
) -> None:
    """Compare two evaluations by the rules of a gate file; exit code 1 when one is broken."""
    from psychocounsel.evals.gate import Written, run_gate

    if not run_gate(file, candidate, baseline, Written(junit, markdown), bootstrap, seed):
        raise SystemExit(1)
