"""Who speaks and judges: one protocol for recorded, remote, local and scripted models, named by strings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec

from psychocounsel.errors import UserError, nearest
from psychocounsel.models.chat import ChatModel
from psychocounsel.recipe import ModelsTable

KINDS = ("recorded", "openai", "anthropic", "local", "vllm", "http", "https")


def open_models(name: str, purpose: str = "responses", table: ModelsTable | None = None) -> list[ChatModel]:
    """The models behind a recipe's string; a recording may hold several. Raises UserError for unknown strings.

    `recorded:embedded`, `recorded:FILE_OR_FOLDER` (with `#NAME` one model of it), `openai:MODEL`, `anthropic:MODEL`,
    `http(s)://HOST/v1#MODEL`, `local:FOLDER_OR_HUB_ID`, `vllm:FOLDER_OR_HUB_ID`, or `package.module:object`, a callable
    without arguments that returns a ChatModel. `purpose` is "responses" or "ratings": it says which recording is meant.
    `table` says how remote ones are called.
    """
    kind, _, rest = name.partition(":")
    if kind == "recorded" and rest:
        from psychocounsel.models.recorded import open_recording

        return open_recording(rest, purpose)
    if kind in ("openai", "http", "https") and rest:
        from psychocounsel.models.openai_api import OpenAIModel

        return [OpenAIModel.from_name(name, table)]
    if kind == "anthropic" and rest:
        from psychocounsel.models.anthropic_api import AnthropicModel

        return [AnthropicModel(name, table)]
    if kind == "vllm" and rest:
        from psychocounsel.models.vllm_offline import VllmModel

        return [VllmModel(rest)]
    if kind == "local" and rest:
        from psychocounsel.models.local import LocalModel
        from psychocounsel.models.replay import replaying
        from psychocounsel.models.weights import require_training

        if not replaying():
            require_training()

        return [LocalModel(rest)]
    if rest and ("." in kind or _is_module(kind)):
        return [_user_model(kind, rest)]
    raise UserError(
        f"model '{name}': not a known model string{nearest(kind, list(KINDS)) or '.'} Write recorded:embedded, "
        "openai:MODEL, anthropic:MODEL, http://HOST/v1#MODEL, local:FOLDER, vllm:FOLDER or package.module:object"
    )


def _is_module(name: str) -> bool:
    """Whether a word without a dot is a module of the user, and no misspelt kind of model."""
    return name.isidentifier() and not name.startswith("_") and find_spec(name) is not None


def _user_model(module: str, attribute: str) -> ChatModel:
    try:
        factory: Callable[[], ChatModel] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"model '{module}:{attribute}': cannot be imported ({error})") from error
    if not callable(factory):
        raise UserError(f"model '{module}:{attribute}': not a callable that returns a ChatModel")
    return factory()
