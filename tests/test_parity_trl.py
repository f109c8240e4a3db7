"""The same batch through TRL's own trainers: loss and gradients, for several families and losses."""

import copy
import math

import pytest
import torch
from conftest import CLIENT_LINES, GOOD_REPLIES, PLAIN_REPLIES
from families import all_pairs, gradients, make_family, plain_logps, shaken, worst
from tiny_training import CHATML, save_tokenizer

from psychocounsel.models.weights import load_tokenizer
from psychocounsel.policy.offline import policy_task
from psychocounsel.recipe import LoraTable, PolicyTable, RewardTable
from psychocounsel.reward.train import reward_task
from psychocounsel.training.adapters import add_adapters
from psychocounsel.training.encoding import Encoder
from psychocounsel.training.examples import Example
from psychocounsel.training.packed import PackedPolicy, PackedScorer, opened
from psychocounsel.training.packs import make_pack

NEAR = 1e-5
NAMES = ["llama", "qwen2", "gemma"]
pytestmark = [
    # TRL 1.16 reads this property under its old name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer whose chat template ends a turn with the end token and nothing after it, as TRL's batches do."""
    folder = tmp_path_factory.mktemp("words")
    template = CHATML.replace("<|im_end|>\n", "<|im_end|>")
    save_tokenizer(folder, template, {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}, ["<|im_start|>"])
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def examples():
    """Two dialogues with three or four replies each, in seven pairs: prompts and replies are shared."""
    first = [{"role": "user", "content": CLIENT_LINES[0]}]
    second = [
        {"role": "system", "content": "You listen first."},
        {"role": "user", "content": CLIENT_LINES[1]},
        {"role": "assistant", "content": PLAIN_REPLIES[1]},
        {"role": "user", "content": CLIENT_LINES[2]},
    ]
    return [
        Example("a", first, [*GOOD_REPLIES[:2], *PLAIN_REPLIES[:2]], [(0, 2), (0, 3), (1, 2), (1, 3)], [1.0] * 4),
        Example("b", second, [*GOOD_REPLIES[1:], PLAIN_REPLIES[0]], [(0, 1), (0, 2), (1, 2)], [1.0] * 3),
    ]


@pytest.fixture
def groups(examples, words):
    return list(Encoder(words, 512).groups(examples))


@pytest.fixture
def rows(examples):
    """The same pairs as conversational rows."""
    return [
        {
            "prompt": example.messages,
            "chosen": [{"role": "assistant", "content": example.replies[chosen]}],
            "rejected": [{"role": "assistant", "content": example.replies[rejected]}],
        }
        for example in examples
        for chosen, rejected in example.pairs
    ]


@pytest.fixture
def trl_settings(tmp_path):
    yield {"output_dir": str(tmp_path / "out"), "report_to": "none", "use_cpu": True, "bf16": False,
           "activation_checkpointing": False, "per_device_train_batch_size": 7, "disable_tqdm": True,
           "max_length": None}  # fmt: skip
    assert not list(tmp_path.rglob("*.safetensors"))


def model_of(name, words, seed=0, labels=0):
    model = make_family(
        name, seed, labels, vocab_size=len(words), max_position_embeddings=256, tie_word_embeddings=name != "llama"
    )
    model.config.pad_token_id = words.pad_token_id
    return model


def add_reference(model, groups):
    """Log-probabilities by the plain model, one sequence at a time."""
    with torch.no_grad():
        values = iter(plain_logps(model, groups).tolist())
    for group in groups:
        group.reference = [next(values) for _ in group.replies]


def ours(model, task, groups):
    """The mean loss over the pairs of one pack, and its gradients."""
    pack = make_pack(groups)
    found, figures = task.compute(model, pack)
    loss = found / len(pack.chosen)
    return loss.item(), gradients(model.model, loss), {key: value / len(pack.chosen) for key, value in figures.items()}


def trl_batch(trainer, rows=None):
    every = [trainer.train_dataset[place] for place in rows or range(len(trainer.train_dataset))]
    return trainer.data_collator(every)


def dpo_trainer(policy, reference, rows, words, settings, adapters=None, **changes):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(**{"beta": 0.1} | settings | changes)
    return DPOTrainer(model=copy.deepcopy(policy), ref_model=reference, args=config,
                      train_dataset=Dataset.from_list(rows), processing_class=words, peft_config=adapters)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precompute", [False, True], ids=["live reference", "precomputed reference"])
def test_dpo_loss_and_gradients_equal_those_of_trl(groups, rows, words, trl_settings, name, precompute):
    policy, reference = model_of(name, words), shaken(model_of(name, words), 7, 0.02)
    add_reference(reference, groups)
    trainer = dpo_trainer(policy, reference, rows, words, trl_settings, precompute_ref_log_probs=precompute)
    loss, grads, figures = ours(opened(PackedPolicy(policy)), policy_task("dpo", groups, [], PolicyTable()), groups)
    theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
    assert loss == pytest.approx(theirs.item(), rel=NEAR)
    assert loss != pytest.approx(math.log(2), abs=1e-2)  # the policy differs from its reference
    assert worst(grads, gradients(trainer.model, theirs)) < NEAR
    margins = trainer._metrics["train" if trainer.model.training else "eval"]["rewards/margins"][-1]
    assert figures["margin"] == pytest.approx(margins, abs=NEAR)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "loss_type", "smoothing"),
    [
        ({"loss": "ipo", "length_normalised": True}, "ipo", 0.0),  # TRL's IPO always takes means over tokens
        ({"length_normalised": True}, "sigmoid_norm", 0.0),
        ({"loss": "cdpo", "smoothing": 0.2}, "aot", 0.2),  # which sorts a batch, so it gets one pair at a time
        ({"loss": "robust", "smoothing": 0.2}, "robust", 0.2),
        ({"loss": "hinge"}, "hinge", 0.0),
        ({"loss": "apo_zero"}, "apo_zero", 0.0),
    ],
    ids=["ipo", "length-normalised dpo", "cdpo", "robust", "hinge", "apo_zero"],
)
def test_other_losses_and_gradients_equal_those_of_trl(
    groups, rows, words, trl_settings, name, changes, loss_type, smoothing
):
    policy, reference = model_of(name, words), shaken(model_of(name, words), 7, 0.02)
    add_reference(reference, groups)
    trainer = dpo_trainer(
        policy, reference, rows, words, trl_settings, loss_type=[loss_type], label_smoothing=smoothing
    )
    task = policy_task("policy", groups, [], PolicyTable(**changes))
    loss, grads, _ = ours(opened(PackedPolicy(policy)), task, groups)
    parts = [[place] for place in range(len(rows))] if loss_type == "aot" else [None]
    theirs = sum(trainer.compute_loss(trainer.model, trl_batch(trainer, part)) for part in parts) / len(parts)
    assert loss == pytest.approx(theirs.item(), rel=NEAR)
    assert worst(grads, gradients(trainer.model, theirs)) < NEAR


