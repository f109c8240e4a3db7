"""Against `transformers serve`, a server nobody here wrote, with real models a few kilobytes small."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from chain_model import chain_model
from tiny_run import run_command, write_recipe
from transformers_server import START_S, transformers_serve

from psychocounsel.errors import UserError
from psychocounsel.evaluate.results import read_results
from psychocounsel.models import open_models
from psychocounsel.models.calls import ask_all, together
from psychocounsel.models.capabilities import capabilities
from psychocounsel.models.chat import Request
from psychocounsel.models.store import CallStore
from psychocounsel.principles import load_principles
from psychocounsel.ratings.parse import parse_scores
from psychocounsel.recipe import ModelsTable

SEVEN = load_principles()
REPLIES = {
    "warm": ("It sounds ", "as if ", "the evenings ", "are the longest part. ", "What ", "helps ", "a little?"),
    "plain": ("Other people ", "have it worse. ", "Try ", "to sleep more."),
}
SCORES = dict(zip([principle.id for principle in SEVEN], (4, 3, 5, 2, 4, None, 1), strict=True))
LEVELS = {"A": 0.05, "B": 0.1, "C": 0.2, "D": 0.4, "E": 0.25}  # the labels this server gives to five levels
TIRED = {"role": "user", "content": "I am tired."}


def rating(scores):
    """A judge's answer in pieces: JSON after a sentence, as judges do."""
    entries = [f'"{name}": {{"reason": "what it says of {name}", "score": {json.dumps(score)}}}'
               for name, score in scores.items()]  # fmt: skip
    head = ("Here is ", "my rating. ", '{"stage": "contemplation", "risk": "none", ')
    return (*head, *(f"{entry}, " for entry in entries[:-1]), f"{entries[-1]}}}")


