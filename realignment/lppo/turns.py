"""Exchanges as a sequence classifier reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jinja2

from jetson_runtime.errors import CheckpointError

__all__ = ["Turns"]

_LONGEST = 512
_PROMPT, _ANSWER = "promptword", "answerword"
_CONTENTS: tuple[Callable[[str], Any], ...] = (lambda text: text, lambda text: [{"type": "text", "text": text}])


class Turns:
    """Renders a prompt and its answer, and makes batches of tokens.

    The text is in the tokenizer's own chat template where that tells user and assistant apart; otherwise it is the
    prompt, an empty line, the answer. What is longer than 512 tokens, or than the model of `config` reads, loses its
    beginning, never the answer's end, which is where a classifier looks.

    Raises:
        CheckpointError: the tokenizer has nothing to fill batches with.
    """

    def __init__(self, tokenizer: Any, config: Any) -> None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise CheckpointError(
                "the tokenizer of the reward model can't fill batches",
                found="neither a padding token nor an end token",
                expected="one of them",
                remedy="set pad_token in tokenizer_config.json",
            )
        tokenizer.truncation_side = "left"
        self.tokenizer, self.pad_token_id = tokenizer, tokenizer.pad_token_id
        self._limit = min(getattr(config, "max_position_embeddings", None) or _LONGEST, _LONGEST)
        self._content = next((content for content in _CONTENTS if _tells_apart(tokenizer, content)), None)

    def text(self, prompt: str, answer: str) -> str:
        """One exchange as text."""
        if self._content is None:
            return f"{prompt}\n\n{answer}"
        return _rendered(self.tokenizer, self._content, prompt, answer)

    def batch(self, prompts: Sequence[str], answers: Sequence[str], device: Any) -> dict[str, Any]:
        """`input_ids` and `attention_mask`, int64 [exchanges, tokens], padded on the right."""
        tensors = self.tokenizer(
            [self.text(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self._limit,
            # A template writes its own special tokens.
            add_special_tokens=self._content is None,
        )
        return {name: tensors[name].to(device) for name in ("input_ids", "attention_mask")}


def _rendered(tokenizer: Any, content: Callable[[str], Any], prompt: str, answer: str) -> str:
    messages = [{"role": "user", "content": content(prompt)}, {"role": "assistant", "content": content(answer)}]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    return text


def _tells_apart(tokenizer: Any, content: Callable[[str], Any]) -> bool:
    """Templates that expect content of another form can leave it out without a word, so a probe is rendered."""
    if not tokenizer.chat_template:
        return False
    try:
        rendered = _rendered(tokenizer, content, _PROMPT, _ANSWER)
    except (jinja2.TemplateError, TypeError):
        return False
    _, _, rest = rendered.partition(_PROMPT)
    between, answer, _ = rest.partition(_ANSWER)
    # A template that expects strings prints a list of parts as it is.
    return bool(answer and between.strip()) and "'text'" not in rendered
