"""The two forms of shared-prefix attention against each other and against plain attention, token by token."""

import pytest
import torch
from families import drawn_groups, worst

from psychocounsel.training.attention import _Branches, _flex, block_mask, causal_mask
from psychocounsel.training.batches import Group
from psychocounsel.training.packs import make_pack

SCALE = 0.3
quiet = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


def sees(groups, length, window):
    """Which token of a pack sees which, by writing out every prompt-reply sequence; (length, length)."""
    found = torch.zeros(length, length, dtype=torch.bool)
    start = 0
    for group in groups:
        prompt = list(range(start, start + len(group.prompt)))
        start += len(prompt)
        sequences = [prompt]
        for reply in group.replies:
            sequences.append([*prompt, *range(start, start + len(reply))])
            start += len(reply)
        for sequence in sequences:
            for at, token in enumerate(sequence):
                for to, other in enumerate(sequence[: at + 1]):
                    found[token, other] |= window is None or at - to < window
    for at in range(start, length):  # inert tokens: a sequence of their own
        for to in range(start, at + 1):
            found[at, to] = window is None or at - to < window
    return found


def drawn(length, kind=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, length, 8, generator=draw).to(kind) for heads in (4, 2, 2)]


def plain(query, key, value, mask, cap):
    """Attention by the book under a mask of tokens; key heads are repeated."""
    key, value = (rows.repeat_interleave(2, 1) for rows in (key, value))
    scores = query @ key.transpose(2, 3) * SCALE
    scores = cap * torch.tanh(scores / cap) if cap else scores
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value


def branches(query, key, value, layout, window, cap):
    mask = causal_mask(layout, window, value.dtype)
    return _Branches.apply(query[0], key[0], value[0], mask, layout.branches, SCALE, cap or 0.0)[None]


@pytest.mark.parametrize("window", [None, 1, 6])
@pytest.mark.parametrize("multiple", [1, 64])
def test_the_block_mask_is_what_the_sequences_imply_token_by_token(multiple, window):
    groups = drawn_groups() + drawn_groups(1)
    pack = make_pack(groups, multiple=multiple)
    length = len(pack.ids)
    made = block_mask(pack.layout, window)
    every = torch.arange(length)
    expected = sees(groups, length, window)
    assert torch.equal(made.mask_mod(None, None, every[:, None], every[None]), expected)
    assert length > 128 and made.to_dense().shape == (1, 1, -(-length // 128), -(-length // 128))


def test_blocks_without_a_visible_token_are_left_out_and_no_others():
    """Replies and prompts of a block each."""
    groups = [Group("a", [5] * 128, [[6] * 128, [7] * 128]), Group("b", [8] * 128, [[9] * 128])]
    made = block_mask(make_pack(groups).layout, None)
    blocks = sees(groups, 640, None).view(5, 128, 5, 128).any(3).any(1)
    assert torch.equal(made.to_dense()[0, 0].bool(), blocks)
    assert blocks.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


@quiet
@torch.no_grad()
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("multiple", [1, 128])
def test_flex_attention_gives_what_branches_and_plain_attention_give(multiple, window, cap):
    groups = drawn_groups()
    pack = make_pack(groups, multiple=multiple)
    rows = drawn(len(pack.ids))
    flex = _flex(*rows, pack.layout, SCALE, window, cap)
    expected = plain(*rows, sees(groups, len(pack.ids), window), cap)
    assert worst(flex, branches(*rows, pack.layout, window, cap)) < 1e-5
    assert worst(flex, expected) < 1e-5


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 6])
def test_branches_have_the_gradients_of_plain_attention(window, cap):
    groups = drawn_groups()
    pack = make_pack(groups)
    rows = [row.requires_grad_() for row in drawn(len(pack.ids))]
    above = torch.randn(rows[0].shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(plain(*rows, sees(groups, len(pack.ids), window), cap), rows, above)
    found = torch.autograd.grad(branches(*rows, pack.layout, window, cap), rows, above)
    assert max(map(worst, found, expected)) < 1e-5


@pytest.mark.parametrize("cap", [None, 2.0])
def test_branches_pass_gradcheck(cap):
    groups = [Group("a", [5, 6], [[7], [8, 9]]), Group("b", [5], [[7, 8]])]
    pack = make_pack(groups)
    rows = [row.requires_grad_() for row in drawn(len(pack.ids), torch.float64)]

    def attend(*values):
        return branches(*values, pack.layout, 2, cap)

    # the softmax inside is float32: a wide step
    assert torch.autograd.gradcheck(attend, rows, eps=1e-3, atol=2e-3, rtol=1e-3, fast_mode=True)
