"""`psychocounsel eval ood`: public human labels by files given, scored by models, and asked for by name from judges."""

import json

import pytest
from conftest import CLIENT_LINES
from label_files import POSTS, write_all, write_epitome
from tiny_reward import make_reward_model
from tiny_run import read_json

from psychocounsel.evaluate.human.answered import answered_rows
from psychocounsel.evaluate.human.asking import ask_labels, questions, read_labels
from psychocounsel.evaluate.human.labels import read_sets
from psychocounsel.models.scripted import Scripted
from psychocounsel.models.store import CallStore


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("ood"))


@pytest.fixture(scope="module")
def sets(places):
    return read_sets({name: places[name] for name in ("epitome", "siri-2", "annomi", "counselbench")})


def asked(request):
    """The labels a question asks for."""
    system = request.messages[0]["content"]
    return [label for name in ("epitome", "siri-2", "annomi", "counselbench") for label in questions(name)
            if f'"{label}"' in system]  # fmt: skip


def store_at(path):
    return CallStore(path / "calls.sqlite")


def knows_empathy(request):
    """Codes as the files do: warm words are a strong reaction, asking is exploring."""
    reply = request.messages[1]["content"].split("<<<REPLY")[1]
    found = {"ER": 2 * ("sounds hard" in reply), "IP": int("sounds hard" in reply), "EX": 2 * ("What part" in reply)}
    return json.dumps({label: found.get(label, 0) for label in asked(request)})


def test_a_judge_that_codes_as_people_do_is_perfect_and_one_level_is_not(sets, tmp_path):
    with store_at(tmp_path) as store:
        answers = ask_labels(Scripted(knows_empathy), sets["epitome"], store)
    rows = {(row["label"], row["metric"]): row for row in answered_rows(sets["epitome"], answers, bootstrap=50, seed=0)}
    assert answers.missing == {} and set(rows) == {
        (label, metric) for label in ("ER", "IP", "EX") for metric in ("accuracy", "macro-F1", "quadratic kappa")
    }
    for label in ("ER", "IP", "EX"):
        assert rows[label, "quadratic kappa"]["score"]["value"] == 1.0
        assert rows[label, "accuracy"]["most_frequent"]["value"] == pytest.approx(2 / 3, abs=1e-4)
        assert rows[label, "accuracy"]["n"] == len(sets["epitome"].items) and rows[label, "accuracy"]["missing"] == 0


def test_a_judge_who_is_always_kind_overrates_what_experts_reject(sets, tmp_path):
    with store_at(tmp_path) as store:
        answers = ask_labels(Scripted(['{"expert": 3}']), sets["siri-2"], store)
    rows = {row["metric"]: row for row in answered_rows(sets["siri-2"], answers, bootstrap=50, seed=0)}
    means = [item.labels["expert"] for item in sets["siri-2"].items]
    assert rows["sum of distances"]["score"]["value"] == pytest.approx(sum(3 - mean for mean in means), abs=1e-3)
    low = [3 - mean for mean in means if mean < 0]
    assert rows["bias where people rate below 0"]["score"]["value"] == pytest.approx(sum(low) / len(low), abs=1e-3)


class Refusing(Scripted):
    async def send(self, request):
        self.sent.append(request)
        return json.dumps({"text": "", "finish": "filtered"})


@pytest.mark.parametrize(
    ("model", "reason", "tries"),
    [
        (Refusing([""]), "filtered", 1),
        (Scripted(["I would rather not."]), "unreadable", 3),
        (Scripted(['{"ER": 3, "IP": 0, "EX": 0}']), "unreadable", 3),
        (Scripted(['{"ER": 1.5, "IP": 0, "EX": 0}']), "unreadable", 3),
        (Scripted(['{"ER": NaN, "IP": 0, "EX": 0}']), "unreadable", 3),
        (Scripted(['{"ER": 1, "IP": 0, "EX": 0} {"ER": 2, "IP": 0, "EX": 0}']), "unreadable", 3),
        (Scripted(['{"ER": 1, "IP"']), "unreadable", 3),
    ],
)
def test_no_readable_answer_is_missing_and_never_a_level(sets, tmp_path, model, reason, tries):
    with store_at(tmp_path) as store:
        answers = ask_labels(model, sets["epitome"], store)
    count = len(sets["epitome"].items)
    assert answers.said == {} and answers.missing == {reason: count} and len(model.sent) == tries * count
    assert answered_rows(sets["epitome"], answers, bootstrap=10, seed=0) == []


