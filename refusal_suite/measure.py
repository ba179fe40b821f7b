"""Asks a bundle every prompt at every depth, one greedy answer each, and judges the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from jetson_runtime.errors import BackendError, ConfigError, InputError
from refusal_suite.judge import Verdict
from refusal_suite.judges import Judge, RulesJudge
from refusal_suite.prompts import Prompt, PromptSet

if TYPE_CHECKING:
    from jetson_runtime.runtime import Answer, Runtime

__all__ = ["Item", "choose_depths", "measure", "unique_ids"]


@dataclass(frozen=True)
class Item:
    """One judged answer. The report carries the answer's digest; the answer itself stays with the caller."""

    prompt: Prompt
    answer: str = field(repr=False)
    verdict: Verdict
    tokens: int
    finish_reason: str

    @property
    def sha256(self) -> str:
        """The digest of the answer: equal digests are equal answers."""
        return hashlib.sha256(self.answer.encode("utf-8", "surrogatepass")).hexdigest()


def choose_depths(runtime: Runtime, names: Sequence[str] | None) -> list[str]:
    """The named depths, or all of the bundle's ladder, in the ladder's order.

    Raises:
        ConfigError: the ladder has no depth of that name.
    """
    ladder = [depth["name"] for depth in runtime.describe()["ladder"]]
    for name in names or ():
        if name not in ladder:
            raise ConfigError(
                f"the bundle has no depth '{name}'", found=", ".join(ladder), remedy="name one of these with --depth"
            )
    return [name for name in ladder if not names or name in names]


def unique_ids(sets: Sequence[PromptSet]) -> None:
    """Raise InputError when two sets share an id: results are told apart by it."""
    owner: dict[str, str] = {}
    for prompts in sets:
        for prompt in prompts.prompts:
            if prompt.id in owner:
                raise InputError(
                    f"the id '{prompt.id}' occurs twice",
                    found=f"in '{owner[prompt.id]}' and in '{prompts.name}'",
                    remedy="give each set once, and ids that no other set uses",
                )
            owner[prompt.id] = prompts.name


def measure(
    runtime: Runtime,
    sets: Sequence[PromptSet],
    depths: Sequence[str],
    max_tokens: int,
    judge: Judge | None = None,
) -> Iterator[tuple[str, list[Item]]]:
    """For each depth its name and one item per prompt, in the order of the sets; nothing is kept in between.

    Without a `judge` the rules decide.

    Raises:
        InputError: the bundle can't take a prompt; names its id. BackendError: an engine or the judge failed.
    """
    judge = judge or RulesJudge()
    prompts = [prompt for each in sets for prompt in each.prompts]
    with tqdm(total=len(prompts) * len(depths), unit="answer", disable=None) as progress:
        for depth in depths:
            progress.set_description(depth)
            answers = []
            for prompt in prompts:
                answers.append(_ask(runtime, prompt, depth, max_tokens))
                progress.update()
            yield depth, _judged(prompts, answers, judge)


def _judged(prompts: Sequence[Prompt], answers: Sequence[Answer], judge: Judge) -> list[Item]:
    verdicts = judge(prompts, [answer.text for answer in answers])
    return [
        Item(prompt, answer.text, verdict, len(answer.tokens), answer.finish_reason)
        for prompt, answer, verdict in zip(prompts, answers, verdicts, strict=True)
    ]


def _ask(runtime: Runtime, prompt: Prompt, depth: str, max_tokens: int) -> Answer:
    from jetson_runtime import Request

    request = Request(prompt=prompt.text, image=prompt.image, max_tokens=max_tokens, temperature=0.0, depth=depth)
    try:
        answer = runtime.invoke(request)
    except InputError as error:
        raise InputError(
            f"prompt '{prompt.id}' at depth {depth}: {error.what}",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        ) from error
    _check_depth(answer, prompt, depth)
    return answer


def _check_depth(answer: Answer, prompt: Prompt, depth: str) -> None:
    used = {answer.depth.name, *(token.depth for token in answer.tokens)}
    if used != {depth}:
        raise BackendError(
            f"prompt '{prompt.id}' was not answered at the depth that was asked for",
            found=", ".join(sorted(used)),
            expected=depth,
            remedy="report this: a refusal measured at one depth says nothing about another",
        )
