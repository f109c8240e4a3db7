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
SpeechCounts = Annotated[str, typer.Option("--speeches", help="Numbers of speeches, with commas between.")]
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


# eval rm and eval ood
ScorerModels = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL...", help="Reward models: folders or hub ids.")
]
ScorerJudges = Annotated[list[str] | None, typer.Option("--judge", help="A judge beside them. Repeatable.")]
MaxLength = Annotated[int, typer.Option("--max-length", min=16, help="Tokens of prompt and reply.")]
Draws = Annotated[int, typer.Option("--bootstrap", min=2, help="Draws behind each interval.")]
DrawSeed = Annotated[int, typer.Option("--seed", min=0, help="Seed of draws.")]
JudgeBudget = Annotated[float | None, typer.Option("--budget", min=0, help="US dollars for judges.")]
PageTitle = Annotated[str, typer.Option("--name", help="Title of the page.")]


@app.command()
def rm(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Reward models: folders, hub ids.")
    ] = None,
    judges: ScorerJudges = None,
    pairs: Annotated[
        str,
        typer.Option("--pairs", help="A run folder, a preference set, a file of pairs, or rankings:FILE."),
    ] = "",
    responses: Annotated[str, typer.Option("--responses", help="Recorded replies that rankings name.")] = "",
    speeches: Annotated[str, typer.Option("--speeches", help="The speeches that rankings name.")] = "",
    validation: Annotated[
        str, typer.Option("--validation", help="Other pairs, on which temperature and length rule are fitted.")
    ] = "",
    training: Annotated[
        list[str] | None,
        typer.Option("--training", help="What the scorers were trained on: a run folder or a source. Repeatable."),
    ] = None,
    labelled_by: Annotated[
        list[str] | None, typer.Option("--labelled-by", help="Who labelled the pairs, if not told. Repeatable.")
    ] = None,
    family: Families = None,
    folder: Annotated[Path, typer.Option("--to", help="Folder of the evaluation.")] = Path("eval-rm"),
    probes: Annotated[str, typer.Option("--probes", help="all, none, or names with commas.")] = "all",
    most: Annotated[int, typer.Option("--probe-replies", min=1, help="Replies that probes change.")] = 200,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many pairs, by hash.")] = None,
    ceiling: Annotated[float | None, typer.Option("--ceiling", help="Raters' own agreement, if known.")] = None,
    max_length: MaxLength = 2048,
    bootstrap: Draws = 10_000,
    seed: DrawSeed = 0,
    budget: JudgeBudget = None,
    name: PageTitle = "",
) -> None:
    """Reward models and judges on labelled pairs: accuracy, calibration, length, invariance."""
    from psychocounsel.errors import UserError
    from psychocounsel.evals.lineup import declared_families
    from psychocounsel.evals.rm import evaluate_rm

    if not pairs:
        raise UserError("--pairs: name a run folder, a preference set, a file of pairs, or rankings:FILE")
    page = evaluate_rm(
        models or [], judges or [], pairs, folder, responses=responses, speeches=speeches, validation=validation,
        training=training or [], labelled_by=labelled_by or [], families=declared_families(family or ()), probes=probes,
        most=most, limit=limit, ceiling=ceiling, max_length=max_length, bootstrap=bootstrap, seed=seed, budget=budget,
        name=name,
    )  # fmt: skip
    print(f"Report: {page}")


@app.command()
def ood(
    models: ScorerModels = None,
    judges: ScorerJudges = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=PLACE: a set of human labels and where it lies. Repeatable.")
    ] = None,
    training: Annotated[
        list[str] | None,
        typer.Option("--training", help="What the scorers were trained on: a run folder or a source. Repeatable."),
    ] = None,
    near: Annotated[
        float, typer.Option("--near", min=0, max=1, help="Likeness from which an item counts as trained on.")
    ] = 0.4,
    folder: Annotated[Path, typer.Option("--to", help="Folder of the evaluation.")] = Path("eval-ood"),
    max_length: MaxLength = 2048,
    bootstrap: Draws = 10_000,
    seed: DrawSeed = 0,
    budget: JudgeBudget = None,
    name: PageTitle = "",
) -> None:
    """Reward models and judges on public human labels, each beside its trivial baselines."""
    from psychocounsel.evals.ood import evaluate_ood

    page = evaluate_ood(
        models or [], judges or [], sets or [], folder, training=training or [], near=near, max_length=max_length,
        bootstrap=bootstrap, seed=seed, budget=budget, name=name,
    )  # fmt: skip
    print(f"Report: {page}")


# eval agree
AnswersPlace = Annotated[
    Path | None,
    typer.Argument(help="A run, a folder or file of verdicts, ratings, rankings, or a table with item, rater, value."),
]
HumanFile = Annotated[Path | None, typer.Option("--human", help="Answers of people, in the same shape.")]
LabelsFile = Annotated[Path | None, typer.Option("--labels", help="Labels, in the same shape.")]
People = Annotated[
    list[str] | None, typer.Option("--person", help="A rater who is a person; names in human: are. Repeatable.")
]
LabelRaters = Annotated[list[str] | None, typer.Option("--label", help="A rater that is a label. Repeatable.")]
Counts = Annotated[
    str,
    typer.Option("--counts", help="A published table: agree with the label both, only first, only second, neither."),
]
Margins = Annotated[
    str, typer.Option("--margins", help="Published margins: items, first right, second right [, alike].")
]
By = Annotated[str, typer.Option("--by", help="principle: each question; overall: the overall one alone.")]
Scale = Annotated[str, typer.Option("--scale", help="nominal, ordinal or interval; '' tells by the values.")]
Levels = Annotated[str, typer.Option("--levels", help="Names of ordered levels, lowest first, with commas between.")]
Drawn = Annotated[
    str, typer.Option("--unit", help="What intervals draw: speech (its near-duplicates with it), or item.")
]


@app.command()
def agree(
    place: AnswersPlace = None,
    human: HumanFile = None,
    labels: LabelsFile = None,
    people: People = None,
    label_raters: LabelRaters = None,
    counts: Counts = "",
    margins: Margins = "",
    by: By = "principle",
    scale: Scale = "",
    levels: Levels = "",
    unit: Drawn = "speech",
    folder: Annotated[Path, typer.Option("--to", help="Folder of the evaluation.")] = Path("eval-agree"),
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=2, max=1_000_000, help="Draws for an interval.")] = 5_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0,
    name: PageTitle = "",
) -> None:
    """How far raters agree: people, judges, labels; on ratings, choices, verdicts or rankings."""
    from psychocounsel.evals.agree import Asked, evaluate_agree

    asked = Asked(
        place, human, labels, people or (), label_raters or (), counts, margins, by, scale, levels, unit, bootstrap,
        seed, name,
    )  # fmt: skip
    print(f"Report: {evaluate_agree(asked, folder)}")


@app.command()
def power(
    speeches: SpeechCounts = "",
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
