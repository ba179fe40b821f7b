"""The answers of a bundle's depths, as recorded when it was admitted or asked anew, for tests that judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jetson_runtime.admission import NOT_TESTED, Admissions, Verdict
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.errors import InputError
from jetson_runtime.trust import Trust
from refusal_suite.admitted import admitted_report
from refusal_suite.judges import RulesJudge
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

    bundle: Bundle
    admissions: Admissions
    report: RefusalReport
    sets: Sequence[PromptSet]
    backend: str | None
    _asked: dict[str, Answers] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls, path: Path, *, trust: Path | None = None, prompts: Sequence[Path] = (), backend: str | None = None
    ) -> BundleAnswers:
        """Open the bundle, every byte checked, and by the trust file its signatures.

        `prompts` are the report's prompt sets, needed only with a `backend`.

        Raises:
            BundleError: it can't be opened, or carries no admissions for its engines.
            ConfigError: no trust file.
            InputError: its report can't be read, has no single answers, or was measured with other prompt sets, or is
                to be asked anew and another judge than the rules judged it.
        """
        bundle = open_bundle(path, None if trust is None else Trust.read(trust))
        admissions, report = admitted_report(bundle)
        if any(depth.answers is None for depth in report.depths):
            raise InputError(
                f"the report in {path} has no single answers",
                expected="items at every depth",
                remedy="run 'refusal-check gate' on this bundle",
            )
        if backend is not None and report.judge != RulesJudge.name:
            raise InputError(
                f"the answers of {path} can't be judged anew as they were",
                found=f"judge {report.judge}",
                expected=RulesJudge.name,
                remedy="ask anew with 'refusal-check run --judge', then 'refusal-check compare'",
            )
        sets = [] if backend is None else _sets(prompts or [BUILTIN], report)
        return cls(bundle, admissions, report, sets, backend)

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

            with jetson_runtime.load(self.bundle.path, backend=self.backend) as runtime:
                ((_, items),) = measure(
                    runtime, self.sets, [self.bundle.manifest.ladder[depth]], self.report.max_tokens
                )
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
