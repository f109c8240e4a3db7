"""Functions of the user that a recipe names as package.module:object."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from psychocounsel.errors import UserError


def load_function(key: str, name: str, what: str = "a function") -> Callable[..., Any]:
    """What `name` (package.module:object) stands for; `key` is where the recipe names it. Raises UserError when it
    cannot be imported, or is not `what` it has to be."""
    module, _, attribute = name.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the user's module does when it is read
        raise UserError(f"{key} '{name}': cannot be imported ({error!r})") from error
    if not callable(function):
        raise UserError(f"{key} '{name}': not {what}")
    return function
