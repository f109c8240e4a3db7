"""`eval power` and `eval report`: what a design can show, by the figures of the protocol; a page made again."""

import json

import numpy as np
import pytest
from gate_folders import SHARE, items, values, write

from psychocounsel.evals.place import Found, evaluation
from psychocounsel.evaluate import page
from psychocounsel.evaluate.power import spreads
from psychocounsel.evaluate.results import read_items


def plans(cli, *arguments):
    code, out, err = cli("eval", "power", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_the_usual_plan_is_that_of_the_protocol(cli):
    found = plans(cli)["plans"]
    assert [(row["speeches"], round(100 * row["half_width"], 1)) for row in found] == [
        (200, 4.2), (500, 2.6), (1000, 1.9), (2324, 1.2),
    ]  # fmt: skip
    assert [round(100 * row["detectable"], 1) for row in found[1:]] == [4.4, 3.1, 2.0]
    assert found[-1]["calls"] == 13_944


def test_the_table_says_the_same(cli):
    code, out, _ = cli("eval", "power", "--speeches", "500, 2324", "--samples", 3)
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["500"], ["2,324"])]
    assert code == 0 and rows == [
        ["500", "500", "500", "2.6", "4.4", "3", "3", "9,000"],
        ["2,324", "2,324", "2,324", "1.2", "2.0", "3", "3", "41,832"],
    ]


def test_the_number_needed_is_just_enough(cli):
    width, found = plans(cli, "--half-width", 0.02, "--detect", 0.02)["plans"]
    assert width["half_width"] <= 0.02 and found["detectable"] <= 0.02
    less = plans(cli, "--speeches", f"{width['speeches'] - 1},{found['speeches'] - 1}")["plans"]
    assert less[0]["half_width"] > 0.02 and less[1]["detectable"] > 0.02


def test_clusters_and_likeness_count(cli):
    alone, twins = (plans(cli, "--speeches", 800, *more)["plans"][0] for more in ((), ("--clusters", 400)))
    assert twins["half_width"] > 1.4 * alone["half_width"] and twins["effective"] == 400
    apart = plans(cli, "--speeches", 800, "--clusters", 400, "--alike", 0)["plans"][0]
    assert apart["half_width"] == alone["half_width"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two candidates against one baseline, and a third against another; values by principle beneath them."""
    first, second, third = values(2), values(3, noise=0.1), values(4, noise=0.3)
    rows = [
        *items("winrate.a_vs_base", first), *items("winrate.b_vs_base", second), *items("winrate.c_vs_old", third),
        *items("winrate.a_vs_base.empathy", np.zeros(400)), *items("reward.accuracy", np.zeros(400)),
    ]  # fmt: skip
    return write(tmp_path_factory.mktemp("power") / "done", rows), (first, second, third)


def test_spreads_are_those_of_a_finished_evaluation(cli, evaluated):
    folder, columns = evaluated
    spread, paired = spreads(read_items(folder))
    assert spread == pytest.approx(np.sqrt(np.mean([np.var(column, ddof=1) for column in columns])))
    assert paired == pytest.approx(np.std(columns[0] - columns[1], ddof=1))
    told = plans(cli, "--from", folder, "--speeches", 400)
    assert (told["spread"], told["paired_spread"]) == (round(spread, 4), round(paired, 4))
    assert told["plans"][0]["half_width"] == pytest.approx(1.96 * spread / 20, rel=1e-3)
    assert plans(cli, "--from", folder, "--speeches", 400, "--spread", 0.2)["spread"] == 0.2


def test_one_candidate_has_no_paired_spread_and_that_is_said(cli, tmp_path):
    folder = write(tmp_path / "one", items("winrate.a_vs_base", values(2)))
    told = plans(cli, "--from", folder)
    assert told["paired_spread"] == 0.35 and "no two candidates met one baseline" in told["notes"][1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--speeches", "1e5"), "give whole numbers"),
        (("--speeches", "-5"), "give whole numbers"),
        (("--speeches", "10,,20"), "give whole numbers"),
        (("--speeches", "9" * 400), "give whole numbers"),
        (("--speeches", "1"), "give two or more"),
        (("--speeches", "10,20", "--clusters", "5"), "1 numbers for 2"),
        (("--speeches", "10", "--clusters", "20"), "20 clusters of 10 speeches"),
        (("--spread", "nan"), "the spread must be above 0"),
        (("--spread", "0"), "the spread must be above 0"),
        (("--paired-spread", "inf"), "the spread must be above 0"),
        (("--alike", "2"), "likeness within clusters"),
        (("--power", "1"), "is no power"),
        (("--judges", "0"), "at least one speech, one judge"),
        (("--half-width", "nan"), "a half-width of nan is not one"),
        (("--half-width", "1e-300"), "are shares, 0.0001 or more"),
        (("--detect", "2"), "a difference of 2.0 is not one"),
        (("--detect", "0.02", "--speeches", "10"), "leave out --speeches"),
        (("--from", "nowhere"), "holds no results.json"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(cli, arguments, words):
    code, _, err = cli("eval", "power", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1


def test_spreads_need_win_rates(cli, tmp_path):
    for name, rows in (("none", ()), ("ties", items("winrate.a_vs_b", np.full(9, 0.5)))):
        code, _, err = cli("eval", "power", "--from", write(tmp_path / name, rows, {"reward.accuracy": SHARE}))
        assert code == 2 and "no win rate that varies" in err


@pytest.fixture
def done(tmp_path, monkeypatch):
    """An evaluation whose page is the frame alone."""
    monkeypatch.setitem(page.DRAW, "eval base", lambda *_: {})
    with evaluation(tmp_path / "done", "eval base", {}) as opened:
        opened.finish("of <b>one</b>", Found({"reward.accuracy": SHARE}, {"rows": []}, judges=["one judge"]))
    return tmp_path / "done"


def test_the_page_of_an_evaluation_is_made_again(cli, done):
    before = (done / "report.html").read_bytes()
    (done / "report.html").unlink()
    code, out, _ = cli("eval", "report", done)
    assert code == 0 and out == f"Report: {done / 'report.html'}\n"
    assert (done / "report.html").read_bytes() == before and b"of &lt;b&gt;one" in before


def test_the_results_of_an_evaluation_follow_the_schema(done):
    from jsonschema import validate

    from psychocounsel.evaluate.results import schema

    validate(json.loads((done / "results.json").read_text(encoding="utf-8")), schema())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.json", None, "holds no results.json"),
        ("tables.json", None, "holds no tables.json; run `psychocounsel eval base` again"),
        ("tables.json", b'{"rows": [', "damaged; run `psychocounsel eval base` again"),
        ("tables.json", b"\xff", "damaged; run `psychocounsel eval base` again"),
        ("recipe.json", b"{}", "is a run; delete its report.html"),
    ],
)
def test_a_page_that_cannot_be_made_is_one_line(cli, done, name, text, words):
    (done / name).unlink() if text is None else (done / name).write_bytes(text)
    code, _, err = cli("eval", "report", done)
    assert code == 2 and words in err and err.count("\n") == 1


def test_results_of_a_run_without_the_run_have_no_page(cli, done):
    text = (done / "results.json").read_text(encoding="utf-8").replace('"eval base"', '"run"')
    (done / "results.json").write_text(text, encoding="utf-8")
    code, _, err = cli("eval", "report", done)
    assert code == 2 and "holds the results of a run, but not the run" in err
