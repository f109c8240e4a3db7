"""The order of modules: each imports only from its left. Files stay short, and the command line stays light."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import psychocounsel

PACKAGE = Path(psychocounsel.__file__).parent
FLOORS = (
    "errors < progress < engine < records < recipe < rows < principles < preference < privacy < models < speeches"
    " < responses < ratings < pairs < training < supervised < reward < policy < evaluate < publish < run < pipeline"
    " < rate < score < trace < verify < batch < agreement < evals < show < preview < cli"
)
ORDER = tuple(FLOORS.split(" < "))
ALONE = ("progress",)  # imports nothing of ours
HEAVY = ("torch", "transformers", "accelerate", "gradio", "ray", "sklearn", "datasets")
LONGEST = 300


def module_of(path: Path, package: Path) -> tuple[str, ...]:
    """('ratings', 'judge') for ratings/judge.py; () for the package's own __init__.py."""
    parts = path.relative_to(package).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path: Path, package: Path) -> set[str]:
    """Top-level names under psychocounsel that a file imports anywhere, relative and TYPE_CHECKING imports too."""
    found = set()
    here = module_of(path, package)
    folder = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = (node.module or "").split(".") if node.module else []
            if node.level:
                stem = ["psychocounsel", *folder[: len(folder) - node.level + 1], *stem]
            names = [[*stem, alias.name] for alias in node.names]
        found |= {name[1] for name in names if name[0] == "psychocounsel" and len(name) > 1}
    return found - {"__version__"}


def violations(package: Path) -> list[str]:
    """Every import from the right, of an unknown module, or by a module that must stand alone."""
    faults = []
    for path in sorted(package.rglob("*.py")):
        own = (module_of(path, package) or ("",))[0]
        if own not in (*ORDER, ""):
            faults.append(f"{own} has no place in the order")
            continue
        floor = ORDER.index(own) if own else -1
        for name in sorted(imported(path, package) - {own}):
            if name not in ORDER:
                faults.append(f"{path.relative_to(package)} imports {name}, which has no place in the order")
            elif own in ALONE or ORDER.index(name) > floor:
                faults.append(f"{path.relative_to(package)} imports {name}")
    return faults


def planted(tmp_path, place, line):
    """The faults of a copy of the package with one line added at the end of a file."""
    copy = tmp_path / "psychocounsel"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.jsonl", "*.json"))
    with (copy / place).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    return violations(copy)


def test_every_module_imports_only_from_its_left():
    assert violations(PACKAGE) == []


def test_a_planted_import_from_the_right_is_found(tmp_path):
    assert planted(tmp_path, "records.py", "from psychocounsel.pairs import build_pairs") == [
        "records.py imports pairs"
    ]


def test_an_import_for_types_only_or_inside_a_function_counts(tmp_path):
    line = "if TYPE_CHECKING:\n    from psychocounsel import evaluate"
    assert planted(tmp_path / "a", "models/chat.py", line) == ["models/chat.py imports evaluate"]
    line = "def late() -> None:\n    import psychocounsel.cli"
    assert planted(tmp_path / "b", "show.py", line) == ["show.py imports cli"]


def test_a_relative_import_counts(tmp_path):
    assert planted(tmp_path / "a", "ratings/judge.py", "from ..policy import online") == [
        "ratings/judge.py imports policy"
    ]
    assert planted(tmp_path / "b", "ratings/__init__.py", "from .judge import rate_all") == []


def test_progress_imports_nothing_of_ours_and_a_new_module_needs_a_place(tmp_path):
    assert planted(tmp_path / "a", "progress.py", "from psychocounsel.errors import UserError") == [
        "progress.py imports errors"
    ]
    assert planted(tmp_path / "b", "utils.py", "") == ["utils has no place in the order"]


def test_the_contributing_page_tells_the_same_order():
    page = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert FLOORS in " ".join(page.split())


def test_no_file_is_longer_than_three_hundred_lines():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count > LONGEST} == {}


def test_the_command_line_imports_no_heavy_library():
    code = f"import sys, psychocounsel.cli; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_help_works():
    found = subprocess.run(
        [sys.executable, "-m", "psychocounsel.cli", "--help"], capture_output=True, text=True, check=True
    )
    for name in ("run", "check", "show", "rate", "score", "speeches", "evaluate"):
        assert name in found.stdout
