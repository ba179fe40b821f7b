"""A comparison as JUnit XML, the form that pipelines show: figures and prompt ids, never a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from refusal_suite.paired import HELD, WORSE, Difference, Rule
from refusal_suite.report_comparison import Comparison, PointComparison

__all__ = ["junit_xml"]

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(comparison: Comparison) -> str:
    """One suite per depth and schedule; a case per measure, and one per category that has prompts enough to fail.

    A measure fails unless it is shown to be within the margin; a category fails if it is shown to be beyond it. The
    same comparison gives the same text: it carries no time and no host.
    """
    root = ElementTree.Element("testsuites", name="refusal-check compare")
    for point in comparison.points:
        _suite(root, comparison, point)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root, " ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _suite(root: ElementTree.Element, comparison: Comparison, point: PointComparison) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=_xml(point.name))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _facts(comparison):
        ElementTree.SubElement(properties, "property", name=name, value=_xml(value))
    for one in point.measures:
        _case(suite, point, one.measure.name, (one,), () if one.outcome == HELD else (one,), comparison.rule)
    for category, each in point.categories.items():
        able = [one for one in each if one.can_fail(comparison.rule)]
        if able:
            worse = [one for one in able if one.outcome == WORSE]
            _case(suite, point, f"category {category}", able, worse, comparison.rule)
    failures = sum(case.find("failure") is not None for case in suite)
    counts = {"tests": len(suite.findall("testcase")), "failures": failures, "errors": 0, "skipped": 0}
    for name, count in counts.items():
        suite.set(name, str(count))


def _facts(comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield "margin_points", f"{comparison.rule.margin_points:g}"
    yield "alpha", f"{comparison.rule.alpha:g}"
    for name, report in (("first", comparison.first), ("second", comparison.second)):
        yield f"{name}_report", report.file
        yield f"{name}_engines_sha256", report.engines_digest


def _case(
    suite: ElementTree.Element,
    point: PointComparison,
    name: str,
    shown: Sequence[Difference],
    failed: Sequence[Difference],
    rule: Rule,
) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_xml(f"holdfast.{point.name}"), name=_xml(name))
    if failed:
        failure = ElementTree.SubElement(
            case, "failure", message=_xml("; ".join(one.words(rule) for one in failed)), type="NotNonInferior"
        )
        failure.text = _xml("\n".join(line for one in failed for line in one.flips()))
    out = ElementTree.SubElement(case, "system-out")
    out.text = _xml("\n".join(one.words(rule) for one in shown))


def _xml(text: str) -> str:
    """Characters that no XML document may hold are replaced."""
    return _NOT_XML.sub("\ufffd", text)
