"""What a recipe would do, before it spends anything: sources, calls, tokens, money, training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from psychocounsel.errors import UserError
from psychocounsel.evaluate.best_of import sizes
from psychocounsel.models import open_models
from psychocounsel.models.chat import Answer, ChatModel, Request
from psychocounsel.models.prices import Price, PriceList, load_prices, tokens_in, tokens_out
from psychocounsel.models.remote import Remote
from psychocounsel.pipeline import Options, check_stages
from psychocounsel.pipeline.contenders import contests
from psychocounsel.pipeline.preflight import preflight
from psychocounsel.principles import Principle, load_principles, load_topics
from psychocounsel.principles.prompts import dialogue_text, topic_prompt
from psychocounsel.publish.licences import check_licence, clear_sources
from psychocounsel.ratings import open_judges
from psychocounsel.ratings.judge import Item
from psychocounsel.ratings.model_judge import ModelJudge
from psychocounsel.ratings.probes import planned_calls
from psychocounsel.recipe import Recipe, data_path
from psychocounsel.recipe.online import round_judges
from psychocounsel.records import Response, Speech, Turn
from psychocounsel.responses import plan_responses
from psychocounsel.speeches import Aids, Collection, collect
from psychocounsel.speeches.privacy import reading_request
from psychocounsel.speeches.sources import KNOWN_SETS, read_source

REPLY_CHARS_PER_TOKEN = 4
PREVIEW = "preview"  # source of the speeches that stand for others
COMMON_CHARS = 500  # of a speech between 100 and 1,000


@dataclass
class Estimate:
    """Calls of one model in one stage: tokens in are about right, tokens out and money the most there can be."""

    stage: str
    model: str
    calls: int = 0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    price: Price | None = None

    def add(self, request: Request, times: int = 1) -> None:
        """Count a request `times` over."""
        self.calls += times
        self.tokens_in += times * tokens_in(request)
        self.tokens_out += times * tokens_out(request)

    @property
    def cost(self) -> float | None:
        """US dollars at most; None when the price is not known."""
        return None if self.price is None else self.price.of(self.tokens_in, self.tokens_out)


def preview(recipe: Recipe, stop: str = "evaluate") -> None:
    """Print the recipe's plan up to a stage. Opens local sources and models, calls none. Raises UserError as a run
    would."""
    options = Options(stop=stop)
    check_stages(options)
    stages = options.stages
    principles = load_principles(recipe.principles)
    preflight(recipe, stages)
    prices = load_prices(recipe.models)
    hub = [source.load for source in recipe.speeches.sources if _is_remote(source.load)]
    table = Table("stage", "plan", title=f"Recipe {recipe.name}", title_justify="left")
    table.add_row("principles", ", ".join(f"{p.id} x{p.weight:g}{' (gate)' if p.gate else ''}" for p in principles))
    reread: list[str] = []  # texts that a model would read once more for personal data
    if hub:
        table.add_row("speeches", f"from the hub, so counted by the thousand: {', '.join(hub)}")
        collection = _a_thousand()
        reread += [speech.text for speech in collection.speeches]
    else:
        raw = [speech for source in recipe.speeches.sources for speech in read_source(source)]

        def read_more(texts: Sequence[str]) -> list[None]:
            reread.extend(texts)
            return [None] * len(texts)

        aids = Aids(read_more=read_more if recipe.speeches.privacy.model else None)
        collection = collect(raw, recipe.speeches, recipe.seed, aids)
        dropped = collection.reasons() or "none"
        table.add_row("speeches", f"{collection.read} read, {len(collection.speeches)} kept, dropped {dropped}")
    if "supervised" in stages:
        table.add_row("training", _training(recipe))
    if "evaluate" in stages:
        judges, splits = recipe.evaluate.judges, recipe.evaluate.speeches
        table.add_row("evaluate", f"{', '.join(judges)} on splits {', '.join(splits)}")
    Console().print(table)
    rows = list(estimates(recipe, collection, prices, stages, reread))
    _print_estimates(rows, prices, recipe.models.budget, by_thousand=bool(hub))
    _print_licences(recipe, collection)
    if (
        "supervised" in stages
        and "/" in recipe.base
        and not Path(recipe.base).exists()
        and os.environ.get("HF_HUB_OFFLINE") == "1"
    ):
        raise UserError(f"base '{recipe.base}': no such folder, and HF_HUB_OFFLINE=1 forbids the hub")


def _a_thousand() -> Collection:
    """A thousand speeches of common length, for what cannot be counted without downloading it."""
    turns = [(Turn(role="client", text=f"{number} {'x' * COMMON_CHARS}"),) for number in range(1000)]
    speeches = [
        Speech(turns=said, source=PREVIEW, split="test" if number % 10 < 2 else "train")  # as the default shares
        for number, said in enumerate(turns)
    ]
    return Collection(len(speeches), speeches)


def _training(recipe: Recipe) -> str:
    policy = recipe.policy
    epochs = (
        f"supervised {recipe.supervised.epochs:g} epochs, reward {recipe.reward.epochs:g}, policy {policy.epochs:g}"
    )
    return f"base {recipe.base}: {epochs} and {policy.online.rounds} online rounds"


def estimates(
    recipe: Recipe, collection: Collection, prices: PriceList, stages: Sequence[str], reread: Sequence[str] = ()
) -> Iterator[Estimate]:
    """Calls by stage and model, first tries only: what a judge answers badly is asked a second time.

    `reread`: the texts that the model of [speeches.privacy] reads.
    """
    privacy = recipe.speeches.privacy
    if privacy.mode != "off" and privacy.model:
        reader = open_models(privacy.model, table=recipe.models)[0]
        yield from _by_model("privacy", ((reader, reading_request(text)) for text in reread), prices)
    if recipe.speeches.topics not in ("tfidf", "none"):
        yield _topics(recipe, collection.speeches, prices)
    if "responses" not in stages:
        return
    pool = [model for name in recipe.responses.models for model in open_models(name, table=recipe.models)]
    jobs = plan_responses(collection.speeches, pool, recipe.responses, recipe.seed)
    yield from _by_model("responses", jobs, prices)
    judges = open_judges(recipe.ratings.judges if "ratings" in stages else [], recipe.ratings, recipe.models)
    principles = load_principles(recipe.principles)
    item = _typical(collection.speeches, recipe.responses.max_tokens)
    for judge in judges:
        if isinstance(judge, ModelJudge):
            requests = _of_a_rating(judge, recipe, item, principles)
            probes = planned_calls(min(recipe.ratings.probes, len(jobs)), len(requests)) if recipe.ratings.probes else 0
            yield _repeated("ratings", judge.model, requests, len(jobs), prices)
            if probes and isinstance(judge.model, Remote):
                yield _repeated("probes", judge.model, requests[:1], probes, prices)
    if "policy" in stages and recipe.policy.online.rounds:
        yield from _rounds(recipe, collection.speeches, item, principles, prices)
    if "evaluate" in stages:
        yield from _contests(recipe, collection.speeches, item, principles, prices)


def _topics(recipe: Recipe, speeches: list[Speech], prices: PriceList) -> Estimate:
    model = open_models(recipe.speeches.topics, table=recipe.models)[0]
    system = topic_prompt(load_topics())
    found = Estimate("topics", model.name, price=prices.find(model))
    for speech in speeches:
        if recipe.speeches.classify == "all" or not speech.topic:
            texts = ({"role": "system", "content": system}, {"role": "user", "content": dialogue_text(speech.turns)})
            found.add(Request(messages=texts, sampling={"max_tokens": 120}))
    return found


def _contests(
    recipe: Recipe, speeches: list[Speech], item: Item, principles: tuple[Principle, ...], prices: PriceList
) -> Iterator[Estimate]:
    """Comparisons by judges that are models, in both orders: of the policies, and of one pair a test speech at most."""
    table = recipe.evaluate
    asked = sum(speech.split in table.speeches for speech in speeches)
    asked = min(asked, table.limit or asked)
    names = ["base", "offline", *(["online"] if recipe.policy.online.rounds else []), *table.baselines]
    labelled = sum(speech.split == "test" for speech in speeches)
    picks = len(sizes(table.best_of)) - 1  # reply 0 against itself is no call
    labelled = min(labelled, recipe.responses.limit or labelled)
    times = 2 * (len(contests(names)) * asked * table.samples + picks * asked + labelled)
    yield from _compared("evaluate", recipe, table.judges, item, principles, times, prices)


def _rounds(
    recipe: Recipe, speeches: list[Speech], item: Item, principles: tuple[Principle, ...], prices: PriceList
) -> Iterator[Estimate]:
    """What online rounds ask of models: looks in both orders, and the ratings of judges who reward."""
    online = recipe.policy.online
    count = Counter(speech.split for speech in speeches)
    held = min(online.dev_speeches, count["dev"] or int(count["train"] * online.hold_out)) * online.dev_samples
    names = round_judges(online, recipe.evaluate.judges)
    yield from _compared("online", recipe, names, item, principles, 2 * held * online.rounds, prices)
    ratings = online.rounds * min(online.speeches, count["train"]) * online.samples + (online.rounds + 1) * held
    rewarding = [name.removeprefix("judge:") for name in online.rewards if name.startswith("judge:")]
    for judge in open_judges(rewarding, recipe.ratings, recipe.models):
        if isinstance(judge, ModelJudge):
            yield _repeated("online", judge.model, _of_a_rating(judge, recipe, item, principles), ratings, prices)


def _of_a_rating(judge: ModelJudge, recipe: Recipe, item: Item, principles: tuple[Principle, ...]) -> list[Request]:
    """The requests of one rating, first tries only."""
    form: Answer = "schema" if recipe.ratings.answer == "auto" else recipe.ratings.answer
    return [judge.request(item, group, form) for group in judge.groups(principles, form)]


def _compared(
    stage: str,
    recipe: Recipe,
    judges: Sequence[str],
    item: Item,
    principles: tuple[Principle, ...],
    times: int,
    prices: PriceList,
) -> Iterator[Estimate]:
    """Comparisons by the judges that are models."""
    for judge in open_judges(judges, recipe.ratings, recipe.models):
        if isinstance(judge, ModelJudge):
            one = judge.request(item, principles, "text")  # about a rating's length and one more reply
            both = one.model_copy(update={"messages": (*one.messages, {"role": "user", "content": item.response.text})})
            yield _repeated(stage, judge.model, [both], times, prices)


def _typical(speeches: list[Speech], reply_tokens: int) -> Item:
    """A speech of mean length with a reply as long as it may be."""
    mean = sum(len(dialogue_text(speech.turns)) for speech in speeches) // max(len(speeches), 1)
    speech = Speech(turns=(Turn(role="client", text="x" * max(mean, 1)),), source=PREVIEW)
    return Item(speech, Response(speech_id=speech.id, model="", text="x" * REPLY_CHARS_PER_TOKEN * reply_tokens))


def _by_model(stage: str, jobs: Iterable[tuple[ChatModel, Request]], prices: PriceList) -> Iterator[Estimate]:
    found: dict[str, Estimate] = {}
    for model, request in jobs:
        name = _told(model)
        if name not in found:
            found[name] = Estimate(stage, name, price=prices.find(model))
        found[name].add(request)
    yield from found.values()


def _repeated(stage: str, model: ChatModel, requests: list[Request], times: int, prices: PriceList) -> Estimate:
    found = Estimate(stage, _told(model), price=prices.find(model))
    for request in requests:
        found.add(request, times)
    return found


def _told(model: ChatModel) -> str:
    return "recorded" if model.kind.startswith("recorded") else model.name


def _print_estimates(rows: list[Estimate], prices: PriceList, budget: float | None, *, by_thousand: bool) -> None:
    title = "Calls for 1,000 speeches kept, at most (probes are asked once)" if by_thousand else "Calls, at most"
    columns = [Column(name, justify="right") for name in ("calls", "tokens in", "tokens out", "US dollars")]
    table = Table("stage", "model", *columns, title=title, title_justify="left")
    for row in rows:
        cost = "unknown" if row.cost is None else f"{row.cost:,.2f}"
        table.add_row(row.stage, row.model, f"{row.calls:,}", f"{row.tokens_in:,.0f}", f"{row.tokens_out:,.0f}", cost)
    console = Console()
    console.print(table)
    total = sum(row.cost or 0.0 for row in rows)
    once = sum(row.cost or 0.0 for row in rows if row.stage == "probes")
    unknown = sorted({row.model for row in rows if row.cost is None and row.calls})
    if total or unknown:
        console.print(f"US dollars at most: {total:,.2f}, by prices of {prices.as_of}")
    if total and prices.old:
        console.print("These prices are old: look at the provider's page and set models.prices.", style="yellow")
    if unknown:
        console.print(f"No price is known for {', '.join(unknown)}; see docs/models.md.", style="yellow")
    if budget is not None and by_thousand and total > once:
        enough = max(0.0, 1000 * (budget - once) / (total - once))
        console.print(f"The budget of {budget:g} is enough for {enough:,.0f} speeches, probably for more.")
    elif budget is not None and total > budget:
        console.print(f"The budget of {budget:g} could stop this run; what is answered is kept.", style="yellow")


def _print_licences(recipe: Recipe, collection: Collection) -> None:
    """Say before money is spent whether the set may be published as the recipe wants it."""
    if not recipe.publish.license:
        return
    known = {source.load: source.license or KNOWN_SETS.get(source.load, ("", "", ""))[2] for source in
             recipe.speeches.sources if _is_remote(source.load)}  # fmt: skip
    found = Counter((speech.source, speech.license) for speech in collection.speeches if speech.source != PREVIEW)
    try:
        check_licence(
            recipe.publish.license, clear_sources({**found, **dict.fromkeys(known.items(), 1)}, recipe.publish.accept)
        )
    except UserError as error:
        Console().print(f"Publishing this would stop: {error}", style="yellow", markup=False)


def _is_remote(load: str) -> bool:
    kind, _, rest = load.partition(":")
    at_hub = kind == "preference" and not data_path(rest).exists()
    return kind == "hub" or at_hub or bool(KNOWN_SETS.get(load, ("",))[0])
