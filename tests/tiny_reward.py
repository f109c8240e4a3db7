"""A tiny reward model that prefers the warm replies, trained in a few seconds with plain transformers."""

import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES

from psychocounsel.models.weights import load_scorer, load_tokenizer
from psychocounsel.training.checkpoints import save_model


def rows_of(tokenizer, speech, replies):
    chats = [[{"role": "user", "content": speech}, {"role": "assistant", "content": reply}] for reply in replies]
    settings = {"padding": True, "return_tensors": "pt", "return_dict": True}
    return tokenizer.apply_chat_template(chats, **settings)


def make_reward_model(folder, base, seed=0, steps=18):
    """Bradley-Terry on all pairs of one speech at a time."""
    tokenizer = load_tokenizer(str(base))
    tokenizer.padding_side = "right"
    model = load_scorer(str(base), tokenizer.pad_token_id, len(tokenizer), seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        rows = rows_of(tokenizer, CLIENT_LINES[step % len(CLIENT_LINES)], [*GOOD_REPLIES, *PLAIN_REPLIES])
        good, plain = model(**rows).logits[:, 0].chunk(2)
        loss = -torch.nn.functional.logsigmoid(good[:, None] - plain[None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(folder, model, tokenizer)
    return folder
