"""Verdicts of judges whose faults are known: what a judge would say of a speech, drawn without any model."""

import numpy as np

from psychocounsel.records import Verdict

LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


class Judged:
    """`count` speeches, two to a cluster, judged in both orders; `quality` and `longer`: how far a is better, longer.

    A judge is a function of quality, longer, a_first (+1 or -1) and a random generator; it returns how far it
    prefers a, from which the nearest of the five levels about .5 is taken, and NaN for no verdict.
    """

    def __init__(self, count=300, seed=0, better=0.15, spread=0.25, longer=0.0):
        self.random = np.random.default_rng(seed)
        cluster = np.repeat(self.random.normal(0, 0.6 * spread, -(-count // 2)), 2)[:count]
        self.quality = better + cluster + self.random.normal(0, 0.8 * spread, count)
        self.longer = self.random.normal(longer, 1.0, count)
        self.speeches = [f"s{i:04}" for i in range(count)]
        self.clusters = {name: f"c{i // 2:04}" for i, name in enumerate(self.speeches)}

    def by(self, **judges):
        """The verdicts of judges, by name."""
        found = []
        for name, judge in judges.items():
            for a_first in (True, False):
                wants = judge(self.quality, self.longer, 1 if a_first else -1, self.random)
                values = np.clip(np.round(4 * (0.5 + wants)) / 4, 0, 1)
                found += [self.verdict(i, name, a_first, value) for i, value in enumerate(values)]
        return found

    def verdict(self, i, judge, a_first, value, **more):
        words = {"words_a": round(200 + 40 * max(self.longer[i], -4)), "words_b": 200}
        words |= {"chars_a": 6 * words["words_a"], "chars_b": 6 * words["words_b"]}
        value = None if np.isnan(value) else float(value)
        return Verdict(speech_id=self.speeches[i], a="new", b="old", judge=judge, a_first=a_first, value=value,
                       call_id=f"{judge}-{i}-{a_first}", **(words | more))  # fmt: skip


def fair(noise=0.03):
    return lambda quality, longer, first, random: quality + random.normal(0, noise, len(quality))


def biased(place=0.0, length=0.0, family=0.0, noise=0.03):
    """A fair judge who likes the first place, longer replies (by tanh), or policy a."""
    return lambda quality, longer, first, random: (
        quality + place * first + length * np.tanh(longer) + family + random.normal(0, noise, len(quality))
    )


def always_first(quality, longer, first, random):
    return np.full(len(quality), 0.5 * first)


def always_tie(quality, longer, first, random):
    return np.zeros(len(quality))


def refuses_a_third(quality, longer, first, random):
    return np.where(np.arange(len(quality)) % 3 == 0, np.nan, quality)


def contradicts_itself(quality, longer, first, random):
    return random.choice([-0.5, 0.5], len(quality))
