"""Until RewardModel has `read`: the present one with a `read` of the agreed shape. Goes when that lands."""

from dataclasses import dataclass

from psychocounsel.records import Speech, Turn
from psychocounsel.reward.score import RewardModel


@dataclass(frozen=True)
class Scored:
    reward: float
    principles: dict
    resamples: tuple
    tokens: int
    truncated: bool


class ReadingRewardModel(RewardModel):
    def read(self, items, label="scores"):
        return [[self.one(messages, text) for text in texts] for messages, texts in items]

    def one(self, messages, text):
        roles = {"user": "client", "assistant": "therapist"}
        speech = Speech(turns=[Turn(role=roles[m["role"]], text=m["content"]) for m in messages], source="read")
        before = self.encoder.truncated
        (reward,) = self.score([(speech, text)])
        return Scored(reward, {}, (), 0, self.encoder.truncated > before)
