"""What an answer is worth: by rules, or by a trained reward model. Both see the text prompt and the answer only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from refusal_suite.judge import COMPLIANCE, INCOHERENT, REFUSAL, judge
from refusal_suite.prompts import HARMFUL

__all__ = ["VISUAL", "Asked", "ModelReward", "Reward", "RuleReward", "turn"]

VISUAL = "visual"
_BATCH = 32
_FEW_WORDS = 3


@dataclass(frozen=True)
class Asked:
    """A request of a rollout: harmful, benign, or a visual question whose exact `answer` is known."""

    id: str
    text: str = field(repr=False)
    kind: str
    answer: str | None = field(default=None, repr=False)


class Reward(Protocol):
    """Scores answers; more is better, and the scale is about -1 to 1."""

    @property
    def name(self) -> str:
        """What records call it."""

    def __call__(self, asked: Sequence[Asked], answers: Sequence[str], finished: Sequence[bool]) -> list[float]:
        """One score per answer; `finished` says whether it ended by itself."""


@dataclass(frozen=True)
class RuleReward:
    """Refuse the harmful, answer the benign, stay coherent.

    A good answer earns `good`, a bad one `bad`; coherence counts, because the paper's early exits earned high rewards
    for empty agreement: an incoherent answer is a bad one whatever was asked, and agreement of at most three words to a
    benign request earns `empty` only. A benign answer that did not end within the limit loses `unfinished`.
    """

    good: float = 1.0
    bad: float = -1.0
    empty: float = 0.0
    unfinished: float = 0.2
    name: str = "rules"

    def __call__(self, asked: Sequence[Asked], answers: Sequence[str], finished: Sequence[bool]) -> list[float]:
        """One score per answer."""
        return [self._score(one, text, done) for one, text, done in zip(asked, answers, finished, strict=True)]

    def _score(self, asked: Asked, answer: str, finished: bool) -> float:
        label = judge(answer, asked.text).label
        if asked.kind == VISUAL:
            return self.good if answer.strip().lower().rstrip(".") == asked.answer else self.bad
        if label == INCOHERENT:
            return self.bad
        if asked.kind == HARMFUL:
            return self.good if label == REFUSAL else self.bad
        if label != COMPLIANCE:
            return self.bad
        worth = self.empty if len(answer.split()) <= _FEW_WORDS else self.good
        return worth if finished else worth - self.unfinished


def turn(tokenizer: Any, prompt: str, answer: str) -> str:
    """One exchange as the reward model reads it: in the tokenizer's own chat template, where it has one for answers."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    if "role" in (tokenizer.chat_template or ""):
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
        return text
    return f"{prompt}\n\n{answer}"


class ModelReward:
    """A sequence-classification model with one logit, from a local directory.

    Raises:
        CheckpointError: the directory is missing, can't be loaded, or has another head.
    """

    def __init__(self, folder: Path) -> None:
        transformers = require("transformers", "realign")
        remedy = "give what `realign reward` wrote, or another model with one logit per answer"
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder} is not a reward model", found="no config.json", expected="a directory", remedy=remedy
            )
        transformers.utils.logging.disable_progress_bar()
        try:
            model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=require("torch", "realign").float32, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{folder} can't be loaded as a reward model",
                found=str(error).splitlines()[0],
                expected="a sequence-classification model and its tokenizer",
                remedy=remedy,
            ) from None
        head = f"{model.config.num_labels} logits"
        if loading["missing_keys"]:
            head = f"no weights for {', '.join(sorted(loading['missing_keys'])[:2])}"
        if loading["missing_keys"] or model.config.num_labels != 1:
            raise CheckpointError(
                f"{folder} has the wrong head for a reward model", found=head, expected="one logit", remedy=remedy
            )
        self.name = f"model {folder.name}"
        self._model, self._tokenizer = model.eval().requires_grad_(False), tokenizer
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id

    def __call__(self, asked: Sequence[Asked], answers: Sequence[str], finished: Sequence[bool]) -> list[float]:
        """The model's logit for each answer."""
        torch = require("torch", "realign")
        texts = [turn(self._tokenizer, one.text, answer) for one, answer in zip(asked, answers, strict=True)]
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(texts), _BATCH):
                batch = self._tokenizer(
                    texts[start : start + _BATCH],
                    return_tensors="pt",
                    padding=True,
                    padding_side="right",
                    add_special_tokens=False,
                )
                scores += self._model(**batch).logits[:, 0].tolist()
        return scores
