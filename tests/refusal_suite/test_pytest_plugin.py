"""The pytest plugin: what it adds to a test run, what fails and how, and that it keeps out of every other run."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomllib
from admit import admit, forge
from page_bundle import make_bundle, make_refusals
from report_edits import ids, relabel
from signing import signed, trust_file

from jetson_runtime.admission import ADMITTED, REJECTED, Verdict
from jetson_runtime.bundle import open_bundle
from jetson_runtime.files import read_json
from refusal_suite.cli import main
from refusal_suite.judge import COMPLIANCE, REFUSAL
from refusal_suite.prompts import HARMFUL, load_prompts

pytest_plugins = "pytester"

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("-p", "no:hypothesispytest", "-p", "no:anyio")  # other plugins only take time here
Report = dict[str, Any]
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Runs pytest with the plugin, however this environment was installed, and with our own strictness."""
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n")

    def call(*options: object) -> pytest.RunResult:
        plugin = ("-p", "no:holdfast", "-p", "refusal_suite.pytest_plugin", "-p", "no:cacheprovider", *QUIET)
        return pytester.runpytest_inprocess(*plugin, *map(str, options))

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A bundle, and a report on it in which d1 answers as full depth does."""
    bundle = make_bundle(tmp_path_factory.mktemp("made") / "bundle")
    report = make_refusals(bundle)
    relabel(report["depths"][0], dict.fromkeys(ids(report["depths"][0], HARMFUL), REFUSAL))
    return bundle.path, report


@pytest.fixture
def bundle(made: tuple[Path, Report], tmp_path: Path) -> Path:
    return shutil.copytree(made[0], tmp_path / "bundle")


@pytest.fixture
def report(made: tuple[Path, Report]) -> Report:
    return copy.deepcopy(made[1])


def test_a_test_per_depth_and_category_and_one_for_each_admission(run: Run, bundle: Path, report: Report) -> None:
    admit(bundle, report)
    done = run("--bundle", bundle, "-v")
    done.assert_outcomes(passed=2 * (22 + 1))
    done.stdout.fnmatch_lines(["*holdfast::d1::admission PASSED*", "*holdfast::d2::car-theft PASSED*"])
    assert done.ret == 0


def test_they_stand_beside_the_project_s_own_tests_and_can_be_chosen(
    run: Run, pytester: pytest.Pytester, bundle: Path, report: Report
) -> None:
    admit(bundle, report)
    pytester.makepyfile("def test_car_theft_lock(): pass\ndef test_other(): pass")
    run("--bundle", bundle).assert_outcomes(passed=46 + 2)
    run("--bundle", bundle, "-k", "car-theft or car_theft").assert_outcomes(passed=3, deselected=45)
    run("--bundle", bundle, "--bundle-depth", "d2").assert_outcomes(passed=23 + 2)


def test_lost_refusals_fail_in_their_category_with_figures_and_ids(run: Run, bundle: Path, report: Report) -> None:
    lost = ids(report["depths"][0], HARMFUL, category="car-theft")[:5]
    relabel(report["depths"][0], dict.fromkeys(lost, COMPLIANCE))
    admit(bundle, report)
    done = run("--bundle", bundle)
    done.assert_outcomes(passed=45, failed=1)
    done.stdout.fnmatch_lines(
        [
            "d1 is worse than d2 as recorded in car-theft",
            "*harmful refused: 12 of 12, then 7 of 12, a difference of -41.7 points, at least -*",
            f"*harmful refused, lost: {', '.join(lost)}",
        ]
    )
    text = done.stdout.str()
    assert "Traceback" not in text and "pytest_items.py" not in text
    assert not any(prompt.text in text for prompt in load_prompts().prompts)
    run("--bundle", bundle, "--refusal-margin", "40").assert_outcomes(passed=46)


def test_a_depth_that_was_not_admitted_fails_with_the_gate_s_reason(run: Run, bundle: Path, report: Report) -> None:
    admit(bundle, report, {"d1": Verdict(REJECTED, "refusals fall by up to 9.1 points"), "d2": Verdict(ADMITTED, "-")})
    done = run("--bundle", bundle, "-k", "admission")
    done.assert_outcomes(passed=1, failed=1, deselected=44)
    done.stdout.fnmatch_lines(["d1 is rejected: refusals fall by up to 9.1 points"])
    admit(bundle, report, {"d2": Verdict(ADMITTED, "-")})
    run("--bundle", bundle, "-k", "admission").stdout.fnmatch_lines(["d1 is not tested: *"])


def test_a_signature_is_asked_for_with_a_trust_file(run: Run, bundle: Path, report: Report) -> None:
    admit(bundle, report)
    trusted = trust_file(bundle.parent / "trust.json", 1)
    options = ("--bundle", bundle, "--bundle-trust", trusted, "-k", "admission")
    run(*options).stdout.fnmatch_lines(["*is not signed*"])
    signed(bundle, 2)
    run(*options).stdout.fnmatch_lines(["*are not accepted*"])
    signed(bundle, 1)
    run(*options).assert_outcomes(passed=2, deselected=44)


def test_options_that_would_do_nothing_are_refused(run: Run) -> None:
    for options, needed in (
        (("--bundle-depth", "d1"), "--bundle-depth says nothing without --bundle"),
        (("--bundle", ".", "--bundle-prompts", "a.csv"), "--bundle-prompts says nothing without --bundle-run"),
    ):
        done = run(*options)
        assert done.ret == pytest.ExitCode.USAGE_ERROR
        done.stderr.fnmatch_lines([f"ERROR: {needed}"])


def _no_items(report: Report) -> None:
    for depth in report["depths"]:
        depth.pop("items")


def test_a_bundle_that_can_t_be_tested_is_an_error_with_its_message(run: Run, bundle: Path, report: Report) -> None:
    digest = open_bundle(bundle).manifest.engines_digest
    wrong: list[tuple[Callable[[], object], str, tuple[object, ...]]] = [
        (lambda: None, "*carries no admissions*", ()),
        (lambda: admit(bundle, report), "*has no depth 'd9'*", ("--bundle-depth", "d9")),
        (lambda: None, "*--refusal-margin can't be used*", ("--refusal-margin", 0)),
        (lambda: None, "*prompt sets are not those*", ("--bundle-run", "--bundle-prompts", bundle.parent / "o.csv")),
        (lambda: forge(bundle, engines_digest="0" * 64), "*measured on other engines*", ()),
        (
            lambda: (forge(bundle, engines_digest=digest), _no_items(report), admit(bundle, report)),
            "*has no single answers*",
            (),
        ),
        (lambda: (bundle / "engines/lm_head.onnx").write_bytes(b"x" * 200), "*is not the file that was built*", ()),
    ]
    (bundle.parent / "o.csv").write_text("text,kind\nhello,benign\n", encoding="utf-8")
    for change, words, options in wrong:
        change()
        done = run("--bundle", bundle, *options)
        assert done.ret == pytest.ExitCode.INTERRUPTED
        done.assert_outcomes(errors=1)
        done.stdout.fnmatch_lines([words])
        assert "Traceback" not in done.stdout.str()


def test_without_its_option_it_adds_and_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\n"
        "def test_own():\n"
        "    found = [name for name in sys.modules if name.split('.')[0] in "
        "('refusal_suite', 'jetson_runtime', 'numpy', 'torch', 'yaml')]\n"
        "    assert sorted(found) == ['refusal_suite', 'refusal_suite.pytest_plugin']\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:holdfast", "-p", "refusal_suite.pytest_plugin", "-q"]
    options = ["-W", "error", "-p", "no:cacheprovider", *QUIET]
    done = subprocess.run(
        [*command, *options, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_distribution_announces_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"holdfast": "refusal_suite.pytest_plugin"}


@pytest.fixture
def asked(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> tuple[Path, Path, Report]:
    """A real, tiny bundle, a set of very short prompts, and the report of asking them."""
    pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")
    bundle = shutil.copytree(tiny_bundle("clip-llama", "fp32"), tmp_path / "bundle")
    prompts = tmp_path / "set.csv"
    rows = [f"p{n:02},{text},{kind},greeting" for n, (text, kind) in enumerate((("hi", "harmful"), ("ho", "benign")))]
    prompts.write_text("\n".join(["id,text,kind,category", *rows]), encoding="utf-8")
    out = tmp_path / "r.json"
    assert main(["run", str(bundle), "--prompts", str(prompts), "--max-tokens", "3", "--out", str(out)]) == 0
    return bundle, prompts, read_json(out)


def test_asked_anew_the_bundle_answers_by_itself(run: Run, asked: tuple[Path, Path, Report]) -> None:
    bundle, prompts, report = asked
    admit(bundle, report)
    # Two prompts show nothing about 5 points; at 90 they do.
    options = ("--bundle", bundle, "--bundle-run", "--bundle-prompts", prompts, "--refusal-margin", 90)
    depths = len(report["depths"])
    run(*options).assert_outcomes(passed=2 * depths)
    # What was recorded is what is compared with: if all had been refused then, the answers now are worse.
    harmful = ids(report["depths"][0], HARMFUL)
    for depth in report["depths"]:
        relabel(depth, dict.fromkeys(harmful, REFUSAL))
    admit(bundle, report)
    done = run(*options, "-k", "admission")
    done.assert_outcomes(failed=depths, deselected=depths)
    done.stdout.fnmatch_lines(["*is not shown to answer as it did when it was admitted", "*lost: p00*"])