@pytest.mark.parametrize("name", NAMES)
def test_dpo_with_adapters_equals_that_of_trl_with_the_same_adapters(groups, rows, words, trl_settings, name):
    """TRL takes the model without its adapters as the reference, as train_policy takes the model it starts from."""
    start = model_of(name, words)
    add_reference(start, groups)
    policy = add_adapters(copy.deepcopy(start), LoraTable(rank=2, alpha=4), 0)
    shaken(torch.nn.ParameterList([value for key, value in policy.named_parameters() if "lora_" in key]), 5, 0.05)
    trainer = dpo_trainer(start, None, rows, words, trl_settings, adapters=policy.peft_config["default"])
    own = dict(policy.named_parameters())
    with torch.no_grad():
        for key, value in trainer.model.named_parameters():
            value.copy_(own[key])
    packed = opened(PackedPolicy(policy))
    loss, grads, _ = ours(packed, policy_task("dpo", groups, [], PolicyTable()), groups)
    theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
    assert packed.shared and all("lora_" in key for key in grads)
    assert loss == pytest.approx(theirs.item(), rel=NEAR)
    assert loss != pytest.approx(math.log(2), abs=1e-2)
    assert worst(grads, gradients(trainer.model, theirs)) < NEAR


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gamma", [0.0, 1.2])
def test_simpo_loss_and_gradients_equal_those_of_trl(groups, rows, words, trl_settings, name, gamma, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    policy = model_of(name, words)
    config = CPOConfig(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=gamma, **trl_settings)
    trainer = CPOTrainer(model=copy.deepcopy(policy), args=config, train_dataset=Dataset.from_list(rows),
                         processing_class=words)  # fmt: skip
    table = PolicyTable(loss="simpo", length_normalised=True, beta=2.0, gamma=gamma)
    loss, grads, _ = ours(opened(PackedPolicy(policy)), policy_task("simpo", groups, [], table), groups)
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model.eval(), trl_batch(trainer))
    assert loss == pytest.approx(theirs.item(), rel=NEAR)
    assert worst(grads, gradients(trainer.model, theirs)) < NEAR


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("centre", "margin"), [(0.0, False), (0.3, False), (0.0, True), (0.3, True)])
def test_reward_loss_and_gradients_equal_those_of_trl(groups, rows, words, trl_settings, name, centre, margin):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    gaps = [0.5 * place for place in range(1, len(rows) + 1)]
    for group in groups:
        group.gaps = [gaps.pop(0) for _ in group.pairs]
    every = [gap for group in groups for gap in group.gaps]
    if margin:
        rows = [{**row, "margin": gap} for row, gap in zip(rows, every, strict=True)]
    model = model_of(name, words, labels=1)
    config = RewardConfig(center_rewards_coefficient=centre or None, **trl_settings)
    trainer = RewardTrainer(model=copy.deepcopy(model), args=config, train_dataset=Dataset.from_list(rows),
                            processing_class=words)  # fmt: skip
    task = reward_task(groups, [], RewardTable(centre=centre, margin=margin))
    loss, grads, _ = ours(opened(PackedScorer(model)), task, groups)
    theirs = trainer.compute_loss(trainer.model, trl_batch(trainer))
    assert loss == pytest.approx(theirs.item(), rel=NEAR)
    assert worst(grads, gradients(trainer.model, theirs)) < NEAR


def test_our_packs_really_are_shorter_than_the_rows_that_trl_pads(groups, rows, words, trl_settings):
    policy = model_of("llama", words)
    trainer = dpo_trainer(policy, copy.deepcopy(policy), rows, words, trl_settings)
    assert len(all_pairs(groups)[0]) == len(rows) == 7
    assert 2.5 * len(make_pack(groups).ids) < trl_batch(trainer)["input_ids"].numel()
