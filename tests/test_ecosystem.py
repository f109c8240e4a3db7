"""Our protocol inside other frameworks: their model loop, our baseline, judges, orders and interval."""

import json
import math

import pytest
from conftest import CLIENT_LINES

from psychocounsel.errors import UserError
from psychocounsel.evals.protocol import open_protocol

JUDGE = """
import json, re
from psychocounsel.models.scripted import Scripted
def longer(request):
    a, b = re.findall(r"<<<REPLY [AB]\\n(.*?)\\n>>>", request.messages[1]["content"], re.DOTALL)
    return json.dumps({"overall": "A much better" if len(a) > len(b) else "B much better"})
def judge():
    return Scripted(longer, "openai:longer")
"""


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Twelve speeches, a recorded baseline and a judge who prefers the longer reply."""
    (tmp_path / "bench_judge.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(tmp_path)
    texts = [*CLIENT_LINES, *(f"{text} And it is worse this week." for text in CLIENT_LINES[:4])]
    rows = [{"question_id": i, "turns": [text]} for i, text in enumerate(texts)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    replies = [{"question_id": i, "model_id": "claude-plain", "choices": [{"index": 0, "turns": ["Try to rest more."]}]}
               for i in range(len(texts))]  # fmt: skip
    (tmp_path / "claude-plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
    return {
        "speeches": f"fastchat:{tmp_path / 'q.jsonl'}", "baseline": f"recorded:{tmp_path / 'claude-plain.jsonl'}",
        "judges": ["bench_judge:judge"], "folder": str(tmp_path / "out"), "candidate": "mistral-try",
    }  # fmt: skip


def test_the_protocol_judges_replies_brought_from_elsewhere(given):
    protocol = open_protocol(**given)
    replies = {speech.id: "A reply of more words than the other one has." for speech in protocol.speeches[:-1]}
    verdicts = protocol.judge({**replies, protocol.speeches[-1].id: "  "})
    found = protocol.result(verdicts, bootstrap=100)
    assert found.win_rate.value == 1.0 and found.win_rate.n == 11 and found.judges == ("openai:longer",)
    assert protocol.result([]) is None and protocol.dependent == ()


def test_a_dependent_judge_is_refused_there_as_well(given):
    with pytest.raises(UserError, match="candidate openai:gpt-x are of one family"):
        open_protocol(**{**given, "candidate": "openai:gpt-x"})
    assert open_protocol(**{**given, "candidate": "openai:gpt-x"}, allow_dependent=True).dependent


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of that library
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_inspect_task_has_our_win_rate_and_its_log_becomes_a_recording(given, tmp_path, monkeypatch):
    inspect_ai = pytest.importorskip("inspect_ai", reason="psychocounsel[inspect] is not installed")
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from psychocounsel.evals.inspect_tasks import counselling, write_recording
    from psychocounsel.models import open_models

    monkeypatch.chdir(tmp_path)
    texts = ["It sounds heavy, and I would like to hear more." if i % 3 else "Rest." for i in range(12)]
    outputs = [ModelOutput.from_content("mockllm/model", text) for text in texts]
    for output in outputs:
        output.usage = ModelUsage()  # without it, it counts tokens with a table from the network
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(counselling(**given), model=model, display="none", log_dir=str(tmp_path / "logs"))
    assert log.status == "success", log.error
    metrics = {name: row.value for score in log.results.scores for name, row in score.metrics.items()}
    assert metrics["win_rate"] == pytest.approx(8 / 12, abs=1e-4) and metrics["missing"] == 0
    assert metrics["low"] < 8 / 12 < metrics["high"]
    assert write_recording(log, tmp_path / "replies.jsonl") == 12
    (recorded,) = open_models(f"recorded:{tmp_path / 'replies.jsonl'}")
    assert recorded.name == "mockllm/model" and sorted(recorded.replies.values()) == sorted(texts)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_harness_task_has_our_win_rate_and_keeps_the_replies(given, tmp_path):
    lm_eval = pytest.importorskip("lm_eval", reason="psychocounsel[harness] is not installed")
    from lm_eval.api.model import LM

    from psychocounsel.evals.harness_tasks import counselling

    class Counsellor(LM):
        def generate_until(self, requests, disable_tqdm=False):
            return ["A reply that is longer than the other." if i % 4 else "Rest." for i in range(len(requests))]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    task = counselling(**given, recording=tmp_path / "replies.jsonl")
    found = lm_eval.simple_evaluate(model=Counsellor(), tasks=[task], bootstrap_iters=0, log_samples=False)
    row = next(iter(found["results"].values()))
    numbers = {key.partition(",")[0]: value for key, value in row.items() if isinstance(value, float)}
    assert numbers["win_rate"] == pytest.approx(9 / 12, abs=1e-4) and numbers["missing"] == 0
    assert numbers["win_rate_low"] < 9 / 12 < numbers["win_rate_high"] and not math.isnan(numbers["win_rate_low"])
    rows = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and {row["model"] for row in rows} == {"mistral-try"}
