"""Markup in replies: what style control of a win rate looks at."""

from __future__ import annotations

import re

import numpy as np

MARKS = (
    re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
    re.compile(r"^[ \t]{0,3}#{1,6}[ \t]+\S", re.MULTILINE),
)


def style_density(text: str) -> tuple[float, float, float]:
    """Bullets, bold passages and headers of a reply in Markdown: log(1 + number in a hundred words)."""
    words = max(len(text.split()), 1)
    bullets, bold, headers = (float(np.log1p(100 * len(mark.findall(text)) / words)) for mark in MARKS)
    return bullets, bold, headers
