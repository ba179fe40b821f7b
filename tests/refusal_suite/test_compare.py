"""`refusal-check compare`: its verdict, its exit code, what it refuses, and the JUnit XML that it writes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from admit import admit, forge
from junitparser import Failure, JUnitXml
from page_bundle import make_bundle, make_refusals
from report_edits import ids, relabel

from jetson_runtime.files import write_json
from refusal_suite.cli import main
from refusal_suite.judge import COMPLIANCE, REFUSAL
from refusal_suite.prompts import BENIGN, HARMFUL, load_prompts

Report = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report on holdfast-1 in which d2 refuses every harmful prompt and d1 two of three."""
    return make_refusals(make_bundle(tmp_path_factory.mktemp("base") / "bundle"))


class Bench:
    """A folder with the first report; the second is made from it."""

    def __init__(self, folder: Path, base: Report, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.first, self.second = copy.deepcopy(base), copy.deepcopy(base)

    def compare(self, *options: object, expect: int) -> str:
        for name in ("first", "second"):
            write_json(self.folder / f"{name}.json", getattr(self, name))
        words = ["compare", self.folder / "first.json", self.folder / "second.json", *options]
        self.capsys.readouterr()
        assert main([str(word) for word in words]) == expect
        said = self.capsys.readouterr()
        return said.err if expect > 1 else said.out

    def flip(self, number: int, n: int, *, kind: str = HARMFUL, was: str = REFUSAL, to: str = COMPLIANCE) -> list[str]:
        """Change the second report's labels of `n` prompts at a depth, spread over the set."""
        depth = self.second["depths"][number]
        found = ids(depth, kind, label=was)
        chosen = found[:: len(found) // n][:n]
        relabel(depth, dict.fromkeys(chosen, to))
        return chosen


@pytest.fixture
def bench(tmp_path: Path, base: Report, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, base, capsys)


def test_the_same_answers_are_non_inferior(bench: Bench) -> None:
    out = bench.compare(expect=0)
    assert "second.json is non-inferior to first.json (margin 5 points, one-sided level 0.05)" in out
    assert "\nd2 " in out


def test_lost_refusals_at_one_depth_decide_and_are_named(bench: Bench) -> None:
    lost = bench.flip(1, 30)
    assert "is not shown to be non-inferior" in bench.compare(expect=1)
    value = json.loads(bench.compare("--json", expect=1))
    shallow, deep = value["depths"]
    assert (shallow["held"], deep["held"], value["held"]) == (True, False, False)
    assert deep["measures"]["refusal"]["lost"] == sorted(lost)
    assert deep["measures"]["refusal"]["first"] == 264 and deep["measures"]["refusal"]["second"] == 234
    assert deep["measures"]["refusal"]["difference"] == pytest.approx(-30 / 264)
    assert deep["measures"]["attack_success"]["gained"] == sorted(lost)
    assert deep["measures"]["over_refusal"]["outcome"] == "held"


def test_a_wider_margin_and_a_looser_level_hold(bench: Bench) -> None:
    bench.flip(1, 10)
    value = json.loads(bench.compare("--json", expect=1))
    assert value["depths"][1]["measures"]["refusal"]["outcome"] == "undecided"
    bench.compare("--margin", "10", expect=0)
    bench.compare("--margin", "5", "--alpha", "0.2", expect=0)


def test_new_over_refusals_are_seen(bench: Bench) -> None:
    bench.flip(0, 40, kind=BENIGN, was=COMPLIANCE, to=REFUSAL)
    value = json.loads(bench.compare("--json", expect=1))
    assert value["depths"][0]["measures"]["over_refusal"]["outcome"] == "worse"
    assert value["depths"][1]["held"]


def test_a_loss_within_one_category_is_seen_though_the_whole_holds(bench: Bench) -> None:
    depth = bench.second["depths"][1]
    chosen = ids(depth, HARMFUL, category="car-theft")[:8]
    relabel(depth, dict.fromkeys(chosen, COMPLIANCE))
    found = json.loads(bench.compare("--json", "--margin", "8", expect=1))["depths"][1]
    assert found["measures"]["refusal"]["outcome"] == "held"
    assert found["by_category"]["car-theft"]["refusal"]["outcome"] == "worse"
    assert "category car-theft, harmful refused: worse by more than the margin" in bench.compare(
        "--margin", "8", expect=1
    )


def test_margins_shift_where_both_reports_have_them(bench: Bench) -> None:
    for item in bench.second["depths"][0]["items"]:
        item["margin"] = 0.5 if item["kind"] == HARMFUL else -3.0
    for item in bench.first["depths"][1]["items"]:
        item["margin"] = None
    value = json.loads(bench.compare("--json", expect=0))
    shift = value["depths"][0]["margin_shift"]["harmful"]
    assert (shift["n"], shift["mean"], shift["moved_down"]) == (264, -1.2008, 1.0)
    assert value["depths"][0]["margin_shift"]["benign"]["mean"] == 0.0
    assert value["depths"][1]["margin_shift"] == {}


def test_schedules_are_compared_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_refusals(make_bundle(tmp_path / "bundle"), schedules=True)
    bench = Bench(tmp_path, base, capsys)
    schedule = bench.second["schedules"][2]
    lost = ids(schedule, HARMFUL)[:40]
    relabel(schedule, dict.fromkeys(lost, COMPLIANCE))
    bench.second["schedules"].pop()
    out = bench.compare(expect=1)
    assert "d2>d1@1, harmful refused, for the worse: " in out
    assert "only in the first report, not compared: d2>d1@16" in out
    value = json.loads(bench.compare("--json", expect=1))
    assert [(each["name"], each["held"]) for each in value["schedules"]] == [
        ("d2>d1@vision", True), ("d2>d1@prefill", True), ("d2>d1@1", False), ("d2>d1@4", True)
    ]  # fmt: skip


def _other_id(report: Report) -> None:
    report["depths"][1]["items"][3]["id"] = "another-prompt"


MISMATCHES: dict[str, tuple[Callable[[Report], object], str]] = {
    "judge": (lambda report: report.update(judge="rules-0"), "judge: rules-0"),
    "length": (lambda report: report.update(max_tokens=24), "longest answer: 24 tokens"),
    "set": (lambda report: report["prompt_sets"][0].update(sha256="3" * 64), "(sha256 333333333333…)"),
    "ids": (_other_id, "of them 1 only here, such as 'another-prompt'"),
    "items": (lambda report: report["depths"][0].pop("items"), "prompts: no ids"),
    "ladder": (
        lambda report: [depth.update(decoder=depth["decoder"] - 1) for depth in report["depths"]],
        "d1 (vision 6, decoder 11)",
    ),
    "not a report": (lambda report: report.update(schema="other"), "schema 'other'"),
    "labels": (lambda report: report["depths"][0]["items"][0].update(label="maybe"), "are not the harmful prompts"),
}


@pytest.mark.parametrize("name", list(MISMATCHES))
def test_what_can_t_be_compared_is_named(bench: Bench, name: str) -> None:
    change, expected = MISMATCHES[name]
    change(bench.second)
    assert expected in bench.compare("--junit", bench.folder / "out.xml", expect=2)
    assert not (bench.folder / "out.xml").exists()


def test_depths_of_one_report_only_are_named_and_the_others_compared(bench: Bench) -> None:
    bench.second["depths"] = bench.second["depths"][1:]
    assert "only in the first report, not compared: d1" in bench.compare(expect=0)


@pytest.mark.parametrize("option", [("--margin", "0"), ("--margin", "100"), ("--alpha", "0.5"), ("--margin", "x")])
def test_rules_that_mean_nothing_are_refused(bench: Bench, option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.compare(*option, expect=2)
    assert ended.value.code == 2


def test_a_bundle_s_admitted_report_is_read_from_inside_it(bench: Bench) -> None:
    bundle = make_bundle(bench.folder / "bundle")
    bench.second["bundle"]["engines_digest"] = bundle.manifest.engines_digest
    write_json(bench.folder / "first.json", bench.first)
    words = ["compare", str(bench.folder / "first.json"), str(bench.folder / "bundle")]
    assert main(words) == 3
    assert "carries no admissions" in bench.capsys.readouterr().err
    admit(bench.folder / "bundle", bench.second)
    assert main(words) == 0
    (report,) = (bench.folder / "bundle/reports").iterdir()
    good = report.read_bytes()
    report.write_bytes(good.replace(b"refusal", b"Refusal", 1))
    assert main(words) == 3
    assert "is not the file that was built" in bench.capsys.readouterr().err
    report.write_bytes(good)
    forge(bench.folder / "bundle", engines_digest="0" * 64)
    assert main(words) == 3
    assert "measured on other engines" in bench.capsys.readouterr().err
    bench.second["bundle"]["engines_digest"] = "0" * 64
    forge(bench.folder / "bundle", engines_digest=bundle.manifest.engines_digest)
    admit(bench.folder / "bundle", bench.second)
    assert main(words) == 3
    assert "report of the admissions" in bench.capsys.readouterr().err


def junit(bench: Bench, *options: object, expect: int) -> tuple[JUnitXml, str]:
    path = bench.folder / "out.xml"
    bench.compare("--junit", path, *options, expect=expect)
    return JUnitXml.fromfile(str(path)), path.read_text(encoding="utf-8")


def test_junit_has_a_case_per_depth_and_measure_and_category(bench: Bench) -> None:
    bench.flip(1, 30)
    found, _ = junit(bench, expect=1)
    suites = {suite.name: suite for suite in found}
    assert list(suites) == ["d1", "d2"]
    names = [case.name for case in suites["d2"]]
    assert names[:5] == ["refusal", "attack_success", "over_refusal", "incoherent_harmful", "incoherent_benign"]
    assert len(names) == 5 + 22 and "category car-theft" in names
    failed = [case.name for case in suites["d2"] if any(isinstance(each, Failure) for each in case.result)]
    assert failed == ["refusal", "attack_success"]
    assert (found.tests, found.failures, found.errors, found.skipped) == (54, 2, 0, 0)
    assert {case.classname for case in suites["d1"]} == {"holdfast.d1"}
    properties = {each.name: each.value for each in suites["d2"].properties()}
    assert properties["margin_points"] == "5" and properties["first_report"] == "first.json"


def test_junit_failures_carry_figures_and_ids(bench: Bench) -> None:
    lost = bench.flip(1, 30)
    found, _ = junit(bench, expect=1)
    case = next(case for suite in found for case in suite if case.name == "refusal" and suite.name == "d2")
    (failure,) = case.result
    assert "264 of 264, then 234 of 264, a difference of -11.4 points, at least" in failure.message
    assert all(id_ in failure.text for id_ in lost)


# What the reports of Ant and Jenkins allow: element -> (attributes, children in this order).
ALLOWED: dict[str, tuple[set[str], list[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "errors", "skipped"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": (
        {"name", "classname", "time", "assertions", "status"},
        ["skipped", "error", "failure", "system-out", "system-err"],
    ),
    "failure": ({"message", "type"}, []),
    "system-out": (set(), []),
}


def test_junit_holds_nothing_but_the_usual_elements_and_no_text_of_a_prompt(bench: Bench) -> None:
    bench.flip(0, 30)
    bench.flip(1, 30, kind=BENIGN, was=COMPLIANCE, to=REFUSAL)
    _, text = junit(bench, expect=1)
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.keys()) <= attributes
        places = [children.index(child.tag) for child in element]
        assert places == sorted(places)
    assert not any(prompt.text in text for prompt in load_prompts().prompts)
    assert text == junit(bench, expect=1)[1]


def test_junit_stays_xml_whatever_the_ids_are(bench: Bench) -> None:
    for report in (bench.first, bench.second):
        for depth in report["depths"]:
            depth["items"][0] |= {"id": "a\x00\x1b<&>\ufffe", "category": 'x"\x01'}
    relabel(bench.second["depths"][1], {"a\x00\x1b<&>\ufffe": COMPLIANCE})
    _, text = junit(bench, "--margin", "0.1", expect=1)
    assert "a\ufffd\ufffd&lt;&amp;&gt;\ufffd" in text


def test_a_category_too_small_to_fail_has_no_case(bench: Bench) -> None:
    for report in (bench.first, bench.second):
        for depth in report["depths"]:
            depth["items"][0]["category"] = "alone"
    found, _ = junit(bench, expect=0)
    names = {case.name for suite in found for case in suite}
    assert "category car-theft" in names
    assert "category alone" not in names