@dataclass
class Served:
    """A running server: its address, the folders of the models it can serve, and its log."""

    url: str
    folders: dict[str, Path]
    log: Path

    def name(self, model: str) -> str:
        return f"{self.url}/v1#{self.folders[model]}"

    def model(self, model: str, **table):
        return open_models(self.name(model), table=ModelsTable(**table))[0]

    def posts(self) -> int:
        """Requests the server has answered so far, by its own access log."""
        return self.log.read_text(encoding="utf-8").count('"POST /')

    def knows(self, path: str) -> bool:
        with urllib.request.urlopen(f"{self.url}/openapi.json", timeout=START_S) as reply:
            return path in json.load(reply)["paths"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`transformers serve` in a process of its own, and the folders of two counsellors and two judges."""
    place = tmp_path_factory.mktemp("served")
    folders = {name: chain_model(place / name, pieces) for name, pieces in REPLIES.items()}
    folders["judge"] = chain_model(place / "judge", rating(SCORES))
    folders["decider"] = chain_model(place / "decider", rating(dict.fromkeys(SCORES, 1)), LEVELS)
    with transformers_serve(place) as (url, log):
        yield Served(url, folders, log)


@pytest.fixture(scope="module")
def run(served, tmp_path_factory):
    """The folder of a recipe run to its ratings against the server by the real command. Not to be changed."""
    place = tmp_path_factory.mktemp("run")
    pool, judges = ([served.name(name) for name in names] for names in (REPLIES, ("judge", "decider")))
    recipe = write_recipe(
        place,
        f"""
name = "served"
seed = 3
[speeches]
topics = "none"
[responses]
models = {json.dumps(pool)}
per_speech = 2
limit = 3
[ratings]
judges = {json.dumps(judges)}
""",
    )
    done = run_command("run", recipe, "--to", "ratings", cwd=place)
    assert done.returncode == 0, f"{done.stderr}\n{served.log.read_text(encoding='utf-8')[-3000:]}"
    return place / "runs" / "served"


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judged_by(run, judge):
    """The ratings of a judge and the calls they were read from, in the same order."""
    ratings = [row for row in rows(run / "3-ratings" / "ratings.jsonl") if row["judge"] == judge]
    with CallStore(run / "calls.sqlite", read_only=True) as store:
        query = "SELECT raw, request FROM calls WHERE id = ? AND status = 'done'"
        return ratings, [store.reader.execute(query, (row["call_id"],)).fetchone() for row in ratings]


def ask(model, tmp_path, **sampling):
    with CallStore(tmp_path / "calls.sqlite") as store:
        return ask_all([(model, Request(messages=(TIRED,), sampling=sampling))], store)[0]


def test_every_model_of_the_pool_answers_every_speech_in_its_own_words(served, run):
    responses = rows(run / "2-responses" / "responses.jsonl")
    assert Counter(row["model"] for row in responses) == {served.name(name): 3 for name in REPLIES}
    assert len({row["speech_id"] for row in responses}) == 3
    said = {served.name(name): "".join(pieces) for name, pieces in REPLIES.items()}
    assert all(row["text"] == said[row["model"]] and row["finish"] == "stop" for row in responses)


def test_the_tokens_the_server_reports_are_counted(served, run):
    with CallStore(run / "calls.sqlite", read_only=True) as store:
        found = store.reader.execute("SELECT model, tokens_in, tokens_out FROM calls WHERE status = 'done'").fetchall()
    for name, pieces in REPLIES.items():
        counts = [(into, out) for model, into, out in found if model == served.name(name)]
        assert [out for _, out in counts] == [len(pieces) + 1] * 3, "one token per piece, and the end"
        assert all(into > 30 for into, _ in counts), "rules and the client's words"


def test_a_judge_without_a_schema_is_read_strictly_from_its_text(served, run):
    ratings, stored = judged_by(run, served.name("judge"))
    assert len(ratings) == 6 and all(row["scores"] == SCORES for row in ratings)
    assert all(row["reasons"]["empathy"] == "what it says of empathy" for row in ratings)
    assert all((row["stage"], row["risk"], row["levels"]) == ("contemplation", "none", {}) for row in ratings)
    for raw, request in stored:
        text = json.loads(raw)["choices"][0]["message"]["content"]
        assert text == "".join(rating(SCORES)) and parse_scores(text, SEVEN).problems == []
        assert json.loads(request)["schema"] is None, "no demand that the server would not hear"


def test_a_judge_with_a_decision_endpoint_is_asked_there(served, run):
    if not served.knows("/v1/systemone"):
        pytest.skip("this version of transformers serve has no decision endpoint")
    ratings, stored = judged_by(run, served.name("decider"))
    assert len(ratings) == 6
    for row in ratings:
        assert list(row["levels"]) == list(SCORES)
        for name in SCORES:
            assert row["levels"][name] == pytest.approx(list(LEVELS.values()), abs=1e-4)
            assert row["scores"][name] == pytest.approx(3.7, abs=1e-3), "the mean of the levels, not its words"
    assert all("choices" not in json.loads(raw) for raw, _ in stored)


def test_what_the_server_honours_is_measured_once_and_kept(served, run):
    decides = "systemone" if served.knows("/v1/systemone") else None
    with CallStore(run / "calls.sqlite", read_only=True) as store:
        for name, decision in (("judge", None), ("decider", decides)):
            found = store.endpoint(f"{served.url}/v1#{served.folders[name]}")
            assert {key: found[key] for key in ("decision", "strict_schema", "json_mode")} == {
                "decision": decision, "strict_schema": False, "json_mode": False,
            }  # fmt: skip
        assert store.reader.execute("SELECT COUNT(*) FROM endpoints").fetchone() == (2,), "counsellors are not probed"


def test_a_demand_for_json_that_the_server_ignores_is_noticed(served, tmp_path):
    before, model = served.posts(), served.model("plain")
    with CallStore(tmp_path / "calls.sqlite") as store:
        found = together([(1, ((i, capabilities(model, store)) for i in range(2)))], store, [model])
    assert found[0] == found[1]
    assert (found[0].decision, found[0].strict_schema, found[0].json_mode) == (None, False, False)
    assert served.posts() - before == 4, "two wire forms, a schema, JSON; the second time nothing"


def test_stages_made_anew_send_nothing(served, run):
    before, files = served.posts(), {path: path.read_bytes() for path in run.glob("[23]-*/*.jsonl")}
    assert before >= 18 and len(files) >= 2
    recipe = run.parents[1] / "tiny.toml"
    again = run_command("run", recipe, "--to", "ratings", "--redo", "responses", cwd=recipe.parent)
    assert again.returncode == 0, again.stderr
    assert [line for line in again.stderr.splitlines() if "done before" in line] == ["speeches: done before"]
    assert served.posts() == before
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize(("most", "finish"), [(3, "length"), (50, "stop")])
def test_a_token_limit_is_honoured_and_told(served, tmp_path, most, finish):
    answer = ask(served.model("warm"), tmp_path, temperature=0.8, max_tokens=most)
    said = REPLIES["warm"][:most]
    assert (answer.text, answer.finish) == ("".join(said), finish)
    assert answer.tokens_out == (most if finish == "length" else len(said) + 1)


def test_the_same_folder_says_the_same_in_this_process(served, tmp_path):
    there = ask(served.model("warm"), tmp_path, temperature=0.8, max_tokens=20)
    here = ask(open_models(f"local:{served.folders['warm']}")[0], tmp_path, temperature=0.8, max_tokens=20)
    for part in ("text", "finish", "tokens_in", "tokens_out"):
        assert getattr(here, part) == getattr(there, part)


def test_a_model_the_server_does_not_have_ends_in_one_line(served, tmp_path):
    absent = open_models(f"{served.url}/v1#{tmp_path / 'nowhere'}", table=ModelsTable(attempts=1))[0]
    with pytest.raises(UserError, match=r"nowhere: 500 after 1 attempt"):
        ask(absent, tmp_path, max_tokens=3)


def test_models_of_the_server_are_compared_by_win_rate(served, cli, tmp_path):
    before = served.posts()
    named = {kind: f"{kind}={served.name(kind)}" for kind in REPLIES}
    code, _, err = cli(
        "eval", "winrate", "--speeches", "embedded", "--limit", 3, "--bootstrap", 100, "--to", tmp_path / "found",
        "--candidate", named["warm"], "--baseline", named["plain"], "--judge", "winrate_models:fair",
        *(word for name in ("warm", "plain", "fair") for word in ("--family", f"{name}={name}")),
    )  # fmt: skip
    assert code == 0, f"{err}\n{served.log.read_text(encoding='utf-8')[-3000:]}"
    assert served.posts() - before == 6
    assert read_results(tmp_path / "found").metrics["winrate.warm_vs_plain"].value == 0.75
    texts = {row["model"]: row["text"] for row in rows(tmp_path / "found" / "replies.jsonl")}
    assert texts == {kind: "".join(pieces).strip() for kind, pieces in REPLIES.items()}
