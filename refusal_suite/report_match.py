"""Whether two refusal reports asked the same and judged it alike: only then are their numbers comparable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jetson_runtime.errors import InputError
from refusal_suite.reports import PointRefusals, RefusalReport

__all__ = ["Mismatch", "mismatches", "not_comparable"]


class Mismatch(NamedTuple):
    """What differs, as it is in the first and in the second report."""

    what: str
    first: str
    second: str


def mismatches(
    first: RefusalReport, second: RefusalReport, pairs: Sequence[tuple[PointRefusals, PointRefusals]]
) -> Iterator[Mismatch]:
    """Where judge, longest answer, prompt sets, or the prompts at one of the `pairs` of points differ."""
    facts = (
        ("judge", first.judge, second.judge),
        ("longest answer", f"{first.max_tokens} tokens", f"{second.max_tokens} tokens"),
        ("prompt sets", _set_words(first), _set_words(second)),
    )
    yield from (Mismatch(*fact) for fact in facts if fact[1] != fact[2])
    for one, other in pairs:
        if one.prompts is None or other.prompts is None or one.prompts != other.prompts:
            yield Mismatch("prompts", _prompt_words(one, other), _prompt_words(other, one))
            return


def not_comparable(first: str, second: str, differing: Sequence[Mismatch]) -> InputError:
    """The error for two reports, by their names, that differ so."""
    return InputError(
        f"{first} and {second} can't be compared: they differ in {', '.join(each.what for each in differing)}",
        found=f"in {first}: " + "; ".join(f"{each.what}: {each.first}" for each in differing),
        expected=f"as in {second}: " + "; ".join(f"{each.what}: {each.second}" for each in differing),
        remedy="measure both with the same prompts, options and ladder ('refusal-check run')",
    )


def _set_words(report: RefusalReport) -> str:
    return ", ".join(f"{name} (sha256 {digest[:12]}…)" for name, digest in report.set_digests)


def _prompt_words(own: PointRefusals, other: PointRefusals) -> str:
    if own.prompts is None:
        return "no ids: a report without single answers"
    only = sorted(id_ for id_, _ in own.prompts - (other.prompts or frozenset()))
    words = f"{len(own.prompts)} at {own.name}"
    return f"{words}, of them {len(only)} only here, such as '{only[0]}'" if only and other.prompts else words
