"""Answers in batches: many prompts about few pictures, the picture's part of the KV cache computed once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from realignment.answers import embedded
from realignment.row_cache import RowCache, attending
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
    generators: Sequence[Any] | None = None,
) -> list[list[Said]]:
    """Answers of the decoder left at `exit`: for each row, one per prompt of that row.

    `asked[row]` are the prompts' tokens (`Prompts.asked`). `shown` is the rows' projected pictures, [rows, image
    tokens, width], or None for prompts without a picture. `temperature` 0 is greedy; otherwise each row draws from its
    own of `generators`, so that its answers don't depend on the other rows. Log-probabilities are those of the
    untempered distribution.

    Raises:
        CheckpointError: the decoder's class does not let its attention be replaced.
    """
    torch = require("torch", "realign")
    model, decoder, device = towers.model, towers.decoder(exit), towers.model.device
    prefix, prompts = [] if shown is None else towers.prompts.prefix, [ids for row in asked for ids in row]
    before = len(prefix) * len(asked)
    # All as one sequence, pictures first: the weights are read once for it, and no place is padding.
    vectors = embedded(model, torch.tensor([[token for ids in prompts for token in ids]], device=device), None)
    if shown is not None:
        # Apart, because a prompt or an answer may say the image token without meaning a picture.
        seen = embedded(model, torch.tensor([prefix] * len(asked), device=device), shown)
        vectors = torch.cat([seen.flatten(0, 1)[None], vectors], 1)
    places = [*list(range(len(prefix))) * len(asked), *(len(prefix) + n for ids in prompts for n in range(len(ids)))]
    positions = torch.tensor([places], device=device)
    last = torch.tensor([len(ids) for ids in prompts], device=device).cumsum(0) + before - 1
    numbers = torch.arange(len(prompts), device=device)
    owners = torch.tensor([row for row, some in enumerate(asked) for _ in some])
    said: list[list[int]] = [[] for _ in prompts]
    scores: list[list[float]] = [[] for _ in prompts]
    stops = torch.tensor(sorted(towers.stop_tokens), device=device)
    rows = RowCache(len(prefix), [[len(ids) for ids in row] for row in asked], max_new_tokens, device)
    with torch.no_grad(), attending(model.model.language_model, decoder):
        for _ in range(max_new_tokens):
            out = decoder(inputs_embeds=vectors, position_ids=positions, use_cache=False, rows=rows)
            if rows.layers != exit:
                raise CheckpointError(
                    "the decoder's attention can't be replaced",
                    found=f"{rows.layers} of {exit} blocks attend through transformers' AttentionInterface",
                    expected="all of them, as Llama, Mistral and Qwen2 do",
                    remedy="use a decoder whose class supports attention backends",
                )
            # The head in float32 as in the update: casting its weight costs more than a faster product saves.
            with torch.autocast(device.type, enabled=False):
                chances = model.lm_head(out.last_hidden_state[0, last].float()).log_softmax(-1)
            if temperature:
                counts = torch.bincount(owners, minlength=len(asked)).tolist()
                chosen = _drawn(chances / temperature, counts, generators or [None] * len(asked))
            else:
                chosen = chances.argmax(-1)
            picked = chances.gather(1, chosen[:, None])[:, 0]
            for number, token, score in zip(numbers.tolist(), chosen.tolist(), picked.tolist(), strict=True):
                said[number].append(token)
                scores[number].append(score)
            # Finished answers are fed no further: refusals are short, and what stays gets faster.
            going = (~torch.isin(chosen, stops)).nonzero()[:, 0]
            if not len(going):
                break
            rows.go_on(going)
            numbers, owners, positions = numbers[going], owners[going.cpu()], positions[:, last][:, going] + 1
            vectors, last = embedded(model, chosen[going][None], None), torch.arange(len(going), device=device)
    answers = iter([Said(tuple(tokens), tuple(logprobs)) for tokens, logprobs in zip(said, scores, strict=True)])
    return [[next(answers) for _ in row] for row in asked]


def _drawn(chances: Any, counts: Sequence[int], generators: Sequence[Any]) -> Any:
    """A token of each row of `chances` [rows, vocabulary]: one draw, looked up in the cumulative distribution.

    torch.multinomial draws a number for every token there is. In float64: else the sum would lose rare tokens.
    """
    torch = require("torch", "realign")
    heights = chances.double().softmax(-1).cumsum(-1)
    draws = [
        torch.rand(count, 1, dtype=heights.dtype, device=heights.device, generator=generator)
        for count, generator in zip(counts, generators, strict=True)
    ]
    found = torch.searchsorted(heights, torch.cat(draws) * heights[:, -1:], right=True)[:, 0]
    return found.clamp(max=heights.shape[1] - 1)
