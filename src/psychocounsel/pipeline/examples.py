"""What reward and policy train on, as texts: the run's pairs, and general preference sets mixed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from psychocounsel.pipeline.context import Run
from psychocounsel.recipe import MixSource
from psychocounsel.speeches.held_out import HeldOut

if TYPE_CHECKING:
    from psychocounsel.training.examples import Example
    from psychocounsel.training.mixing import MixedSet


@dataclass
class Examples:
    """Train and dev examples, read when they are asked for, and what became of the sets mixed in."""

    train: Iterable[Example]
    dev: Iterable[Example]
    mixed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def both(self) -> tuple[Iterable[Example], Iterable[Example]]:
        return self.train, self.dev


def examples(run: Run, mix: Sequence[MixSource]) -> Examples:
    """The run's pairs, and with `mix` general sets beside the train pairs.

    A prompt that is nearly a held-out speech is left out of these sets and counted.
    """
    from psychocounsel.training.examples import pair_examples
    from psychocounsel.training.mixing import mixed_examples

    speeches = {speech.id: speech for speech in run.speeches()}
    responses = {response.id: response for response in run.responses()}
    names, pairs = [principle.id for principle in run.principles], run.pairs()
    own = {split: partial(pair_examples, pairs[split], speeches, responses, names) for split in ("train", "dev")}
    if not mix:
        return Examples(own["train"](), own["dev"]())
    held_out = HeldOut(
        (speech.text for speech in speeches.values() if speech.split != "train"), run.recipe.speeches.cluster
    )
    sets = [mixed_examples(source, run.recipe.seed, held_out.holds, names) for source in mix]
    told = [_told(source, found) for source, found in zip(mix, sets, strict=True)]
    return Examples(chain(own["train"](), *map(_named, sets, mix)), own["dev"](), told)


def _named(found: MixedSet, source: MixSource) -> Iterator[Example]:
    """A set's examples under ids of their own."""
    for example in found:
        example.id = f"{source.load}:{example.id}"
        yield example


def _told(source: MixSource, found: MixedSet) -> dict[str, Any]:
    left_out: Counter[str] = found.left_out
    return {"load": source.load, "origin": found.origin, "license": source.license or found.license,
            "pairs": found.pairs, "left_out": dict(sorted(left_out.items()))}  # fmt: skip
