"""Stage 5: the starting model. Builds the embedded model or takes any other, and imitates well-rated replies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.weights import device, load_policy, load_tokenizer
from psychocounsel.principles.prompts import chat_messages
from psychocounsel.recipe import EmbeddedModel, SupervisedTable
from psychocounsel.records import Response, Speech, write_rows
from psychocounsel.training.adapters import Start, policy_maker
from psychocounsel.training.batches import Group
from psychocounsel.training.checkpoints import finished, save_model
from psychocounsel.training.encoding import Encoder, group_files
from psychocounsel.training.examples import Example
from psychocounsel.training.loop import Task, train
from psychocounsel.training.packed import PackedPolicy, opened
from psychocounsel.training.packs import Pack
from psychocounsel.training.processes import main_process, open_accelerator, prepare, together

EMBEDDED = "embedded"
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Texts:
    """What the starting model learns from: speeches and replies of the train and dev splits, with overall scores."""

    speeches: Sequence[Speech]
    responses: Sequence[Response]
    overall: Mapping[str, float]

    def replies(self, split: str, least: float = 0.0) -> list[tuple[Speech, list[Response]]]:
        """Speeches of a split with their replies rated at least `least`, in the order of ids."""
        found: dict[str, list[Response]] = {}
        for response in self.responses:
            if response.text and self.overall.get(response.id, 0.0) >= least:
                found.setdefault(response.speech_id, []).append(response)
        chosen = sorted(
            (speech for speech in self.speeches if speech.split == split and speech.id in found),
            key=lambda s: s.id,
        )
        return [(speech, sorted(found[speech.id], key=lambda response: response.id)) for speech in chosen]


def supervise(texts: Texts, base: str, table: SupervisedTable, seed: int, folder: Path) -> dict[str, Any]:
    """Make `folder/model`: the base model after supervised fine-tuning on well-rated replies. Returns counts.

    With base 'embedded' a tokenizer and a small Llama are built first and learn the language of the train split.
    With epochs = 0 another base is taken as it is: `folder/base.json` points to it and no copy is made.
    """
    if base != EMBEDDED and table.epochs == 0:
        if main_process():
            (folder / "base.json").write_text(json.dumps({"base": base}), encoding="utf-8")
        return {"base": base}
    if table.epochs > 0 and not texts.replies("train", table.min_overall):
        raise UserError(
            f"supervised: no train reply is rated {table.min_overall} or better; lower supervised.min_overall"
        )
    built: dict[str, Any] = {}
    start = base
    if base == EMBEDDED:
        start, note = str(folder / "embedded"), folder / "language" / "counts.json"
        missing = not Path(start).exists() or not note.exists()
        together()  # everyone has looked before anyone writes
        if missing:
            made = build_embedded(texts, table, seed, folder)
            if main_process():
                write_rows(note, [made])  # complete or absent, as a kill may come
            together()
        built = json.loads(note.read_text(encoding="utf-8"))
    if table.epochs == 0:
        tokenizer, model = load_policy(start)
        save_model(folder / "model", model, tokenizer)
        return {"base": base, "replies": 0, "steps": 0, "best_step": 0, **built}
    counts = _imitate(texts, start, table, seed, folder)
    return {"base": base, **counts, **built}


def _imitate(texts: Texts, start: str, table: SupervisedTable, seed: int, folder: Path) -> dict[str, Any]:
    """Make `folder/model` from the model `start` by training on well-rated replies."""
    accelerator = open_accelerator(table)

    made = policy_maker(Start(start), table.lora, seed)
    encoder = Encoder(load_tokenizer(start), table.max_length, table.too_long)
    examples = tuple(map(_example, texts.replies(split, table.min_overall)) for split in ("train", "dev"))
    train_groups, dev_groups = group_files(accelerator, folder, encoder, (examples[0], examples[1]))
    prepared = prepare(opened(made(True)), table, accelerator)
    state = train(prepared, supervised_task("supervised", train_groups, dev_groups), seed, folder)
    packed = finished(prepared, made)
    if packed is not None:
        save_model(folder / "model", packed.model, encoder.tokenizer)
    together()
    replies = sum(entry.replies for entry in train_groups.entries)
    return {"replies": replies, "left_out": dict(encoder.counts), "steps": state["step"],
            "best_step": state["best_step"], "dev_loss": state["best"],
            "shared_prefix": prepared.packed.shared}  # fmt: skip


def starting_model(folder: Path) -> str:
    """Where later stages load the starting model from: this stage's folder, or the base it points to."""
    pointer = folder / "base.json"
    if pointer.is_file():
        return str(json.loads(pointer.read_text(encoding="utf-8"))["base"])
    return str(folder / "model")


