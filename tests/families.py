"""Tiny models of many families, made from config with weights that differ from their starting values."""

import torch
import transformers

from psychocounsel.training.batches import Group

VOCABULARY = 96
PAD, BOS, EOS = 0, 1, 2
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": PAD,
          "bos_token_id": BOS, "eos_token_id": EOS}  # fmt: skip
WINDOW = 6  # shorter than the sequences of the tests
LAYERS = ["sliding_attention", "full_attention"]
# the stem of the class names, and what the config has of its own
FAMILIES = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": WINDOW, "layer_types": LAYERS, "query_pre_attn_scalar": 8,
                          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}),
    "gemma3": ("Gemma3Text", {"head_dim": 8, "sliding_window": WINDOW, "layer_types": LAYERS,
                              "query_pre_attn_scalar": 8}),
    "phi": ("Phi", {"num_key_value_heads": 4}),
    "phi3": ("Phi3", {"sliding_window": WINDOW}),
    "phimoe": ("Phimoe", {"sliding_window": 16, "num_local_experts": 4}),  # the window is in its mask only
    "gpt2": ("GPT2", {"n_inner": 48}),
    "bloom": ("Bloom", {}),
    "gpt_oss": ("GptOss", {"head_dim": 8, "sliding_window": WINDOW, "layer_types": LAYERS, "num_local_experts": 2,
                           "num_experts_per_tok": 1}),
}  # fmt: skip
ROWS = {"bloom", "gpt_oss"}  # what cannot read packs
# families with something at random in training mode; the rates are numbers, not modules
RANDOM = {
    "bloom": ("Bloom", {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
    "gpt2": ("GPT2", {"n_inner": 48, "resid_pdrop": 0.3, "attn_pdrop": 0.3, "embd_pdrop": 0.3}),
    "starcoder2": ("Starcoder2", {"residual_dropout": 0.3, "attention_dropout": 0.3, "embedding_dropout": 0.3}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.3, "layerdrop": 0.5}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "router_jitter_noise": 0.3}),
    "phimoe": ("Phimoe", {"num_local_experts": 4, "router_jitter_noise": 0.3, "input_jitter_noise": 0.3}),
}


def make_config(name, random=False, **changes):
    stem, own = (RANDOM if random else FAMILIES)[name]
    return getattr(transformers, f"{stem}Config")(**COMMON | own | changes)


def make_family(name, seed=0, labels=0, **changes):
    """A causal model, or a classifier with `labels` outputs, in evaluation mode; every weight is drawn."""
    kind = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
    settings = {"num_labels": labels, "problem_type": "regression"} if labels else {}
    torch.manual_seed(seed)
    model = kind.from_config(make_config(name, **changes, **settings))
    return shaken(model, seed).eval()


def shaken(model, seed=0, size=0.15):
    """Add noise to every weight, so that none is zero or one and models of two seeds differ in all of them."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=draw) * size)
    return model


def drawn_groups(seed=0):
    """Four prompts, short and long; several replies, some of one token; replies in several pairs, one group in none."""
    draw = torch.Generator().manual_seed(seed)

    def some(length):
        return torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()

    shapes = [(9, (5, 1, 8, 3), [(0, 1), (2, 1), (2, 3), (0, 3)]), (1, (1, 2), [(1, 0)]), (5, (4,), []),
              (14, (2, 11, 1), [(0, 1), (1, 2)])]  # fmt: skip
    groups = [
        Group(
            f"{seed}-{number}",
            some(prompt),
            [some(length) for length in replies],
            pairs,
            [1.0 + i for i in range(len(pairs))],
        )
        for number, (prompt, replies, pairs) in enumerate(shapes)
    ]
    for group in groups:
        group.reference = [-4.0 * len(reply) for reply in group.replies]
    return groups


# what packs are compared with: one unpadded sequence at a time through the model's own forward


def plain_logps(model, groups):
    """Summed log-probability of every reply."""
    found = []
    for group in groups:
        for reply in group.replies:
            table = model(input_ids=torch.tensor([group.prompt + reply])).logits[0].float().log_softmax(-1)
            start = len(group.prompt) - 1
            found.append(sum(table[start + place, token] for place, token in enumerate(reply)))
    return torch.stack(found)


def plain_scores(model, groups):
    """The score of every reply, by the classifier's own pooling."""
    rows = [torch.tensor([group.prompt + reply]) for group in groups for reply in group.replies]
    return torch.cat([model(input_ids=row).logits[:, 0].float() for row in rows])


def all_pairs(groups):
    """(chosen, rejected) numbers among all replies of all groups."""
    found, first = [], 0
    for group in groups:
        found += [(first + chosen, first + rejected) for chosen, rejected in group.pairs]
        first += len(group.replies)
    return tuple(torch.tensor(side) for side in zip(*found, strict=True))


def gradients(model, loss):
    """Gradients of the trained parameters by name, of the model inside the packed one."""
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def worst(found, expected):
    """The largest relative difference of two dictionaries of gradients, or of two tensors.

    A gradient that is 0 but for rounding (a key's bias) is measured against a thousandth of the largest one.
    """
    if isinstance(expected, torch.Tensor):
        return ((found - expected).abs().max() / expected.abs().max()).item()
    assert found.keys() == expected.keys()
    norms = {name: value.norm().item() for name, value in expected.items()}
    least = max(norms.values()) / 1000
    assert least > 1e-6  # not a comparison of zeros
    return max((found[name] - expected[name]).norm().item() / max(norm, least) for name, norm in norms.items())
