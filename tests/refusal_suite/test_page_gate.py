"""The page of a bundle that the gate decided on: verdicts, bounds, flips and margins are the report's own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gated import make_gated
from page_reader import read, visible
from signing import signed, trust_file

pytest.importorskip("scipy", reason="the extra 'gate' is not installed")

from jetson_runtime.bundle import MANIFEST, open_bundle
from jetson_runtime.files import read_json, write_json
from refusal_suite.admitted import admitted_report
from refusal_suite.cli import main
from refusal_suite.prompts import load_prompts


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bundle`, and `measured.json`, the report before the gate read it."""
    folder = tmp_path_factory.mktemp("gated")
    make_gated(folder)
    return folder


def page(folder: Path, *options: object, bundle: Path | None = None, expect: int = 0) -> str:
    words = ["page", bundle or folder / "bundle", "--out", folder / "page.html", *options]
    assert main([str(word) for word in words]) == expect
    return (folder / "page.html").read_text(encoding="utf-8") if expect == 0 else ""


def unadmitted(gated: Path, bundle: Path) -> Path:
    """A copy of the bundle that the gate has not seen."""
    shutil.copytree(gated / "bundle", bundle)
    value = read_json(bundle / MANIFEST)
    value["files"] = {path: record for path, record in value["files"].items() if not path.startswith("reports/")}
    write_json(bundle / MANIFEST, value | {"admissions": {}})
    shutil.rmtree(bundle / "reports")
    return bundle


@pytest.fixture(scope="module")
def text(gated: Path) -> str:
    return page(gated)


@pytest.fixture(scope="module")
def words(text: str) -> str:
    return visible(text)


@pytest.fixture(scope="module")
def block(gated: Path) -> dict[str, Any]:
    (report,) = (gated / "bundle/reports").iterdir()
    return read_json(report)["gate"]


def test_every_depth_has_its_verdict_and_the_gate_s_reason(text: str, words: str, block: dict[str, Any]) -> None:
    assert [each["verdict"] for each in block["depths"]] == ["rejected", "admitted", "admitted"]
    for each in block["depths"]:
        assert each["reason"] in words
        tag = {"rejected": "bad", "admitted": "good"}[each["verdict"]]
        assert re.search(rf'>{each["name"]}</th><td role="cell"><span class="tag {tag}">{each["verdict"]}</span>', text)
    assert "admitted: d2, d3" in words
    assert "Schedules: 5 of 15 admitted" in words
    shown = re.findall(r">(d\d&gt;d\d@\w+)</th>", text)
    assert shown == [name.replace(">", "&gt;") for name in (each["name"] for each in block["schedules"])]
    assert "rules / margin points 5.0" in words and "full depth of the bundle" in words


def test_the_forest_has_every_bound_at_its_place_against_its_limit(text: str, block: dict[str, Any]) -> None:
    for form, columns in (("wide", 2), ("narrow", 1)):
        found = re.search(rf'<svg[^>]*aria-labelledby="bounds-{form}-title".*?</svg>', text, re.DOTALL)
        assert found is not None
        picture = found[0]
        assert picture.count('class="limit"') == 4
        # d1 in attack success is the only bound beyond its limit.
        assert picture.count('r="4.5" class="alarm"') == 1
        assert picture.count('r="4.5" class="accent"') == 9
        assert picture.count("the reference: at most 1.1\u00a0%") == 2
        height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', picture)[1])
        assert height == pytest.approx(4 / columns * (34 + 3 * 30 + 40))
        lines = [float(x) for x in re.findall(r'd="M([\d.]+) [\d.]+V[\d.]+" class="limit"', picture)]
        dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', picture)]
        # The first panel is attack success: the dot of d1 lies right of the margin, that of d2 left of it.
        assert dots[0] > lines[0] > dots[1]
    summary = re.search(r'id="bounds-wide-summary">(.*?)</desc>', text)
    assert summary is not None
    for each in block["depths"]:
        for finding in each["findings"]:
            upper = finding.get("upper_points", finding.get("upper_percent"))
            assert f"{finding['what']} at most {upper:.1f}" in summary[1]


def test_a_finding_that_no_prompt_stands_behind_has_no_dot(gated: Path, tmp_path: Path, block: dict[str, Any]) -> None:
    report = read_json(gated / "measured.json")
    report["gate"] = json.loads(json.dumps(block))
    report["gate"]["depths"][1]["findings"][0] |= {"n": 0, "hits": 0, "reference_hits": 0, "upper_points": 100.0}
    write_json(tmp_path / "r.json", report)
    text = page(tmp_path, "--refusals", tmp_path / "r.json", bundle=unadmitted(gated, tmp_path / "bundle"))
    (picture,) = re.findall(r'<svg[^>]*aria-labelledby="bounds-wide-title".*?</svg>', text, re.DOTALL)
    assert picture.count("<circle") == 9 and "no prompt tells it from the reference" in picture


