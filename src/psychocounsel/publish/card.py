"""The data card: YAML that the hub and `datasets` read, and a text on how the set was made and what it cannot tell."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from psychocounsel.principles import Principle
from psychocounsel.publish import MAIN, Census, sizes
from psychocounsel.publish.licences import OTHER, Cleared, hub_licence
from psychocounsel.publish.parquet import Table, features
from psychocounsel.publish.rows import published_name, split_name

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
TAGS = ["preference", "counselling", "mental-health", "reward-modelling", "dpo", "trl", "psychocounsel"]
DEPTH = 6
PROBES = (("position", "beyond_half"), ("position", "flipped"), ("verbosity", "shift", "overall"),
          ("verbosity", "padded_wins"), ("scale_order", "shift", "overall"), ("self_preference", "raw"),
          ("self_preference", "beyond_panel"), ("injection", "all"))  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What a stage of the run says of itself in its manifest."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""


@dataclass(frozen=True)
class Facts:
    """What a card is made of. `stages` by name; `audit`, `agreement`, … are the stages' own figures, or empty."""

    title: str
    licence: str
    census: Census
    cleared: Sequence[Cleared]
    tables: Mapping[str, Sequence[Table]]
    principles: Sequence[Principle]
    stages: Mapping[str, Made]
    version: str = ""
    audit: Mapping[str, Any] = field(default_factory=dict)
    agreement: Mapping[str, Any] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)
    privacy: Mapping[str, Any] = field(default_factory=dict)
    leakage: Mapping[str, Any] = field(default_factory=dict)


def card(facts: Facts) -> str:
    """README.md: front matter and body. Whatever others wrote (names, licences, topics) is escaped."""
    from huggingface_hub import DatasetCardData
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"md": escaped, "pub": published_name, "figure": figure_text, "set": split_name}
    template = environment.from_string(
        files("psychocounsel.publish").joinpath("card.md.j2").read_text(encoding="utf-8")
    )
    front = DatasetCardData(**front_matter(facts)).to_yaml(line_break="\n")
    body = template.render(facts=facts, other=OTHER, **_told(facts))
    return "\n".join(["---", front, "---", "", re.sub(r"\n{3,}", "\n\n", body).strip(), ""])


def _told(facts: Facts) -> dict[str, Any]:
    """What the template tells, taken out of the stages' settings, counts and figures."""
    settings = {name: made.settings for name, made in facts.stages.items()}
    counts = {name: made.counts for name, made in facts.stages.items()}
    audit = facts.audit.get("sets", {})
    every = facts.agreement.get("all", {})
    overall = {"overall": every["overall"]} if every.get("overall") else {}
    return {
        "sets": settings,
        "counts": counts,
        "speeches": {split_name(name): count for name, count in facts.census.speeches.items()},
        "models": sorted({published_name(name) for name in counts["responses"].get("models", {})}),
        "judges": sorted({published_name(name) for name in counts["ratings"].get("judges", {})}),
        "left_out": sum((facts.census.pairs - facts.census.complete).values()) if "released" in facts.tables else 0,
        "audit": audit,
        "shares": audit.get("train", {}).get("models", {}),
        "doubly_rated": facts.agreement.get("doubly_rated", 0),
        "agreement": {**every.get("principles", {}), **overall} if facts.agreement.get("doubly_rated") else {},
        "probes": list(_probed(facts.probes)),
        "mode": (settings["speeches"].get("privacy") or {}).get("mode", "off"),
        "found": list(_personal(facts.privacy)),
        "dropped": counts["speeches"].get("dropped", {}),
        "leakage": figure_rows(_without_places(facts.leakage)),
    }


