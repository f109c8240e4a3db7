"""Online rounds at the edge: one after the other, a look after each, stop and roll back when they go wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.evaluate.clusters import clusters_of
from psychocounsel.evaluate.contest.arena import Contest, hold, win_rate
from psychocounsel.evaluate.rounds import ROUNDS
from psychocounsel.evaluate.statistics import Figure, mean_figure
from psychocounsel.pipeline.context import Run
from psychocounsel.policy.gate import open_gate
from psychocounsel.policy.look import REPLIES, SCORES, Looked, decide, dev_speeches, gains, look
from psychocounsel.policy.monitors import alarms, text_figures
from psychocounsel.policy.online import Tools, run_round
from psychocounsel.policy.rewards import check_rewards, open_rewards
from psychocounsel.ratings import open_judges
from psychocounsel.ratings.judge import Judge
from psychocounsel.recipe.online import round_judges
from psychocounsel.records import read_rows, write_text
from psychocounsel.run import sweep
from psychocounsel.training.adapters import Start
from psychocounsel.training.processes import main_process, together

LOOK, COUNTS = "look.json", "counts.json"
Json = dict[str, Any]


def online_rounds(run: Run, place: Path, base: str) -> Json:
    """All rounds of a recipe into `place`, and online.json: looks, the best round, why they stopped.

    Every process calls it; the first one decides, judges and writes.
    """
    rounds = Rounds(run, place, base)
    looks = [rounds.made(0)]
    best, stopped = 0, ""
    for number in range(1, run.recipe.policy.online.rounds + 1):
        looks.append(rounds.made(number))
        best, stopped = decide([_standing(found) for found in looks], run.recipe.policy.online.patience)
        if main_process():
            write_text(place / ROUNDS, json.dumps({"best": best, "stopped": stopped, "looks": looks}, indent=1))
            rounds.tidy(best, number)
        together()
        if stopped:
            break
    told = {f"online-{number}": found["counts"] for number, found in enumerate(looks) if number}
    return {**told, "best_round": best, **({"stopped": stopped} if stopped else {})}


def _standing(found: Json) -> tuple[float | None, list[str]]:
    figures = found["figures"]
    chosen_by = figures.get("judge") or figures.get("reward")
    return (chosen_by["value"] if chosen_by else None), found["alarms"]


class Rounds:
    """What the rounds of a run share: their speeches, rewards and judges, and where each of them starts."""

    def __init__(self, run: Run, place: Path, base: str) -> None:
        self.run, self.place = run, place
        self.table, self.online = run.recipe.policy, run.recipe.policy.online
        offline = place / "offline"
        self.initial = self._start(offline, base) if self.online.start == "offline" else Start(base)
        speeches = run.speeches()
        self.dev = dev_speeches(speeches, self.online, run.recipe.seed)
        kept = {speech.id for speech in self.dev}
        self.pool = [speech for speech in speeches if speech.id not in kept]
        reward = str(run.folder.stage("reward") / "model")
        first = main_process() and not (place / "online-1").exists()
        opened = check_rewards if first else open_rewards  # checked before anything is sampled
        rewards = opened(run.recipe, reward, run.principles, run.store)
        self.tools = Tools(rewards, open_gate(self.online.gate), run.store, run.recipe.models)
        names = round_judges(self.online, run.recipe.evaluate.judges)
        self.judges: list[Judge] = open_judges(
            names, run.recipe.ratings, run.recipe.models, tie=run.recipe.evaluate.tie
        )

    def _start(self, folder: Path, base: str) -> Start:
        """The policy of a folder, in parts where it was trained by adapters."""
        if self.table.lora.rank:
            return Start(str(folder / "model"), base, str(folder / "adapter"))
        return Start(str(folder / "model"))

    def policy(self, number: int) -> Start:
        """The policy after round `number`; 0 is where the first one starts."""
        return self._start(self.place / f"online-{number}", self._trained_on) if number else self.initial

    @property
    def _trained_on(self) -> str:
        return self.initial.base or self.initial.model

    def made(self, number: int) -> Json:
        """A round with its look: what online.json says of it. Made once: its folder is complete or absent."""
        whole = self.place / f"online-{number}"
        there = whole.exists()
        together()  # everyone has looked before anyone writes
        if not there:
            part = whole.with_name(whole.name + ".part")
            part.mkdir(parents=True, exist_ok=True)
            counts = self._round(number, part) if number else {}
            found = self._look(number, part, counts)
            if main_process():
                write_text(part / LOOK, json.dumps(found, indent=1))
                write_text(part / COUNTS, json.dumps(counts))
                sweep(part)
                part.rename(whole)
            together()
        result: Json = json.loads((whole / LOOK).read_text(encoding="utf-8"))
        return result

    def _round(self, number: int, part: Path) -> Json:
        return run_round(
            number - 1, self.policy(number - 1), self.initial, self.pool, self.table, self.tools,
            self.run.recipe.seed, part,
        )  # fmt: skip

    def _look(self, number: int, part: Path, counts: Json) -> Json:
        policy = self._start(part, self._trained_on) if number else self.initial
        figures: dict[str, Figure] = {}
        found: list[str] = []
        if self.dev:
            seen = look(part, policy, self.initial, self.dev, self.table, self.tools, self.run.recipe.seed)
            if main_process():
                figures, found = self._figures(number, seen)
        tokens = counts.pop("tokens", {})
        return {"round": number, "figures": {key: f.model_dump(mode="json") for key, f in figures.items()},
                "alarms": found, "counts": counts, "tokens": tokens}  # fmt: skip

    def _figures(self, number: int, seen: Looked) -> tuple[dict[str, Figure], list[str]]:
        """Figures of a look with intervals by cluster of speeches, and the alarms they raise."""
        texts = text_figures(_texts(seen))
        shown = {key: value for key, value in texts.items() if key != "replies"}
        figures = {key: Figure(value=round(value, 4), n=int(texts["replies"]), unit="") for key, value in shown.items()}
        start = self._start_look() if number else seen
        against = self._judged(start, seen, number) if self.judges else None
        if against is not None:
            figures["judge"] = against
        if not number:
            return {**figures, "reward": Figure(value=0.0, n=len(self.dev), unit="reward")}, []
        figures["reward"] = self._mean(gains(seen, start, self.online), "reward")
        figures["kl"] = self._mean(seen.kl, "nats per reply")
        raised = alarms(
            texts, text_figures(_texts(start)), self.online.limits, kl=figures["kl"].value,
            gain=(figures["reward"].low, figures["reward"].high),
            judged=(against.value, against.low, against.high) if against else None,
        )  # fmt: skip
        return figures, raised

    def _mean(self, values: Mapping[str, float], unit: str) -> Figure:
        clusters = {speech.id: speech.cluster for speech in self.dev}
        return mean_figure(
            np.array(list(values.values())), clusters_of([clusters[key] for key in values]), unit, share=False,
            bootstrap=self.run.recipe.evaluate.bootstrap, seed=self.run.recipe.seed,
        )  # fmt: skip

    def _start_look(self) -> Looked:
        """What the look at the start left."""
        place = self.place / "online-0"
        rows = [[row for _, row in read_rows(place / name)] for name in (REPLIES, SCORES)]
        return Looked(rows[0], rows[1], {})

    def _judged(self, start: Looked, seen: Looked, number: int) -> Figure:
        """The judges' win rate of the replies of a look against those of the start, in both orders."""
        if not number:
            return Figure(value=0.5, n=len(self.dev), unit="share of speeches")
        by_id = {speech.id: speech for speech in self.dev}
        verdicts = []
        for sample in range(self.online.dev_samples):
            sides = [
                {row["speech_id"]: row["text"] for row in side.replies if row["sample"] == sample}
                for side in (seen, start)
            ]
            both = [speech for speech in self.dev if all(speech.id in side for side in sides)]
            a, b = ({speech.id: side[speech.id] for speech in both} for side in sides)
            contest = Contest(f"round {number}", "start", a, b, sample)
            verdicts += hold(contest, both, self.judges, self.run.principles, self.run.store)
        return win_rate(verdicts, by_id, bootstrap=self.run.recipe.evaluate.bootstrap, seed=self.run.recipe.seed)

    def tidy(self, best: int, last: int) -> None:
        """With keep = 'best', remove the models of rounds that are neither the best nor the last one."""
        if self.online.keep == "best":
            for number in range(1, last):
                if number != best:
                    for name in ("model", "adapter"):
                        shutil.rmtree(self.place / f"online-{number}" / name, ignore_errors=True)


def _texts(seen: Looked) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for row in seen.replies:
        found.setdefault(row["speech_id"], []).append((row["text"], row["finish"]))
    return found
