"""Replies from other processes and servers, read back from their token ids as the policy's tokenizer has them."""

from __future__ import annotations

from collections.abc import Sequence

from psychocounsel.models.control_tokens import plain_messages
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.sampling import Prompt, Sample, read_sample
from psychocounsel.training.encoding import Encoder


class ReplyTokens:
    """The tokenizer of a policy and the tokens that end its replies. Raises UserError when there is no tokenizer."""

    def __init__(self, model: str) -> None:
        self.tokenizer = load_tokenizer(model)
        encoder = Encoder(self.tokenizer, max_length=2)
        self.control = encoder.control
        self.ends = encoder.ends

    def messages(self, prompt: Prompt) -> tuple[dict[str, str], ...]:
        """The prompt's messages as they are encoded: without control tokens that a text spells out."""
        return tuple(plain_messages(prompt.messages, self.control))

    def sample(self, number: int, ids: Sequence[int], stopped: bool) -> Sample:
        """One reply from its ids, cut after its first end token.

        Without one it is of finish 'length'. If the engine says that it `stopped` all the same, it ended by a token
        that is no end of ours; the ids then say nothing about how it ended, and training encodes the text.
        """
        found = read_sample(self.tokenizer, number, ids, self.ends)
        return Sample(number, found.text, "stop") if stopped and found.finish == "length" else found
