"""Answers in batches: many prompts about few pictures, the picture's part of the KV cache computed once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require
from realignment.answers import embedded
from realignment.towers import Towers

__all__ = ["Said", "answer_batch"]


@dataclass(frozen=True)
class Said:
    """One answer: its tokens, the stop token included where one came, and the log-probability of each."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def answer_batch(
    towers: Towers,
    exit: int,
    asked: Sequence[Sequence[Sequence[int]]],
    shown: Any = None,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: Any = None,
) -> list[list[Said]]:
    """Answers of the decoder left at `exit`: for each row, one per prompt of that row.

    `asked[row]` are the prompts' tokens (`Prompts.asked`); all rows hold the same number. `shown` is the rows'
    projected pictures, [rows, image tokens, width], or None for prompts without a picture. `temperature` 0 is greedy;
    log-probabilities are those of the untempered distribution.
    """
    torch = require("torch", "realign")
    width = len(asked[0])
    with torch.no_grad():
        answers = _answer(towers, exit, _started(towers, exit, asked, shown), max_new_tokens, temperature, generator)
    return [answers[row * width : (row + 1) * width] for row in range(len(asked))]


@dataclass
class _Batch:
    """Prompts under way, padded on the left; `cache` holds what the decoder has seen, `mask` where that is padding."""

    vectors: Any
    mask: Any
    positions: Any
    cache: Any

    def keep(self, rows: Any) -> None:
        """Let all other rows go."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def go_on(self, vectors: Any) -> None:
        """One more token per row comes next."""
        self.vectors, self.positions = vectors, self.positions[:, -1:] + 1
        self.mask = require("torch", "realign").cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)


def _started(towers: Towers, exit: int, asked: Any, shown: Any) -> _Batch:
    torch = require("torch", "realign")
    model, device = towers.model, towers.model.device
    prompts = [list(prompt) for row in asked for prompt in row]
    longest = max(map(len, prompts))
    cache, offset = None, 0
    if shown is not None:
        prefix = torch.tensor([towers.prompts.prefix] * len(asked), device=device)
        cache = towers.decoder(exit)(inputs_embeds=embedded(model, prefix, shown), use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(asked[0]))
        offset = prefix.shape[1]
    pads = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    places = torch.arange(longest, device=device)[None] - pads[:, None]
    seen = torch.ones(len(prompts), offset, dtype=torch.long, device=device)
    mask = torch.cat([seen, (places >= 0).long()], 1)
    return _Batch(embedded(model, tokens, None), mask, places.clamp(min=0) + offset, cache)


def _answer(
    towers: Towers, exit: int, batch: _Batch, max_new_tokens: int, temperature: float, generator: Any
) -> list[Said]:
    torch = require("torch", "realign")
    model, decoder, count = towers.model, towers.decoder(exit), len(batch.mask)
    said: list[list[int]] = [[] for _ in range(count)]
    scores: list[list[float]] = [[] for _ in range(count)]
    stops = torch.tensor(sorted(towers.stop_tokens), device=model.device)
    open_rows = torch.arange(count, device=model.device)
    for _ in range(max_new_tokens):
        out = decoder(
            inputs_embeds=batch.vectors,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=batch.cache,
            use_cache=True,
        )
        batch.cache = out.past_key_values
        chances = model.lm_head(out.last_hidden_state[:, -1]).float().log_softmax(-1)
        chosen = _choose(chances, temperature, generator)
        picked = chances.gather(1, chosen[:, None])[:, 0]
        for row, token, score in zip(open_rows.tolist(), chosen.tolist(), picked.tolist(), strict=True):
            said[row].append(token)
            scores[row].append(score)
        going = ~torch.isin(chosen, stops)
        if not going.any():
            break
        # Finished answers leave the batch: refusals are short, and what stays gets faster.
        if not going.all():
            kept = going.nonzero()[:, 0]
            batch.keep(kept)
            open_rows, chosen = open_rows[kept], chosen[kept]
        batch.go_on(embedded(model, chosen[:, None], None))
    return [Said(tuple(tokens), tuple(logprobs)) for tokens, logprobs in zip(said, scores, strict=True)]


def _choose(chances: Any, temperature: float, generator: Any) -> Any:
    torch = require("torch", "realign")
    if temperature == 0:
        return chances.argmax(-1)
    return torch.multinomial((chances / temperature).softmax(-1), 1, generator=generator)[:, 0]
