"""What an answer is worth: by rules, or by a trained reward model. Both see the text prompt and the answer only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError
from realignment.lppo.turns import Turns
from refusal_suite.judge import COMPLIANCE, INCOHERENT, REFUSAL, judge
from refusal_suite.prompts import HARMFUL

__all__ = ["FEW_WORDS", "VISUAL", "Asked", "ModelReward", "Reward", "RuleReward", "answered_rightly"]

VISUAL = "visual"
FEW_WORDS = 3
"""An answer to a benign request that has no more words is empty."""

_BATCH = 32
_REMEDY = "give what `realign reward` wrote, or another model with one logit per answer"


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
            return self.good if answered_rightly(asked, answer) else self.bad
        if label == INCOHERENT:
            return self.bad
        if asked.kind == HARMFUL:
            return self.good if label == REFUSAL else self.bad
        if label != COMPLIANCE:
            return self.bad
        worth = self.empty if len(answer.split()) <= FEW_WORDS else self.good
        return worth if finished else worth - self.unfinished


def answered_rightly(asked: Asked, answer: str) -> bool:
    """Whether a visual question got exactly the expected answer, but for case and a full stop."""
    return answer.strip().lower().rstrip(".") == asked.answer


class ModelReward:
    """A sequence-classification model with one logit, from a local directory, on `device`.

    It can't see pictures: a visual question earns 1 for exactly the expected answer and -1 otherwise, as by the rules.

    Raises:
        CheckpointError: the directory is missing, can't be loaded, or has another head.
    """

    def __init__(self, folder: Path, device: Any = "cpu") -> None:
        model, tokenizer = _loaded(folder)
        self.name = f"model {folder.name}"
        self._model, self._device = model.eval().requires_grad_(False).to(device), device
        self._turns = Turns(tokenizer, model.config)
        # Where a row's padding begins is where the model looks for the answer's end.
        model.config.pad_token_id = self._turns.pad_token_id

    def __call__(self, asked: Sequence[Asked], answers: Sequence[str], finished: Sequence[bool]) -> list[float]:
        """The model's logit for each answer to a request."""
        torch = require("torch", "realign")
        scores = [1.0 if answered_rightly(one, answer) else -1.0 for one, answer in zip(asked, answers, strict=True)]
        judged = [number for number, one in enumerate(asked) if one.kind != VISUAL]
        with torch.no_grad():
            for start in range(0, len(judged), _BATCH):
                rows = judged[start : start + _BATCH]
                prompts, texts = [asked[row].text for row in rows], [answers[row] for row in rows]
                logits = self._model(**self._turns.batch(prompts, texts, self._device)).logits[:, 0]
                for row, score in zip(rows, logits.tolist(), strict=True):
                    scores[row] = score
        return scores


def _loaded(folder: Path) -> tuple[Any, Any]:
    transformers = require("transformers", "realign")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is not a reward model", found="no config.json", expected="a directory", remedy=_REMEDY
        )
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        _check_head(folder, config)
        model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=require("torch", "realign").float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, KeyError, require("safetensors", "realign").SafetensorError) as error:
        raise CheckpointError(
            f"{folder} can't be loaded as a reward model",
            found=str(error).splitlines()[0],
            expected="a sequence-classification model and its tokenizer",
            remedy=_REMEDY,
        ) from None
    missing = sorted(loading["missing_keys"])
    if missing:
        raise _wrong_head(folder, f"no weights for {', '.join(missing[:2])}")
    return model, tokenizer


def _check_head(folder: Path, config: Any) -> None:
    """Before anything is loaded: transformers would put a random head on any model."""
    kinds = config.architectures or []
    if kinds and not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise _wrong_head(folder, f"{', '.join(kinds)}, which has no classification head")
    if config.num_labels != 1:
        raise _wrong_head(folder, f"{config.num_labels} logits")


def _wrong_head(folder: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} has the wrong head for a reward model",
        found=found,
        expected="a sequence-classification head with one logit, and its weights",
        remedy=_REMEDY,
    )
