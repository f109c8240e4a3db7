"""Control tokens that a text spells out: a client or a reply can neither end nor open a turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

BRACKETED = re.compile(r"[<\[|｜].+[>\]|｜]", re.DOTALL)


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts that a tokenizer turns into control tokens, longest first.

    Its special tokens, and added ones in brackets that its chat template writes or reads although they are not
    marked as special (`<think>`, `<tool_call>`).
    """
    template = str(tokenizer.chat_template or "")
    found = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content in template and BRACKETED.fullmatch(token.content))
    }
    return tuple(sorted((text for text in found if text.strip()), key=lambda text: (-len(text), text)))


def plain_messages(messages: Sequence[dict[str, str]], control: Sequence[str]) -> list[dict[str, str]]:
    """The messages with a space inside each control token that a content spells out; all other text is untouched.

    A space in the text, and not another way of encoding: it holds in every release of transformers, in every kind of
    tokenizer, and however a template cuts and joins the contents.
    """
    return [{**message, "content": _taken_apart(message["content"], control)} for message in messages]


def _taken_apart(text: str, control: Sequence[str]) -> str:
    for token in control:
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}" if token[1:] else " ")
    return text