def _probed(probes: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(judge, probe, figure): of every probe the figures that sum it up."""
    for judge, found in probes.get("judges", {}).items():
        for path in PROBES:
            inner: Any = found
            for part in path:
                inner = inner.get(part) if isinstance(inner, Mapping) else None
            for name, text in figure_rows(inner, path):
                yield published_name(judge), name, text


def _personal(privacy: Mapping[str, Any]) -> Iterator[tuple[str, int, Any, Any]]:
    """(kind, found, recall, expected misses) of every kind of personal data that was found or can be missed."""
    found, recall, missed = (privacy.get(key) or {} for key in ("found", "recall_on_planted", "expected_misses"))
    for kind in sorted({*found, *recall}):
        yield kind, found.get(kind, 0), recall.get(kind), missed.get(kind)


def _without_places(leakage: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of external sets under numbered names that tell no folder of somebody's disk."""
    named = enumerate(sorted(leakage.get("external", {}).items()), 1)
    outside = {
        f"set {number}, {load if load.startswith('hub:') else re.split(r'[/:]', load.rstrip('/'))[-1]}": found
        for number, (load, found) in named
    }
    return {**leakage, "external": outside}


def front_matter(facts: Facts) -> dict[str, Any]:
    """The card's YAML as data: licence, tags, and for each config its files and its `dataset_info`."""
    total = sum(facts.census.pairs[name] for name in MAIN)
    language = facts.stages["speeches"].settings.get("language")
    default = next(iter(facts.tables))
    licence: dict[str, Any] = {"license": hub_licence(facts.licence)}
    if facts.licence == OTHER:
        licence |= {"license_name": "licences-of-the-sources", "license_link": "README.md"}
    return {
        "pretty_name": plain(facts.title),
        "language": [language] if language else None,
        **licence,
        "task_categories": ["text-generation", "reinforcement-learning"],
        "tags": TAGS,
        "size_categories": [next((name for most, name in SIZES if total < most), "n>10M")],
        "configs": [
            {
                "config_name": config,
                **({"default": True} if config == default else {}),
                "data_files": [{"split": table.split, "path": f"{config}/{table.split}-*"} for table in tables],
            }
            for config, tables in facts.tables.items()
        ],
        "dataset_info": [
            {
                "config_name": config,
                "features": features(tables[0].schema),
                "splits": [
                    {"name": table.split, "num_bytes": table.bytes, "num_examples": table.examples} for table in tables
                ],
                "download_size": sizes(facts.tables)[config],
                "dataset_size": sum(table.bytes for table in tables),
            }
            for config, tables in facts.tables.items()
        ],
    }


def plain(value: object) -> str:
    """One line of printable text: control characters and halves of characters become spaces and question marks."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(value)).encode("utf-8", "replace").decode()
    return " ".join(text.split())


def escaped(value: object) -> str:
    """Text for a Markdown page or table cell: no markup, no HTML, no line breaks."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", html.escape(plain(value), quote=False))


def figure_rows(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """(name, text) of every number in nested figures; with an interval and n where they stand beside it.

    Texts and lists are passed over: a report's sample texts do not belong on a card.
    """
    return list(_figures(value, path))


def _figures(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    name = ": ".join(part.replace("_", " ") for part in path)
    if isinstance(value, Mapping) and len(path) < DEPTH:
        head = next((key for key in ("value", "share") if key in value and "low" in value), None)
        if head:
            if value[head] is not None:
                yield name, figure_text(value, head)
            return
        for key, inner in value.items():
            yield from _figures(inner, (*path, published_name(str(key))))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


def figure_text(figure: Any, head: str = "value") -> str:
    """'0.52 (0.48 to 0.56; n 200)'; parts that are missing are left out."""
    if not isinstance(figure, Mapping) or figure.get(head) is None:
        return "undefined"
    low, high, n = figure.get("low"), figure.get("high"), figure.get("n")
    parts = [f"{low:.3g} to {high:.3g}"] if low is not None and high is not None else []
    parts += [f"n {n}"] if n is not None else []
    return f"{figure[head]:.3g}" + (f" ({'; '.join(parts)})" if parts else "")
