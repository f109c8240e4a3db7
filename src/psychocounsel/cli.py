"""The command line. Heavy libraries are imported inside the commands, so that help answers at once."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from psychocounsel import __version__
from psychocounsel.errors import RunInterrupted, UserError
from psychocounsel.evals.commands import app as eval_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From professional principles to preference data, reward models, aligned counselling models and honest "
    "evaluation. Research and professional drafting aid; not therapy.",
)
RecipeFile = Annotated[Path, typer.Argument(help="A recipe (TOML). Complete examples are in recipes/.")]
SetValues = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: table.key=value. Repeatable.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the run folders.")]
RedoStage = Annotated[bool, typer.Option("--redo", help="Make the stage anew, and all after it when they run.")]
EngineName = Annotated[str, typer.Option("--engine", help="Where the pure stages run: here, or ray (many machines).")]


def _version(asked: bool) -> None:
    if asked:
        print(f"psychocounsel {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: RecipeFile,
    set_values: SetValues = None,
    runs: Runs = Path("runs"),
    start: Annotated[
        str, typer.Option("--from", help="First stage to run; earlier ones must be finished.")
    ] = "speeches",
    stop: Annotated[str, typer.Option("--to", help="Last stage to run.")] = "evaluate",
    redo: Annotated[str, typer.Option("--redo", help="Make this stage, and all after it, anew.")] = "",
    reuse: Annotated[
        Path | None, typer.Option("--reuse", help="Take over equal stages and paid calls of another run.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    engine: EngineName = "here",
) -> None:
    """Run a recipe from speeches to report. The same command again continues or finds everything done."""
    from psychocounsel.pipeline import Options, plan_run, run_recipe
    from psychocounsel.recipe import load_recipe

    loaded = load_recipe(recipe, set_values)
    options = Options(start, stop, redo, reuse, engine)
    if dry_run:
        for plan in plan_run(loaded, runs, options):
            print(f"{plan.stage:<11} {plan.action}{f' ({plan.why})' if plan.why else ''}")
        return
    folder = run_recipe(loaded, runs, options)
    report = folder.path / "report.html"
    if stop == "evaluate" and report.exists():
        from psychocounsel.show import show_results

        show_results(folder.path)
        print(f"Report: {report}")


def _stage_command(name: str, help_text: str) -> None:
    def command(
        recipe: RecipeFile,
        set_values: SetValues = None,
        runs: Runs = Path("runs"),
        redo: RedoStage = False,
    ) -> None:
        _run_stage(name, recipe, set_values, runs, redo)

    def pure_command(
        recipe: RecipeFile,
        set_values: SetValues = None,
        runs: Runs = Path("runs"),
        redo: RedoStage = False,
        engine: EngineName = "here",
    ) -> None:
        _run_stage(name, recipe, set_values, runs, redo, engine)

    chosen = pure_command if name == "speeches" else command
    app.command(name, help=f"Stage only: {help_text}", rich_help_panel="Stages")(chosen)


def _run_stage(
    name: str, recipe: Path, set_values: list[str] | None, runs: Path, redo: bool, engine: str = "here"
) -> None:
    from psychocounsel.pipeline import Options, run_recipe
    from psychocounsel.recipe import load_recipe

    run_recipe(load_recipe(recipe, set_values), runs, Options(name, name, name if redo else "", engine=engine))


for _name, _text in {
    "speeches": "collect, clean, de-duplicate and split client speeches.",
    "responses": "ask candidate models for replies.",
    "ratings": "let judges score every reply by the principles.",
    "pairs": "turn ratings into preference pairs.",
    "supervised": "build or take the starting model.",
    "reward": "train the reward model.",
    "policy": "align the policy, offline and online.",
    "evaluate": "measure everything on held-out speeches.",
    "publish": "write the data set with its card as others get it; needs no training.",
}.items():
    _stage_command(_name, _text)


@app.command()
def check(
    recipe: RecipeFile,
    set_values: SetValues = None,
    stop: Annotated[str, typer.Option("--to", help="Last stage of the run that is planned.")] = "evaluate",
) -> None:
    """Validate a recipe and preview what it would do: sources, calls, tokens, money, training. Spends nothing."""
    from psychocounsel.preview import preview
    from psychocounsel.recipe import load_recipe

    preview(load_recipe(recipe, set_values), stop)


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A run folder, a stage folder or a .jsonl file.")],
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows of a file to show.")] = 3,
    row: Annotated[
        str, typer.Option("--row", help="A speech's id or source id: say what became of it in this run.")
    ] = "",
) -> None:
    """Show a run, a stage or a file of records in readable form; with --row, the fate of one row."""
    from psychocounsel.show import show_fate, show_path

    if row:
        show_fate(path, row)
    else:
        show_path(path, rows)


@app.command()
def trace(
    record: Annotated[str, typer.Argument(help="Id of a pair, response or speech, or its first 6 digits or more.")],
    run_folder: Annotated[Path, typer.Option("--run", help="The run folder, such as runs/quickstart.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with what was asked in full.")] = False,
) -> None:
    """Show where a pair comes from: source row, replies, every rating, every raw answer."""
    from psychocounsel.trace import show_trace

    show_trace(run_folder, record, as_json)


@app.command()
def verify(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Make every data file of a run again from its sources and stored calls, and compare. Sends nothing."""
    from psychocounsel.verify import show_verified

    if not show_verified(run_folder):
        sys.exit(1)


