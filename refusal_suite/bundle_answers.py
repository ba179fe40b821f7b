"""The answers of a bundle's depths, as recorded when it was admitted or asked anew, for tests that judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jetson_runtime.admission import NOT_TESTED, Admissions, Verdict
from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import InputError
from refusal_suite.admitted import admitted_report
from refusal_suite.measure import measure
from refusal_suite.prompts import BUILTIN, PromptSet, load_prompts
from refusal_suite.reports import AnswerLabel, RefusalReport

__all__ = ["BundleAnswers"]

Answers = Mapping[str, AnswerLabel]


@dataclass(frozen=True)
class BundleAnswers:
    """An opened bundle's admitted report; with a `backend` its prompts are asked anew, a depth at a time, once each.

    The reference is full depth as it was recorded.
    """

    path: Path
    admissions: Admissions
    report: RefusalReport
    sets: Sequence[PromptSet]
    backend: str | None
    _asked: dict[str, Answers] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path, *, prompts: Sequence[Path], backend: str | None) -> BundleAnswers:
        """Open the bundle, every byte checked; `prompts` are the report's prompt sets, needed only with a `backend`.

        Raises:
            BundleError: it can't be opened, or carries no admissions for its engines.
            InputError: its report can't be read, has no single answers, or was measured with other prompt sets.
        """
        admissions, report = admitted_report(open_bundle(path))
        if any(depth.answers is None for depth in report.depths):
            raise InputError(
                f"the report in {path} has no single answers",
                expected="items at every depth",
                remedy="run 'refusal-check gate' on this bundle",
            )
        sets = [] if backend is None else _sets(prompts or [BUILTIN], report)
        return cls(path, admissions, report, sets, backend)

    @property
    def anew(self) -> bool:
        """Whether the prompts are asked now."""
        return self.backend is not None

    @property
    def depths(self) -> list[str]:
        """The depths that were measured, shallowest first."""
        return [depth.name for depth in self.report.depths]

    @property
    def reference_name(self) -> str:
        """What every depth is compared with."""
        return f"{self.depths[-1]} as recorded"

    def categories(self, depth: str) -> list[str]:
        """The categories of the prompts, by name."""
        return sorted({one.category for one in self.recorded(depth).values() if one.category is not None})

    def verdict(self, depth: str) -> Verdict:
        """The gate's verdict."""
        return self.admissions.depths.get(depth, Verdict(NOT_TESTED, "the admissions do not name it"))

    def recorded(self, depth: str) -> Answers:
        """What the depth answered when the bundle was admitted."""
        return next(each.answers for each in self.report.depths if each.name == depth) or {}

    def reference(self, category: str) -> Answers:
        """What the reference answered to the prompts of a category."""
        answers = self.recorded(self.depths[-1])
        return {id_: one for id_, one in answers.items() if one.category == category}

    def now(self, depth: str) -> Answers:
        """What the depth answers: asked anew if a backend was given, else as recorded."""
        if self.backend is None:
            return self.recorded(depth)
        if depth not in self._asked:
            import jetson_runtime

            with jetson_runtime.load(self.path, backend=self.backend) as runtime:
                ((_, items),) = measure(runtime, self.sets, [depth], self.report.max_tokens)
            self._asked[depth] = {
                item.prompt.id: AnswerLabel(item.prompt.kind, item.verdict.label, item.prompt.category)
                for item in items
            }  # fmt: skip
        return self._asked[depth]


def _sets(paths: Sequence[Path], report: RefusalReport) -> list[PromptSet]:
    """The prompts that the report asked, out of the files."""
    whole = [load_prompts(path) for path in paths]
    digests = sorted(each.sha256 for each in whole)
    expected = sorted(digest for _, digest in report.set_digests)
    if digests != expected:
        raise InputError(
            "the prompt sets are not those that the bundle was admitted with",
            found=", ".join(f"{each.name} (sha256 {each.sha256[:12]}…)" for each in whole),
            expected=", ".join(f"{name} (sha256 {digest[:12]}…)" for name, digest in report.set_digests),
            remedy="give those files with --bundle-prompts",
        )
    asked = set(report.depths[-1].answers or {})
    return [replace(each, prompts=tuple(one for one in each.prompts if one.id in asked)) for each in whole]
