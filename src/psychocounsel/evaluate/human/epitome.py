"""EPITOME: how much empathy a peer's reply on Reddit conveys, by trained annotators (Sharma et al., EMNLP 2020)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.evaluate.human.items import Item, LabelledSet, Part, Task, message
from psychocounsel.evaluate.human.reading import Place, labelled_rows, number, text
from psychocounsel.rows import file_origin

LICENSE = "academic use only (the authors' academic licence)"
FILES = {"ER": "emotional-reactions-reddit.csv", "IP": "interpretations-reddit.csv", "EX": "explorations-reddit.csv"}
COLUMNS = ("sp_id", "rp_id", "seeker_post", "response_post", "level")
STRATA = 4  # of equal size, by length in words
Key = tuple[str, str]


def read_epitome(folder: Place) -> LabelledSet:
    """The three files of the published folder `dataset`, joined by (sp_id, rp_id); the first of repeated rows counts.

    Levels are 0 (none), 1 (weak) and 2 (strong). The mechanisms are ER (emotional reactions), IP (interpretations) and
    EX (explorations). Unit: the seeker's post. Raises UserError for what is missing or no level.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; EPITOME is the folder with {', '.join(FILES.values())}")
    counts: Counter[str] = Counter()
    texts: dict[Key, tuple[str, str]] = {}
    labels: dict[Key, dict[str, float]] = {}
    repeated: dict[str, list[float]] = {name: [] for name in FILES}
    for name, file in FILES.items():
        path = folder / file
        for line, row in labelled_rows(path, COLUMNS, f"EPITOME's {file}"):
            counts["rows"] += 1
            key = text(row, "sp_id"), text(row, "rp_id")
            level = number(row, "level", f"{path}: row {line}", 0, 2)
            found = text(row, "seeker_post"), text(row, "response_post")
            if not all((*key, *found)):
                counts["left out: no id or no text"] += 1
            elif name in labels.get(key, {}):
                counts["left out: pair repeated in a file"] += 1
                repeated[name].append(float(labels[key][name] == level))
            else:
                counts["kept with the text of the first file: another text under the same ids"] += (
                    texts.setdefault(key, found) != found
                )
                labels.setdefault(key, {})[name] = level
    return LabelledSet(
        name="epitome",
        license=LICENSE,
        origin=file_origin_of(folder),
        unit="seeker",
        items=_items(texts, labels),
        tests=_tests(),
        counts=counts,
        ceiling={
            f"{name} same label twice": {"value": round(sum(same) / len(same), 4), "n": len(same)}
            for name, same in repeated.items()
            if same
        },
    )


def file_origin_of(folder: Path) -> str:
    """The three files with their content hashes: other files of the folder do not count."""
    return ", ".join(file_origin(folder / file) for file in FILES.values())


def _tests() -> tuple[Task, ...]:
    plain = [Task(f"{name} present", "auc", f"{name} present", counts=True) for name in FILES]
    matched = [Task(f"{name} present, like lengths", "auc", f"{name} present", within=True) for name in FILES]
    return (*plain, *matched, *(Task(f"{name} level", "levels", name) for name in FILES))


def _items(texts: dict[Key, tuple[str, str]], labels: dict[Key, dict[str, float]]) -> list[Item]:
    keys = sorted(labels)
    lengths = {key: len(texts[key][1].split()) for key in keys}
    ordered = sorted(lengths.values())
    edges = [ordered[len(ordered) * step // STRATA] for step in range(1, STRATA)]
    return [
        Item(
            parts=(Part(turns=message(texts[key][0]), reply=texts[key][1]),),
            unit=key[0],
            labels=labels[key] | {f"{name} present": float(level > 0) for name, level in labels[key].items()},
            stratum=str(sum(lengths[key] >= edge for edge in edges)),
        )
        for key in keys
    ]
