"""Losses as a recipe names them: a user's own is tried first, each one learns, gaps weigh as written."""

import json
import math
from functools import partial

import pytest
import torch
from test_losses import NUMBER, TABLES, double
from tiny_training import add_plain_reference, examples_of, groups_of, plain_logp, plain_scores

from psychocounsel.errors import UserError
from psychocounsel.models.weights import load_scorer
from psychocounsel.pipeline.preflight import preflight
from psychocounsel.policy.offline import policy_task, train_policy
from psychocounsel.recipe import PolicyTable, RewardTable, parse_recipe
from psychocounsel.reward.train import mean_gap, reward_task
from psychocounsel.training.adapters import Start
from psychocounsel.training.losses import dpo
from psychocounsel.training.packed import PackedPolicy, PackedScorer, opened
from psychocounsel.training.packs import make_pack
from psychocounsel.training.policy_losses import open_loss

__all__ = ["NUMBER"]  # looked up by name below, as something that is no function


# a user's own losses, found by name in this very module


def squared_margin(chosen, rejected, reference_chosen, reference_rejected, beta):
    return (1 - beta * ((chosen - reference_chosen) - (rejected - reference_rejected))) ** 2


def averaged(*values):
    return dpo(*values).mean()


def not_a_number(*values):
    return dpo(*values) * math.nan


def detached(*values):
    return dpo(*values).detach()


def over_the_batch(chosen, rejected, reference_chosen, reference_rejected, beta):
    return dpo(chosen - chosen.mean().detach(), rejected, reference_chosen, reference_rejected, beta)


def rejected_only(chosen, rejected, reference_chosen, reference_rejected, beta):
    return beta * (rejected - reference_rejected)


def steep(chosen, *others):
    return torch.sqrt(chosen - chosen.detach()) + dpo(chosen, *others)


def numbers(*values):
    return [0.0, 0.0, 0.0]


def of_two(chosen, rejected):
    return chosen - rejected


def test_a_loss_of_the_users_own_is_used_as_written():
    loss = open_loss(PolicyTable(loss=f"{__name__}:squared_margin", beta=0.5))
    assert loss.reference
    assert loss.function(*double(-10, -20, -12, -19)).item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no_such_module:loss", "cannot be imported .*ModuleNotFoundError"),
        (f"{__name__}:no_such_loss", "cannot be imported .*AttributeError"),
        (f"{__name__}:NUMBER", "not a function"),
        (f"{__name__}:of_two", "failed on three pairs of numbers"),
        (f"{__name__}:averaged", r"returned \(\) for three pairs; one value per pair"),
        (f"{__name__}:numbers", "returned list for three pairs"),
        (f"{__name__}:not_a_number", "must be finite"),
        (f"{__name__}:detached", "do not depend on the policy"),
        (f"{__name__}:rejected_only", "gradient of chosen or rejected is missing"),
        (f"{__name__}:steep", "missing or not finite"),
        (f"{__name__}:over_the_batch", "depends on the other pairs"),
    ],
)
def test_a_loss_of_the_users_own_that_cannot_work_is_refused_before_training(tmp_path, name, complaint):
    with pytest.raises(UserError, match=f"policy.loss '{name}': .*{complaint}"):
        train_policy("offline", Start("never opened"), ([object()], []), PolicyTable(loss=name), 0, tmp_path)


def test_a_users_loss_is_tried_before_the_first_stage_of_a_run():
    recipe = parse_recipe({"name": "x", "policy": {"loss": f"{__name__}:averaged"}}, "my.toml")
    preflight(recipe, ["pairs", "reward"])  # no policy, no trial
    with pytest.raises(UserError, match="one value per pair"):
        preflight(recipe, ["policy"])


