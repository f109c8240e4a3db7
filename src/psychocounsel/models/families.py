"""Whose model it is: families by the stems of published names, and what a local folder's config.json says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

FAMILIES = {  # stems of published names; a fine-tune is listed only where its base is one family and no other
    "openai": ("openai", "gpt-", "chatgpt", "o1", "o3", "o4"),
    "anthropic": ("anthropic", "claude"),
    "google": ("google", "gemini", "gemma", "palm-", "flan-t5"),
    "meta": ("meta-llama", "meta", "llama", "vicuna", "samantha", "alpaca"),
    "alibaba": ("qwen", "qwq"),
    "deepseek": ("deepseek",),
    "mistral": ("mistral", "mixtral", "ministral", "zephyr", "magistral"),
    "microsoft": ("microsoft", "phi-", "wizardlm"),
    "cohere": ("cohere", "command-r", "command-a", "aya-"),
    "xai": ("grok",),
    "nvidia": ("nemotron",),
    "01-ai": ("01-ai", "yi-"),
    "zhipu": ("zhipu", "thudm", "glm-", "chatglm"),
    "moonshot": ("moonshot", "kimi"),
    "minimax": ("minimax",),
    "ibm": ("ibm-granite", "granite"),
    "allenai": ("allenai", "olmo", "tulu"),
    "tii": ("tiiuae", "falcon"),
    "huggingface": ("smollm",),
    "amazon": ("amazon.nova", "nova-"),
    "baidu": ("ernie",),
    "internlm": ("internlm",),
    "stability": ("stablelm",),
}
HOSTS = ("http", "https", "openai", "anthropic", "local", "vllm", "recorded")  # kinds of model strings
SHORTEST = 4  # a stem shorter than this counts at the start of a name only: 'marco-o1' is not OpenAI's
KINDS = {  # model_type of config.json, where one family publishes it and fine-tunes keep it; llama's is everybody's
    "qwen": "alibaba", "gemma": "google", "phi3": "microsoft", "phi4": "microsoft", "cohere": "cohere",
    "deepseek": "deepseek", "granite": "ibm", "olmo": "allenai", "falcon": "tii",
}  # fmt: skip


def families_of(name: str, declared: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """All families a model's name tells of, the one named first in it first; () when none is known.

    A distilled or tuned model often names two ('DeepSeek-R1-Distill-Llama-8B'): it is akin to both. `declared` gives
    the family of names exactly as they are written; it overrules everything. A local folder is known by its
    config.json (the model it was made from, or a model type that one family publishes).
    """
    if declared and name in declared:
        return (declared[name].lower(),)
    text = name.lower()
    kind, _, rest = text.partition(":")
    if kind in ("http", "https"):  # not the host: whose machine it is says nothing
        text = text.partition("#")[2]
    elif kind in ("local", "vllm") or text.startswith(("/", ".", "~")):  # nor where on a disk it lies
        text = "/".join(Path(rest or text).parts[-2:])
    found: dict[str, int] = {}
    for family, stems in FAMILIES.items():
        for stem in stems:
            before = r"(?:^|[/:#])" if len(stem) < SHORTEST else r"(?:^|[^a-z0-9])"
            after = r"(?![a-z])" if len(stem) < SHORTEST else ""
            if hit := re.search(before + re.escape(stem) + after, text):
                found[family] = min(hit.start(), found.get(family, hit.start()))
    return tuple(sorted(found, key=lambda family: found[family])) or _of_folder(name)


def family_of(name: str) -> str:
    """The model family behind a name ('openai:gpt-4o' -> 'openai'); '' when the registry does not know it."""
    return next(iter(families_of(name)), "")


def _of_folder(name: str) -> tuple[str, ...]:
    kind, _, rest = name.partition(":")
    path = Path(rest if kind in HOSTS else name) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        made_from = str(config.get("base_model_name_or_path") or config.get("_name_or_path") or "")
        kind = str(config.get("model_type") or "")
    except (OSError, ValueError, AttributeError):
        return ()
    if made_from and not Path(made_from).exists() and (found := families_of(made_from)):
        return found
    return tuple(family for stem, family in KINDS.items() if kind.startswith(stem))[:1]