def test_flips_are_ids_that_fold_away(text: str, words: str, block: dict[str, Any]) -> None:
    d1, d2, d3 = block["depths"]
    assert d3["flips"] == {}
    assert "d1: 66 prompts flipped against the reference" in words
    assert "d2: 4 prompts flipped against the reference" in words
    assert "d3: " not in words.split("Flips by category")[0].split("The bounds as a table")[1].split("d1: 66")[1]
    for each in (d1, d2):
        assert ", ".join(each["flips"]["harmful"]["only_here"]) in words
    assert text.count("<details><summary>d") == 2
    assert "+3 \u22120 of 12" in words
    assert not any(prompt.text in words for prompt in load_prompts().prompts)


def test_margins_are_drawn_with_their_interval(text: str, words: str, gated: Path) -> None:
    report = admitted_report(open_bundle(gated / "bundle"))[1]
    shift = report.depths[0].shifts["harmful"]
    assert (round(shift.mean, 2), shift.moved_down) == (-0.3, 1.0)
    assert f"{shift.mean:+.2f} ({shift.low:+.2f} to {shift.high:+.2f}), 100.0\u00a0% fell" in words
    assert 'aria-labelledby="shifts-wide-title"' in text and 'aria-labelledby="shifts-narrow-title"' in text
    ids = read(text).ids
    assert len(set(ids)) == len(ids)


def test_the_admitted_report_is_the_page_s_report_unless_another_is_given(gated: Path, words: str) -> None:
    (report,) = (gated / "bundle/reports").iterdir()
    assert f"The refusals in {report.name} were measured by" in words
    other = visible(page(gated, "--refusals", gated / "measured.json"))
    assert "The refusals in measured.json were measured by" in other
    assert "attack success, difference in points" in other.lower()


def test_what_was_not_run_follows_from_what_is_there(gated: Path, words: str, tmp_path: Path) -> None:
    assert "The bundle is not signed: nothing says who released it." in words
    assert "The gate did not test d2>d1@vision, d2>d1@prefill, d2>d1@1, d2>d1@4, d2>d1@16, d3>d1@vision and 4" in words
    assert "No schedule was run" not in words and "No refusal margins" not in words
    report = read_json(gated / "measured.json")
    report["schedules"] = []
    for depth in report["depths"]:
        depth["margins"] = {kind: {"n": 0, "mean": None, "shift": None} for kind in ("harmful", "benign")}
    unadmitted(gated, tmp_path / "bundle")
    write_json(tmp_path / "r.json", report)
    bare = visible(page(tmp_path, "--refusals", tmp_path / "r.json"))
    for sentence in ("No report of the gate was given", "No refusal margins were measured", "No schedule was run"):
        assert sentence in bare
    assert "admitted: none" in bare and "refusal-check gate bundle" in bare
    assert "Flips by category" not in bare and "Bounds" not in bare


def test_a_signature_is_named_by_its_keys_only_if_they_are_trusted(
    gated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = signed(shutil.copytree(gated / "bundle", tmp_path / "bundle"), 1)
    unknown = visible(page(tmp_path))
    assert "signed, not verified by somebody" in unknown
    assert "whose signature the bundle bears was not looked at" in unknown
    trusted = trust_file(tmp_path / "trust.json", 1)
    (key,) = read_json(trusted)["keys"]
    known = visible(page(tmp_path, "--trust", trusted))
    assert f"signed by trusted keys {key['id'][:16]}…" in known
    assert "No trust file was given" not in known
    page(tmp_path, "--trust", trust_file(tmp_path / "other.json", 2), bundle=bundle, expect=3)
    assert "are not accepted" in capsys.readouterr().err


def test_admissions_of_other_engines_are_shown_as_void(gated: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(gated / "bundle", tmp_path / "bundle")
    value = read_json(bundle / MANIFEST)
    value["admissions"]["engines_digest"] = "0" * 64
    write_json(bundle / MANIFEST, value)
    words = visible(page(tmp_path))
    assert "the admissions were measured on other engines" in words
    assert "admitted: none" in words and "Verdicts in the bundle" not in words


BAD_BLOCKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "schema": lambda gate: gate.update(schema="other"),
    "verdict": lambda gate: gate["depths"][0].update(verdict="maybe"),
    "finding": lambda gate: gate["depths"][0]["findings"][0].pop("n"),
    "fewer than no prompts": lambda gate: gate["depths"][0]["findings"][0].update(n=-1),
    "no number": lambda gate: gate["depths"][0]["findings"][0].update(upper_points="nan"),
    "type": lambda gate: gate.update(depths=None),
}


@pytest.mark.parametrize("name", list(BAD_BLOCKS))
def test_a_gate_s_block_that_can_t_be_read_is_refused(
    gated: Path, tmp_path: Path, block: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = read_json(gated / "measured.json")
    write_json(tmp_path / "gate.json", block)
    report["gate"] = read_json(tmp_path / "gate.json")
    BAD_BLOCKS[name](report["gate"])
    write_json(tmp_path / "bad.json", report)
    page(tmp_path, "--refusals", tmp_path / "bad.json", bundle=gated / "bundle", expect=2)
    assert "bad.json is not a refusal report" in capsys.readouterr().err
