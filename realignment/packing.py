"""Several questions about one picture in one sequence, with the same result as one sequence per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError

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

    def to(self, device: Any) -> Packed:
        """The same batch on `device`."""
        return Packed(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class Prompts:
    """One user turn as tokens, cut where prompts about the same picture part.

    A prompt with a picture is `prefix`, which ends with the picture's last token, and the tokens of `asked`; a prompt
    without one is `asked` alone. `image_token_id` marks the `image_tokens` places that the projector fills.
    """

    def __init__(self, processor: Any, image_token_id: int, image_tokens: int) -> None:
        self.tokenizer, self.image_token_id, self.image_tokens = processor.tokenizer, image_token_id, image_tokens
        self._processor = processor
        self._image_token: str = self.tokenizer.convert_ids_to_tokens(image_token_id)
        prompt = self._prompt("a", image=True)
        self.first_image_token = prompt.index(image_token_id)
        self.prefix: list[int] = prompt[: self.first_image_token + image_tokens]

    def _prompt(self, text: str, *, image: bool) -> list[int]:
        content = [{"type": "image"}] * image + [{"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        rendered: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if image:
            rendered = rendered.replace(self._image_token, self._image_token * self.image_tokens, 1)
        bos = self.tokenizer.bos_token
        ids: list[int] = self.tokenizer.encode(rendered, add_special_tokens=not (bos and rendered.startswith(bos)))
        return ids

    def asked(self, text: str, *, image: bool = True) -> list[int]:
        """The prompt's own tokens: after `prefix` with a picture, all of them without."""
        prompt = self._prompt(text, image=image)
        if not image:
            return prompt
        if prompt[: len(self.prefix)] != self.prefix:
            raise CheckpointError(
                "the chat template puts text before the picture",
                expected="a template that renders the picture first, as LLaVA's do",
                remedy="use the template that the checkpoint was trained with",
            )
        return prompt[len(self.prefix) :]

    def segment(self, text: str, answer: str, *, image: bool = True) -> tuple[list[int], list[int]]:
        """The prompt's own tokens and the answer's, without its end mark; and their labels, with it."""
        return self.answered(
            self.asked(text, image=image),
            [*self.tokenizer.encode(answer, add_special_tokens=False), self.tokenizer.eos_token_id],
        )

    @staticmethod
    def answered(asked: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
        """Tokens and labels for `asked` continued by `answer`; the last token of `answer` is a label only."""
        return [*asked, *answer[:-1]], [*[IGNORED] * (len(asked) - 1), *answer]


def pick_image_tokens(prompts: Prompts, count: int, generator: Any) -> list[int]:
    """Indices into the prefix: everything but the picture, and `count` of its tokens, drawn, in their order."""
    torch = require("torch", "realign")
    first, image = prompts.first_image_token, list(range(prompts.image_tokens))
    if count < len(image):
        image = torch.randperm(len(image), generator=generator)[:count].sort().values.tolist()
    return [*range(first), *(first + i for i in image)]


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