def test_an_answer_is_asked_for_again_with_the_fault_named(sets, tmp_path):
    model = Scripted(lambda request: knows_empathy(request) if len(request.messages) > 2 else "Let me think.")
    with store_at(tmp_path) as store:
        answers = ask_labels(model, sets["epitome"], store)
    assert answers.missing == {}
    assert "That cannot be used: it is not one JSON object" in model.sent[-1].messages[-1]["content"]


def test_what_a_reply_says_is_data_and_no_answer():
    text = 'The reply holds {"ER": 2} and tells me to answer 2.\n{"ER": 0}'
    assert read_labels(text, "epitome", ["ER"]) == ({}, "it is not one JSON object")
    assert read_labels('{"ER": true}', "epitome", ["ER"])[1] == '"ER" is no whole number'


def test_the_command_scores_and_asks_with_licences_and_no_text_of_a_set(
    tmp_path, cli, places, model_folder, monkeypatch
):
    (tmp_path / "ward.py").write_text(
        "import json, re\nfrom psychocounsel.models.scripted import Scripted\n"
        "def answer(request):\n    keys = re.findall(r'\"([A-Za-z]+)\"', request.messages[0]['content'])\n"
        "    return json.dumps({key: 1 for key in keys})\n"
        "def judge():\n    return Scripted(answer, 'ward')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model, folder = make_reward_model(tmp_path / "warm", model_folder), tmp_path / "out"
    given = [word for name in ("epitome", "siri-2", "counselchat") for word in ("--set", f"{name}={places[name]}")]
    call = ("eval", "ood", model, "--judge", "embedded", "--judge", "ward:judge", *given, "--to", folder,
            "--bootstrap", 50, "--max-length", 256)  # fmt: skip
    code, out, err = cli(*call)
    assert code == 0, err
    results = read_json(folder / "results.json")
    assert {"ood.warm.macro", "ood.embedded.macro", "ood.ward.macro"} <= set(results["metrics"])
    assert "ood.ward.epitome.asked.ER.quadratic_kappa" in results["metrics"]
    assert not any(name.startswith("ood.warm") and ".asked." in name for name in results["metrics"])
    assert results["about"]["licence of epitome"].startswith("academic use only") and "academic use only" in out
    told = "".join(
        (folder / name).read_text(encoding="utf-8") for name in ("results.json", "tables.json", "report.html")
    )
    assert all(post not in told for post in POSTS) and "diagnosis and never a gate" in told
    metrics = results["metrics"]
    assert cli(*call)[0] == 0 and read_json(folder / "results.json")["metrics"] == metrics


def test_items_near_to_training_speeches_are_left_out(tmp_path, cli, places):
    seen = tmp_path / "seen.jsonl"
    seen.write_text("".join(json.dumps({"text": text}) + "\n" for text in (POSTS[0], CLIENT_LINES[0])))
    given = ("--set", f"counselchat={places['counselchat']}", "--training", seen, "--bootstrap", 20)
    code, _, err = cli("eval", "ood", "--judge", "embedded", *given, "--to", tmp_path / "out")
    assert code == 0, err
    counts = read_json(tmp_path / "out" / "tables.json")["scorers"][0]["sets"]["counselchat"]["counts"]
    assert counts["items left out: nearly a training speech"] > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--set: name a set and where it lies"),
        (("--set", "epitome"), "write NAME=PLACE"),
        (("--set", "epitomy=x"), "unknown set, did you mean 'epitome'?"),
        (("--set", "epitome=nowhere"), "nowhere: no such folder"),
        (("--set", "siri-2=EPITOME"), "siri-2"),
        (("--set", "siri-2=GOOD", "--set", "siri-2=GOOD"), "is given twice"),
        (("--set", "siri-2=GOOD", "--training", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
    ],
)
def test_wrong_sets_are_told_before_anything_is_opened(tmp_path, cli, places, arguments, told):
    wrong = write_epitome(tmp_path / "epitome") / "emotional-reactions-reddit.csv"
    named = [word.replace("EPITOME", str(wrong)).replace("GOOD", str(places["siri-2"])) for word in arguments]
    code, _, err = cli("eval", "ood", "--judge", "embedded", *named, "--to", tmp_path / "out")
    assert code == 2 and (told in err or (told == "siri-2" and "SIRI-2" in err)) and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
