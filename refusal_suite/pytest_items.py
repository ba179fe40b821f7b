"""The tests that the pytest plugin adds: per depth one for its admission, and one per category of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jetson_runtime.admission import ADMITTED
from jetson_runtime.errors import ConfigError, HoldfastError, InputError
from refusal_suite.bundle_answers import BundleAnswers
from refusal_suite.paired import HELD, WORSE, Difference, Rule, differences

__all__ = ["BundleCollector"]

_ALPHA = 0.05


class BundleFailure(Exception):
    """A test of a bundle that did not hold; the message has figures and ids."""


def _message(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """What a failure or one of our errors says; nothing for any other, which then is shown with its traceback."""
    return str(excinfo.value) if isinstance(excinfo.value, (BundleFailure, HoldfastError)) else ""


class BundleCollector(pytest.Collector):
    """Opens the bundle and collects one collector per depth."""

    def collect(self) -> Iterator[pytest.Collector]:
        """The depths, shallowest first."""
        option = self.config.getoption
        rule = Rule(option("--refusal-margin"), _ALPHA)
        if not 0 < rule.margin < 1:
            raise InputError("--refusal-margin can't be used", found=rule.margin_points, expected="between 0 and 100")
        answers = BundleAnswers.open(
            option("--bundle"),
            trust=option("--bundle-trust"),
            prompts=option("--bundle-prompts"),
            backend=option("--bundle-backend") if option("--bundle-run") else None,
        )
        for name in _chosen(answers, option("--bundle-depth")):
            yield DepthCollector.from_parent(self, name=name, answers=answers, rule=rule)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Our own errors as their message."""
        return _message(excinfo) or super().repr_failure(excinfo)


def _chosen(answers: BundleAnswers, wanted: Sequence[str]) -> list[str]:
    for name in wanted:
        if name not in answers.depths:
            raise ConfigError(
                f"the bundle has no depth '{name}'",
                found=", ".join(answers.depths),
                remedy="name one of these with --bundle-depth",
            )
    return [name for name in answers.depths if not wanted or name in wanted]


class DepthCollector(pytest.Collector):
    """The tests of one depth."""

    def __init__(self, *, answers: BundleAnswers, rule: Rule, **node: Any) -> None:
        super().__init__(**node)
        self.answers, self.rule = answers, rule

    def collect(self) -> Iterator[pytest.Item]:
        """The admission, then the categories by name."""
        more = {"answers": self.answers, "rule": self.rule}
        yield AdmissionItem.from_parent(self, name="admission", **more)
        for category in self.answers.categories(self.name):
            yield CategoryItem.from_parent(self, name=category, **more)


class BundleItem(pytest.Item):
    """One test on one depth."""

    def __init__(self, *, answers: BundleAnswers, rule: Rule, **node: Any) -> None:
        super().__init__(**node)
        self.answers, self.rule = answers, rule

    @property
    def depth(self) -> str:
        """The depth that is tested."""
        assert self.parent is not None
        return self.parent.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A failure and our own errors as their message."""
        return _message(excinfo) or super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """The bundle is where it comes from."""
        return self.answers.bundle.path, None, self.nodeid

    def check(self, found: Sequence[Difference], failed: Sequence[Difference], what: str) -> None:
        """Fail with the figures of those that failed, or keep all figures with the test (`-rP` shows them)."""
        if not failed:
            self.add_report_section("call", "refusals", "\n".join(one.words(self.rule) for one in found))
        else:
            lines = [what, *(line for one in failed for line in (one.words(self.rule), *one.flips()))]
            raise BundleFailure("\n  ".join(lines))


class AdmissionItem(BundleItem):
    """The depth is admitted; asked anew, it does not answer worse than when it was admitted."""

    def runtest(self) -> None:
        """Fail with the gate's reason, or with what got worse."""
        verdict = self.answers.verdict(self.depth)
        if verdict.verdict != ADMITTED:
            raise BundleFailure(f"{self.depth} is {verdict.verdict}: {verdict.reason}")
        if self.answers.anew:
            recorded, now = self.answers.recorded(self.depth), self.answers.now(self.depth)
            found = differences(recorded, now, self.rule)
            failed = [one for one in found if one.outcome != HELD]
            self.check(found, failed, f"{self.depth} is not shown to answer as it did when it was admitted")


class CategoryItem(BundleItem):
    """The depth is not shown to be worse than the reference in this category by more than the margin."""

    def runtest(self) -> None:
        """Fail with figures and the ids that flipped."""
        reference, answers = self.answers.reference(self.name), self.answers.now(self.depth)
        found = differences(reference, {id_: answers[id_] for id_ in reference}, self.rule)
        failed = [one for one in found if one.outcome == WORSE]
        self.check(found, failed, f"{self.depth} is worse than {self.answers.reference_name} in {self.name}")
