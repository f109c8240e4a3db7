"""Replies from other processes and servers, read back from their token ids as the policy's tokenizer has them."""

from __future__ import annotations

from collections.abc import Sequence

from psychocounsel.models.control_tokens import plain_messages
from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.sampling import Prompt, Sample
from psychocounsel.training.encoding import Encoder


class ReplyTokens:
    """The tokenizer of a policy and the tokens that end its replies. Raises UserError when there is no tokenizer."""

    def __init__(self, model: str) -> None:
        self.tokenizer = load_tokenizer(model)
        encoder = Encoder(self.tokenizer, max_length=2)
        self.control = encoder.control
        self.ends: tuple[int, ...] = tuple(getattr(encoder, "ends", (self.tokenizer.eos_token_id,)))

    def messages(self, prompt: Prompt) -> tuple[dict[str, str], ...]:
        """The prompt's messages as they are encoded: without control tokens that a text spells out."""
        return tuple(plain_messages(prompt.messages, self.control))

    def sample(self, number: int, ids: Sequence[int], stopped: bool) -> Sample:
        """One reply from its ids, cut after its first end token.

        Without one it is of finish 'length'. If the engine says that it `stopped` all the same, it ended by a token
        that is no end of ours; the ids then say nothing about how it ended, and training encodes the text.
        """
        end = next((place for place, token in enumerate(ids) if token in self.ends), None)
        text = str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True)).strip()
        if end is None:
            return Sample(number, text, "stop") if stopped else Sample(number, text, "length", tuple(ids))
        return Sample(number, text, "stop", tuple(ids[: end + 1]))
