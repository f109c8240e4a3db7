"""What calls cost: a dated price file, an estimate before anything is sent, and a budget that is never passed."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import tomllib
from datetime import date
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from psychocounsel.errors import UserError
from psychocounsel.models.chat import ChatModel, Completion, Request
from psychocounsel.models.remote import LOST, Remote
from psychocounsel.recipe import ModelsTable, data_path
from psychocounsel.records import Record

BYTES_PER_TOKEN = 4.0  # English text, common tokenizers: for previews
FEWEST_BYTES_PER_TOKEN = 2.0  # for reservations: a hard stop must not be passed by an odd tokenizer or alphabet
MESSAGE_TOKENS = 8
SCHEMA_TOKENS = 500  # what a provider adds to a forced tool or schema, at most
DEFAULT_MAX_TOKENS = 1024  # of an answer, where a request names no limit
DATED = re.compile(r"-(\d{4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2}|latest)")
OLD_DAYS = 180


class Price(Record):
    """US dollars per million tokens."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    source: str = ""

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """US dollars of so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


class PriceList(Record):
    """Prices by model name, as of a date."""

    as_of: date
    model: dict[str, Price]
    path: str = ""

    def find(self, model: ChatModel) -> Price | None:
        """The price of a model: by its name, with or without a date at its end; else nothing in this process or on
        a private address; None when it is not known. A name that only begins alike is another model."""
        if not isinstance(model, Remote):
            return Price(input=0, output=0)
        name = model.name.partition("#")[2] or model.name.partition(":")[2]
        names = [known for known in self.model if name.startswith(known) and DATED.fullmatch(name, len(known))]
        if name in self.model or names:
            return self.model[name if name in self.model else max(names, key=len)]
        return Price(input=0, output=0) if _private(model.url) else None

    @property
    def old(self) -> bool:
        """Whether somebody should look at the providers' pages again."""
        return (date.today() - self.as_of).days > OLD_DAYS


def load_prices(table: ModelsTable) -> PriceList:
    """The recipe's price file, or the package's. Raises UserError for one that cannot be read."""
    path = data_path(table.prices) if table.prices else Path(str(files("psychocounsel.models").joinpath("prices.toml")))
    try:
        found = PriceList.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: no price file that can be read ({error}); see docs/models.md") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}; see docs/models.md for the form of a price file") from error
    return found.model_copy(update={"path": str(path)})


def tokens_in(request: Request, bytes_per_token: float = BYTES_PER_TOKEN) -> float:
    """About how many tokens a request has, its schema and questions included."""
    extra = len(str(request.answer_schema or "")) + len(str(request.questions or ""))
    text = sum(len(message["content"].encode("utf-8", "replace")) for message in request.messages) + extra
    return text / bytes_per_token + MESSAGE_TOKENS * len(request.messages)


def tokens_out(request: Request) -> int:
    """The most tokens an answer may have; a decision writes none."""
    return 0 if request.form == "decision" else int(request.sampling.get("max_tokens", DEFAULT_MAX_TOKENS))


class Budget:
    """Counts money as calls are made. `limit` None counts only; else no call is sent that could pass it.

    `spent` starts with what the call store says was paid in earlier sessions.
    """

    def __init__(self, prices: PriceList, limit: float | None, spent: float = 0.0) -> None:
        self.prices, self.limit, self.spent = prices, limit, spent
        self.reserved = 0.0
        self.holders = 0
        self.waiting: list[asyncio.Future[None]] = []
        self.tokens = 0
        self.unpriced: set[str] = set()

    async def reserve(self, model: ChatModel, request: Request) -> float:
        """Set aside the most a call can cost; waits while calls on their way may leave enough of what they reserved.

        Raises UserError when what is spent already leaves too little.
        """
        most = self.most(model, request)
        if most is None:
            if self.limit is not None:
                raise UserError(
                    f'{model.name}: no price is known, so the budget cannot be kept; add [model."NAME"] with input '
                    f"and output to a copy of {self.prices.path} and set models.prices to it"
                )
            self.unpriced.add(model.name)
            most = 0.0
        while self.limit is not None and most > 0 and self.spent + self.reserved + most > self.limit:
            if self.spent + most > self.limit:
                raise UserError(
                    f"models.budget: {self.spent:.4f} of {self.limit:g} US dollars are spent, and the next call could "
                    f"pass the limit; {LOST} when the budget is raised (--set models.budget=...)"
                )
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]
        self.reserved += most
        self.holders += 1
        return most

    def release(self, most: float) -> None:
        """The call is over: what was set aside for it is free again."""
        self.holders -= 1
        self.reserved = self.reserved - most if self.holders else 0.0  # no rest of rounding may hold anybody up
        waiting, self.waiting = self.waiting, []
        for place in waiting:
            if not place.done():
                place.set_result(None)

    def most(self, model: ChatModel, request: Request) -> float | None:
        """The most US dollars a call can cost; None when its price is not known."""
        price = self.prices.find(model)
        overhead = SCHEMA_TOKENS if request.answer_schema else 0
        used = tokens_in(request, FEWEST_BYTES_PER_TOKEN) + overhead
        return None if price is None else price.of(used, tokens_out(request))

    def lost(self, model: ChatModel, request: Request) -> float | None:
        """Count a try that brought nothing readable as if it cost the most: some services bill it."""
        cost = self.most(model, request)
        self.spent += cost or 0.0
        return cost

    def settle(self, model: ChatModel, completion: Completion) -> float | None:
        """Count a finished call. Returns its US dollars, None when its price is not known."""
        self.tokens += completion.tokens_in + completion.tokens_out
        price = self.prices.find(model)
        if price is None:
            return None
        cost = price.of(completion.tokens_in, completion.tokens_out)
        self.spent += cost
        return cost

    def told(self) -> str:
        """Tokens and money so far, for the progress line."""
        tokens = f"{self.tokens:,} tokens" if self.tokens else ""
        money = f"${self.spent:.2f}" if self.spent else ""
        of = f" of ${self.limit:g}" if money and self.limit is not None else ""
        unknown = "price unknown" if self.unpriced else ""
        return ", ".join(part for part in (tokens, money + of, unknown) if part)


def _private(url: str) -> bool:
    """Whether a URL leads to this machine or a private network: servers of one's own cost nothing per token."""
    host = urlsplit(url).hostname or ""
    if host.endswith((".local", ".internal")) or (host and "." not in host and ":" not in host):
        return True  # a name without a dot, such as localhost, is never public
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False
