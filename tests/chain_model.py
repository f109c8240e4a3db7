"""Causal language models that need no training: every piece of the answer has one successor, so what a model says is
known before it is asked. Real weights and a real tokenizer in hub layout, a few kilobytes each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

BEGIN, END, UNKNOWN, ANSWER = "<|begin|>", "<|end|>", "<|unknown|>", "<|assistant|>"
SPECIAL = (UNKNOWN, BEGIN, END, "<|system|>", "<|user|>", ANSWER)
CHAT = (
    "<|begin|>{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CERTAIN = 60.0  # how far the successor's logit stands above all others: sampling cannot leave the chain


def chain_model(folder: Path, pieces: Sequence[str], levels: Mapping[str, float] | None = None) -> Path:
    """Save a model that answers with `pieces`, one token each, then ends, whatever it is asked.

    The residual stream of its one layer holds the last token alone (attention and feed-forward write zeros, the
    embeddings are unit vectors), and the output layer maps each token to its successor. With `levels`, a probability
    per label ({"A": 0.1, ...}), the labels are tokens too, with these probabilities among themselves.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    assert len(set(pieces)) == len(pieces), "each piece needs a successor of its own"
    levels = levels or {}
    numbers = {token: number for number, token in enumerate([*SPECIAL, *pieces, *levels])}
    width = len(numbers)
    config = LlamaConfig(
        vocab_size=width, hidden_size=width, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=2, max_position_embeddings=16384, tie_word_embeddings=False,
        pad_token_id=numbers[UNKNOWN], bos_token_id=numbers[BEGIN], eos_token_id=numbers[END],
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    scale = math.sqrt(width)  # what the last normalisation makes of a unit vector
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(width))
        model.lm_head.weight.zero_()
        for token, successor in zip([ANSWER, *pieces], [*pieces, END], strict=True):
            model.lm_head.weight[numbers[successor], numbers[token]] = CERTAIN / scale
        for label, share in levels.items():
            model.lm_head.weight[numbers[label], numbers[ANSWER]] = math.log(share) / scale
    model.save_pretrained(folder)
    word_tokenizer(numbers).save_pretrained(folder)
    return folder


def word_tokenizer(numbers: dict[str, int]):
    """A tokenizer of whole words; one it does not know is the unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN, pad_token=UNKNOWN,
        additional_special_tokens=list(SPECIAL[3:]), clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = CHAT
    return made