@pytest.mark.parametrize("name", [*TABLES, "own"])
def test_training_with_each_loss_lowers_it_on_dev(tmp_path, speeches, responses, pairs, model_folder, name):
    examples = examples_of(pairs, speeches, responses)
    table = TABLES.get(name, PolicyTable(loss=f"{__name__}:squared_margin")).model_copy(
        update={"lr": 1e-3, "epochs": 2, "batch": 18, "max_length": 256, "precision": "fp32", "evaluate_steps": 1}
    )
    made = train_policy(
        "offline", Start(str(model_folder)), examples, table, 0, tmp_path, cache=tmp_path / "reference.sqlite"
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    looks = [row["dev_loss"] for row in rows if "dev_loss" in row]
    assert len(looks) == made["steps"] == 6 and looks[-1] < looks[0]
    assert [row["dev_margin"] for row in rows if "dev_margin" in row][-1] > 0
    assert (tmp_path / "reference.sqlite").exists() == (name != "simpo")  # which computes no reference


def scorer(folder, tokenizer):
    return load_scorer(str(folder), tokenizer.pad_token_id, len(tokenizer)).eval()


def test_gap_weights_have_mean_one_over_the_train_pairs(tokenizer, speeches, responses, pairs, model_folder):
    chosen = pairs["train"][:12]
    rated = [pair.model_copy(update={"gap": 0.5 + place / 4}) for place, pair in enumerate(chosen)]
    groups = groups_of(tokenizer, rated, speeches, responses)
    plain, model = scorer(model_folder, tokenizer), PackedScorer(scorer(model_folder, tokenizer))
    for inside in (plain, model.model):
        inside.score.weight.data *= 30  # scores that differ, or every loss is near log 2 and weights show little
    opened(model)
    weighted, pack = RewardTable(weight_by_gap=True, centre=0.2), make_pack(groups)
    with torch.no_grad():
        found, _ = reward_task(groups, [], weighted).compute(model, pack)
        scores = torch.cat([plain_scores(plain, group) for group in groups])
        parts = [reward_task(groups, [], weighted).compute(model, make_pack([group])) for group in groups]
    a, b = scores[pack.chosen], scores[pack.rejected]
    weights = pack.gaps / pack.gaps.mean()
    assert mean_gap(groups) == pytest.approx(0.5 + 11 / 8) and weights.mean().item() == pytest.approx(1)
    expected = (-weights * torch.nn.functional.logsigmoid(a - b) + 0.2 * (a + b) ** 2).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sum(part.item() for part, _ in parts) == pytest.approx(found.item(), rel=1e-5)  # however it is cut
    plain_loss, _ = reward_task(groups, [], RewardTable(centre=0.2)).compute(model, pack)
    assert plain_loss.item() != pytest.approx(found.item(), rel=1e-3)


def test_a_policys_pairs_are_weighed_by_their_gaps_too(tokenizer, speeches, responses, pairs, llama):
    rated = [pair.model_copy(update={"gap": 0.5 + place / 4}) for place, pair in enumerate(pairs["train"][:12])]
    groups = groups_of(tokenizer, rated, speeches, responses)
    add_plain_reference(llama(1), groups)
    plain, pack = llama(0).eval(), make_pack(groups)
    task = policy_task("policy", groups, [], PolicyTable(beta=0.5, weight_by_gap=True))
    with torch.no_grad():
        found, _ = task.compute(opened(PackedPolicy(llama(0))).eval(), pack)
        ratio = torch.cat([plain_logp(plain, group) for group in groups]) - pack.reference
    losses = -torch.nn.functional.logsigmoid(0.5 * (ratio[pack.chosen] - ratio[pack.rejected]))
    assert found.item() == pytest.approx((losses * pack.gaps / (0.5 + 11 / 8)).sum().item(), rel=1e-5)
    assert losses.sum().item() != pytest.approx(found.item(), rel=1e-3)


@pytest.mark.parametrize("gap", [0.0, -1.0, math.nan, math.inf])
def test_gaps_that_cannot_weigh_are_refused(tokenizer, speeches, responses, pairs, gap):
    groups = groups_of(tokenizer, pairs["train"][:3], speeches, responses)
    for group in groups:
        group.gaps = [gap] * len(group.gaps)
    for make, table in ((reward_task, RewardTable), (partial(policy_task, "policy"), PolicyTable)):
        with pytest.raises(UserError, match=r"weight_by_gap: the mean gap"):
            make(groups, [], table(weight_by_gap=True))
        make(groups, [], table())
