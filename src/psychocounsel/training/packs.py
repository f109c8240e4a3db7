"""Shared-prefix packs: [prompt | reply | reply | ... | prompt | ...], one flat row without padding.

Positions restart at the length of the prompt on every reply, and a reply attends to its prompt and itself only: a pack
equals its prompt-reply sequences run one by one, up to rounding. A prompt is encoded once for all its replies, a reply
once for all its pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from psychocounsel.training.batches import Group


@dataclass(frozen=True)
class Branch:
    """A run of tokens that attends to itself and to the `prefix` tokens from `prefix_start` on (none for a prompt)."""

    start: int
    length: int
    prefix_start: int = 0
    prefix: int = 0


@dataclass(eq=False)
class Layout:
    """Where prompts and replies lie in a pack: what attention has to know. Masks made from it are kept in `made`."""

    branches: list[Branch]
    tokens: int
    positions: Tensor
    made: dict[Any, Any] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt-reply sequence."""
        return max(branch.prefix + branch.length for branch in self.branches)

    def owners(self) -> tuple[Tensor, Tensor]:
        """Two vectors of shape (tokens,): the branch of each token, and the branch that it continues (-1: none)."""
        if "owners" not in self.made:
            starts = {branch.start: number for number, branch in enumerate(self.branches)}
            own = torch.empty(self.tokens, dtype=torch.long)
            parent = torch.full((self.tokens,), -1, dtype=torch.long)
            for number, branch in enumerate(self.branches):
                own[branch.start : branch.start + branch.length] = number
                if branch.prefix:
                    parent[branch.start : branch.start + branch.length] = starts[branch.prefix_start]
            device = self.positions.device
            self.made["owners"] = own.to(device), parent.to(device)
        found: tuple[Tensor, Tensor] = self.made["owners"]
        return found


@dataclass(eq=False)
class Pack:
    """Tensors of a pack, with `replies` unique replies and `pairs` preferences among them.

    ids, positions: (tokens,). sources, targets, owners: (reply tokens,), the token whose hidden state predicts a reply
    token, that token, and its reply's number. ends, lengths, reference: (replies,), last token, number of tokens, and
    reference log-probability. chosen, rejected, gaps: (pairs,), reply numbers and rated gaps. differences: (pairs,
    principles) or (pairs, 0). draws: (pairs,), a number from each pair's content that seeds its resampling weights.
    `counts` is False for a pack that only keeps a process busy while others work.
    """

    ids: Tensor
    positions: Tensor
    layout: Layout
    sources: Tensor
    targets: Tensor
    owners: Tensor
    ends: Tensor
    lengths: Tensor
    reference: Tensor
    chosen: Tensor
    rejected: Tensor
    gaps: Tensor
    differences: Tensor
    draws: Tensor
    counts: bool = True

    @property
    def replies(self) -> int:
        return len(self.ends)

    @property
    def reply_tokens(self) -> int:
        return int(self.lengths.sum())

    def sequences(self) -> list[tuple[list[int], list[int]]]:
        """The prompt and reply of every reply, as token ids."""
        ids = self.ids.tolist()
        return [
            (ids[b.prefix_start : b.prefix_start + b.prefix], ids[b.start : b.start + b.length])
            for b in self.layout.branches
            if b.prefix
        ]


def make_pack(groups: Sequence[Group], device: Any = "cpu", multiple: int = 1) -> Pack:
    """Pack groups. With `multiple`, inert tokens fill the length up, so that shapes repeat; nothing attends to them."""
    ids: list[int] = []
    positions: list[int] = []
    branches: list[Branch] = []
    sources: list[int] = []
    targets: list[int] = []
    ends: list[int] = []
    lengths: list[int] = []
    pairs: list[tuple[int, int]] = []
    for group in groups:
        start, prompt, first = len(ids), len(group.prompt), len(ends)
        ids += group.prompt
        positions += range(prompt)
        branches.append(Branch(start, prompt))
        for reply in group.replies:
            at = len(ids)
            branches.append(Branch(at, len(reply), start, prompt))
            ids += reply
            positions += range(prompt, prompt + len(reply))
            sources += [start + prompt - 1, *range(at, at + len(reply) - 1)]
            targets += reply
            ends.append(at + len(reply) - 1)
            lengths.append(len(reply))
        pairs += [(first + chosen, first + rejected) for chosen, rejected in group.pairs]
    inert = -len(ids) % multiple
    if inert:
        branches.append(Branch(len(ids), inert))
        ids += [0] * inert
        positions += range(inert)
    differences = [row for group in groups for row in group.differences or [[]] * len(group.pairs)]
    principles = max(map(len, differences), default=0)
    differences = [[*row, *[math.nan] * (principles - len(row))] for row in differences]  # other sets rate none

    def whole(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    def real(values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    where = whole(positions)
    return Pack(
        ids=whole(ids),
        positions=where,
        layout=Layout(branches, len(ids), where),
        sources=whole(sources),
        targets=whole(targets),
        owners=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long)).to(device),
        ends=whole(ends),
        lengths=real(lengths),
        reference=real([value for group in groups for value in group.reference]),
        chosen=whole([chosen for chosen, _ in pairs]),
        rejected=whole([rejected for _, rejected in pairs]),
        gaps=real([gap for group in groups for gap in group.gaps]),
        differences=real(differences).view(len(pairs), principles),
        draws=whole([draw for group in groups for draw in group.draws]),
    )


def bins(sizes: Sequence[int], budget: int, parts: int = 1) -> list[list[int]]:
    """Deal items of `sizes` into bins of about equal size, at most `budget` each; a larger item gets one for itself.

    The number of bins is a multiple of `parts`, so that each process gets as many; a bin may then be empty. Items go,
    largest first, into the emptiest bin; equal sizes keep their order. Returns the item numbers of each bin.
    """
    order = sorted(range(len(sizes)), key=lambda item: (-sizes[item], item))
    large = [[item] for item in order if sizes[item] > budget]
    rest = order[len(large) :]
    count = math.ceil(sum(sizes[item] for item in rest) / budget)
    count += -(len(large) + count) % parts or (0 if order else parts)
    while True:
        found: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for item in rest:
            place = filled.index(min(filled))
            found[place].append(item)
            filled[place] += sizes[item]
        if max(filled, default=0) <= budget:
            return large + found
        count += parts
