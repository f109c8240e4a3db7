"""A cache of keys and values with room to grow, whose rows can leave: nothing is copied for a token or a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

LEAST_ROOM = 64  # tokens
SHARE = 4  # a layer that is full gets room for a quarter more


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer, (rows, heads, tokens, size): views of larger tensors.

    The layer of transformers joins old and new into a new tensor at every token, which reads and writes the whole cache
    each time.
    """

    def __init__(self, keys: Tensor, values: Tensor, room: int) -> None:
        super().__init__()
        self.device, self.dtype, self.is_initialized = keys.device, keys.dtype, True
        self.rows, self.length = keys.shape[0], keys.shape[2]
        self.stores = [_larger(states, self.rows, min(room, self._more())) for states in (keys, values)]
        self._show()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take the states of new tokens, (rows, heads, new, size); all keys and values so far."""
        start, self.length = self.length, self.length + key_states.shape[2]
        if self.length > self.stores[0].shape[2]:
            more = max(self._more(), key_states.shape[2])
            self.stores = [_larger(store[: self.rows, :, :start], self.rows, more) for store in self.stores]
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[: self.rows, :, start : self.length] = states
        self._show()
        return self.keys, self.values

    def move(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
        """Copy rows (from, to), then leave the first `rows`."""
        for store in self.stores:
            for source, target in moves:
                store[target, :, : self.length] = store[source, :, : self.length]
        self.rows = rows
        self._show()

    def _more(self) -> int:
        return max(LEAST_ROOM, self.length // SHARE)

    def _show(self) -> None:
        self.keys, self.values = (store[: self.rows, :, : self.length] for store in self.stores)


def grow(cache: Any, places: Tensor, room: int) -> bool:
    """Give a cache one row for each of `places`, which are rows of it, and room for `room` tokens more.

    False, and nothing is changed, for a cache of another kind than full and sliding attention.
    """
    layers = cache.layers if type(cache) is DynamicCache else []
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return False
    if not all(layer.is_initialized for layer in layers):  # layers that share the states of others
        return False
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer:
            layers[number] = GrowingLayer(layer.keys[places], layer.values[places], room)
        else:
            layer.batch_select_indices(places)
    return True


def keep_rows(cache: Any, keep: Sequence[int]) -> list[int]:
    """Leave only the rows `keep` (ascending); the old number of each row in the order they now have.

    The last rows move into the places of those that go, so that one that goes costs one copy of a row.
    """
    count, order = len(keep), list(range(len(keep)))
    kept = set(keep)
    free = [place for place in range(count) if place not in kept]
    moves = [(source, target) for source, target in zip(keep[count - len(free) :], free, strict=True)]
    for source, target in moves:
        order[target] = source
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.move(moves, count)
        else:
            layer.batch_select_indices(torch.tensor(order, device=layer.keys.device))
    return order


def _larger(states: Tensor, rows: int, more: int) -> Tensor:
    """A tensor with room for `more` tokens that holds `states`; what is behind them is not set."""
    _, heads, length, size = states.shape
    made = states.new_empty((rows, heads, length + more, size))
    made[:, :, :length] = states
    return made
