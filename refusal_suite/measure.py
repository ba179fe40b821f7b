"""Asks a bundle every prompt at every depth and schedule, one greedy answer each, and judges the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from jetson_runtime.errors import BackendError, ConfigError, InputError
from jetson_runtime.ladder import Ladder, OperatingPoint, Schedule
from refusal_suite.judge import Verdict
from refusal_suite.judges import Judge, RulesJudge
from refusal_suite.margins import Margins
from refusal_suite.prompts import Prompt, PromptSet

if TYPE_CHECKING:
    from jetson_runtime.runtime import Answer, Runtime

__all__ = ["ALL", "Item", "choose_depths", "choose_schedules", "measure", "same_answers", "unique_ids"]

ALL = "all"


@dataclass(frozen=True)
class Item:
    """One judged answer, and its prompt's margin where one was taken (see `refusal_suite.margins`).

    The report carries the answer's digest; the answer itself stays with the caller.
    """

    prompt: Prompt
    answer: str = field(repr=False)
    verdict: Verdict
    tokens: int
    finish_reason: str
    margin: float | None = None

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


def choose_schedules(ladder: Ladder, names: Sequence[str] | None) -> list[Schedule]:
    """The named schedules, or with `ALL` among the names every one of the ladder, in the ladder's order.

    Raises:
        InputError: the ladder has no schedule of that name.
    """
    chosen = {ladder.schedule(name) for name in names or () if name != ALL}
    return [schedule for schedule in ladder.schedules() if schedule in chosen or ALL in (names or ())]


def same_answers(points: Sequence[OperatingPoint]) -> dict[str, str]:
    """For every point's name that of the first of `points` which gives the same answers: its own where it is the first.

    Equal operations are equal computations, so what is measured once holds for all of them.
    """
    first: dict[tuple[int, ...], str] = {}
    return {point.name: first.setdefault(point.operation, point.name) for point in points}


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
    points: Sequence[OperatingPoint],
    max_tokens: int,
    judge: Judge | None = None,
    *,
    quiet: bool = False,
) -> Iterator[tuple[str, list[Item]]]:
    """For each depth or schedule its name and one item per prompt, in the order of the sets.

    A prompt without a picture is asked once for all points that differ in the vision exit only.

    Without a `judge` the rules decide. `quiet` is for callers that show the progress themselves.

    Raises:
        InputError: the bundle can't take a prompt; names its id. BackendError: an engine or the judge failed.
    """
    judge = judge or RulesJudge()
    prompts = [prompt for each in sets for prompt in each.prompts]
    margins = Margins(runtime)
    known: dict[tuple[str, tuple[int, ...]], Item] = {}
    with tqdm(total=len(prompts) * len(points), unit="answer", disable=quiet or None) as progress:
        for point in points:
            progress.set_description(point.name)
            places = [(prompt.id, point.operation[1:]) for prompt in prompts]
            said = {}
            for place, prompt in zip(places, prompts, strict=True):
                if place not in known:
                    said[place] = _ask(runtime, margins, prompt, point, max_tokens)
                progress.update()
            asked = [prompt for place, prompt in zip(places, prompts, strict=True) if place in said]
            items = known | dict(zip(said, _judged(asked, list(said.values()), judge), strict=True))
            yield point.name, [items[place] for place in places]
            known |= {place: items[place] for place, prompt in zip(said, asked, strict=True) if prompt.image is None}


def _judged(prompts: Sequence[Prompt], said: Sequence[tuple[Answer, float | None]], judge: Judge) -> list[Item]:
    verdicts = judge(prompts, [answer.text for answer, _ in said])
    return [
        Item(prompt, answer.text, verdict, len(answer.tokens), answer.finish_reason, margin)
        for prompt, (answer, margin), verdict in zip(prompts, said, verdicts, strict=True)
    ]


def _ask(
    runtime: Runtime, margins: Margins, prompt: Prompt, point: OperatingPoint, max_tokens: int
) -> tuple[Answer, float | None]:
    from jetson_runtime import Request

    request = Request(
        prompt=prompt.text,
        image=prompt.image,
        max_tokens=max_tokens,
        temperature=0.0,
        depth=None if isinstance(point, Schedule) else point.name,
        schedule=point.name if isinstance(point, Schedule) else None,
    )
    try:
        answer = runtime.invoke(request)
    except InputError as error:
        raise InputError(
            f"prompt '{prompt.id}' at {_kind(point)} {point.name}: {error.what}",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        ) from error
    _check_depths(answer, prompt, point)
    return answer, margins(prompt, point)


def _kind(point: OperatingPoint) -> str:
    return type(point).__name__.lower()


def _check_depths(answer: Answer, prompt: Prompt, point: OperatingPoint) -> None:
    used = [answer.depth.name, *(token.depth for token in answer.tokens)]
    expected = [point.start.name, *(point.depth_at(given).name for given in range(len(answer.tokens)))]
    if used != expected:
        raise BackendError(
            f"prompt '{prompt.id}' was not answered at the {_kind(point)} that was asked for",
            found=", ".join(dict.fromkeys(used)),
            expected=f"{point.name}: {', '.join(dict.fromkeys(expected))}",
            remedy="report this: a refusal measured at one depth says nothing about another",
        )
