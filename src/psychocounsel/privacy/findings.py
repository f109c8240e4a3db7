"""What a recogniser reports: a stretch of a text and its type; overlaps are settled in one fixed way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# The order decides overlaps: what stands first keeps its whole stretch.
TYPES = (
    "EMAIL", "URL", "ACCOUNT", "CARD", "ID", "DOB", "IP", "PHONE", "HANDLE", "CLINIC", "NAME", "CREDENTIAL", "AGE",
)  # fmt: skip
RANK = {name: place for place, name in enumerate(TYPES)}
PLACEHOLDER = re.compile(rf"\[({'|'.join(TYPES)})_([0-9]{{1,6}})\]")
EDGE = " \t\n.,;:!?~-–—()\"'"


@dataclass(frozen=True, order=True)
class Finding:
    """`text[start:end]` is personal data of `type`. A `known` one stands on the source's own list."""

    start: int
    end: int
    type: str
    known: bool = False


def settle(text: str, findings: Iterable[Finding]) -> list[Finding]:
    """Findings without overlap, by place. Known values go first, then the order of TYPES, then the longer, the earlier.

    What is left of a weaker finding beside a stronger one stays a finding if it holds a letter or digit: in
    "Ann Lowww.site.example" the name goes with the address.
    """
    order = sorted(findings, key=lambda f: (not f.known, RANK[f.type], f.start - f.end, f.start))
    taken = bytearray(len(text))
    kept = []
    for finding in order:
        for start, end in _free(taken, finding.start, finding.end):
            if (start, end) != (finding.start, finding.end):
                start, end = _trim(text, start, end)
            torn = (
                start > finding.start and text[start - 1].isalnum() and finding.type == "NAME"
            )  # "LowThe", less "Low"
            if not torn and any(character.isalnum() for character in text[start:end]):
                kept.append(Finding(start, end, finding.type, finding.known))
        taken[finding.start : finding.end] = b"\x01" * (finding.end - finding.start)
    return sorted(kept)


def _free(taken: bytearray, start: int, end: int) -> list[tuple[int, int]]:
    """The stretches of taken[start:end] that nothing has taken yet."""
    found = []
    while (start := taken.find(0, start, end)) >= 0:
        stop = taken.find(1, start, end)
        stop = end if stop < 0 else stop
        found.append((start, stop))
        start = stop
    return found


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """A stretch without punctuation and spaces at its edges (kept whole where it was found whole)."""
    while start < end and text[start] in EDGE:
        start += 1
    while start < end and text[end - 1] in EDGE:
        end -= 1
    return start, end
