"""Several questions about one picture in one sequence, with the same result as one sequence per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require
from realignment.assemble import IMAGE_TOKENS
from realignment.decoder import IMAGE_TOKEN, IMAGE_TOKEN_ID

__all__ = ["IGNORED", "Packed", "Prompts", "pack", "pick_image_tokens"]

IGNORED = -100


@dataclass(frozen=True)
class Packed:
    """A batch of B packed sequences of S tokens.

    `tokens`, `positions`, `labels`: int64 [B, S]; a label is the token that should come next, or IGNORED.
    `mask`: float [B, 1, S, S], 0 where row may see column and -inf elsewhere. `segment`: int64 [B, S], 0 the shared
    prefix, 1.. the questions, -1 padding.
    """

    tokens: Any
    positions: Any
    labels: Any
    mask: Any
    segment: Any


class Prompts:
    """Renders the chat template and cuts it where questions about the same picture part."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        prompt = self._prompt("")
        self.first_image_token = prompt.index(IMAGE_TOKEN_ID)
        self.prefix: list[int] = prompt[: self.first_image_token + IMAGE_TOKENS + 1]

    def _prompt(self, text: str, answer: str | None = None) -> list[int]:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        rendered = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer is None
        ).replace(IMAGE_TOKEN, IMAGE_TOKEN * IMAGE_TOKENS)
        ids: list[int] = self._tokenizer.encode(rendered, add_special_tokens=False)
        return ids

    def segment(self, text: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokens after the shared prefix, up to the answer's end mark, and their labels."""
        asked = self._prompt(text)
        end = self._tokenizer.eos_token_id
        full = self._prompt(text, answer)
        full = full[: len(full) - full[::-1].index(end)]
        start = len(self.prefix)
        if full[:start] != self.prefix or full[: len(asked)] != asked:
            raise AssertionError("the chat template does not keep the prompt as a prefix of the answered prompt")
        labels = [full[i + 1] if i + 1 >= len(asked) else IGNORED for i in range(start, len(full) - 1)]
        return full[start:-1], labels


def pick_image_tokens(prefix: Sequence[int], count: int, generator: Any) -> list[int]:
    """Indices into `prefix`: everything but the image, and `count` image tokens drawn without order changed."""
    torch = require("torch", "realign")
    image = [i for i, token in enumerate(prefix) if token == IMAGE_TOKEN_ID]
    if count < len(image):
        chosen = torch.randperm(len(image), generator=generator)[:count].tolist()
        image = [image[i] for i in chosen]
    return sorted([i for i, token in enumerate(prefix) if token != IMAGE_TOKEN_ID] + image)


def pack(
    prefix: Sequence[int], rows: Sequence[Sequence[tuple[list[int], list[int]]]], kept: Sequence[Sequence[int]]
) -> Packed:
    """One sequence per row: the prefix, then the row's segments, each of which sees the prefix and itself only.

    `kept[b]` are the indices of the prefix that row b keeps; every token keeps the position that it has in a single
    question with the whole prefix.
    """
    torch = require("torch", "realign")
    lengths = [len(keep) + sum(len(tokens) for tokens, _ in row) for row, keep in zip(rows, kept, strict=True)]
    shape = (len(rows), max(lengths))
    tokens, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels, segment = torch.full(shape, IGNORED), torch.full(shape, -1)
    for b, (row, keep) in enumerate(zip(rows, kept, strict=True)):
        at = len(keep)
        tokens[b, :at] = torch.tensor([prefix[i] for i in keep])
        positions[b, :at] = torch.tensor(keep)
        segment[b, :at] = 0
        for number, (ids, wanted) in enumerate(row, start=1):
            stop = at + len(ids)
            tokens[b, at:stop], labels[b, at:stop] = torch.tensor(ids), torch.tensor(wanted)
            positions[b, at:stop] = torch.arange(len(prefix), len(prefix) + len(ids))
            segment[b, at:stop] = number
            at = stop
    order = torch.arange(shape[1])
    causal = order[None, :, None] >= order[None, None, :]
    same = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
    mask = torch.zeros((shape[0], 1, shape[1], shape[1])).masked_fill(~(causal & same)[:, None], float("-inf"))
    return Packed(tokens, positions, labels, mask, segment)
