"""What is trained on, as texts: a prompt, its replies, and preferences among them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Example:
    """One prompt as chat messages (role, content) ending with the user, and its unique replies.

    `pairs` holds (chosen, rejected) positions among the replies. `gaps[i]` is how much better the chosen reply of pair i
    was rated, and `differences[i]` the same by principle (NaN where a principle has no score); the latter may be empty.
    """

    id: str
    messages: list[dict[str, str]]
    replies: list[str]
    pairs: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    differences: list[list[float]] = field(default_factory=list)
