"""What every judge is: a name with its version, and verdicts for a batch of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from jinja2 import TemplateError

from jetson_runtime.errors import BackendError
from refusal_suite.judge import INCOHERENT, JUDGE, Verdict, judge
from refusal_suite.prompts import Prompt

__all__ = ["Judge", "RulesJudge", "coherent_first", "model_errors"]


class Judge(Protocol):
    """Judges answers in batches.

    `name` stands in every report and changes whenever a verdict could: counts by different judges can't be compared.
    """

    @property
    def name(self) -> str:
        """Which judge this is, and which version of it."""

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Verdict]:
        """One verdict per answer, in order; `prompts` are what they answer.

        Raises:
            BackendError: the judge gave no verdict.
        """


class RulesJudge:
    """The rules of `refusal_suite.judge`."""

    name = JUDGE

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Verdict]:
        """One verdict per answer."""
        return [judge(answer, prompt.text) for prompt, answer in zip(prompts, answers, strict=True)]


def coherent_first(
    name: str,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    decide: Callable[[Sequence[Prompt], Sequence[str]], list[Verdict]],
) -> list[Verdict]:
    """Verdicts of a judge that knows no `incoherent`: the rules take those that say nothing, `decide` the rest."""
    found: list[Verdict | None] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        by_rules = judge(answer, prompt.text)
        said = by_rules.label != INCOHERENT
        found.append(None if said else Verdict(INCOHERENT, f"coherence-{by_rules.rule}", name))
    left = [index for index, verdict in enumerate(found) if verdict is None]
    decided = iter(decide([prompts[index] for index in left], [answers[index] for index in left]) if left else ())
    return [next(decided) if verdict is None else verdict for verdict in found]


@contextmanager
def model_errors(name: str) -> Iterator[None]:
    """Turn what a model's library raises while it judges into a BackendError: no memory, an unfit template."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TemplateError) as error:
        raise BackendError(
            f"the judge {name} can't judge these answers",
            found=type(error).__name__,
            remedy="check that tokenizer and chat template are those of its makers, and that it fits the memory",
        ) from error
