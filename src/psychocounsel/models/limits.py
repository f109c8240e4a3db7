"""How many calls one endpoint gets at once: additive increase, multiplicative decrease, and the pauses it asks for."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from types import TracebackType

FIRST_LIMIT = 16.0
SHORTEST_BETWEEN_CUTS_S = 1.0


class Limiter:
    """A gate for calls (`async with limiter:`) whose width follows what the endpoint takes.

    Starts at 16, grows by one with every answer until the first rate limit (slow start), then by one per width of
    answers; a rate limit halves it, once a second at most, because all calls on their way meet the same one. As in
    TCP (Jacobson 1988); Retry-After holds every call back, not only the one that was told.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = min(float(most), FIRST_LIMIT)
        self.active = 0
        self.cuts = 0
        self.starting = True
        self.open_from = 0.0
        self.last_cut = -math.inf
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place, and for the end of a pause that the endpoint asked for."""
        if self.active < int(self.limit) and not self.waiting:
            self.active += 1
        else:
            place = asyncio.get_running_loop().create_future()
            self.waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self.leave()  # a place given to a call that is no more goes to the next
                raise
        try:
            while (wait := self.open_from - time.monotonic()) > 0:
                await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    async def __aenter__(self) -> None:
        await self.enter()

    def answered(self) -> None:
        """An answer came: a little more is possible."""
        self.limit = min(float(self.most), self.limit + (1.0 if self.starting else 1.0 / self.limit))

    def refused(self, wait: float) -> None:
        """The endpoint said 'too many': half as many from now, none for `wait` seconds."""
        now = time.monotonic()
        self.open_from = max(self.open_from, now + wait)
        if now - self.last_cut >= SHORTEST_BETWEEN_CUTS_S:
            self.limit, self.last_cut, self.starting = max(1.0, self.limit / 2), now, False
            self.cuts += 1

    def leave(self) -> None:
        """Give the place to the next in line."""
        self.active -= 1
        self._admit()

    def _admit(self) -> None:
        while self.waiting and self.active < int(self.limit):
            place = self.waiting.popleft()
            if not place.done():
                self.active += 1
                place.set_result(None)