@app.command()
def rate(
    judge: Annotated[str, typer.Option("--judge", help="'embedded', or any model string such as openai:gpt-4o.")],
    source: Annotated[
        Path, typer.Option("--input", help="JSON Lines with 'speech' and 'response'; other columns are kept.")
    ],
    target: Annotated[Path, typer.Option("--output", help="Where the rows with 'scores' and 'overall' go.")],
    calls: Annotated[
        Path | None, typer.Option("--calls", help="Call store; default: OUTPUT with .calls.sqlite.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0, help="US dollars; no call is sent that could pass it.")
    ] = None,
) -> None:
    """Rate any rows by the principles with one judge."""
    from psychocounsel.rate import rate_file

    rate_file(judge, source, target, calls, budget)


@app.command()
def score(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Reward models; several are an ensemble.")],
    source: Annotated[
        Path, typer.Option("--input", help="JSON Lines or Parquet: 'speech' or a dialogue, and 'response(s)'.")
    ],
    target: Annotated[Path, typer.Option("--output", help="Where the rows with 'reward' go: .jsonl or .parquet.")],
    max_length: Annotated[
        int, typer.Option("--max-length", min=16, help="Tokens of prompt and reply; a prompt may fill half.")
    ] = 2048,
) -> None:
    """Score any rows with one reward model, or several."""
    from psychocounsel.score import score_file

    score_file(models, source, target, max_length)


batch = typer.Typer(no_args_is_help=True, help="Calls of a stage as OpenAI-Batch files (also for vllm run-batch).")
app.add_typer(batch, name="batch")
app.add_typer(eval_app, name="eval")
Stage = Annotated[str, typer.Option("--stage", help="The stage that asks: responses or ratings.")]


@batch.command("export")
def batch_export(
    recipe: RecipeFile,
    stage: Stage,
    folder: Annotated[Path, typer.Option("--to", help="Folder for the request files.")],
    set_values: SetValues = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write the calls of a stage that are not answered yet as request files."""
    from psychocounsel.batch import export_batch
    from psychocounsel.recipe import load_recipe

    export_batch(load_recipe(recipe, set_values), runs, stage, folder)


@batch.command("import")
def batch_import(
    recipe: RecipeFile,
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Result files of the batch.")],
    stage: Stage,
    set_values: SetValues = None,
    runs: Runs = Path("runs"),
) -> None:
    """Put the results of batch files into the run's call store; the stage then asks only for the rest."""
    from psychocounsel.batch import import_batch
    from psychocounsel.recipe import load_recipe

    import_batch(load_recipe(recipe, set_values), runs, stage, paths)


@app.command()
def agreement(
    place: Annotated[Path, typer.Argument(help="A run folder, or a .jsonl file of ratings.")],
    human: Annotated[Path | None, typer.Option("--human", help="Ratings by people (.jsonl), for the ceiling.")] = None,
    target: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=0, help="Resamples behind each interval.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the resamples.")] = 0,
    unit: Annotated[str, typer.Option("--unit", help="What is drawn: speech (all its replies), or reply.")] = "speech",
) -> None:
    """How far judges agree with each other and with people, by principle and overall, with intervals."""
    from psychocounsel.agreement import intervals, show_agreement

    show_agreement(place, human, target, intervals(bootstrap, seed, unit))


def main() -> None:
    """Entry point: user errors are one line and exit code 2, Ctrl-C is 130."""
    try:
        if app(prog_name="psychocounsel", standalone_mode=False) == 130:  # newer typer makes a number of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except UserError as error:
        print(f"psychocounsel: {error}", file=sys.stderr)
        sys.exit(2)
    except RunInterrupted as error:
        print(f"psychocounsel: {error}", file=sys.stderr)
        sys.exit(130)
    except (KeyboardInterrupt, typer.Abort):  # the command line library turns Ctrl-C into Abort
        print("psychocounsel: stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            print(f"psychocounsel: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
            sys.exit(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered would fail again at exit
        print(f"psychocounsel: the output cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        error.show()  # a usage error of the command line library explains itself
        sys.exit(2)


if __name__ == "__main__":
    main()
