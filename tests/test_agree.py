"""`psychocounsel eval agree`: what it reads, what it leaves, and what it refuses in one line."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from test_agreement import NAMES, SHARED, needs_shared, panel, rows_of_shared

from psychocounsel.evaluate.results import ItemValue, read_items, read_results
from psychocounsel.principles import load_principles
from psychocounsel.ratings.agreement import Intervals, agreement_table
from psychocounsel.records import Verdict, write_records

DRAWS = ("--bootstrap", "60")


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path, rows, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def long_rows(columns, start=0, **fields):
    """`columns`: values by rater; items are i000, i001, ..."""
    return [
        {"item": f"i{k + start:03}", "rater": rater, "value": value, **fields}
        for rater, values in columns.items()
        for k, value in enumerate(values)
    ]


@pytest.fixture
def agree(cli, tmp_path):
    """`agree(PLACE, ...)`: the command with few draws; gives (tables, results, stdout)."""

    def call(*arguments, to="out"):
        code, out, err = cli("eval", "agree", *arguments, "--to", tmp_path / to, *DRAWS)
        assert (code, err) == (0, ""), err
        folder = tmp_path / to
        return json.loads((folder / "tables.json").read_text(encoding="utf-8")), read_results(folder), out

    return call


@pytest.fixture
def refused(cli, tmp_path):
    """`refused(...)`: the line on stderr of a command that must fail, and leave no results."""

    def call(*arguments):
        code, _, err = cli("eval", "agree", *arguments, "--to", tmp_path / "no", *DRAWS)
        assert code == 2 and err.count("\n") == 1 and "Traceback" not in err
        assert not (tmp_path / "no" / "results.json").exists()
        return err

    return call


def verdicts(judge, values, a_first=True, **fields):
    return [
        Verdict(speech_id=f"s{k:03}", a="online", b="base", judge=judge, a_first=a_first, value=value, **fields)
        for k, value in enumerate(values)
    ]


def test_ratings_give_principles_their_mean_and_an_overall_score(agree, tmp_path):
    ratings, speech_of = panel(speeches=10, replies=3, judges=("human:ann", "human:bea", "cat"))
    del speech_of  # a file of the first shape does not say which speech a reply belongs to
    place = write(tmp_path / "r.jsonl", [rating.model_dump(mode="json") for rating in ratings])
    tables, results, out = agree(place)
    assert set(tables["questions"]) == {*NAMES, "overall"} and tables["questions"]["overall"]["kind"] == "interval"
    expected = {"human_human.kappa_quadratic.empathy", "human_human.ac2.mean", "human_judge.alpha.safety",
                "human_human.icc", "human_judge.kappa_quadratic.mean.judge.cat"}  # fmt: skip
    assert {f"agree.{name}" for name in expected} <= set(results.metrics)
    scores = {name: {r.response_id: r.scores["safety"] for r in ratings if r.judge == name}
              for name in ("human:ann", "human:bea")}  # fmt: skip
    expected = cohen_kappa_score(*(list(one.values()) for one in scores.values()), weights="quadratic")
    figure = results.metrics["agree.human_human.kappa_quadratic.safety"]
    assert figure.value == pytest.approx(expected, abs=1e-6) and figure.n == 30 and figure.low < figure.value
    each = [results.metrics[f"agree.human_human.kappa_quadratic.{name}"].value for name in NAMES]
    assert results.metrics["agree.human_human.kappa_quadratic.mean"].value == pytest.approx(np.mean(each), abs=1e-5)
    assert "mean" in out and "people, judges" in out and "passes" in out


def test_the_quick_table_and_the_evaluation_agree_on_the_same_ratings(agree, tmp_path):
    ratings, _ = panel(speeches=10, replies=3, judges=("ann", "bea", "cat", "dan"))
    kept = [one for k, one in enumerate(ratings) if k % 5]  # with gaps
    place = write(tmp_path / "r.jsonl", [rating.model_dump(mode="json") for rating in kept])
    quick = agreement_table(kept, load_principles(), intervals=Intervals(bootstrap=0))["all"]
    _, results, _ = agree(place)
    for name in NAMES:
        for key in ("exact", "kappa", "kappa_quadratic", "alpha", "ac1", "ac2", "icc_one_way"):
            found = results.metrics[f"agree.judge_judge.{key}.{name}"]
            assert found.value == pytest.approx(quick["principles"][name][key]["value"], abs=1e-6), (key, name)
            assert found.n == quick["principles"][name]["n"]
    for key in ("kappa_quadratic", "alpha_interval", "icc_one_way"):
        found = results.metrics[f"agree.judge_judge.{key}"]
        assert found.value == pytest.approx(quick["overall"][key]["value"], abs=1e-6)


def test_items_carry_what_the_gate_compares(agree, tmp_path):
    place = write(tmp_path / "r.jsonl", long_rows({"human:ann": [1, 2, 3] * 8, "j": [1, 2, 2] * 8, "k": [1, 3, 3] * 8}))
    _, results, _ = agree(place)
    items = read_items(tmp_path / "out")
    assert set(items) == {"agree.human_judge.exact", "agree.judge_judge.exact"}
    for name, rows in items.items():
        assert np.mean([row.value for row in rows.values()]) == pytest.approx(results.metrics[name].value, abs=1e-6)


def test_speeches_of_a_question_are_ranked_and_drawn_together(agree, tmp_path):
    random = np.random.default_rng(1)
    rows = [
        {"question_id": q, "model": f"m{m}", "rater": rater, "scores": {name: int(score) for name in NAMES}}
        for rater, shift in (("r1", 0), ("r2", 1))
        for q in range(12)
        for m, score in enumerate(np.clip(random.permutation(4) + 1 + shift, 1, 5))
    ]
    tables, results, _ = agree(write(tmp_path / "r.jsonl", rows))
    assert tables["units"] == 12 and tables["items"] == 48
    assert results.metrics["agree.judge_judge.tau"].n == 12
    assert results.metrics["agree.judge_judge.tau"].unit == "rankings"
    assert agree(tmp_path / "r.jsonl", "--unit", "item", to="item")[0]["units"] == 48
    only = agree(tmp_path / "r.jsonl", "--by", "overall", to="overall")[0]
    assert set(only["questions"]) == {"overall"} and only["mean"] == {}


def test_rankings_with_ties_are_read(agree, tmp_path):
    theirs = (["a", "c", "b"], [["a", "b"], "c"])
    rows = [{"item": f"q{k}", "rater": rater, "ranking": order} for k in range(12)
            for rater, order in (("r1", ["a", "b", "c"]), ("r2", theirs[k % 2]))]  # fmt: skip
    rows.append(rows[0])
    tables, results, _ = agree(write(tmp_path / "r.jsonl", rows))
    alike = results.metrics["agree.judge_judge.alike"]
    assert (alike.value, alike.n) == (
        pytest.approx(24 / 30, abs=1e-6),
        30,
    )  # 6 x 2 of 2 couples without the tie, 6 x 2 of 3
    assert tables["left_out"] == {"second rankings by the same rater": 1}
    assert "agree.judge_judge.kappa" not in results.metrics  # ranks of one speech hang together


def test_verdicts_of_a_contest_are_compared_and_their_orders_are_a_retest(agree, tmp_path):
    place = tmp_path / "winrate"
    place.mkdir()
    first, second = [1.0, 0.0, 0.5, 1.0] * 6, [1.0, 0.0, 0.5, 0.0] * 6
    rows = [*verdicts("fair", first), *verdicts("fair", first, a_first=False)]
    rows += [*verdicts("biased", first), *verdicts("biased", second, a_first=False)]
    rows += [*verdicts("half", first), *verdicts("gone", [None] * 24)]
    write_records(place / "verdicts.jsonl", rows)
    items = [ItemValue(metric="winrate", item=f"s{k:03}", cluster=f"c{k // 2:03}", value=0.5) for k in range(24)]
    write_records(place / "items.jsonl", items)
    tables, results, out = agree(place)
    assert set(tables["raters"]) == {"biased", "fair"} and tables["units"] == 12
    assert tables["left_out"] == {"pairs that a judge saw in one order only": 24, "verdicts without an answer": 24}
    overall = tables["questions"]["overall"]
    assert overall["test_retest"]["fair"]["exact"]["value"] == 1.0
    assert overall["test_retest"]["biased"]["exact"]["value"] == 0.75
    assert results.metrics["agree.judge_judge.exact"].value == 0.75  # biased in both orders is a tie
    assert results.metrics["agree.judge_judge.two_way"].value == 1.0
    assert "24 pairs that a judge saw in one order only" in " ".join(out.split())


def test_people_need_see_a_pair_only_once(agree, tmp_path):
    both = [*verdicts("j", [1.0, 0.0] * 8), *verdicts("j", [1.0, 0.0] * 8, a_first=False)]
    write_records(tmp_path / "verdicts.jsonl", both)
    write_records(
        tmp_path / "people.jsonl", [*verdicts("ann", [1.0, 0.0] * 8), *verdicts("bea", [1.0, 0.0] * 7 + [0, 0])]
    )
    tables, _, _ = agree(tmp_path / "verdicts.jsonl", "--human", tmp_path / "people.jsonl")
    assert tables["raters"] == {"human:ann": "human", "human:bea": "human", "j": "judge"}
    assert set(tables["questions"]["overall"]["groups"]) == {"human_human", "human_judge"}


def test_choices_and_named_levels_have_an_order_and_other_texts_none(agree, tmp_path):
    choice = write(
        tmp_path / "c.jsonl", long_rows({"a": ["first", "second", "tie"] * 5, "b": ["first", "tie", "tie"] * 5})
    )
    told = agree(choice, to="c")[0]["questions"]["overall"]
    assert (told["kind"], told["levels"]) == ("ordinal", ["first", "tie", "second"])
    assert told["groups"]["judge_judge"]["two_way"]["value"] == 1.0
    texts = long_rows({"a": ["mild", "none", "severe"] * 5, "b": ["mild", "mild", "severe"] * 5})
    place = write(tmp_path / "t.jsonl", texts)
    assert agree(place, to="t")[0]["questions"]["overall"]["kind"] == "nominal"
    ordered = agree(place, "--levels", "none,mild,severe", to="o")[0]["questions"]["overall"]
    assert (ordered["kind"], ordered["levels"]) == ("ordinal", ["none", "mild", "severe"])
    first, second = [1, 0, 2] * 5, [1, 1, 2] * 5
    assert ordered["groups"]["judge_judge"]["kappa_quadratic"]["value"] == pytest.approx(
        cohen_kappa_score(first, second, weights="quadratic"), abs=1e-6
    )


def test_numbers_of_a_scale_and_scores_of_several_questions_are_told_apart(agree, tmp_path):
    random = np.random.default_rng(0)
    rows = [{"item": f"i{k}", "rater": rater, "scores": {"warmth": int(score), "minutes": float(score) * 31.7}}
            for k in range(20) for rater, score in zip("ab", random.integers(1, 5, 2), strict=True)]  # fmt: skip
    tables, results, _ = agree(write(tmp_path / "s.json", rows))
    assert {name: one["kind"] for name, one in tables["questions"].items()} == {
        "warmth": "ordinal",
        "minutes": "interval",
    }
    same = [results.metrics[f"agree.judge_judge.kappa_quadratic.{name}"].value for name in ("warmth", "minutes")]
    assert same[0] == pytest.approx(same[1], abs=1e-5)
    assert agree(tmp_path / "s.json", "--scale", "nominal", to="n")[0]["questions"]["warmth"]["kind"] == "nominal"


def test_a_csv_with_a_byte_order_mark_and_gaps_is_read_and_gaps_are_counted(agree, tmp_path):
    rows = long_rows({"a": [1, 2, "", 2, "NaN"] * 4, "b": [1, 2, 1, "n/a", 1] * 4})
    tables, results, _ = agree(write_csv(tmp_path / "t.csv", rows, "utf-8-sig"))
    assert tables["left_out"] == {"answers without a value": 12}
    assert results.metrics["agree.judge_judge.exact"].n == 8
    assert tables["questions"]["overall"]["kind"] == "ordinal"


def test_a_second_answer_is_a_retest_and_a_third_is_left_out(agree, tmp_path):
    rows = long_rows({"a": [1, 2] * 8, "b": [1, 2] * 8})
    rows += long_rows({"a": [1, 1] * 8}) + long_rows({"a": [2, 2]})
    tables, _, _ = agree(write(tmp_path / "t.jsonl", rows))
    assert tables["questions"]["overall"]["test_retest"]["a"]["exact"]["value"] == 0.5
    assert tables["questions"]["overall"]["groups"]["judge_judge"]["exact"]["value"] == 1.0  # the first one counts
    assert tables["left_out"] == {"more than two answers of a rater to an item": 2}


def test_people_and_labels_come_from_files_or_by_name(agree, tmp_path):
    place = write(tmp_path / "j.jsonl", long_rows({"j": [1, 2] * 10, "k": [1, 1] * 10}))
    human = write(tmp_path / "h.jsonl", long_rows({"ann": [1, 2] * 10, "bea": [1, 2] * 9 + [1, 1]}))
    labels = write(tmp_path / "l.jsonl", long_rows({"gold": [1, 2] * 10}))
    tables, _, _ = agree(place, "--human", human, "--labels", labels)
    assert tables["raters"] == {
        "gold": "label", "human:ann": "human", "human:bea": "human", "j": "judge", "k": "judge"
    }  # fmt: skip
    assert len(tables["questions"]["overall"]["label_tests"]) == 6
    whole = write(tmp_path / "all.jsonl", long_rows({"ann": [1, 2] * 10, "bea": [1, 2] * 10, "gold": [1, 2] * 10}))
    roles = agree(whole, "--person", "ann", "--label", "gold", to="named")[0]["raters"]
    assert roles == {"ann": "human", "bea": "judge", "gold": "label"}


def test_the_same_folder_refuses_answers_that_changed_and_takes_the_same_ones_again(agree, cli, tmp_path):
    place = write(tmp_path / "t.jsonl", long_rows({"a": [1, 2] * 8, "b": [1, 2] * 8}))
    first = agree(place)[1]
    assert agree(place)[1] == first
    write(place, long_rows({"a": [1, 2] * 8, "b": [2, 1] * 8}))
    code, _, err = cli("eval", "agree", place, "--to", tmp_path / "out", *DRAWS)
    assert code == 2 and "holds another evaluation" in err


def test_hostile_names_harm_neither_page_nor_plot_nor_terminal(agree, tmp_path):
    names = ("<script>alert(1)</script>", r"$\frac{1}{0$", "[bold]x[/bold]\x1b[2J", "ä" * 300)
    columns = {name: [1, 2, 3] * 4 for name in names}
    rows = [{**row, "question": "q <b>" + "q" * 200} for row in long_rows(columns)]
    tables, results, out = agree(write(tmp_path / "t.jsonl", rows), "--person", names[0], "--person", names[1])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "\x1b" not in out and "[bold]" in out
    assert len(tables["raters"]) == 4 and all(" " not in name and "<" not in name for name in results.metrics)


def test_names_that_would_be_one_metric_stay_two(agree, tmp_path):
    rows = [
        row for question in ("a b", "a.b") for row in long_rows({"x": [1, 2] * 6, "y": [1, 2] * 6}, question=question)
    ]
    _, results, _ = agree(write(tmp_path / "t.jsonl", rows))
    assert {"agree.judge_judge.kappa.a_b", "agree.judge_judge.kappa.a_b_1"} <= set(results.metrics)


def test_unanimous_raters_are_undefined_on_the_page_too(agree, tmp_path):
    _, results, out = agree(write(tmp_path / "t.jsonl", long_rows({"a": [1] * 12, "b": [1] * 12})))
    assert results.metrics["agree.judge_judge.alpha"].value is None
    assert "undefined: no variation" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "undef." in out


def test_published_counts_and_margins_need_no_file(agree, refused):
    tables, results, _ = agree("--counts", "164,20,6,10")
    assert results.metrics["agree.human_human.kappa"].value == pytest.approx(0.74, abs=1e-3)
    assert results.metrics["agree.human_human.kappa.agrees_with_label"].value == pytest.approx(0.3689, abs=1e-4)
    one, _, _ = agree("--margins", "200,184,170,174", to="one")
    assert one["questions"] == tables["questions"] and one["margins"]["tables"] == 1
    _, wide, out = agree("--margins", "200, 184, 170", to="wide")
    assert wide.metrics["agree.margins.exact.least"].value == 0.77 and "over 17 tables" in out
    assert "four whole numbers" in refused("--counts", "0,0,0,0")
    for wrong in ("1,2,3", "1,2,3,-4", "a,b,c,d", "١,2,3,4", "1,2,3,4e9", "1,2,3,4444444444"):
        assert "write 4 whole numbers" in refused("--counts", wrong)
    assert "no table of 10 items" in refused("--margins", "10,5,5,1")


LONG = '{"item": "i", "rater": "a", "value": 1}\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ('{"item": "i", "rater": "a"}\n', "expected columns item, rater, value"),
        ('{"item": "i", "rater": "a", "value": 1', "t.jsonl:1: not JSON"),
        (LONG + '{"item": "i", "rater": "b", "value": NaN}\n', "t.jsonl:2: not JSON"),
        (LONG + '{"item": "i", "rater": null, "value": 1}\n', "row 2: nothing in column 'rater'"),
        (LONG + '{"item": "i", "rater": "b", "value": "4o"}\n', "numbers and texts are mixed"),
        (LONG + '{"item": "i", "rater": "b", "value": 1e300}\n', "is no number between"),
        (LONG + '{"item": "j", "rater": "b", "value": 1}\n', "share an item"),
        (LONG, "no two of 1 raters share an item"),
        ('{"item": "i", "rater": "a", "value": null}\n' * 2, "no answer with a value"),
        ('{"item": "i", "rater": "a", "scores": [1]}\n', "'scores' must hold questions"),
        ('{"item": "q", "rater": "a", "ranking": ["x", "x"]}\n', "each once"),
        ('{"item": "q", "rater": "a", "ranking": "x"}\n', "not a ranking"),
        ('{"speech_id": "s", "a": "x", "b": "y", "judge": "j", "a_first": true, "value": 7}\n', "t.jsonl:1"),
        (b"\xff\xfe\x00{", "not UTF-8"),
        ("".join(json.dumps({"item": f"i{k}", "rater": "a", "value": f"my words {k}"}) + "\n" for k in range(60)),
         "are these labels?"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_line(refused, tmp_path, content, told):
    place = tmp_path / "t.jsonl"
    place.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert told in refused(place)


def test_wrong_options_are_refused_in_one_line(refused, tmp_path):
    place = write(tmp_path / "t.jsonl", long_rows({"ann": ["low", "high"] * 6, "bea": ["low", "high"] * 6}))
    other = write(tmp_path / "o.jsonl", long_rows({"ann": ["low"]}, start=900))
    ranks = write(tmp_path / "k.jsonl", [{"item": "q", "rater": "a", "ranking": ["x", "y"]}])
    for arguments, told in (
        ((), "name one of"),
        ((place, "--counts", "1,1,1,1"), "name one of"),
        (("--counts", "1,1,1,1", "--person", "first"), "belong to a PLACE"),
        ((place, "--person", "an"), "did you mean 'ann'"),
        ((place, "--person", "ann", "--label", "ann"), "a person and a label at once"),
        ((place, "--by", "principles"), "did you mean 'principle'"),
        ((place, "--unit", "spech"), "did you mean 'speech'"),
        ((place, "--scale", "ordnal"), "did you mean 'ordinal'"),
        ((place, "--scale", "ordinal"), "with --levels"),
        ((place, "--levels", "low,hihg"), "did you mean"),
        ((place, "--levels", "low"), "two or more different levels"),
        ((place, "--human", other), "shares no item"),
        ((place, "--labels", write(tmp_path / "s.jsonl", long_rows({"ann": ["low"]}))), "two different names"),
        ((place, "--human", ranks), "has not the shape of"),
        ((place, "--human", tmp_path / "gone.jsonl"), "no such file"),
        ((tmp_path / "gone",), "does not exist"),
        ((write(tmp_path / "t.txt", []),), "not a .csv"),
        ((tmp_path,), "3-ratings/ratings.jsonl"),
    ):
        assert told in refused(*arguments), arguments


def test_a_long_table_of_many_raters_takes_seconds(agree, tmp_path):
    random = np.random.default_rng(0)
    quality = random.normal(3, 1, 1500)
    columns = {f"r{k:02}": np.clip(np.round(quality + random.normal(0, 0.7, 1500)), 1, 5).astype(int).tolist()
               for k in range(12)}  # fmt: skip
    tables, _, _ = agree(write(tmp_path / "t.jsonl", long_rows(columns)))
    pairs = tables["questions"]["overall"]["pairs"]
    assert len(pairs) == 66 and pairs[0]["kappa_quadratic"]["low"] is None  # so many pairs have values only
    assert tables["questions"]["overall"]["groups"]["judge_judge"]["kappa_quadratic"]["low"] is not None


@needs_shared
def test_five_raters_of_real_replies(agree):
    """With sklearn: the raters of a reply in the order of their names. Rankings: 76 of 90 pairs, counted by hand."""
    _, results, _ = agree(SHARED / "ratings" / "ratings.jsonl")
    by_reply = {}
    for row in rows_of_shared():
        by_reply.setdefault((row["question_id"], row["model"]), {})[row["rater"]] = row["scores"]
    twice = [[scores for _, scores in sorted(raters.items())] for raters in by_reply.values() if len(raters) > 1]
    for name in NAMES:
        expected = cohen_kappa_score(*zip(*((a[name], b[name]) for a, b in twice), strict=True), weights="quadratic",
                                     labels=[1, 2, 3, 4, 5])  # fmt: skip
        figure = results.metrics[f"agree.judge_judge.kappa_quadratic.{name}"]
        assert figure.value == pytest.approx(expected, abs=1e-6) and figure.low < figure.value < figure.high
    ranked = agree(SHARED / "ratings" / "rankings.jsonl", to="ranked")[1].metrics["agree.judge_judge.alike"]
    assert (ranked.value, ranked.n) == (pytest.approx(76 / 90, abs=1e-6), 90)
