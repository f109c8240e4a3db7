"""What every remote endpoint shares: one attempt at a time, what its failures mean, its limiter and its key."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakValueDictionary

from psychocounsel.errors import UserError
from psychocounsel.models.chat import TryAgain
from psychocounsel.models.limits import Limiter
from psychocounsel.models.replay import replaying
from psychocounsel.recipe import ModelsTable

LOST = "the calls answered so far are kept, the same command continues"
SPENT_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_too_low")
PASSING = (408, 409, 425, 429)
MOST_WAIT_S = 300.0
_LIMITERS: WeakValueDictionary[str, Limiter] = WeakValueDictionary()


def limiter_of(url: str, most: int) -> Limiter:
    """The limiter of an endpoint: its models share one, because its rate limit does not tell them apart."""
    found = _LIMITERS.get(url)
    if found is None or found.most != most:
        found = _LIMITERS[url] = Limiter(most)
    return found


class Refused(UserError):
    """An endpoint refused a call for good. `spent`: because there is no money left there."""

    def __init__(self, message: str, status: int, *, spent: bool = False) -> None:
        super().__init__(message)
        self.status, self.spent = status, spent


class Remote:
    """A model behind an HTTP endpoint. `concurrency` is how many callers may stand ready; the limiter decides
    how many of them are being answered, so that reading and storing one reply does not leave the endpoint idle."""

    def __init__(self, name: str, kind: str, url: str, table: ModelsTable) -> None:
        self.name, self.kind, self.url, self.table = name, kind, url, table
        self.limiter = limiter_of(url, table.concurrency)
        self.concurrency = 2 * table.concurrency + 8
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def client(self) -> Any:
        """The client of the running event loop; one that belongs to another loop is left behind."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = self._open(), loop
        return self._client

    def _open(self) -> Any:
        """A client for the address and key of this model; how it is done differs by endpoint."""
        raise NotImplementedError

    def _sdk(self, key: str, headers: dict[str, Any]) -> Any:
        import openai

        seconds = self.table.timeout  # of silence; the whole call is timed in calls.py, against servers that drip
        return openai.AsyncOpenAI(  # base_url said outright: OPENAI_BASE_URL must not send the key elsewhere
            api_key=key,
            base_url=self.url,
            max_retries=0,
            timeout=seconds,
            default_headers=headers,
            http_client=openai.DefaultAioHttpClient(base_url=self.url, timeout=seconds),
        )

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    def trouble(self, status: int, code: str | None, short: str, retry_after: str | None) -> Exception:
        """What a failed attempt means: TryAgain for what passes, Refused for what does not.

        A 429 is told by its code: an exhausted quota will not pass, too many calls will. `short` must not hold the
        server's message: servers echo the client's words, or the key, in it.
        """
        if code in SPENT_CODES or status == 402:
            why = f"the account has no money left (code {code or status})"
            return Refused(f"{self.name}: {status} {why}; {LOST}", status, spent=True)
        if status in PASSING or status >= 500:
            wait = retry_after_seconds(retry_after)
            return TryAgain(str(status), wait, limited=status == 429 or (status in (503, 529) and wait > 0))
        return Refused(f"{self.name}: {status} {short}; {LOST}", status)


def key_from(variable: str, name: str) -> str:
    """An API key from the environment, or '' in a replay. Raises UserError without one."""
    key = os.environ.get(variable, "")
    if not key and not replaying():
        raise UserError(f"{name}: {variable} is not set; export it in your shell (it is never written anywhere)")
    return key


def retry_after_seconds(value: str | None) -> float:
    """The seconds of a Retry-After header (a number or a date, RFC 9110), at most 300; 0 for none and for nonsense."""
    try:
        wait = float(value or 0)
    except ValueError:
        wait = _seconds_until(value or "")
    return min(max(wait, 0.0), MOST_WAIT_S) if wait == wait else 0.0


def _seconds_until(text: str) -> float:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