def supervised_task(name: str, train_groups: Sequence[Group], dev_groups: Sequence[Group]) -> Task:
    """Cross-entropy on reply tokens; a step counts replies, the loss is averaged over tokens."""

    def compute(model: Any, pack: Pack) -> tuple[Tensor, dict[str, float]]:
        return -model(pack).sum(), {}

    return Task(name, train_groups, dev_groups, "replies", compute, lambda group: sum(map(len, group.replies)))


def _example(entry: tuple[Speech, Sequence[Response]]) -> Example:
    speech, responses = entry
    return Example(speech.id, chat_messages(speech.turns), [response.text for response in responses])


def build_embedded(texts: Texts, table: SupervisedTable, seed: int, folder: Path) -> dict[str, Any]:
    """Make `folder/embedded`: a byte-level BPE tokenizer and a small Llama, a language model of the train texts."""
    settings = table.embedded
    entries = texts.replies("train")
    if not entries:
        raise UserError("supervised: the train split holds no replies to build the embedded model from")
    tokenizer = build_tokenizer(
        [text for speech, replies in entries for text in (speech.text, *(r.text for r in replies))], settings
    )
    encoder = Encoder(tokenizer, settings.context)
    groups, dev = (_documents(encoder, texts.replies(split)) for split in ("train", "dev"))
    training = table.model_copy(
        update={
            "lr": settings.lr,
            "epochs": settings.epochs,
            "batch": settings.batch,
            "weight_decay": 0.1,
            "steps": None,
        }
    )

    def made(quantised: bool = True) -> PackedPolicy:
        return PackedPolicy(build_llama(tokenizer, settings, seed))

    packed = opened(made())
    parameters = sum(parameter.numel() for parameter in packed.parameters())
    prepared = prepare(packed, training)
    state = train(prepared, supervised_task("language model", groups, dev), seed, folder / "language")
    whole = finished(prepared, made)
    if whole is not None:
        save_model(folder / "embedded", whole.model, tokenizer)
    return {
        "parameters": parameters,
        "vocabulary": len(tokenizer),
        "language_steps": state["step"],
        "language_loss": state["best"],
    }


def _documents(encoder: Encoder, entries: Sequence[tuple[Speech, Sequence[Response]]]) -> list[Group]:
    """Every speech and every reply as a text of its own, to be predicted after its first token."""
    texts = {speech.id: [{"role": "user", "content": speech.text}] for speech, _ in entries}
    texts |= {
        response.id: [{"role": "assistant", "content": response.text}] for _, replies in entries for response in replies
    }
    return [Group(key, ids[:1], [ids[1:]]) for key, messages in texts.items() if (ids := encoder.whole(messages))]


def build_tokenizer(texts: Sequence[str], settings: EmbeddedModel) -> Any:
    """A byte-level BPE tokenizer with a chat template, a begin, an end and a pad token, trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2],
        additional_special_tokens=list(SPECIAL[3:]), model_max_length=settings.context,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_llama(tokenizer: Any, settings: EmbeddedModel, seed: int) -> Any:
    """A small Llama with fresh weights from `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 8 // 3 // 16 * 16,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).to(device())
