"""Packs: what they hold, how full they are, and that cutting a step into packs changes nothing."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import make_groups, make_model, make_pairs, plain_logp

from psychocounsel.models.weights import load_scorer
from psychocounsel.policy.offline import policy_task
from psychocounsel.recipe import PolicyTable, RewardTable
from psychocounsel.reward.train import reward_task
from psychocounsel.supervised import supervised_task
from psychocounsel.training.batches import Group
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.examples import pair_examples
from psychocounsel.training.packed import PackedPolicy, PackedScorer, opened, rows
from psychocounsel.training.packs import bins, make_pack

ONE = Group("a", [7, 8], [[9], [9, 10, 11]])


def test_a_prompt_stands_once_before_its_replies_and_positions_go_on_from_it():
    pack = make_pack([ONE, Group("b", [5], [[6, 4]])])
    assert pack.ids.tolist() == [7, 8, 9, 9, 10, 11, 5, 6, 4]
    assert pack.positions.tolist() == [0, 1, 2, 2, 3, 4, 0, 1, 2]
    assert pack.sources.tolist() == [1, 1, 3, 4, 6, 7] and pack.targets.tolist() == [9, 9, 10, 11, 6, 4]
    assert pack.owners.tolist() == [0, 1, 1, 1, 2, 2] and pack.ends.tolist() == [2, 5, 8]
    assert pack.lengths.tolist() == [1, 3, 2] and (pack.replies, pack.reply_tokens) == (3, 6)
    assert pack.sequences() == [([7, 8], [9]), ([7, 8], [9, 10, 11]), ([5], [6, 4])]
    own, parent = pack.layout.owners()
    assert own.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4] and parent.tolist() == [-1, -1, 0, 0, 0, 0, -1, 3, 3]
    assert pack.layout.longest == 5


def test_as_rows_padding_is_masked_and_right():
    pack = make_pack([ONE])
    ids, mask, places = rows(pack)
    assert ids.tolist() == [[7, 8, 9, 0, 0], [7, 8, 9, 10, 11]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert ids.flatten()[places].tolist() == pack.ids.tolist()
    assert mask.flatten()[places].all()


LENGTHS = st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=4))


@given(st.lists(LENGTHS, min_size=1, max_size=6), st.sampled_from([1, 8, 128]))
@settings(max_examples=50, deadline=None)
def test_a_pack_gives_back_every_sequence_and_a_filled_up_one_too(shapes, multiple):
    groups = [
        Group(f"g{i}", [i + 1] * prompt, [[50 + j] * length for j, length in enumerate(lengths)])
        for i, (prompt, lengths) in enumerate(shapes)
    ]
    pack = make_pack(groups, multiple=multiple)
    assert pack.sequences() == [(group.prompt, reply) for group in groups for reply in group.replies]
    assert len(pack.ids) % multiple == 0 and len(pack.ids) - sum(g.tokens for g in groups) < multiple
    assert pack.ids[pack.ends].tolist() == [reply[-1] for group in groups for reply in group.replies]
    assert pack.targets.tolist() == [token for group in groups for reply in group.replies for token in reply]
    assert len(pack.layout.positions) == pack.layout.tokens == len(pack.ids)


def test_gaps_differences_draws_and_references_travel_with_their_pairs():
    groups = [
        Group(f"g{i}", [5] * (i + 1), [[6], [7]], [(1, 0)], [float(i)], [[i, -i]], [10**18 + i], [-float(i), -10.0 - i])
        for i in range(4)
    ]
    random.Random(3).shuffle(groups)
    pack = make_pack(groups)
    for place, group in enumerate(groups):
        assert pack.gaps[place] == group.gaps[0] and pack.differences[place].tolist() == group.differences[0]
        assert pack.draws[place].item() == group.draws[0]
        assert pack.reference[pack.chosen[place]].item() == group.reference[1]
        assert pack.reference[pack.rejected[place]].item() == group.reference[0]
    assert make_pack([ONE]).differences.shape == (0, 0) and make_pack([ONE]).reference.shape == (0,)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_bins_hold_everything_once_within_the_budget_as_many_for_each_process(sizes, budget, parts):
    found = bins(sizes, budget, parts)
    assert sorted(item for part in found for item in part) == list(range(len(sizes)))
    assert len(found) % parts == 0 and len(found) >= parts
    filled = [sum(sizes[item] for item in part) for part in found]
    large = [size for size in sizes if size > budget]
    assert sorted(size for size in filled if size > budget) == sorted(large)  # each has a bin for itself
    assert found == bins(sizes, budget, parts)
    small = [size for size in sizes if size <= budget]
    fewest = -(-sum(small) // budget) + len(large)
    assert len(found) <= max(2 * fewest, 1) + 2 * parts  # and not many more bins than are needed
    if len(small) > 1 and sum(small) > budget:
        rest = sorted(filled)[: len(filled) - len(large)]
        assert rest[-1] - rest[0] <= max(small)  # about equally full


def test_the_largest_items_are_dealt_first_into_the_emptiest_bin():
    assert bins([10, 10, 40, 20, 30, 10], 60, 2) == [[2, 0, 1], [4, 3, 5]]  # 60 tokens each
    assert bins([10, 10, 10], 10, 2) == [[0], [1], [2], []]  # three bins would not do for two processes
    assert bins([], 10, 2) == [[], []]


@pytest.mark.parametrize("shared", [True, False], ids=["shared prefix", "rows"])
def test_log_probabilities_and_gradients_are_those_of_a_plain_forward(shared):
    groups, plain, model = make_pairs(5), make_model().eval(), make_model()
    packed = opened(PackedPolicy(model)).eval()
    assert packed.shared  # a Llama can
    if not shared:
        packed = PackedPolicy(make_model()).eval()
        packed.shared, model = False, packed.model
    found = packed(make_pack(groups, multiple=16))
    expected = torch.cat([plain_logp(plain, group) for group in groups])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    weights = torch.linspace(-1, 1, len(found))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert max(value.grad.abs().max().item() for value in plain.parameters()) > 1e-2
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_a_reply_sees_neither_other_replies_nor_other_prompts():
    packed = opened(PackedPolicy(make_model())).eval()
    groups = make_groups(3, replies=3)
    with torch.no_grad():
        before = packed(make_pack(groups))
        groups[1].replies[1] = [59] * 7
        groups[2].prompt = [58] * 9
        after = packed(make_pack(groups))
    same = torch.tensor([True] * 3 + [True, False, True] + [False] * 3)
    torch.testing.assert_close(after[same], before[same], atol=1e-5, rtol=0)
    assert (after[~same] - before[~same]).abs().min() > 1e-2


def test_log_probabilities_are_float32_even_from_bfloat16():
    groups = make_pairs(5)
    half = opened(PackedPolicy(make_model().bfloat16())).eval()
    with torch.no_grad():
        found, expected = half(make_pack(groups)), opened(PackedPolicy(make_model())).eval()(make_pack(groups))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.02)
    assert len(found.unique()) == len(found)  # in bfloat16 some of these sums would be equal


WAYS = {
    "probabilities kept": (1 << 26, True, None),
    "probabilities made again": (0, True, None),
    "output layer frozen": (1 << 26, False, None),
    "layer by chunks": (1 << 26, True, "logits_scaling"),
    "layer by chunks, capped": (1 << 26, True, "final_logit_softcapping"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tied", [False, True])
def test_log_softmax_and_its_gradients_are_the_same_however_they_are_worked_out(monkeypatch, way, tied):
    keep, trained, own = WAYS[way]
    monkeypatch.setattr("psychocounsel.training.packed.KEEP", keep)
    monkeypatch.setattr("psychocounsel.training.packed.CHUNK", 5)
    plain, model, groups = make_model().eval(), make_model(), make_groups(4, replies=3)
    for one in (plain, model):
        one.get_output_embeddings().requires_grad_(trained)
        if tied:
            one.lm_head.weight = one.model.embed_tokens.weight
        if own:
            setattr(one.config, own, 3.0)
    if own:  # what Granite and Gemma 2 do after the output layer, here around a plain Llama's
        after = (lambda x: 3 * torch.tanh(x / 3)) if own == "final_logit_softcapping" else (lambda x: x / 3.0)
        plain.lm_head.register_forward_hook(lambda module, given_to, found: after(found))
    found = opened(PackedPolicy(model)).eval()(make_pack(groups))
    expected = torch.cat([plain_logp(plain, group) for group in groups])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    weights = torch.linspace(-2, 1, len(found))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3, msg=name)
        else:
            assert ours.grad is None


KINDS = ["supervised", "dpo", "ipo", "apo_zero", "principles", "reward", "reward with margin, weights and centring",
         "reward with heads"]  # fmt: skip
TABLES = {
    "reward": RewardTable(),
    "reward with margin, weights and centring": RewardTable(margin=True, weight_by_gap=True, centre=0.1),
    "reward with heads": RewardTable(principles=0.5, bootstrap=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_step_is_cut_into_packs_changes_neither_loss_nor_gradients(
    kind, tokenizer, llama, model_folder, speeches, responses, pairs
):
    examples = pair_examples(pairs["train"], {s.id: s for s in speeches}, {r.id: r for r in responses})
    groups = list(Encoder(tokenizer, 256).groups(examples))
    for place, group in enumerate(groups):
        group.differences = [[1.0, -0.5]] * len(group.pairs)
        group.gaps = [0.5 + (place + number) % 3 for number in range(len(group.pairs))]
    if kind == "supervised":
        model, task = PackedPolicy(llama(0)), supervised_task(kind, groups, [])
    elif kind in ("dpo", "ipo", "apo_zero", "principles"):
        reference = opened(PackedPolicy(llama(1))).eval()
        for group in groups:
            with torch.no_grad():
                group.reference = reference(make_pack([group])).tolist()
        model, task = PackedPolicy(llama(0)), policy_task(kind, groups, [], PolicyTable(loss=kind))
    else:
        plain = load_scorer(str(model_folder), tokenizer.pad_token_id, len(tokenizer))
        names = ["a", "b", "c", "d"] if "heads" in kind else []
        model = PackedScorer(plain, names, guiding=len(names) // 2)
        task = reward_task(groups, [], TABLES[kind], len(names) // 2)
    opened(model).eval()
    halves = [part for group in groups for part in (group.part(task.unit, 0, 3), group.part(task.unit, 3, 99))]
    sizes, results = [group.tokens for group in groups], []
    for budget, parts in ((1, groups), (900, groups), (10_000, groups), (1, halves), (10_000, None)):
        model.zero_grad()
        if parts is None:
            model.shared = False  # row by row, as for a model without shared-prefix attention
            model.bare.set_attn_implementation("eager")
            parts = groups
        dealt = bins([part.tokens for part in parts], budget)
        total, sums = sum(map(task.over, parts)), 0.0
        for places in dealt:
            loss, _ = task.compute(model, make_pack([parts[place] for place in places]))
            (loss / total).backward()
            sums += loss.item() / total
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((len(dealt), sums, grads))
    assert [count for count, _, _ in results] == [6, -(-sum(sizes) // 900), 1, 12, 1]
    for _, loss, grads in results[:4]:
        assert loss == pytest.approx(results[-1][1], rel=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, results[-1][2][name], atol=1e-5, rtol=1e-4, msg=name)
