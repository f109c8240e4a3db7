"""The tokenizer and the random models of the training benchmark: small, made here, saved in hub layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

END, PAD, UNKNOWN = "<|im_end|>", "<|pad|>", "<|unk|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 8192


@dataclass(frozen=True)
class Size:
    """The shape of a Llama; as it stands about 20 million parameters with 8,192 tokens."""

    hidden: int = 384
    layers: int = 8
    heads: int = 6
    intermediate: int = 1024
    positions: int = 2048


def build_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """A byte-level BPE tokenizer with a template of the ChatML kind; its end token is not its pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        show_progress=False,
        special_tokens=[PAD, UNKNOWN, "<|im_start|>", END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    core.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=Size.positions,
    )
    made.chat_template = TEMPLATE
    return made


def build_model(tokenizer: Any, size: Size, reward: bool = False, seed: int = 0) -> Any:
    """A Llama with random weights in float32: a causal model, or one with a single regression output."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    kind: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"} if reward else {}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.positions,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **kind,
    )
    torch.manual_seed(seed)
    return (LlamaForSequenceClassification if reward else LlamaForCausalLM)(config).float()
