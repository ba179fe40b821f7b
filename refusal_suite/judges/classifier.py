"""A sequence classifier as judge: one class per answer, its labels mapped to ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jetson_runtime.console import require
from refusal_suite.judge import INCOHERENT, JUDGE, Verdict
from refusal_suite.judges.protocol import coherent_first, model_errors
from refusal_suite.prompts import Prompt

__all__ = ["ANSWER", "PAIR", "TEXTS", "Classifier"]

PAIR, ANSWER = TEXTS = ("pair", "answer")
BATCH = 16


class Classifier:
    """`labels` are ours, in the order of the model's classes; the likeliest class decides.

    A model without a class for `incoherent` sees only the answers that say something by the rules.
    """

    version = f"classifier-1+{JUDGE}"

    def __init__(self, name: str, model: Any, tokenizer: Any, labels: Sequence[str], text: str = PAIR) -> None:
        self.name = name
        self._model, self._tokenizer = model, tokenizer
        self._labels, self._text = tuple(labels), text
        # One answer at a time where the tokenizer can't fill up a batch.
        self._batch = BATCH if tokenizer.pad_token_id is not None else 1
        if self._batch > 1 and model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Verdict]:
        """One verdict per answer; its rule is the class that the model gave."""
        if INCOHERENT in self._labels:
            return self._classes(prompts, answers)
        return coherent_first(self.name, prompts, answers, self._classes)

    def _classes(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Verdict]:
        found: list[Verdict] = []
        for start in range(0, len(answers), self._batch):
            said = list(answers[start : start + self._batch])
            asked = [prompt.text for prompt in prompts[start : start + self._batch]]
            with model_errors(self.name):
                classes = self._most_likely(asked, said)
            names = self._model.config.id2label
            found += [Verdict(self._labels[each], f"class-{names[each]}", self.name) for each in classes]
        return found

    def _most_likely(self, asked: list[str], said: list[str]) -> list[int]:
        torch = require("torch", "judge")
        given = self._tokenizer(
            *((asked, said) if self._text == PAIR else (said,)),
            padding=len(said) > 1,
            truncation=True,
            max_length=self._longest(),
            return_tensors="pt",
        ).to(self._model.device)
        with torch.inference_mode():
            return list(self._model(**given).logits.argmax(-1).tolist())

    def _longest(self) -> int:
        # A tokenizer that doesn't know its model's length says 1e30.
        return int(min(self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", 512)))
