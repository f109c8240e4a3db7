"""Evaluation folders for the gate: invented values, written by the real writer."""

import numpy as np

from psychocounsel.evaluate.results import ItemValue, Results, write_results
from psychocounsel.evaluate.statistics import Figure, cluster_mean

WIN, LC = "winrate.online_vs_base", "winrate_lc.online_vs_base"


def items(metric, values, clusters=None, lengths=None, names=None):
    """One ItemValue a value; every item its own cluster unless told."""
    names = names or [f"s{place:04}" for place in range(len(values))]
    return [
        ItemValue(
            metric=metric, item=name, cluster=clusters[place] if clusters else name, value=float(value),
            known={} if lengths is None else dict(zip(("chars_a", "chars_b"), map(float, lengths[place]), strict=True)),
        )
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    ]  # fmt: skip


def by_name(rows):
    return {row.item: row for row in rows}


def figure(rows, unit="share of speeches"):
    return cluster_mean([row.value for row in rows], [row.cluster for row in rows], unit, bootstrap=300)


def write(folder, rows=(), figures=None, **fields):
    """A finished evaluation: the figures of its items, and `figures` besides or instead."""
    metrics = {name: figure([row for row in rows if row.metric == name]) for name in {row.metric for row in rows}}
    results = Results(name=folder.name, command="eval winrate", metrics=metrics | (figures or {}), **fields)
    write_results(folder, results, rows)
    return folder


def gate_file(folder, *rules, **settings):
    """A gate file of rules given as tables."""
    lines = [f"{key} = {toml(value)}" for key, value in settings.items()]
    for rule in rules:
        lines += ["[[rule]]", *(f"{key} = {toml(value)}" for key, value in rule.items())]
    path = folder / "gate.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def toml(value):
    return str(value).lower() if isinstance(value, bool) else repr(value)


def values(seed, n=400, shift=0.0, noise=0.2):
    """s_i of a policy: what is hard is hard for every policy, and `shift` is how much better it is."""
    hard = np.random.default_rng(1).normal(0.55, 0.15, n)
    return np.clip(np.round(hard + shift + np.random.default_rng(seed).normal(0, noise, n), 4), 0, 1)


SHARE = Figure(value=0.8, low=0.75, high=0.85, n=300, unit="share of pairs")
