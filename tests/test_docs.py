"""The README and the docs say what is true of the code: commands, links, recipe keys, names of stages and figures."""

import re
import shlex
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.testing import CliRunner

from psychocounsel.cli import app
from psychocounsel.evaluate.report import FIGURE_LABELS
from psychocounsel.recipe import Recipe, load_recipe
from psychocounsel.run import STAGES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "src/psychocounsel/embedded/README.md"])
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| `([a-z_.]+)` \| (?:`([^|]*)`|none|required) \|", re.M)
GROUP = typer.main.get_command(app)


def readme_commands():
    """Every psychocounsel command in the README's code blocks, as words without comments."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("psychocounsel ")]


def recipe_keys(table, prefix="", seen=()):
    """(dotted key, field) of a table; an inner table used twice is listed under its first name."""
    seen = set(seen)
    for name, field in table.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner or field.annotation is not inner[0]:  # a plain key, or a list of tables, which is a key itself
            yield f"{prefix}{name}", field
        if inner and inner[0] not in seen:
            seen.add(inner[0])
            yield from recipe_keys(inner[0], f"{prefix}{name}.", seen)


def documented(page):
    """The recipe keys of a page and their defaults as TOML text ('' where the table says none or required)."""
    return dict(ROW.findall((DOCS / page).read_text(encoding="utf-8")))


def plain(value):
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_the_readme_names_the_test_command_and_ci_reads_it_from_there():
    section = README.partition("\n## Test\n")[2].partition("\n## ")[0]
    assert re.findall(r"```\w*\n(.*?)```", section, re.S)[0] == "make test\n"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in script
    line = next(line for line in script.splitlines() if line.startswith("command="))
    found = subprocess.run(
        ["bash", "-c", f'{line}; echo "$command"'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "make test\n"


def test_the_first_command_of_the_readme_is_the_demo_and_it_names_the_report():
    first = README.index("```bash\nmake demo\n```")
    assert first < README.index("make test")
    assert "runs/quickstart/report.html" in README
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = set(re.findall(r"`make ([a-z]+)`", "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert named <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith(("http://", "https://", "mailto:", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_every_docs_page_can_be_reached_from_the_index():
    found = {(DOCS / link).resolve() for link in LINK.findall((DOCS / "index.md").read_text(encoding="utf-8"))}
    assert set(DOCS.rglob("*.md")) - {DOCS / "index.md"} <= found


def test_no_page_names_a_path_of_the_machine_it_was_written_on():
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("table", ["principles", "models", *STAGES])
def test_every_recipe_key_stands_on_its_page_with_its_default(table):
    rows = {**documented(f"{table}.md"), **(documented("online.md") if table == "policy" else {})}
    keys = dict(recipe_keys(Recipe.model_fields[table].annotation))
    assert {key for key in rows if key in keys} == set(keys)
    for key, field in keys.items():
        check_default(key, field, rows[key])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_named_in_the_readme_and_the_docs(path):
    assert load_recipe(path).name == path.stem
    assert f"recipes/{path.name}" in README
    assert f"(../recipes/{path.name})" in (DOCS / "index.md").read_text(encoding="utf-8")


def test_every_link_to_a_heading_leads_to_one():
    for page in PAGES:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target, _, heading = link.partition("#")
            if heading and not link.startswith(("http://", "https://")):
                text = (page.parent / target if target else page).read_text(encoding="utf-8")
                titles = [title.replace("`", "").lower() for title in re.findall(r"^#+ (.*)$", text, re.M)]
                assert heading in [re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles], (page, link)


def test_the_top_level_recipe_keys_stand_on_the_page_about_runs():
    rows = documented("runs.md")
    for key, field in Recipe.model_fields.items():
        if key not in ("principles", "models", *STAGES):
            check_default(key, field, rows[key])


def check_default(key, field, text):
    default = field.get_default(call_default_factory=True)
    if default is None or default is PydanticUndefined:
        assert text == "", f"{key} has no default"
    else:
        assert tomllib.loads(f"value = {text}")["value"] == plain(default), key


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_one_word_in_module_command_recipe_and_docs(stage):
    assert find_spec(f"psychocounsel.{stage}")
    assert stage in GROUP.commands
    assert stage in Recipe.model_fields
    page = (DOCS / f"{stage}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# Stage {STAGES.index(stage) + 1}: {stage}\n")
    assert f"{STAGES.index(stage) + 1}-{stage}" in page


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_every_command_in_the_readme_parses(words):
    with GROUP.make_context("psychocounsel", list(words)) as context:
        name, command, rest = GROUP.resolve_command(context, list(words))
        with command.make_context(name, rest, parent=context) as inner:
            if "recipe" in inner.params:
                load_recipe(ROOT / inner.params["recipe"], inner.params["set_values"])


def test_the_readme_shows_every_command_and_each_has_a_help_page():
    assert {words[0] for words in readme_commands()} >= {"run", "check", "show", "rate"}
    for name in GROUP.commands:
        assert f"`{name}`" in README or f"psychocounsel {name}" in README, name
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_every_option_of_run_is_told_in_the_readme_or_the_docs():
    told = README + (DOCS / "runs.md").read_text(encoding="utf-8")
    for option in ("--set", "--from", "--to", "--redo", "--reuse", "--dry-run", "--engine"):
        assert option in told
        assert any(option in parameter.opts for parameter in GROUP.commands["run"].params)


def test_the_docs_name_every_headline_figure_of_the_results():
    page = (DOCS / "runs.md").read_text(encoding="utf-8")
    assert [name for name in FIGURE_LABELS if f"`{name}`" not in page] == []


def test_the_results_table_has_its_markers_and_header():
    inside = README.partition("<!-- results -->\n")[2].partition("<!-- /results -->")[0]
    assert inside.startswith("| figure | value | 95 % interval | n | command |\n")
