"""`refusal-check gate` on a real, tiny bundle: what it writes, what it refuses, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gate_bundle import own_bundle, write_prompts, write_report
from signing import signed

pytest.importorskip("scipy", reason="the extra 'gate' is not installed")

from jetson_runtime.admission import Admissions
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.files import read_json, write_json
from refusal_suite.cli import main
from refusal_suite.pictures import draw


@pytest.fixture
def bundle(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> Bundle:
    return own_bundle(tiny_bundle("clip-llama", "fp32"), tmp_path / "bundle")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "set.jsonl")


def gate(bundle: Bundle, prompts: Path, report: Path | None, *more: object) -> int:
    words = ["gate", bundle.path, "--prompts", prompts, *more, *(() if report is None else ("--report", report))]
    return main([str(word) for word in words])


def admissions(bundle: Bundle) -> Admissions:
    manifest = open_bundle(bundle.path).manifest
    return Admissions.from_dict(manifest.admissions, manifest.engines_digest)


def test_the_verdicts_go_into_the_bundle_with_their_report(
    bundle: Bundle, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_report(tmp_path / "r.json", bundle, prompts, d1={"h7": "compliance"})
    assert gate(bundle, prompts, report, "--out", tmp_path / "out.json") == 0

    found = admissions(bundle)
    assert {name: found.admits(name) for name in ("d1", "d2", "d2>d1@4", "d2>d1@vision")} == dict.fromkeys(
        ("d1", "d2", "d2>d1@4", "d2>d1@vision"), True
    )
    assert found.basis["rules"]["margin_points"] == 5
    assert found.basis["prompt_sets"] == read_json(report)["prompt_sets"]
    assert found.basis["judge"] == "rules-1"
    stored = read_json(bundle.path / found.report)
    assert stored == read_json(tmp_path / "out.json")
    d1, d2 = stored["gate"]["depths"]
    assert d1["flips"]["harmful"] == {"only_here": ["h7"], "only_reference": []}
    assert d1["by_category"]["c1"]["harmful"] == {"n": 90, "only_here": 1, "only_reference": 0}
    assert [each["what"] for each in d1["findings"]][:2] == ["attack success", "over-refusal"]
    assert d2["verdict"] == "admitted"
    said = capsys.readouterr().out
    assert "2 of 2 depths admitted" in said
    assert "d1             admitted    attack success at most +" in said


def test_a_rejected_depth_ends_with_1_and_is_written_too(
    bundle: Bundle, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_report(tmp_path / "r.json", bundle, prompts, d1={f"b{n}": "refusal" for n in range(20)})
    assert gate(bundle, prompts, report, "--json") == 1
    found = admissions(bundle)
    assert (found.admits("d1"), found.admits("d2"), found.admits("d2>d1@1")) == (False, True, False)
    assert found.depths["d1"].reason.startswith("over-refusal at most +")
    printed = json.loads(capsys.readouterr().out)
    assert printed == read_json(bundle.path / found.report)["gate"]


def test_a_dry_run_leaves_the_bundle_as_it_is(bundle: Bundle, prompts: Path, tmp_path: Path) -> None:
    report = write_report(tmp_path / "r.json", bundle, prompts)
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    assert gate(bundle, prompts, report, "--dry-run") == 0
    assert {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()} == before


def test_a_new_verdict_replaces_the_old_one(bundle: Bundle, prompts: Path, tmp_path: Path) -> None:
    assert gate(bundle, prompts, write_report(tmp_path / "a.json", bundle, prompts)) == 0
    first = admissions(bundle).report
    bad = {f"h{n}": "compliance" for n in range(40)}
    assert gate(bundle, prompts, write_report(tmp_path / "b.json", bundle, prompts, d1=bad)) == 1
    assert not admissions(bundle).admits("d1")
    assert not (bundle.path / first).exists()


def test_a_changed_line_of_the_prompts_is_refused(
    bundle: Bundle, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_report(tmp_path / "r.json", bundle, prompts)
    prompts.write_text(prompts.read_text(encoding="utf-8").replace("h 17", "h  17"), encoding="utf-8")
    assert gate(bundle, prompts, report) == 2
    said = capsys.readouterr().err
    digest = read_json(report)["prompt_sets"][0]["sha256"]
    assert "the prompt set 'set' is not the one that was asked" in said
    assert f"expected: sha256 {digest}" in said
    assert admissions(bundle).depths == {}


def changed(report: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    value = read_json(report)
    change(value)
    write_json(report, value)
    return report


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (
            lambda r: r["bundle"].update(engines_digest="0" * 64),
            3,
            "measured on other engines\n  found: engines digest 0",
        ),
        (lambda r: r["ladder"][0].update(vision=1), 3, "measured on another ladder"),
        (lambda r: r.update(judge="rules-0"), 2, "another judge's\n  found: rules-0\n  expected: rules-1"),
        (lambda r: r["depths"][0]["items"].pop(3), 2, "the answers at d1 are not those"),
        (lambda r: r["depths"][1]["items"][3].update(id="x"), 2, "differing: h3, x"),
        (lambda r: r["depths"][1]["items"][3].update(kind="benign"), 2, "differing: h3"),
        (lambda r: r["depths"][1]["items"][3].update(label="safe"), 2, "differing: h3"),
        (lambda r: r["depths"][1]["items"].append(r["depths"][1]["items"][3]), 2, "an id that occurs twice"),
        (lambda r: r.pop("depths"), 2, "can't be read\n  found: KeyError('depths')"),
        (lambda r: r.update(schema="other"), 2, "can't be read\n  found: ValueError('other')"),
        (lambda r: r.update(depths=7), 2, "can't be read"),
    ],
)
def test_a_report_that_is_no_evidence_is_refused(
    bundle: Bundle,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], object],
    code: int,
    message: str,
) -> None:
    report = changed(write_report(tmp_path / "r.json", bundle, prompts), change)
    assert gate(bundle, prompts, report) == code
    assert message in capsys.readouterr().err
    assert admissions(bundle).depths == {}


def test_too_few_prompts_are_refused_with_the_number_it_takes(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "few.jsonl", 60)
    report = write_report(tmp_path / "r.json", bundle, prompts)
    assert gate(bundle, prompts, report) == 0
    assert gate(bundle, prompts, report, "--margin", 3) == 2
    said = capsys.readouterr().err
    assert "too few harmful prompts" in said and "found: 60 harmful prompts\n  expected: at least 99" in said
    assert gate(bundle, prompts, report, "--max-incoherent", 2) == 2
    assert "at least 149" in capsys.readouterr().err
    # Also before anything is measured, and for the part that --limit takes.
    assert gate(bundle, prompts, None, "--limit", 80) == 2
    assert "found: 40 harmful prompts\n  expected: at least 59" in capsys.readouterr().err


def test_a_part_of_the_prompts_is_known_by_its_seed(
    bundle: Bundle, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_report(tmp_path / "r.json", bundle, prompts)

    def sampled(value: dict[str, Any]) -> None:
        value["prompt_sets"][0]["sample"] = {"n": 200, "of": 360, "seed": 3}

    assert gate(bundle, prompts, changed(report, sampled)) == 2
    assert "one answer to each of the 200 prompts" in capsys.readouterr().err


def test_a_signed_bundle_is_not_changed_and_nothing_is_measured_first(
    bundle: Bundle, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed(bundle.path, 1)
    assert gate(bundle, prompts, None) == 3
    assert "is signed" in capsys.readouterr().err


def test_measuring_options_have_no_place_beside_a_report(
    bundle: Bundle, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = write_report(tmp_path / "r.json", bundle, prompts)
    assert gate(bundle, prompts, report, "--max-tokens", 8) == 2
    assert "--max-tokens has no place beside --report" in capsys.readouterr().err


def test_another_report_s_full_depth_may_be_the_reference(
    bundle: Bundle, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {f"h{n}": "compliance" for n in range(40)}
    report = write_report(tmp_path / "r.json", bundle, prompts, d1=bad, d2=bad)
    good = write_report(tmp_path / "good.json", bundle, prompts)
    assert gate(bundle, prompts, report) == 1
    assert gate(bundle, prompts, report, "--reference", good) == 1
    assert admissions(bundle).depths["d2"].reason.startswith("attack success at most +")
    assert gate(bundle, prompts, report, "--reference", report) == 0
    assert admissions(bundle).basis["reference"]["kind"] == "holdfast/refusals/2"
    assert len(admissions(bundle).basis["reference"]["sha256"]) == 64

    changed(good, lambda value: value.update(max_tokens=24))
    assert gate(bundle, prompts, report, "--reference", good) == 2
    assert "another longest answer\n  found: 24 tokens\n  expected: 48 tokens" in capsys.readouterr().err
    changed(good, lambda value: value.update(max_tokens=48, prompt_sets=[]))
    assert gate(bundle, prompts, report, "--reference", good) == 2
    assert "was not measured on the prompt set 'set'" in capsys.readouterr().err


def measured(path: Path, report: Path, labels: dict[str, str]) -> Path:
    """What `realign measure` writes."""
    value = read_json(report)
    full = value["ladder"][-1]
    write_json(
        path,
        {
            "schema": "holdfast/realign-measure/1",
            "judge": value["judge"],
            "max_tokens": value["max_tokens"],
            "prompt_sets": value["prompt_sets"],
            "full_depth": {"vision": full["vision"], "decoder": full["decoder"]},
            "depths": [{"vision": full["vision"], "decoder": full["decoder"], "labels": labels}],
        },
    )
    return path


def test_recorded_answers_of_a_checkpoint_may_be_the_reference(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw("shapes").save(tmp_path / "shapes.png")
    prompts = write_prompts(tmp_path / "set.jsonl", 70, image="shapes.png")
    report = write_report(tmp_path / "r.json", bundle, prompts)
    right = {f"{kind}{n}": label for kind, label in (("h", "r"), ("b", "c")) for n in range(70)}
    reference = measured(tmp_path / "measure.json", report, right)
    assert gate(bundle, prompts, report, "--reference", reference) == 0
    assert admissions(bundle).basis["reference"]["kind"] == "holdfast/realign-measure/1"

    # Without pictures of their own these prompts were not asked alike.
    bare = write_prompts(tmp_path / "bare.jsonl", 70)
    report = write_report(tmp_path / "r.json", bundle, bare)
    reference = measured(tmp_path / "measure.json", report, right)
    assert gate(bundle, bare, report, "--reference", reference) == 2
    assert "found: 0 harmful prompts" in capsys.readouterr().err
    write_json(reference, {**read_json(reference), "depths": []})
    assert gate(bundle, bare, report, "--reference", reference) == 2
    assert "is no reference" in capsys.readouterr().err


def test_without_a_report_the_bundle_is_measured(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")
    prompts = write_prompts(tmp_path / "set.jsonl", 60)
    # Random weights say nothing that a judge takes for an answer.
    assert gate(bundle, prompts, None, "--max-tokens", 3) == 1
    found = admissions(bundle)
    assert found.depths["d2"].verdict == "rejected"
    assert "incoherent answers" in found.depths["d2"].reason
    assert (found.depths["d1"].verdict, found.schedules["d2>d1@4"].verdict) == ("not tested", "not tested")
    stored = read_json(bundle.path / found.report)
    assert stored["max_tokens"] == 3
    decided = [each["name"] for each in stored["gate"]["schedules"]]
    assert [each["name"] for each in stored["schedules"]] == decided
    assert set(found.schedules) == set(decided)
