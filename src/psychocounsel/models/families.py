"""Whose model it is: families by the stems of published names, and what a local folder's config.json says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from psychocounsel.errors import UserError

FAMILIES = {  # how published names begin (regular expressions); models tuned from another family's stand in each
    "openai": ("openai", r"gpt-?(?=\d|oss)", "chatgpt", "o1", "o3", "o4"),
    "anthropic": ("anthropic", "claude"),
    "google": ("google", "gemini", "(?:med|code|shield)?gemma", "palm-", "flan-t5"),
    "meta": ("meta-llama", "meta/", "facebook/", "llama", "vicuna", "samantha", "alpaca", "tulu", "wizardlm"),
    "alibaba": ("alibaba", "qwen", "qwq"),
    "deepseek": ("deepseek",),
    "mistral": ("mistral", "(?:min|mag)istral", "(?:code|dev)stral", "(?:mix|pix)tral", "zephyr", "wizardlm"),
    "microsoft": ("microsoft", r"phi-?(?=\d)", "wizardlm"),
    "cohere": ("cohere", "command-[ar]", "aya-"),
    "xai": ("x-ai/", "grok"),
    "nvidia": ("nvidia", "nemotron"),
    "01-ai": ("01-ai", r"yi[-:](?=\d|large|lightning)"),
    "zhipu": ("zhipu", "thudm", "zai-org", r"glm-?(?=\d)", "chatglm"),
    "moonshot": ("moonshot", "kimi"),
    "minimax": ("minimax",),
    "ibm": ("ibm-granite", "granite"),
    "allenai": ("allenai", "olmo", "tulu"),
    "tii": ("tiiuae", "falcon"),
    "huggingface": ("smollm",),
    "amazon": (r"amazon\.nova", "nova-"),
    "baidu": ("ernie",),
    "internlm": ("internlm",),
    "stability": ("stabilityai", "stablelm"),
    "eleutherai": ("eleutherai", "pythia", "gpt-j", "gpt-neo"),
}
SHORTEST = 4  # a stem shorter than this counts at the start of a name only: 'marco-o1' is not OpenAI's
KINDS = {  # model_type of config.json, where one family publishes it and fine-tunes keep it; llama's is everybody's
    "qwen": "alibaba", "gemma": "google", "phi": "microsoft", "cohere": "cohere", "deepseek": "deepseek",
    "granite": "ibm", "olmo": "allenai", "falcon": "tii", "gpt_oss": "openai", "gpt2": "openai", "glm": "zhipu",
    "smollm": "huggingface", "gpt_neo": "eleutherai", "kimi": "moonshot",
}  # fmt: skip
CONFIGS = ("adapter_config.json", "config.json")


def families_of(name: str, declared: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """All families a model's name tells of, the one named first in it first; () when none is known.

    A distilled or tuned model often names two ('DeepSeek-R1-Distill-Llama-8B'): it is akin to both. `declared` gives
    the family (or several, with commas) of names exactly as they are written; it overrules everything. Where a file or
    a server stands says nothing; a local folder is known by its own name and by its config.json (the model it was made
    from, or a model type that one family publishes).

    Raises UserError for a declared family that is nearly a known one.
    """
    if declared and (told := declared.get(name, "").strip(" ,")):
        return _declared(name, told)
    kind, _, rest = name.partition(":")
    if kind in ("http", "https", "recorded"):
        return _named(name.partition("#")[2])
    place = rest if kind in ("local", "vllm") else name
    # unlike Path.is_dir, this also answers for what cannot be a path
    if place.startswith(("/", ".", "~")) or place.count("/") > 1 or os.path.isdir(place):  # noqa: PTH112
        path = Path(place)
        return tuple(dict.fromkeys((*_named(path.name), *_of_folder(path))))
    return _named(name)


def family_of(name: str) -> str:
    """The model family behind a name ('openai:gpt-4o' -> 'openai'); '' when the registry does not know it."""
    return next(iter(families_of(name)), "")


@lru_cache(maxsize=1024)
def _named(text: str) -> tuple[str, ...]:
    found: dict[str, int] = {}
    for family, stems in FAMILIES.items():
        for stem in stems:
            before = r"(?:^|[/:#])" if len(stem) < SHORTEST else r"(?:^|[^a-z0-9])"
            after = r"(?![a-z])" if len(stem) < SHORTEST else ""
            if hit := re.search(f"{before}{stem}{after}", text.lower()):
                found[family] = min(hit.start(), found.get(family, hit.start()))
    return tuple(sorted(found, key=lambda family: found[family]))


def _declared(name: str, told: str) -> tuple[str, ...]:
    """Declared families by the registry's names ('llama' is meta's), so that two words for one family are one."""
    found: list[str] = []
    for word in (part.strip().lower() for part in told.split(",") if part.strip()):
        if word not in FAMILIES and not _named(word) and (near := get_close_matches(word, FAMILIES, 1, 0.75)):
            raise UserError(f"family '{word}' of {name}: did you mean '{near[0]}'? Write that, or a word less like it")
        found += [word] if word in FAMILIES else _named(word) or [word]
    return tuple(dict.fromkeys(found))


def _of_folder(path: Path) -> tuple[str, ...]:
    for name in CONFIGS:
        try:
            config = json.loads((path.expanduser() / name).read_text(encoding="utf-8"))
            made_from = str(config.get("base_model_name_or_path") or config.get("_name_or_path") or "")
            kind = str(config.get("model_type") or "")
        except (OSError, ValueError, AttributeError, RuntimeError):  # RuntimeError: '~' of nobody
            continue
        hub_id = made_from.count("/") == 1
        if found := _named(made_from if hub_id else Path(made_from).name):
            return found
        if found := tuple(family for stem, family in KINDS.items() if kind.startswith(stem))[:1]:
            return found
    return ()
