"""Our win rate as a task of the LM Evaluation Harness (lm-eval). Needs psychocounsel[harness]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from psychocounsel.evals.protocol import Protocol, open_protocol
from psychocounsel.records import write_rows

MAX_TOKENS = 512


class CounsellingTask(ConfigurableTask):  # type: ignore[misc]
    """Reply to client speeches (generate_until); all replies are judged together, at the judges' own concurrency.

    Metrics: `win_rate`, `win_rate_low`, `win_rate_high` and `missing`. Give it to `lm_eval.simple_evaluate` in `tasks`,
    with `apply_chat_template=True` for chat models. `recording` keeps the replies for `eval winrate`.
    """

    VERSION = 1

    def __init__(
        self, protocol: Protocol, *, name: str = "psychocounsel", max_tokens: int = MAX_TOKENS,
        recording: Path | str | None = None, bootstrap: int = 10_000, seed: int = 0,
    ) -> None:  # fmt: skip
        self.protocol, self.recording = protocol, recording
        self.settings = {"bootstrap": bootstrap, "seed": seed}
        self._found: dict[str, float] = {}
        metrics = ("win_rate", "win_rate_low", "win_rate_high", "missing")
        super().__init__(
            config={
                "task": name,
                "custom_dataset": lambda **_: {"test": self._dataset()},
                "test_split": "test",
                "output_type": "generate_until",
                "description": protocol.messages(protocol.speeches[0])[0]["content"],
                "doc_to_text": lambda doc: doc["speech"],
                "doc_to_target": "",
                "process_results": lambda doc, results: dict.fromkeys(metrics, (doc["id"], results[0])),
                "generation_kwargs": {"until": [], "max_gen_toks": max_tokens, "do_sample": False},
                "metric_list": [
                    {"metric": key, "aggregation": self._measure(key), "higher_is_better": key != "missing"}
                    for key in metrics
                ],
                "metadata": {"version": self.VERSION, "baseline": protocol.baseline},
            }
        )

    def _dataset(self) -> Any:
        rows = [
            {
                "id": speech.id,
                "speech": "\n\n".join(message["content"] for message in self.protocol.messages(speech)[1:]),
            }
            for speech in self.protocol.speeches
            if speech.id in self.protocol.replies
        ]
        return Dataset.from_list(rows)

    def _measure(self, key: str) -> Any:
        """An aggregation over (speech id, reply) of all documents; the judging is done once for all metrics."""

        def measure(items: Sequence[tuple[str, str]]) -> float:
            if not self._found:
                self._found = self._judged(dict(items))
            return self._found[key]

        return measure

    def _judged(self, replies: dict[str, str]) -> dict[str, float]:
        if self.recording is not None:
            rows = ({"speech_id": key, "model": self.protocol.candidate, "text": text} for key, text in replies.items())
            write_rows(Path(self.recording), rows)
        verdicts = self.protocol.judge(replies)
        found = self.protocol.result(verdicts, **self.settings)
        unjudged = len(replies) - len({verdict.speech_id for verdict in verdicts})
        figure = found.win_rate if found else None
        numbers = [getattr(figure, part) if figure else None for part in ("value", "low", "high")]
        low = [float("nan") if number is None else number for number in numbers]
        missing = (unjudged + (found.missing if found else 0)) / max(len(replies), 1)
        return {"win_rate": low[0], "win_rate_low": low[1], "win_rate_high": low[2], "missing": missing}


def counselling(
    speeches: str, baseline: str, judges: Sequence[str], folder: Path | str, *, recording: Path | str | None = None,
    **more: Any,
) -> CounsellingTask:  # fmt: skip
    """The task with its protocol opened; arguments as in `open_protocol`."""
    return CounsellingTask(open_protocol(speeches, baseline, judges, folder, **more), recording=recording)
