"""What can be known before anything is spent, trained or thrown away: do the recipe's models and judges open at all?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from psychocounsel.errors import UserError
from psychocounsel.evaluate.baselines import check_baselines
from psychocounsel.evaluate.contest.independence import check_independence, dependence_reasons, parties
from psychocounsel.models import open_models
from psychocounsel.ratings import SCORERS, open_judges
from psychocounsel.ratings.judge import Judge
from psychocounsel.recipe import Recipe
from psychocounsel.recipe.online import round_judges


def preflight(recipe: Recipe, stages: Collection[str]) -> None:
    """Open (but do not ask) every model the stages need and apply the independence rule. Raises UserError."""
    names: list[tuple[str, str]] = []
    if "speeches" in stages and recipe.speeches.topics not in ("tfidf", "none"):
        names.append((recipe.speeches.topics, "responses"))
    if "speeches" in stages and recipe.speeches.privacy.mode != "off" and recipe.speeches.privacy.model:
        names.append((recipe.speeches.privacy.model, "responses"))
    if "responses" in stages:
        names += [(name, "responses") for name in recipe.responses.models]
    if "ratings" in stages:
        names += [(name, "ratings") for name in recipe.ratings.judges if name not in SCORERS]
    raters = [name for name in recipe.ratings.judges if not name.startswith("recorded:")]  # a file's name is no family
    for name, purpose in names:
        opened = open_models(name, purpose, recipe.models)
        if purpose == "ratings":
            raters += [model.name for model in opened]
    if "evaluate" in stages:
        check_baselines(recipe.evaluate)
        judges = open_judges(recipe.evaluate.judges, recipe.ratings, recipe.models)
        independent(recipe, judges, raters)
    if "policy" in stages and ":" in recipe.policy.loss:  # a user's own: tried now, not after hours of training
        from psychocounsel.models.weights import require_training

        require_training()
        from psychocounsel.training.policy_losses import open_loss

        open_loss(recipe.policy)
    if "policy" in stages and recipe.policy.online.rounds:
        _check_rounds(recipe)
    if "publish" in stages:
        from psychocounsel.pipeline.publishing import check_publish

        check_publish(recipe.publish)


def independent(recipe: Recipe, judges: Sequence[Judge], labellers: Sequence[str]) -> dict[str, list[str]]:
    """Why grading judges are not independent, by judge; {} is good. Raises UserError unless the recipe allows it."""
    table, names = recipe.evaluate, [judge.name for judge in judges]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"evaluate.judges: {twice} is named twice; a judge has one voice, name it once")
    reasons = dependence_reasons(judges, parties(labellers=labellers, base=recipe.base), table.families)
    remedy = "set evaluate.allow_dependent = true (the report is then stamped)"
    check_independence(reasons, table.allow_dependent, "evaluate", remedy)
    return reasons


def _check_rounds(recipe: Recipe) -> None:
    """What online rounds name, tried as far as that goes before there is a reward model."""
    from psychocounsel.policy.gate import open_gate
    from psychocounsel.policy.reward_sources import check_settings, kind_of

    online = recipe.policy.online
    open_gate(online.gate)
    for name in online.rewards:
        kind_of(name)
    check_settings(recipe, None)
    open_judges(round_judges(online, recipe.evaluate.judges), recipe.ratings, recipe.models)
