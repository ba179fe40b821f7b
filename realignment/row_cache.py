"""The KV cache of many prompts about few pictures: a picture's part once, each prompt's part in a row of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require

__all__ = ["RowCache", "attending"]

_NAME = "holdfast_rows"


@dataclass
class _Layer:
    """Shared keys and values are [pictures, KV heads, shared, width], the rows' [rows, KV heads, room, width]."""

    shared_keys: Any
    shared_values: Any
    keys: Any
    values: Any


class RowCache:
    """Keys and values of prompts about pictures: `shared` tokens of each picture, and a row for each prompt.

    `lengths[picture]` are the lengths of its prompts; without pictures `shared` is 0. The first pass takes all tokens
    as one packed sequence, pictures first, every later one a single token of each row. A row sees its picture and
    itself: one row's length costs the others nothing, and nothing is copied to grow. `room` is how many tokens a row
    may gain.
    """

    def __init__(self, shared: int, lengths: Sequence[Sequence[int]], room: int, device: Any) -> None:
        torch = require("torch", "realign")
        self._shared, self._room = shared, room
        # Rows that share nothing need not be told apart.
        self._counts = [len(row) for row in lengths] if shared else [sum(len(row) for row in lengths)]
        self._lengths = torch.tensor([length for row in lengths for length in row], device=device)
        self._longest = int(self._lengths.max())
        self._picture = torch.arange(len(self._counts)).repeat_interleave(torch.tensor(self._counts)).to(device)
        # Where the tokens of a pass go: a row and a place for each.
        self._row = torch.arange(len(self._lengths), device=device).repeat_interleave(self._lengths)
        self._place = torch.cat([torch.arange(length, device=device) for row in lengths for length in row])
        self._unseen: Any = None
        self._layers: dict[int, _Layer] = {}

    @property
    def layers(self) -> int:
        """How many layers have attended."""
        return len(self._layers)

    def go_on(self, rows: Any) -> None:
        """The next pass brings a token for each of `rows`, an ascending index tensor; the other rows are dropped."""
        torch = require("torch", "realign")
        if len(rows) < len(self._lengths):
            for layer in self._layers.values():
                layer.keys, layer.values = layer.keys[rows], layer.values[rows]
            self._picture = self._picture[rows]
            self._counts = torch.bincount(self._picture, minlength=len(self._counts)).tolist()
        self._row, self._place = torch.arange(len(rows), device=rows.device), self._lengths[rows]
        self._lengths = self._place + 1
        self._longest = int(self._lengths.max())
        beyond = torch.arange(self._longest, device=rows.device) >= self._lengths[:, None]
        self._unseen = beyond[:, None, None]

    def attend(self, number: int, query: Any, key: Any, value: Any, scaling: float) -> Any:
        """Attention in layer `number` of the pass's tokens, [1, tokens, heads, width].

        `query` is [1, heads, tokens, width], `key` and `value` [1, KV heads, tokens, width].
        """
        # In mixed precision positions are turned in float32; kept like that, keys would be cast in every pass.
        query, key = query[0].to(value.dtype), key[0].to(value.dtype)
        if number in self._layers:
            return self._next(self._layers[number], query, key, value[0], scaling)
        return self._first(number, query, key, value[0], scaling)

    def _first(self, number: int, query: Any, key: Any, value: Any, scaling: float) -> Any:
        torch = require("torch", "realign")
        attention, repeats = torch.nn.functional.scaled_dot_product_attention, len(query) // len(key)
        looked, *common = (self._pictures(tensor) for tensor in (query, key, value))
        layer = self._layers[number] = _Layer(*common, *(self._rows(tensor, self._room) for tensor in (key, value)))
        whole = self._shared + self._longest
        causal = torch.ones(self._longest, whole, dtype=torch.bool, device=query.device).tril(self._shared)
        keys, values = (
            torch.cat([shared[self._picture], own[:, :, : self._longest]], 2).repeat_interleave(repeats, 1)
            for shared, own in ((layer.shared_keys, layer.keys), (layer.shared_values, layer.values))
        )
        own = attention(self._rows(query, 0), keys, values, causal, scale=scaling)[self._row, :, self._place]
        if not self._shared:
            return own[None]
        keys, values = (tensor.repeat_interleave(repeats, 1) for tensor in common)
        seen = attention(looked, keys, values, is_causal=True, scale=scaling).transpose(1, 2).flatten(0, 1)
        return torch.cat([seen, own])[None]

    def _pictures(self, tensor: Any) -> Any:
        """The pictures' part of `tensor` [heads, tokens, width], as [pictures, heads, shared, width]."""
        pictures = len(self._counts)
        return tensor[:, : pictures * self._shared].unflatten(1, (pictures, self._shared)).transpose(0, 1)

    def _rows(self, tensor: Any, room: int) -> Any:
        """The rows' part of `tensor` [heads, tokens, width], as [rows, heads, longest + room, width]."""
        heads, _, width = tensor.shape
        rows = tensor.new_zeros(len(self._lengths), heads, self._longest + room, width)
        rows[self._row, :, self._place] = tensor[:, len(self._counts) * self._shared :].transpose(0, 1)
        return rows

    def _next(self, layer: _Layer, query: Any, key: Any, value: Any, scaling: float) -> Any:
        torch = require("torch", "realign")
        layer.keys[self._row, :, self._place] = key.transpose(0, 1)
        layer.values[self._row, :, self._place] = value.transpose(0, 1)
        heads, rows, width = key.shape
        # The query heads that read one KV head are the rows of one product, [rows, KV heads, repeats, width].
        asked = (query * scaling).transpose(0, 1).reshape(rows, heads, -1, width)
        own = asked @ layer.keys[:, :, : self._longest].transpose(-1, -2)
        common = self._across(asked, layer.shared_keys.transpose(-1, -2))
        scores = torch.cat([common, own.masked_fill(self._unseen, float("-inf"))], -1)
        weights = scores.float().softmax(-1).to(value.dtype)
        said = self._across(weights[..., : self._shared], layer.shared_values)
        said = said + weights[..., self._shared :] @ layer.values[:, :, : self._longest]
        return said.reshape(1, rows, -1, width)

    def _across(self, tensor: Any, shared: Any) -> Any:
        """`tensor` [rows, KV heads, repeats, n] times each row's picture's `shared` [pictures, KV heads, n, m].

        One product per picture and head, whatever the number of rows.
        """
        torch = require("torch", "realign")
        heads, repeats = tensor.shape[1:3]
        products = [
            (part.transpose(0, 1).reshape(heads, count * repeats, part.shape[-1]) @ matrix).unflatten(
                1, (count, repeats)
            )
            for part, matrix, count in zip(tensor.split(self._counts), shared, self._counts, strict=True)
        ]
        return torch.cat(products, 1).transpose(0, 1)


@contextmanager
def attending(*decoders: Any) -> Iterator[None]:
    """A context in which `decoders`, views of one language model, attend through the `rows=` that they are given."""
    interface = require("transformers", "realign").AttentionInterface
    interface.register(_NAME, _attention)
    configs = [decoder.config for decoder in decoders]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = _NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _attention(module: Any, query: Any, key: Any, value: Any, _mask: Any, **given: Any) -> tuple[Any, None]:
    rows: RowCache = given["rows"]
    return rows.attend(module.layer_idx, query, key, value, given["scaling"]), None
