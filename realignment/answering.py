"""Answers in batches: many prompts about few pictures, the picture's part of the KV cache computed once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require
from realignment.answers import embedded
from realignment.packing import pack
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

    `asked[row]` are the prompts' tokens (`Prompts.asked`). `shown` is the rows' projected pictures, [rows, image
    tokens, width], or None for prompts without a picture. `temperature` 0 is greedy; log-probabilities are those of the
    untempered distribution.
    """
    torch = require("torch", "realign")
    pictures = [None] * len(asked) if shown is None else list(shown)
    with torch.no_grad():
        return [
            _answer(towers, exit, row, picture, max_new_tokens, temperature, generator)
            for row, picture in zip(asked, pictures, strict=True)
        ]


def _answer(
    towers: Towers, exit: int, asked: Any, picture: Any, max_new_tokens: int, temperature: float, generator: Any
) -> list[Said]:
    """One row, as one sequence under a block-diagonal mask: the cache holds the picture once, whatever is asked."""
    torch = require("torch", "realign")
    model, decoder, device = towers.model, towers.decoder(exit), towers.model.device
    prefix = [] if picture is None else towers.prompts.prefix
    packed = pack(prefix, [[(list(ids), list(ids)) for ids in asked]], [range(len(prefix))]).to(device)
    # Apart, because a prompt or an answer may say the image token without meaning a picture.
    parts = [embedded(model, packed.tokens[:, len(prefix) :], None)]
    if picture is not None:
        parts.insert(0, embedded(model, packed.tokens[:, : len(prefix)], picture))
    vectors, mask, positions = torch.cat(parts, 1), packed.mask, packed.positions
    owner, numbers = packed.segment[0], torch.arange(1, len(asked) + 1, device=device)
    last = torch.tensor([len(ids) for ids in asked], device=device).cumsum(0) + len(prefix) - 1
    said: list[list[int]] = [[] for _ in asked]
    scores: list[list[float]] = [[] for _ in asked]
    stops, cache = torch.tensor(sorted(towers.stop_tokens), device=device), None
    for _ in range(max_new_tokens):
        out = decoder(
            inputs_embeds=vectors,
            attention_mask=mask.to(vectors.dtype),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        cache, positions = out.past_key_values, positions[:, last]
        # The head in float32 as in the update, whatever the blocks run in: casting its weight costs more than it saves.
        with torch.autocast(device.type, enabled=False):
            chances = model.lm_head(out.last_hidden_state[0, last].float()).log_softmax(-1)
        chosen = _choose(chances, temperature, generator)
        picked = chances.gather(1, chosen[:, None])[:, 0]
        for number, token, score in zip(numbers.tolist(), chosen.tolist(), picked.tolist(), strict=True):
            said[number - 1].append(token)
            scores[number - 1].append(score)
        # Finished answers are fed no further: refusals are short, and what stays gets faster.
        going = (~torch.isin(chosen, stops)).nonzero()[:, 0]
        if not len(going):
            break
        numbers, positions = numbers[going], positions[:, going] + 1
        owner = torch.cat([owner, numbers])
        sees = (owner == 0) | (owner == numbers[:, None])
        mask = torch.zeros(sees.shape, device=device).masked_fill(~sees, float("-inf"))[None, None]
        vectors, last = embedded(model, chosen[going][None], None), torch.arange(len(going), device=device)
    return [Said(tuple(tokens), tuple(logprobs)) for tokens, logprobs in zip(said, scores, strict=True)]


def _choose(chances: Any, temperature: float, generator: Any) -> Any:
    torch = require("torch", "realign")
    if temperature == 0:
        return chances.argmax(-1)
    return torch.multinomial((chances / temperature).softmax(-1), 1, generator=generator)[:, 0]
