"""The tables of an agreement document on the terminal, within 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

WIDTH = 100  # at least: a narrow terminal wraps lines, but a table made narrower would cut numbers
MOST_PAIRS = 15  # rows of a table; the JSON has all
LONGEST_NAME = 19
UNDEFINED = "undef."


def show_document(document: Mapping[str, Any], console: Console) -> None:
    """The tables of an agreement document, within 100 columns."""
    judges, drawn = document["judges"], document["bootstrap"]
    unit = "single replies" if drawn["unit"] == "reply" else "clusters of speeches"
    console.print(
        f"{len(judges)} judges; {document['doubly_rated']} of {document['replies']} replies rated by two or more. "
        f"In brackets: 95 % intervals, {drawn['resamples']} resamples of {unit}.",
        highlight=False,
    )
    print_table(console, _by_principle(document["all"]))
    if document["all"]["order"]:
        console.print(_order_line(document["all"]["order"]), highlight=False)
    if len(judges) > 2:
        print_table(console, _by_pair(document["pairs"]))
    if document["human"]["judges"]:
        print_table(console, _by_people(document["human"]))
    if document["leave_one_out"]:
        print_table(console, _by_others(document["leave_one_out"]))
    print_table(console, _by_scale(judges))


def print_table(console: Console, table: Table) -> None:
    """A table with a line above it."""
    console.print()
    console.print(table, highlight=False)


def ratings_table(title: str, *columns: str, names: int = 1) -> Table:
    """A table whose first `names` columns are names; no column wraps."""
    heads = [Column(name, no_wrap=True) for name in columns[:names]]
    heads += [Column(name, justify="right", no_wrap=True) for name in columns[names:]]
    return Table(*heads, title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _by_principle(comparison: Mapping[str, Any]) -> Table:
    title = "All judges" if comparison["raters"] > 2 else "Both judges"
    icc = "icc_one_way" if comparison["overall"]["icc"]["value"] is None else "icc"  # of a panel with gaps
    head = "ICC(A,1)" if icc == "icc" else "ICC(1,1)"
    table = ratings_table(title, "", "n", "exact", "within 1", "quadratic kappa", "alpha (ordinal)", "AC1", "AC2", head)
    for name, row in {**comparison["principles"], "mean": comparison["mean"]}.items():
        table.add_row(
            name, str(row.get("n", "")), _short(row["exact"]), _short(row["within_one"]),
            long_text(row["kappa_quadratic"]), long_text(row["alpha"]),
            _short(row["ac1"]), _short(row["ac2"]), _short(row[icc]),
        )  # fmt: skip
    row = comparison["overall"]
    table.add_row(
        "overall score", str(row["n"]), "", _short(row["within_one"]), long_text(row["kappa_quadratic"]),
        long_text(row["alpha_interval"]), "", "", _short(row[icc]),
    )  # fmt: skip
    return table


def _order_line(order: Mapping[str, Any]) -> str:
    return (
        f"Order: of {order['pairs']} pairs of replies to one speech that both judges order, they order "
        f"{long_text(order['alike'])} alike (gamma {long_text(order['gamma'])}); with ties as a third verdict "
        f"{_short(order['three_way'])} of {order['with_ties']}."
    )


def _by_pair(pairs: Sequence[Mapping[str, Any]]) -> Table:
    more = f" (the first {MOST_PAIRS} of {len(pairs)})" if len(pairs) > MOST_PAIRS else ""
    title = f"Judge against judge{more}"
    table = ratings_table(title, "", "", "n", "mean kappa", "overall ICC(A,1)", "ordered alike", names=2)
    for row in pairs[:MOST_PAIRS]:
        table.add_row(
            *map(short_name, row["judges"]), str(row["n"]), long_text(row["mean"]["kappa_quadratic"]),
            long_text(row["overall"]["icc"]), _alike(row),
        )  # fmt: skip
    return table


def _by_people(human: Mapping[str, Any]) -> Table:
    title = f"Against {len(human['people'])} people; 'to ceiling' is judge minus people on the same replies"
    table = ratings_table(title, "", "n", "exact", "mean kappa", "ordered alike", "kappa to ceiling", "reaches")
    rows = {"people themselves": human["ceiling"], **human["judges"]}
    for name, row in rows.items():
        if row is None:
            table.add_row(name, "0", "", "", "", "", "")
            continue
        beside = row.get("ceiling") or {}
        gap = _signed(beside["kappa_quadratic"]["difference"]) if beside else ""
        reaches = {True: "yes", False: "no", None: ""}[beside.get("reaches")]
        table.add_row(
            short_name(name), str(row["n"]), _short(row["mean"]["exact"]), long_text(row["mean"]["kappa_quadratic"]),
            _alike(row), gap, reaches,
        )  # fmt: skip
    return table


def _by_others(others: Mapping[str, Any]) -> Table:
    title = "Each judge against the mean of the others; 'milder' is its overall score minus theirs"
    table = ratings_table(title, "", "n", "mean kappa", "overall r", "milder", "ordered alike")
    for name, row in others.items():
        overall = row["overall"]
        table.add_row(
            short_name(name), str(row["n"]), long_text(row["mean"]["kappa_quadratic"]), _short(overall["correlation"]),
            _signed(overall["difference"]), _alike(row),
        )  # fmt: skip
    return table


def _by_scale(judges: Mapping[str, Any]) -> Table:
    title = "Use of the scale: shares of 1 to 5 and of no score, over all principles"
    table = ratings_table(title, "", "ratings", "1", "2", "3", "4", "5", "none", "mean", "SD", "halo", "flat")
    for name, row in judges.items():
        use = row["all"]
        given = sum(use["counts"].values())
        shares = [f"{count / given:.0%}" if given else "" for count in use["counts"].values()]
        none = "" if use["none"] is None else f"{use['none']:.0%}"
        rest = [_number(use["mean"]), _number(use["sd"]), _number(row["halo"]), _number(row["flat"])]
        table.add_row(short_name(name), str(row["ratings"]), *shares, none, *rest)
    return table


def short_name(name: str) -> Text:
    """A judge's name, printable and short; files of others may hold anything."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    half = (LONGEST_NAME - 1) // 2
    return Text(shown if len(shown) <= LONGEST_NAME else f"{shown[:half]}…{shown[-half:]}")


def _alike(row: Mapping[str, Any]) -> str:
    return long_text(row["order"]["alike"]) if row["order"] else "unknown"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _short(figure: Mapping[str, Any]) -> str:
    return UNDEFINED if figure["value"] is None else _number(figure["value"])


def long_text(figure: Mapping[str, Any]) -> str:
    """A coefficient with its interval where there is one."""
    if figure["low"] is None:
        return _short(figure)
    return f"{figure['value']:.2f} [{figure['low']:.2f} {figure['high']:.2f}]"


def _signed(figure: Mapping[str, Any]) -> str:
    """A difference with its sign and interval."""
    if figure["value"] is None:
        return UNDEFINED
    interval = "" if figure["low"] is None else f" [{figure['low']:+.2f} {figure['high']:+.2f}]"
    return f"{figure['value']:+.2f}{interval}".replace("-0.00", "+0.00")
